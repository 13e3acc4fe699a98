"""Columns of texts, read batch by batch; texts as words, and as runs of so many words."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# A word is a run of letters, digits and their marks. Scripts that have no spaces between words (Thai to Khmer, kana,
# Chinese characters) are taken character by character.
MARKS = "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
ALONE = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
FAR = "\U00020000-\U0003ffff"  # Chinese characters, too
CHARACTER = re.compile(f"[{ALONE}{FAR}]")
WORD = re.compile(rf"[\w{MARKS}{ALONE}]+")
FEW = 100  # rows that are made into Python's at once


def beside(batch: "pa.RecordBatch", columns: Mapping[str, "pa.Array"]) -> "pa.RecordBatch":
    """Return a batch with more columns beside its own, or in the place of those of their names."""
    import pyarrow as pa

    every = {**dict(zip(batch.schema.names, batch.columns)), **columns}
    return pa.RecordBatch.from_arrays(list(every.values()), names=list(every))


def those(rows: Any, there: Sequence[bool]) -> Any:
    """Return the rows that are marked, as they are; none of them is copied."""
    if all(there):
        return rows
    if hasattr(rows, "select"):
        return rows.select([number for number, one in enumerate(there) if one])
    import pyarrow as pa

    from ddmake.artifacts.stored import Stored

    runs = [[number for number, _ in run] for one, run in groupby(enumerate(there), key=lambda pair: pair[1]) if one]
    parts = [rows[run[0]:run[-1] + 1] for run in runs]
    return Stored(pa.concat_tables(parts) if parts else rows[0:0], rows.features)


def each(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of each row, which may be none."""
    from ddmake.artifacts.rows import read

    if not columns:
        yield from ({} for _ in range(len(rows)))
        return
    for batch in read(rows, columns, FEW):
        yield from batch.to_pylist()


def texts(rows: Any, name: str, size: int = 1000) -> Iterator[str | None]:
    """Yield a column's texts. Raises DdmakeError for a column that holds anything else."""
    from ddmake.artifacts.rows import read, texts_in

    for batch in read(rows, [name], size):
        yield from texts_in(batch.column(0), name)


def words(text: str) -> list[str]:
    """Return a text's words, without case and punctuation, and whatever the width and composition of its characters."""
    return WORD.findall(CHARACTER.sub(r" \g<0> ", unicodedata.normalize("NFKC", text).casefold()))


def grams(text: str, size: int) -> Sequence[str]:
    """Return the runs of so many words in a text; of a shorter one the whole, and of one without words the text itself."""
    found = words(text)
    if len(found) <= size:
        return [" ".join(found) or text.strip()]
    return [" ".join(found[start:start + size]) for start in range(len(found) - size + 1)]


def hashed(runs: Iterable[str]) -> frozenset[int]:
    """Return runs of words as numbers of 64 bits."""
    import xxhash

    return frozenset(xxhash.xxh3_64_intdigest(run.encode("utf-8", "surrogatepass")) for run in runs)
