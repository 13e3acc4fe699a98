"""Views: what their steps leave of columns and read of them; and the steps themselves, carried out on an opened dataset."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

Step = tuple[str, tuple[Any, ...]]  # a verb and what it is given
Steps = tuple[Step, ...]


@dataclass(frozen=True)
class AllBut:
    """Every column but some."""

    names: frozenset[str]

    def __contains__(self, name: object) -> bool:
        return name not in self.names


def check(columns: list[str] | None, steps: Steps, path: str) -> None:
    """Raise DdfileError for a step that names a column which isn't there, or a name that is taken."""
    for step in steps:
        check_step(columns, step, path)
        columns = _left(columns, step)


def check_step(columns: list[str] | None, step: Step, path: str) -> None:
    """Raise DdfileError, by the dataset's path, for what a step can't find among the columns, or finds there already."""
    verb, args = step
    if columns is None:
        return
    for name in _named(step):
        if name not in columns:
            raise DdfileError(f".{verb}(): {path} has no column {name!r}. It has: {', '.join(columns)}."
                              f"{did_you_mean(str(name), columns)}")
    if verb == "rename":
        after = [args[0].get(name, name) for name in columns]
        twice = next((name for name in after if after.count(name) > 1), None)
        if twice is not None:
            raise DdfileError(f".rename(): {path} would have two columns {twice!r}. .remove() one, or give it another name.")


def columns_after(columns: list[str] | None, steps: Steps) -> list[str] | None:
    """Return the columns that a view leaves, None where that isn't known beforehand."""
    for step in steps:
        columns = _left(columns, step)
    return columns


def _named(step: Step) -> Sequence[str]:
    """Return the columns that a step names."""
    verb, args = step
    if verb in ("select", "remove", "explode"):
        return args
    return list(args[0]) if verb == "rename" else args[:1] if verb == "sort" else ()


def _left(columns: list[str] | None, step: Step) -> list[str] | None:
    verb, args = step
    if verb == "select":
        return list(args)
    if verb == "map" or columns is None:
        return None
    if verb == "rename":
        return [args[0].get(name, name) for name in columns]
    return [name for name in columns if name not in args] if verb == "remove" else columns


def columns_read(steps: Steps) -> Container[str] | None:
    """Return the columns of the source that a view, or whoever reads it, can depend on; None for all."""
    names: dict[str, str] = {}  # the source's columns, by those that they were renamed to
    only: list[str] | None = None  # of the source's, those that were selected
    gone: set[str] = set()
    read: set[str] = set()  # by a step, be they seen after it or not
    for verb, args in steps:
        if verb == "rename":
            names = {**{name: old for name, old in names.items() if name not in args[0]},
                     **{new: names.get(old, old) for old, new in args[0].items()}}
        elif verb == "select":
            only = [names.get(name, name) for name in args]
        elif verb == "remove":
            gone |= {names.get(name, name) for name in args}
        elif verb in ("explode", "sort"):
            read.add(names.get(args[0], args[0]))
        elif verb in ("filter", "map"):
            break  # its function sees what there is by now, and later steps see no more
    if only is not None:
        return list(dict.fromkeys([*(name for name in only if name not in gone), *sorted(read)]))
    return AllBut(frozenset(gone - read)) if gone - read else None


def apply(rows: "Dataset", steps: Steps, path: str, file: Callable[[], Path]) -> "Dataset":
    """Return a dataset seen through a view's steps. What doesn't fit into memory is written to a new `file()` of the caller's.

    Raises DdfileError for a column that isn't there.
    """
    for step in steps:
        check_step(rows.column_names, step, path)
        verb, args = step
        rows = _WRITTEN[verb](rows, str(file()), *args) if verb in _WRITTEN else _PICKED[verb](rows, *args)
    return rows


def _explode(rows: "Dataset", file: str, column: str) -> "Dataset":
    def spread(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        counts = [len(items or []) for items in batch[column]]
        flat = {name: [v for v, n in zip(values, counts) for _ in range(n)] for name, values in batch.items()}
        flat[column] = [item for items in batch[column] for item in items or []]
        return flat

    return rows.map(spread, batched=True, remove_columns=rows.column_names, cache_file_name=file)


def _pick(rows: "Dataset", *numbers: int) -> "Dataset":
    beyond = next((number for number in numbers if number >= len(rows)), None)
    if beyond is not None:
        raise DdfileError(f".pick(): there is no row {beyond}; there are {len(rows)}, counted from 0.")
    return rows.select(numbers)


def _sort(rows: "Dataset", column: str, reverse: bool) -> "Dataset":
    """Sort rows by a column, which alone is read for it; nulls come last, and equal rows stay in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.select_columns([column]).with_format("arrow")[:].column(column)
    try:
        order = pc.sort_indices(values, sort_keys=[(column, "descending" if reverse else "ascending")])
    except pa.ArrowException:
        raise DdfileError(f".sort(): column {column!r} holds {values.type}, which has no order.") from None
    return rows.select(order)


_PICKED: dict[str, Callable[..., "Dataset"]] = {  # in memory: at most a number a row
    "take": lambda rows, n: rows.select(range(min(n, len(rows)))),
    "skip": lambda rows, n: rows.select(range(n, len(rows)) if n < len(rows) else ()),
    "select": lambda rows, *columns: rows.select_columns(list(columns)),
    "remove": lambda rows, *columns: rows.remove_columns(list(columns)),
    "rename": lambda rows, columns: rows.rename_columns(columns),
    "shuffle": lambda rows, seed: rows.shuffle(seed=seed, keep_in_memory=True),
    "sort": _sort,
    "reverse": lambda rows: rows.select(range(len(rows) - 1, -1, -1)),
    "pick": _pick,
    "shard": lambda rows, i, of: rows.shard(of, i, contiguous=True, keep_in_memory=True),
}
_WRITTEN: dict[str, Callable[..., "Dataset"]] = {  # as large as the rows
    "filter": lambda rows, file, keep: rows.filter(keep, cache_file_name=file),
    "map": lambda rows, file, change: rows.map(change, cache_file_name=file),
    "explode": _explode,
}
