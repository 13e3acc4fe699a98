"""Files of tables, read in batches: CSV, whose types are told by all its values, and Parquet, which has types of its own."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ddmake.errors import DdmakeError, did_you_mean
from ddmake.rules import reading

BLOCK, LARGE = 2 << 20, 64 << 20  # bytes of a CSV file that are read at once, some twenty times in memory; where rows are longer
TRUE, FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
PATTERNS = {  # of what a column may hold but text; 007 is a name and no number
    pa.int64(): r"^[ \t]*-?(0|[1-9][0-9]*)[ \t]*$",
    pa.float64(): r"^[ \t]*-?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|NaN|inf)[ \t]*$",
    pa.bool_(): f"^({'|'.join(TRUE + FALSE)})$",
}


@dataclass(frozen=True)
class Csv:
    """How CSV files are written; `header` holds the names of columns where the files don't."""

    delimiter: str = ","
    quote: str | None = '"'
    header: Sequence[str] | None = None
    block: int = BLOCK

    def open(self, file: Path, schema: pa.Schema | None = None) -> Any:
        """Return a reader of batches, whose types are the schema's, else guessed."""
        from pyarrow import csv as arrow

        return arrow.open_csv(
            file, arrow.ReadOptions(block_size=self.block, column_names=self.header),
            arrow.ParseOptions(delimiter=self.delimiter, quote_char=self.quote or False, newlines_in_values=bool(self.quote)),
            arrow.ConvertOptions(column_types=schema, true_values=TRUE, false_values=FALSE, null_values=[""],
                                 strings_can_be_null=True, quoted_strings_can_be_null=False))

    def columns(self, file: Path) -> list[str]:
        """Return the names of a file's columns. Raises DdmakeError for names that no column can have."""
        try:
            names = list(self.header or next((row for _, row in self._rows(file) if row), []))
        except csv.Error:
            raise DdmakeError(f"{file}:1: the names of the columns can't be read. Lines end with a line feed, or with a carriage "
                              "return and a line feed; not with a carriage return alone.") from None
        if not names:
            raise DdmakeError(f"{file} is empty; a CSV file begins with the names of its columns (or give them by header=).")
        for number, name in enumerate(names, 1):
            if not name or names.index(name) != number - 1:
                what = f"has two columns {name!r}" if name else f"has no name for column {number}"
                raise DdmakeError(f"{file}:1 {what}. Give each column a name of its own there.")
        return names

    def wrong(self, file: Path, error: Exception) -> DdmakeError:
        """Return what is wrong with a file that can't be read, by its line, where that can be found."""
        try:
            count = None if self.header is None else len(self.header)
            for line, row in self._rows(file):
                count = len(row) if count is None else count
                if row and len(row) != count:
                    return DdmakeError(f"{file}:{line}: {len(row)} values, and there are {count} columns (delimiter="
                                       f"{self.delimiter!r}).")
        except DdmakeError as other:
            return other
        except csv.Error:  # a value that is longer than Python's reader takes
            pass
        if "straddling" in str(error):
            return DdmakeError(f"{file}: a row is longer than {self.block >> 20} MB, or a quote isn't closed.")
        return DdmakeError(f"{file}: {str(error).splitlines()[0]}")

    def _rows(self, file: Path) -> Iterator[tuple[int, list[str]]]:
        """Yield a file's rows as texts, each with the number of its last line."""
        texts = (line + "\n" for _, line in reading.lines(file))
        quoting = csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL
        rows = csv.reader(texts, delimiter=self.delimiter, quotechar=self.quote, quoting=quoting)
        yield from ((rows.line_num, row) for row in rows)


def csv_batches(files: Sequence[Path], form: Csv) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the columns of CSV files, with types that hold all their values, and their rows."""
    names = form.columns(files[0])
    for file in files[1:]:
        reading.same_columns((files[0], names), (file, form.columns(file)))
    try:
        schema = _types(files, form, names)
    except _LongRow:
        form = replace(form, block=LARGE)
        schema = _types(files, form, names)
    return schema, _read(files, form, schema)


def _types(files: Sequence[Path], form: Csv, names: Sequence[str]) -> pa.Schema:
    """Read all of the files, and return types that hold all values."""
    kinds = {name: _Kinds() for name in names}
    for batch in _read(files, form, pa.schema([(name, pa.string()) for name in names])):
        for name, known in kinds.items():
            known.feed(batch.column(name))
    return pa.schema([(name, known.found()) for name, known in kinds.items()])


class _LongRow(Exception):
    """A row is longer than what is read at once."""


def _read(files: Sequence[Path], form: Csv, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in files:
        try:
            last = None
            for batch in form.open(file, schema):
                yield batch.select(schema.names)
                last = batch.column(batch.num_columns - 1)[-1].as_py() if batch.num_rows else last
            if form.quote and isinstance(last, str) and _is_open(file, last, form.quote):
                raise DdmakeError(f"{file}: a quote isn't closed: the one before {last[:40]!r}.")
        except pa.ArrowInvalid as error:
            if "straddling" in str(error) and form.block < LARGE:
                raise _LongRow from None
            if "Empty CSV" in str(error):  # nothing but the names of columns, or nothing below `header`
                continue
            raise form.wrong(file, error) from None


def _is_open(file: Path, last: str, quote: str) -> bool:
    """Tell whether the file ends with its last value and no quote behind it, though there is one before it."""
    written = (quote + last.replace(quote, quote * 2)).encode()
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - len(written)))
        return bool(last.strip(quote)) and opened.read() == written


class _Kinds:
    """What a column of texts may hold, by the values so far."""

    def __init__(self) -> None:
        self.left, self.seen = list(PATTERNS), False

    def feed(self, texts: pa.Array) -> None:
        """Take in further values."""
        if not self.left or texts.null_count == len(texts):
            return
        self.seen = True
        self.left = [kind for kind in self.left if pc.all(pc.match_substring_regex(texts, PATTERNS[kind])).as_py()]
        if pa.int64() in self.left and not _fits_int64(texts):
            self.left = []  # a float would lose digits

    def found(self) -> pa.DataType:
        """Return the type that holds all values."""
        return self.left[0] if self.seen and self.left else pa.string()


def _fits_int64(texts: pa.Array) -> bool:
    try:
        pc.utf8_trim_whitespace(texts).cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


Found = tuple[pa.Schema, dict[str, Any], Iterator[pa.RecordBatch]]


def parquet_batches(files: Sequence[Path], columns: Sequence[str] | None) -> Found:
    """Return the columns of Parquet files, or some of them, what `datasets` says of them, and their rows."""
    first = _schema(files[0])
    twice = next((name for name in columns or first.names if (columns or first.names).count(name) > 1), None)
    if twice is not None:
        raise DdmakeError(f"{files[0]}: the column {twice!r} is there, or named by columns=, twice.")
    for file in files[1:]:
        reading.same_columns((files[0], first.names), (file, _schema(file).names))
    names = list(first.names if columns is None else columns)
    for name in names:
        if name not in first.names:
            raise DdmakeError(f"{files[0]} has no column {name!r}. Columns: {', '.join(first.names)}."
                              f"{did_you_mean(name, first.names)}")
    schema = pa.schema([(name, _storable(first.field(name).type, f"{files[0]}: column {name!r}")) for name in names])
    features = {name: told for name, told in _features(first).items() if name in names}
    return schema, features, (batch for file in files for batch in _parquet(file, schema))


def _schema(file: Path) -> pa.Schema:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file)
    except pa.ArrowException as error:
        raise DdmakeError(f"{file} is no Parquet file: {str(error).splitlines()[0]}") from None


def _parquet(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(10_000, columns=schema.names):
            yield pa.RecordBatch.from_arrays([_cast(batch.column(f.name), f, file) for f in schema], schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise DdmakeError(f"{file} is damaged: {str(error).splitlines()[0]}") from None


def _cast(values: pa.Array, field: pa.Field, file: Path) -> pa.Array:
    try:
        return values if values.type == field.type else values.cast(field.type)
    except pa.ArrowException:
        raise DdmakeError(f"{file}: column {field.name!r} holds {values.type}, and in the first file {field.type}.") from None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what `datasets`, which may have written a Parquet file, says there of its columns."""
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return told.get("info", {}).get("features") or {}


def _storable(kind: pa.DataType, what: str) -> pa.DataType:
    """Return the type in which a Parquet file's column is stored. Raises DdmakeError for one that datasets have no form of."""
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type, what)
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(i).name, _storable(kind.field(i).type, what)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_storable(kind.value_type, what))
    if pa.types.is_large_list(kind):
        return pa.large_list(_storable(kind.value_type, what))
    if pa.types.is_nested(kind) and not pa.types.is_fixed_size_list(kind) or pa.types.is_fixed_size_binary(kind):
        raise DdmakeError(f"{what} holds {kind}, for which datasets have no type. Leave it out by columns=.")
    return kind
