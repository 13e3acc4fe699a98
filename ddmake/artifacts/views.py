"""Views, carried out on an opened dataset."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Steps = tuple[tuple[str, tuple[Any, ...]], ...]


def apply(rows: "Dataset", steps: Steps) -> "Dataset":
    """Return a dataset seen through a view's steps; nothing is written beside it."""
    for verb, args in steps:
        rows = _VERBS[verb](rows, *args)
    return rows


def columns_after(columns: list[str] | None, steps: Steps) -> list[str] | None:
    """Return the columns that a view leaves, None where that isn't known beforehand."""
    for verb, args in steps:
        if verb == "select":
            columns = list(args)
        elif verb == "rename" and columns is not None:
            columns = [args[0].get(name, name) for name in columns]
        elif verb == "map":
            columns = None
    return columns


def columns_read(steps: Steps) -> list[str] | None:
    """Return the columns of the source that a view can depend on, None for all."""
    names: dict[str, str] = {}  # the source's, by those that columns were renamed to
    exploded: list[str] = []
    for verb, args in steps:
        if verb == "select":
            return list(dict.fromkeys([*(names.get(name, name) for name in args), *exploded]))
        if verb == "rename":
            names |= {new: names.pop(old, old) for old, new in args[0].items()}
        elif verb == "explode":
            exploded.append(names.get(args[0], args[0]))
        elif verb not in ("take", "skip", "shuffle", "shard"):
            return None
    return None


def _explode(rows: "Dataset", column: str) -> "Dataset":
    def spread(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        counts = [len(items or []) for items in batch[column]]
        flat = {name: [v for v, n in zip(values, counts) for _ in range(n)] for name, values in batch.items()}
        flat[column] = [item for items in batch[column] for item in items or []]
        return flat

    return rows.map(spread, batched=True, remove_columns=rows.column_names, keep_in_memory=True)


_VERBS = {
    "take": lambda rows, n: rows.select(range(min(n, len(rows)))),
    "skip": lambda rows, n: rows.select(range(min(n, len(rows)), len(rows))),
    "select": lambda rows, *columns: rows.select_columns(list(columns)),
    "rename": lambda rows, columns: rows.rename_columns(columns),
    "shuffle": lambda rows, seed: rows.shuffle(seed=seed, keep_in_memory=True),
    "shard": lambda rows, i, of: rows.shard(of, i, contiguous=True, keep_in_memory=True),
    "filter": lambda rows, keep: rows.filter(keep, keep_in_memory=True),
    "map": lambda rows, change: rows.map(change, keep_in_memory=True),
    "explode": _explode,
}
