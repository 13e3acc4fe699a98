"""Failed rows: those that a job got no usable answer for. They are kept with its trace, to be looked at and sent again.

While the job runs they go to a file in its scratch folder, so that many of them take no memory.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Database

LONG = 10_000  # characters of an answer, and of each of a row's values, that are kept
WHOLE = 10_000  # failed rows of a job that are kept with their answer and values; of further ones just the reason

COLUMNS = "number, llm, reason, finish_reason, answer, row"


@dataclass(frozen=True)
class Failed:
    """A row without a usable answer; `number` counts from 0 among the rows that the recipe asked about."""

    number: int
    llm: str
    reason: str
    finish_reason: str | None
    answer: str
    row: str  # its values, as JSON

    @property
    def values(self) -> dict[str, Any]:
        """Return the row's values, long ones cut."""
        return json.loads(self.row)


def m005_failed_rows(db: "Database") -> None:
    """Make the table of failed rows, by the trace of their job."""
    db["failed"].create(
        {"id": int, "trace": int, "number": int, "llm": str, "reason": str, "finish_reason": str, "answer": str, "row": str},
        pk="id", foreign_keys=[("trace", "traces", "id")],
    )
    db["failed"].create_index(["trace", "number"])


class Failures:
    """The failed rows of a job that is under way, in a file of JSON lines; what an earlier try has left there goes."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        self._file: IO[str] | None = None
        path.unlink(missing_ok=True)

    def add(self, number: int, llm: str, reason: str, finish_reason: str | None, answer: str, row: Mapping[str, Any]) -> None:
        """Note a failed row."""
        self._file = self._file or self.path.open("w", encoding="utf-8")
        whole, self.count = self.count < WHOLE, self.count + 1
        told = {name: _short(value) for name, value in row.items()} if whole else {}
        kept = (number, llm, _short(reason), finish_reason, _short(answer) if whole else "", json.dumps(told))
        self._file.write(json.dumps(kept) + "\n")

    def close(self) -> None:
        """Write what is held back."""
        if self._file is not None:
            self._file.close()


def rows(path: Path) -> Iterator[Failed]:
    """Yield the failed rows of a file that `Failures` wrote; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield Failed(*json.loads(line))


def keep(db: sqlite3.Connection, trace: int, failed: Iterable[Failed]) -> None:
    """Keep a trace's failed rows; part of the caller's transaction."""
    db.executemany(f"INSERT INTO failed (trace, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", ((trace, *astuple(f)) for f in failed))


def of(db: sqlite3.Connection, trace: int, number: int | None = None) -> Iterator[Failed]:
    """Yield a trace's failed rows in their order, or those of one row."""
    one = "" if number is None else " AND number = ?"
    given = (trace,) if number is None else (trace, number)
    for row in db.execute(f"SELECT {COLUMNS} FROM failed WHERE trace = ?{one} ORDER BY number, id", given):
        yield Failed(*row)


def count(db: sqlite3.Connection, trace: int) -> int:
    """Return how many failed rows a trace has."""
    return db.execute("SELECT count(*) FROM failed WHERE trace = ?", (trace,)).fetchone()[0]


def _short(value: Any) -> Any:
    """Return a value as JSON can hold it, cut where it is long; half a surrogate pair, which no file can hold, is spelt out."""
    if isinstance(value, str):
        return value[:LONG].encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _short(text) if len(text) > LONG else json.loads(text)
