"""Sources of rows: files, saved datasets, rows that stand in the Ddfile. hub.py has the Hub; any other is a @step that yields."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.inputs import Paths
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules import reading

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]
HELD = {"line": 1000, "paragraph": 1000, "file": 1}  # texts in memory at once


def _header(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `csv`, as far as the Ddfile does."""
    for name in ("delimiter", "quote"):
        value = arguments[name]
        if value is not None and (len(value) != 1 or not value.isascii()):
            raise DdfileError(f"csv: {name} is one ASCII character, not {value!r}.")
    return arguments["header"] and list(arguments["header"])


def _keys(inputs: Mapping[str, Any], arguments: Arguments) -> list[str]:
    """Tell the columns of `rows`."""
    for number, row in enumerate(arguments["values"]):
        if not row:
            raise DdfileError(f"rows: row {number} is empty; a row is a dict of columns.")
    if not arguments["values"]:
        raise DdfileError("rows: values is empty; nothing would tell the columns.")
    return list(dict.fromkeys(name for row in arguments["values"] for name in row))


@step(version="1", columns=_keys)
def rows(*, values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make rows of those that stand in the Ddfile; a column that is missing from one is null."""
    return [dict(row) for row in values]


@step(version="1")
def jsonl(file: Paths) -> Iterator[dict[str, Any]]:
    """Read rows from a file of JSON lines (https://jsonlines.org), or from several; blank lines are skipped."""
    found = reading.files(file, "jsonl")
    yield from reading.alike((one, (reading.row(line, f"{one}:{number}") for number, line in reading.lines(one) if line.strip()))
                             for one in found)


@step(version="2")
def json(file: Paths, *, field: str | None = None) -> Iterator[dict[str, Any]]:
    """Read rows from a JSON file, or from several, that hold a list of objects, or hold one at a field: `data.items`."""
    yield from reading.alike((one, reading.items(one, field)) for one in reading.files(file, "json"))


@step(version="2", columns=_header)
def csv(file: Paths, *, delimiter: str = ",", quote: str | None = '"', header: Sequence[str] | None = None) -> "Batches":
    """Read rows from a CSV file in UTF-8, or from several with the same columns.

    The first line names the columns; `header` does where there is no such line. A column holds whole numbers, numbers or truth
    values if all its values are such, else text: 007, dates, and whole numbers that are too large stay text. What is empty
    between delimiters is null, and `""` in quotes is an empty text.
    """
    from ddmake.artifacts.rows import Batches
    from ddmake.rules import tables

    schema, batches = tables.csv_batches(reading.files(file, "csv"), tables.Csv(delimiter, quote, header))
    return Batches(batches, schema=schema)


@step(version="1", columns=lambda inputs, arguments: arguments["columns"])
def parquet(file: Paths, *, columns: Sequence[str] | None = None) -> "Batches":
    """Read rows, or some of their columns, from a Parquet file, or from several with the same columns; types are kept."""
    from ddmake.artifacts.rows import Batches
    from ddmake.rules import tables

    schema, features, batches = tables.parquet_batches(reading.files(file, "parquet"), columns)
    return Batches(batches, features, schema)


@step(version="1", columns=lambda inputs, arguments: [arguments["column"]])
def text(file: Paths, *, by: Literal["line", "paragraph", "file"] = "line", column: str = "text") -> "Batches":
    """Read texts from a file in UTF-8, or from several: each line (empty ones, too), each paragraph, or the file as a whole.

    Paragraphs are parted by empty lines, which belong to none.
    """
    from ddmake.artifacts.rows import Batches

    split = {"line": _lines, "paragraph": reading.paragraphs, "file": _whole}[by]
    texts = (one for found in reading.files(file, "text") for one in split(found))
    schema, batches = _column(column, texts, HELD[by])
    return Batches(batches, schema=schema)


def _lines(file: Path) -> Iterator[str]:
    return (line for _, line in reading.lines(file))


def _whole(file: Path) -> Iterator[str]:
    yield "\n".join(_lines(file))


def _column(name: str, texts: Iterator[str], size: int) -> tuple["pa.Schema", Iterator["pa.RecordBatch"]]:
    """Return texts as a column, in batches of so many."""
    import pyarrow as pa

    from ddmake.artifacts.arrays import array

    schema = pa.schema([(name, pa.string())])
    pieces = iter(lambda: list(islice(texts, size)), [])
    return schema, (pa.RecordBatch.from_arrays([array(name, piece, 0)], schema=schema) for piece in pieces)


@step(version="1")
def saved(folder: Paths, *, split: str | None = None) -> Any:
    """Read a dataset that was saved by `datasets`' save_to_disk; of a DatasetDict the part that `split` names. Types are kept."""
    import datasets

    folder = _part(folder, split)
    datasets.disable_caching()
    return datasets.load_from_disk(str(folder))


def _part(folder: Any, split: str | None) -> Path:
    """Return the folder of a saved dataset, which may be a part of one."""
    if not isinstance(folder, Path):
        raise DdmakeError(f"saved reads one folder, and was given {folder!r}.")
    parts = _parts(folder)
    if split is None and parts:
        raise DdmakeError(f"{folder} has the splits {', '.join(parts)}: name one by split=.")
    if split is not None and split not in parts:
        has = f"There are: {', '.join(parts) or 'none'}."
        raise DdmakeError(f"{folder} has no split {split!r}. {has}{did_you_mean(split, parts)}")
    found = folder / (split or "")
    if not (found / "state.json").is_file():
        raise DdmakeError(f"{found} is no dataset that save_to_disk has saved.")
    return found


def _parts(folder: Path) -> list[str]:
    """Return the parts of a saved DatasetDict; none of anything else."""
    file = folder / "dataset_dict.json"
    return loads(file.read_text(encoding="utf-8"))["splits"] if file.is_file() else []
