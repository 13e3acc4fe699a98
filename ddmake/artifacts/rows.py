"""Rows, streamed: written in the format of `datasets`' save_to_disk, or to .jsonl, .json, .csv and .parquet; read in batches."""

import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from ddmake.artifacts.arrays import array
from ddmake.ddfile.target import ROW_FILES, suffix
from ddmake.errors import DdmakeError, NoRows, RecipeFailed

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows held in memory at once
BYTES = (pa.binary(), pa.large_binary())

Store = Callable[[Iterable[pa.RecordBatch], pa.Schema, Path], None]  # writes batches of one schema at a path


@dataclass(frozen=True)
class Batches:
    """Rows that are Arrow's already, with what `datasets` says of their columns, by name, where Arrow's types don't tell all.

    With a schema there may be no rows, and they are written as they come; without one, types are those that hold all.
    """

    batches: Iterable[pa.RecordBatch]
    features: Mapping[str, Any] = field(default_factory=dict)
    schema: pa.Schema | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self.batches)


def write(rows: Iterable[dict[str, Any]] | Batches, to: Path) -> int:
    """Write rows at a path in the form that its suffix names, and return how many there were.

    Columns and types are those of all rows together; a value missing from a row is null.
    Raises RecipeFailed for a row that isn't a dict, values that share no type, or no rows where nothing tells the columns.
    """
    form = suffix(to)
    if form and form not in ROW_FILES:
        raise RecipeFailed(f"rows can't be written to {form} files: take `output` and fill it, or use {', '.join(ROW_FILES)}")
    to.parent.mkdir(parents=True, exist_ok=True)
    features = rows.features if isinstance(rows, Batches) else {}
    store: Store = _FORMATS[form] if form else partial(_save_to_disk, features=features)
    source = iter(rows if isinstance(rows, Batches) else _batches(rows))
    try:
        if isinstance(rows, Batches) and rows.schema is not None:
            return _write_known(source, rows.schema, store, to)
        first, second = next(source, None), next(source, None)
        if first is None:
            raise NoRows("it made no rows")
        if second is None:
            store([first], first.schema, to)
            return first.num_rows
        return _write_many(chain([first, second], source), store, to)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise RecipeFailed(f"its rows can't be written: {error}") from None


def read(dataset: "Dataset", columns: Sequence[str] | None = None, size: int = BATCH) -> Iterator[pa.RecordBatch]:
    """Yield a Dataset's rows, or some columns of them, as they are stored: nothing is decoded, no row becomes Python's.

    Where there are no rows, a batch without any tells the columns.
    """
    shown = dataset.with_format("arrow", columns=None if columns is None else list(columns))
    if not len(dataset):
        schema = shown[0:0].schema
        yield pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], names=schema.names)
    for start in range(0, len(dataset), size):
        yield from shown[start:start + size].combine_chunks().to_batches()


def schema_of(dataset: "Dataset") -> pa.Schema:
    """Return a Dataset's columns as they are stored."""
    return dataset.with_format("arrow")[0:0].schema


def features_of(dataset: "Dataset") -> dict[str, Any]:
    """Return what `datasets` says of each column, as a dict of one's own; a Stored's is one already."""
    features = dataset.features
    return getattr(features, "to_dict", features.copy)()


def texts_in(values: pa.Array | pa.ChunkedArray, name: str) -> list[str | None]:
    """Return the texts of a column, or of a batch of it. Raises DdmakeError where it holds anything else."""
    if not any(check(values.type) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
        raise DdmakeError(f"column {name!r} holds {values.type}, and text is needed.")
    return values.to_pylist()


def write_dataset(dataset: "Dataset", to: Path) -> None:
    """Write a Dataset (or a DatasetDict) as its save_to_disk does.

    A plain one is written from its table: save_to_disk takes milliseconds, however small it is. What else it knows to
    do, for images, formats and rows that were picked or shuffled, is left to it.
    """
    if isinstance(dataset, dict) or dataset._indices is not None or dataset.format["type"] is not None:
        return dataset.save_to_disk(str(to))
    table, features = dataset.data.table, dataset.features.to_dict()
    if any(isinstance(kind, pa.BaseExtensionType) for kind in table.schema.types) or not is_plain(features):
        return dataset.save_to_disk(str(to))
    to.parent.mkdir(parents=True, exist_ok=True)
    _save_to_disk(table.to_batches(), table.schema, to, features)


def is_plain(features: Any) -> bool:
    """Tell whether features, as a dict, hold nothing but values, lists and labels."""
    if isinstance(features, list):
        return all(map(is_plain, features))
    if not isinstance(features, dict):
        return True
    known = features.get("_type", "Value")
    if isinstance(known, str) and known not in ("Value", "List", "LargeList", "Sequence", "ClassLabel"):
        return False
    return all(map(is_plain, features.values()))


def _write_known(batches: Iterable[pa.RecordBatch], schema: pa.Schema, store: Store, to: Path) -> int:
    """Write batches of a schema as they come."""
    count = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in batches:
            count += batch.num_rows
            yield batch if batch.schema.equals(schema) else _cast(batch, schema)

    store(counted(), schema, to)
    return count


def _write_many(batches: Iterable[pa.RecordBatch], store: Store, to: Path) -> int:
    """Write rows that are too many for memory: beside their place, until the schema that holds them all is known."""
    scratch = to.with_name(f"{uuid4().hex}.arrow")
    try:
        schema, count = _stream(batches, scratch)
        store(_read(scratch, schema), schema, to)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _stream(batches: Iterable[pa.RecordBatch], scratch: Path) -> tuple[pa.Schema, int]:
    """Write batches as they come, each with its own schema, and return the schema that holds them all."""
    schema, count = pa.schema([]), 0
    with scratch.open("wb") as file:
        for batch in batches:
            schema = unify(schema, batch.schema) if count else batch.schema
            with pa.ipc.new_stream(file, batch.schema) as writer:
                writer.write_batch(batch)
            count += batch.num_rows
    return schema, count


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    source, count = iter(rows), 0
    while chunk := list(islice(source, BATCH)):
        yield _batch(chunk, count)
        count += len(chunk)


def _batch(rows: list[dict[str, Any]], first: int) -> pa.RecordBatch:
    for number, row in enumerate(rows, first):
        if not isinstance(row, dict) or not row:
            got = "empty" if row == {} else f"of type {type(row).__name__}"
            raise RecipeFailed(f"row {number} is {got}; a row is a dict of columns")
        odd = next((name for name in row if not isinstance(name, str)), None)
        if odd is not None:
            raise RecipeFailed(f"row {number} has a column named {odd!r}, a {type(odd).__name__}; a column's name is text")
    names = dict.fromkeys(name for row in rows for name in row)
    arrays = [array(name, [row.get(name) for row in rows], first) for name in names]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def unify(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return the schema that holds the rows of two. Raises RecipeFailed where there is none."""
    if one.equals(other):
        return one
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RecipeFailed(f"its rows don't agree: {error}") from None


def _read(scratch: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the batches again, cast to the schema of all."""
    with pa.OSFile(str(scratch), "rb") as file:
        while file.tell() < file.size():
            for batch in pa.ipc.open_stream(file):
                yield batch if batch.schema.equals(schema) else _cast(batch, schema)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    missing = {f.name: pa.nulls(batch.num_rows, f.type) for f in schema if f.name not in batch.schema.names}
    arrays = [missing[f.name] if f.name in missing else batch.column(f.name).cast(f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _save_to_disk(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path, features: Mapping[str, Any]) -> None:
    """Write a folder that `datasets.load_from_disk` reads (datasets' arrow_dataset.py, `save_to_disk`)."""
    os.mkdir(to)
    data = "data-00000-of-00001.arrow"
    with pa.OSFile(f"{to}/{data}", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    info = {"features": {column.name: features.get(column.name) or _feature(column.type) for column in schema}}
    state = {"_data_files": [{"filename": data}], "_fingerprint": "0" * 16, "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}
    for name, told in (("dataset_info.json", info), ("state.json", state)):
        with open(f"{to}/{name}", "w", encoding="utf-8") as file:
            file.write(json.dumps(told))


def _feature(kind: pa.DataType) -> Any:
    """Return a type as `datasets` names it in features."""
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List" if pa.types.is_list(kind) else "LargeList"}
    names = {"double": "float64", "float": "float32", "halffloat": "float16", "date32[day]": "date32", "date64[ms]": "date64"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def _jsonl(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    with to.open("w", encoding="utf-8") as file:
        for batch in batches:
            file.writelines(_json(row) + "\n" for row in batch.to_pylist())


def _json(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_written)
    except (ValueError, TypeError) as error:
        name = next((name for name, value in row.items() if not _fits(value)), "")
        raise RecipeFailed(f"column {name!r} can't be written as JSON: {error}. Make it a text or a number, or write .parquet "
                           "or a dataset") from None


def _fits(value: Any) -> bool:
    """Tell whether a value can be written as JSON."""
    try:
        json.dumps(value, allow_nan=False, default=_written)
    except (ValueError, TypeError):
        return False
    return True


def _json_list(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    """Write one list of objects, a row a line."""
    with to.open("w", encoding="utf-8") as file:
        before = "[\n"
        for batch in batches:
            for row in batch.to_pylist():
                file.write(before + _json(row))
                before = ",\n"
        file.write(f"{'[' if before == '[' + chr(10) else chr(10)}]\n")


def _written(value: Any) -> str:
    """Return a date or time as JSON has it: text in ISO 8601."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} has no form in it")


def _csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    import pyarrow.csv

    odd = next((column for column in schema if pa.types.is_nested(column.type) or column.type in BYTES), None)
    if odd is not None:
        raise RecipeFailed(f"column {odd.name!r} holds {odd.type}, which has no form in CSV. Make it a text, or write .jsonl, "
                           ".parquet or a dataset")
    with pyarrow.csv.CSVWriter(str(to), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(str(to), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_FORMATS = {".jsonl": _jsonl, ".json": _json_list, ".csv": _csv, ".parquet": _parquet}
