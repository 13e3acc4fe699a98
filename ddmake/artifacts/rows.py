"""Writing rows: streamed into the format of `datasets`' save_to_disk, or to .jsonl, .csv and .parquet."""

import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from ddmake.ddfile.target import ROW_FILES, suffix
from ddmake.errors import RecipeFailed

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows held in memory at once

Store = Callable[[Iterable[pa.RecordBatch], pa.Schema, Path], None]  # writes batches of one schema at a path


def write(rows: Iterable[dict[str, Any]], to: Path) -> int:
    """Write rows at a path in the form that its suffix names, and return how many there were.

    Columns and types are those of all rows together; a value missing from a row is null.
    Raises RecipeFailed for a row that isn't a dict, values that share no type, or no rows at all.
    """
    form = suffix(to)
    if form and form not in ROW_FILES:
        raise RecipeFailed(f"rows can't be written to {form} files: take `output` and fill it, or use {', '.join(ROW_FILES)}")
    to.parent.mkdir(parents=True, exist_ok=True)
    store, source = _FORMATS[form] if form else _save_to_disk, iter(rows)
    first = list(islice(source, BATCH))
    if not first:
        raise RecipeFailed("it made no rows")
    try:
        batch = _batch(first, 0)
        if len(first) < BATCH:
            store([batch], batch.schema, to)
            return len(first)
        return _write_many(batch, source, store, to)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise RecipeFailed(f"its rows can't be written: {error}") from None


def write_dataset(dataset: "Dataset", to: Path) -> None:
    """Write a Dataset (or a DatasetDict) as its save_to_disk does.

    A plain one is written from its table: save_to_disk takes milliseconds, however small it is. What else it knows to
    do, for images, formats and rows that were picked or shuffled, is left to it.
    """
    if isinstance(dataset, dict) or dataset._indices is not None or dataset.format["type"] is not None:
        return dataset.save_to_disk(str(to))
    table, features = dataset.data.table, dataset.features.to_dict()
    if any(isinstance(kind, pa.BaseExtensionType) for kind in table.schema.types) or not _plain(features):
        return dataset.save_to_disk(str(to))
    to.parent.mkdir(parents=True, exist_ok=True)
    _save_to_disk(table.to_batches(), table.schema, to, features)


def _plain(features: Any) -> bool:
    """Tell whether features, as a dict, hold nothing but values, lists and labels."""
    if isinstance(features, list):
        return all(map(_plain, features))
    if not isinstance(features, dict):
        return True
    known = features.get("_type", "Value")
    if isinstance(known, str) and known not in ("Value", "List", "LargeList", "Sequence", "ClassLabel"):
        return False
    return all(map(_plain, features.values()))


def _write_many(first: pa.RecordBatch, source: Iterator[dict[str, Any]], store: Store, to: Path) -> int:
    """Write rows that are too many for memory: beside their place, until the schema that holds them all is known."""
    scratch = to.with_name(f"{uuid4().hex}.arrow")
    try:
        schema, count = _stream(first, source, scratch)
        store(_read(scratch, schema), schema, to)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _stream(batch: pa.RecordBatch, source: Iterator[dict[str, Any]], scratch: Path) -> tuple[pa.Schema, int]:
    """Write batches as they come, each with its own schema, and return the schema that holds them all."""
    schema, count = batch.schema, 0
    with scratch.open("wb") as file:
        while True:
            schema = _unify(schema, batch.schema)
            with pa.ipc.new_stream(file, batch.schema) as writer:
                writer.write_batch(batch)
            count += batch.num_rows
            chunk = list(islice(source, BATCH))
            if not chunk:
                return schema, count
            batch = _batch(chunk, count)


def _batch(rows: list[dict[str, Any]], first: int) -> pa.RecordBatch:
    for number, row in enumerate(rows, first):
        if not isinstance(row, dict) or not row:
            got = "empty" if row == {} else f"of type {type(row).__name__}"
            raise RecipeFailed(f"row {number} is {got}; a row is a dict of columns")
        odd = next((name for name in row if not isinstance(name, str)), None)
        if odd is not None:
            raise RecipeFailed(f"row {number} has a column named {odd!r}, a {type(odd).__name__}; a column's name is text")
    names = dict.fromkeys(name for row in rows for name in row)
    arrays = [_array(name, [row.get(name) for row in rows], first) for name in names]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _array(name: str, values: list[Any], first: int) -> pa.Array:
    plain = [str(v) if isinstance(v, str) else v for v in values]
    if {datetime.date, datetime.datetime} <= {type(v) for v in values}:
        raise RecipeFailed(f"column {name!r} from row {first} on mixes dates with dates and times; one would lose its time")
    try:
        return pa.array(plain, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise RecipeFailed(f"column {name!r} from row {first} on can't be stored: {error}") from None


def _unify(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    if one.equals(other):
        return one
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RecipeFailed(f"its rows don't agree: {error}") from None


def _read(scratch: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the batches again, cast to the schema of all."""
    with pa.memory_map(str(scratch)) as file:
        while file.tell() < file.size():
            for batch in pa.ipc.open_stream(file):
                yield batch if batch.schema.equals(schema) else _cast(batch, schema)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    missing = {f.name: pa.nulls(batch.num_rows, f.type) for f in schema if f.name not in batch.schema.names}
    arrays = [missing[f.name] if f.name in missing else batch.column(f.name).cast(f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _save_to_disk(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path, features: dict[str, Any] | None = None) -> None:
    """Write a folder that `datasets.load_from_disk` reads (datasets' arrow_dataset.py, `save_to_disk`)."""
    os.mkdir(to)
    data = "data-00000-of-00001.arrow"
    with pa.OSFile(f"{to}/{data}", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    info = {"features": features or {field.name: _feature(field.type) for field in schema}}
    state = {"_data_files": [{"filename": data}], "_fingerprint": "0" * 16, "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}
    for name, told in (("dataset_info.json", info), ("state.json", state)):
        with open(f"{to}/{name}", "w", encoding="utf-8") as file:
            file.write(json.dumps(told))


def _feature(kind: pa.DataType) -> Any:
    """Return a type as `datasets` names it in features."""
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
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
        raise RecipeFailed(f"a row can't be written as JSON: {error}") from None


def _written(value: Any) -> str:
    """Return a date or time as JSON has it: text in ISO 8601."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in it")


def _csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(str(to), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, to: Path) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(str(to), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_FORMATS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
