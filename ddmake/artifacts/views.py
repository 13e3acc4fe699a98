"""Views: what their steps leave of columns and read of them; and the steps themselves, carried out on an opened dataset."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.errors import DdfileError, RecipeFailed, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from ddmake.artifacts.rows import Batches

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
    if verb == "select" and len(set(args)) < len(args):
        raise DdfileError(f".select(): {path}: a column is named twice: {', '.join(args)}.")
    if verb == "remove" and set(columns) <= set(args):
        raise DdfileError(f".remove(): it leaves no column of {path}. Keep one at least; {path} has: {', '.join(columns)}.")
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
    with _without_bars():
        for step in steps:
            check_step(rows.column_names, step, path)
            verb, args = step
            rows = _WRITTEN[verb](rows, file(), *args) if verb in _WRITTEN else _PICKED[verb](rows, *args)
    return rows


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the progress bars of `datasets` back: they would stand in logs and in what commands print."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _explode(rows: "Dataset", file: Path, column: str) -> "Dataset":
    """Make a row of each item of a list; types are those that are stored, also where there are no items, or no rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ddmake.artifacts.rows import Batches, read, schema_of

    schema, features = schema_of(rows), rows.features.to_dict()
    at, kind = schema.get_field_index(column), schema.field(column).type
    if pa.types.is_null(kind):
        return rows.select(())
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise DdfileError(f".explode(): column {column!r} holds {kind}, and lists are needed.")
    told, item = features[column], pa.field(column, kind.value_type)
    features[column] = told[0] if isinstance(told, list) else told["feature"]
    batches = (batch.take(pc.list_parent_indices(batch.column(at))).set_column(at, item, pc.list_flatten(batch.column(at)))
               for batch in read(rows))
    return _written(Batches(batches, features, schema.set(at, item)), file)


def _map(rows: "Dataset", file: Path, change: Callable[[dict[str, Any]], Any]) -> "Dataset":
    """Change rows one by one: a column keeps its type if that holds its values as they are, and else has one that does."""
    from ddmake.artifacts.rows import BATCH, Batches, is_plain, schema_of

    schema, features = schema_of(rows), rows.features.to_dict()
    if not len(rows) or not is_plain(features):  # datasets knows how images are stored
        return rows.map(change, cache_file_name=str(file))
    every = (_changed(row, change(dict(row))) for row in rows)
    chunks = iter(lambda: list(islice(every, BATCH)), [])
    return _written(Batches((_typed(chunk, at * BATCH, schema, features) for at, chunk in enumerate(chunks)), features), file)


def _changed(row: dict[str, Any], more: Any) -> dict[str, Any]:
    if not isinstance(more, Mapping | None):
        raise DdfileError(f".map(): its function returned a {type(more).__name__}, and a dict of columns is needed.")
    return {**row, **(more or {})}


def _typed(rows: list[dict[str, Any]], first: int, schema: "pa.Schema", features: dict[str, Any]) -> "pa.RecordBatch":
    """Return rows as a batch; what was told of a column that doesn't keep its type is told no more."""
    import pyarrow as pa

    from ddmake.artifacts.arrays import array

    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        columns[name] = _kept(values, schema.field(name).type) if name in schema.names else None
        if columns[name] is None:
            features.pop(name, None)
            columns[name] = array(name, values, first)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _kept(values: list[Any], kind: "pa.DataType") -> "pa.Array | None":
    """Return values in a type, None where it doesn't hold them as they are."""
    import pyarrow as pa

    try:
        made = pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return None
    same = all(type(one) is type(other) and (one == other or one != one) for one, other in zip(values, made.to_pylist()))
    return made if same else None


def _written(rows: "Batches", file: Path) -> "Dataset":
    """Write what a view makes of rows beside a file's place, and return it."""
    import datasets

    from ddmake.artifacts.rows import write

    folder = file.with_suffix("")
    try:
        write(rows, folder)
    except RecipeFailed as error:
        raise DdfileError(f"what the view's functions make of rows can't be stored: {error}.") from None
    return datasets.load_from_disk(str(folder))


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
    "filter": lambda rows, file, keep: rows.filter(keep, cache_file_name=str(file)),
    "map": _map,
    "explode": _explode,
}
