"""A table as it lies on disk, whoever made it: columns, number of rows, and any of them. `datasets` isn't needed for it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddmake.artifacts.columns import type_name

FIRST = 1000  # rows of a file of JSON lines that tell its types
CHUNK = 100  # rows of a dataset that are made into Python's at once

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows on disk; `rows(start, most)` reads so many of them from a number on."""

    columns: dict[str, str]  # types by name
    count: int
    rows: Callable[[int, int], Iterator[Row]]


def table(path: Path) -> Table | None:
    """Return the table at a path: a dataset's folder or a file of rows; None where it is neither, or can't be read as such."""
    if path.is_dir():
        return _dataset(path) if (path / "state.json").exists() else None
    read = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    try:
        return read(path) if read is not None else None
    except (ValueError, pa.ArrowException):
        return None


def _dataset(path: Path) -> Table:
    files = json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]
    parts = [pa.ipc.open_stream(pa.memory_map(str(path / file["filename"]))).read_all() for file in files]
    whole = pa.concat_tables(parts)  # mapped, not copied
    return Table(_types(whole.schema), whole.num_rows, lambda start, most: _chunks(whole.slice(start, most)))


def _chunks(part: pa.Table) -> Iterator[Row]:
    for at in range(0, part.num_rows, CHUNK):
        yield from part.slice(at, CHUNK).to_pylist()


def _parquet(path: Path) -> Table:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    return Table(_types(file.schema_arrow), file.metadata.num_rows, lambda start, most: _sliced(file.iter_batches(), start, most))


def _csv(path: Path) -> Table:
    """Read a file whose types are those of its first rows; where later ones don't fit, all of it is text."""
    schema = _open_csv(path).schema
    try:
        count = sum(batch.num_rows for batch in _open_csv(path))
    except pa.ArrowInvalid:
        schema = pa.schema([(name, pa.string()) for name in schema.names])
        count = sum(batch.num_rows for batch in _open_csv(path, schema))
    return Table(_types(schema), count, lambda start, most: _sliced(_open_csv(path, schema), start, most))


def _open_csv(path: Path, schema: pa.Schema | None = None) -> Any:
    import pyarrow.csv

    return pyarrow.csv.open_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                                convert_options=pyarrow.csv.ConvertOptions(column_types=schema))


def _jsonl(path: Path) -> Table:
    first = list(islice(_lines(path), FIRST))
    if not first or not all(isinstance(row, dict) for row in first):
        raise ValueError("no rows")
    types = {name: _type([row.get(name) for row in first]) for name in dict.fromkeys(name for row in first for name in row)}
    with path.open("rb") as file:
        count = sum(1 for line in file if line.strip())
    return Table(types, count, lambda start, most: islice(_lines(path), start, start + most))


def _json(path: Path) -> Table:
    """Read a list of objects, as rows are written to such a file."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no rows")
    names = dict.fromkeys(name for row in rows for name in row)
    types = {name: _type([row.get(name) for row in rows[:FIRST]]) for name in names}
    return Table(types, len(rows), lambda start, most: iter(rows[start:start + most]))


def _type(values: list[Any]) -> str:
    try:
        return type_name(pa.array(values).type)
    except (pa.ArrowException, OverflowError):
        return "mixed"


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _sliced(batches: Iterable[pa.RecordBatch], start: int, most: int) -> Iterator[Row]:
    """Yield rows of batches; those before the first one that is wanted aren't made into Python's."""
    for batch in batches:
        if most <= 0:
            return
        found = batch.slice(start, most)
        yield from found.to_pylist()
        start, most = max(0, start - batch.num_rows), most - found.num_rows


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: type_name(field.type) for field in schema}
