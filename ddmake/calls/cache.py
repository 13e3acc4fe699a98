"""The calls' database: every answer under its own key, so that none is asked for twice.

Rowid table with a unique 16-byte key, 16 kB pages, WAL; one writer thread commits every 50 ms or 256 answers. Each row
carries a checksum: one that doesn't fit, for a flipped byte, is no answer, and is asked for again. Who sends a request
claims its key first, so that nobody else does meanwhile; see claims.py.
"""

import hashlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.backends.base import Answer, Request
from ddmake.calls.batchbook import m004_batches
from ddmake.errors import DdmakeError
from ddmake.store.database import connect, connect_to_read, told

if TYPE_CHECKING:
    from sqlite_utils import Database

FLUSH_SECONDS, FLUSH_ROWS = 0.05, 256
MOST_WAITING = 16 * FLUSH_ROWS  # answers that wait for the disk: who brings more has to wait, too
LOOK_UP = 500  # keys a query

ANSWER = "key, answer, model, finish_reason, tokens_in, tokens_out"
SIGNED = f"{ANSWER}, cost, error, more"  # what the checksum covers, and a look-up reads
COLUMNS = f"{SIGNED}, request, made, llm, rule, priced, checksum"
FILE = "calls.db"

_json = json.JSONEncoder(ensure_ascii=False).encode


def m001_calls(db: "Database") -> None:
    """Make the table of finished calls."""
    db["calls"].create(
        {"id": int, "key": bytes, "answer": str, "model": str, "finish_reason": str, "tokens_in": int, "tokens_out": int,
         "request": str, "made": float}, pk="id", not_null={"key", "answer"},
    )
    db["calls"].create_index(["key"], unique=True)


def m002_checksums(db: "Database") -> None:
    """Give each call a checksum."""
    db["calls"].add_column("checksum", bytes)
    _sign(db, ANSWER)


def m003_money(db: "Database") -> None:
    """Note by whom each call was paid and what it cost, and make the table of claims."""
    for name, kind in (("llm", str), ("rule", str), ("cost", float), ("priced", str), ("error", str), ("more", str)):
        db["calls"].add_column(name, kind)
    _sign(db, SIGNED)
    db["claims"].create({"id": int, "key": bytes, "owner": str}, pk="id", not_null={"key", "owner"})
    db["claims"].create_index(["key"], unique=True)


def _sign(db: "Database", columns: str) -> None:
    rows = db.execute(f"SELECT id, {columns} FROM calls").fetchall()
    db.conn.executemany("UPDATE calls SET checksum = ? WHERE id = ?", [(checksum(row[1:]), row[0]) for row in rows])


MIGRATIONS = (m001_calls, m002_checksums, m003_money, m004_batches)


def checksum(row: Sequence[Any]) -> bytes:
    """Return the checksum of a call's key and answer."""
    return hashlib.blake2b(repr(tuple(row)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


@dataclass(frozen=True)
class Payer:
    """For whom a call is made: the llm by its spec's name, the rule by its label; and where its price is from."""

    llm: str = ""
    rule: str = ""
    priced: str | None = None


NOBODY = Payer()


class Calls:
    """The finished calls of a project, in `.ddmake/calls.db`. `committed` is told keys once they are on disk.

    Those of a job apart are in a folder of its own; the project's are read from `behind`.
    """

    def __init__(self, folder: Path, committed: Callable[[list[bytes]], None] = lambda keys: None, behind: Path | None = None):
        self.path, self.committed = folder / FILE, committed
        self.db = connect(self.path, MIGRATIONS, synchronous="NORMAL")
        self._read = [self.db]
        if behind is not None and (behind / FILE).exists():
            self._read.append(connect_to_read(behind / FILE, MIGRATIONS))
        self.writing = threading.Lock()  # held by who writes: SQLite's own waiting is coarse
        self._waiting: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._writer: threading.Thread | None = None

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """Return the answers that are known, by key."""
        wanted, found = list(keys), {}
        try:
            for at in range(0, len(wanted), LOOK_UP):
                found.update(self._look_up(wanted[at:at + LOOK_UP]))
        except sqlite3.Error as error:
            raise self.told(error) from None
        return found

    def put(self, key: bytes, request: Request, answer: Answer, payer: Payer = NOBODY, more: dict[str, Any] | None = None,
            anew: bool = False) -> None:
        """Keep an answer; it is committed within 50 ms. One asked for anew takes the place of what was known."""
        if self._failed:
            raise self.told(self._failed)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, daemon=True)
            self._writer.start()
        row = (key, str(answer), answer.model, answer.finish_reason, answer.tokens_in, answer.tokens_out, answer.cost,
               answer.error, _more(answer, more))
        told = (*row, written(request), time.time(), payer.llm, payer.rule, payer.priced, checksum(row))
        while self._waiting.qsize() > MOST_WAITING and not self._failed:
            time.sleep(FLUSH_SECONDS / 10)
        self._waiting.put((anew, told))

    def put_spent(self, request: Request, answer: Answer, payer: Payer, more: dict[str, Any] | None = None) -> None:
        """Keep what was paid for and answers nothing: under a key of its own, which nobody asks for."""
        self.put(os.urandom(16), request, answer, payer, more)

    def close(self) -> None:
        """Commit what is waiting. Raises DdmakeError for what the writer met."""
        if self._writer is not None:
            self._waiting.put(None)
            self._writer.join()
        for db in self._read:
            db.close()
        if self._failed:
            raise self.told(self._failed)

    def told(self, error: Exception) -> DdmakeError:
        """Return what is to be said of a failure of the database."""
        return DdmakeError(f"{self.path}: {told(error)}")

    def _look_up(self, keys: list[bytes]) -> Iterator[tuple[bytes, Answer]]:
        """Yield the sound answers to so many keys, one's own last; a damaged one is thrown away."""
        marks = ",".join("?" * len(keys))
        for db in reversed(self._read):
            for *row, sign in db.execute(f"SELECT {SIGNED}, checksum FROM calls WHERE key IN ({marks})", keys).fetchall():
                if checksum(row) == sign:
                    yield row[0], _answer(*row[1:])
                elif db is self.db:
                    db.execute("DELETE FROM calls WHERE key = ?", (row[0],))

    def _write(self) -> None:
        """Commit answers as they come; what goes wrong is told by the next `put`, or by `close`."""
        try:
            self._commit()
        except Exception as error:  # the database's, or what Python says of a value that it can't take
            self._failed = error

    def _commit(self) -> None:
        marks = ",".join("?" * len(COLUMNS.split(",")))
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=NORMAL")
            open_ = True
            while open_:
                rows, open_ = self._collect()
                if rows:
                    keys = [row[0] for _, row in rows]
                    with self.writing:
                        db.execute("BEGIN IMMEDIATE")
                        put_aside(db, [row[0] for anew, row in rows if anew])
                        db.executemany(f"INSERT OR IGNORE INTO calls ({COLUMNS}) VALUES ({marks})", [row for _, row in rows])
                        db.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in keys])
                        db.execute("COMMIT")
                    self.committed(keys)

    def _collect(self) -> tuple[list[tuple], bool]:
        """Wait for an answer, then for those of the next 50 ms; return them, and whether more may come."""
        rows: list[tuple] = []
        deadline = None
        while len(rows) < FLUSH_ROWS:
            try:
                row = self._waiting.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if row is None:
                return rows, False
            rows.append(row)
            deadline = deadline or time.monotonic() + FLUSH_SECONDS
        return rows, True


def put_aside(db: sqlite3.Connection, keys: list[bytes]) -> None:
    """Take the answers that were asked for anew out of the way: under keys that nobody asks for, since they were paid."""
    for key in keys:
        row = db.execute(f"SELECT {SIGNED} FROM calls WHERE key = ?", (key,)).fetchone()
        if row is not None:
            other = os.urandom(16)
            db.execute("UPDATE calls SET key = ?, checksum = ? WHERE key = ?", (other, checksum((other, *row[1:])), key))


def _answer(text: str, model: str, finish: str | None, tokens_in: int | None, tokens_out: int | None, cost: float | None,
            error: str | None, more: str | None) -> Answer:
    told = json.loads(more) if more else {}
    answer = Answer(text, model=model, finish_reason=finish, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost, error=error,
                    reasoning=told.get("reasoning"), tool_calls=told.get("tool_calls", ()))
    answer.scores, answer.rough = told.get("scores"), told.get("rough")
    return answer


def _more(answer: Answer, more: dict[str, Any] | None) -> str | None:
    """Return the rest of what is known of an answer as JSON; None where there is nothing."""
    found = {**(more or {}), "reasoning": answer.reasoning, "tool_calls": list(answer.tool_calls), "scores": answer.scores,
             "rough": answer.rough}
    found = {name: value for name, value in found.items() if value}
    return _written(found) if found else None


def written(request: Request) -> str:
    """Return what was asked as JSON: the messages, and beside them a schema, tools, labels, and a turn that is the user's."""
    beside = {"schema": request.schema, "tools": request.tools, "labels": request.labels,
              "turn": "user" if request.turn == "user" else None}
    more = {name: value for name, value in beside.items() if value}
    return _written({"messages": request.messages, **more} if more else request.messages)


def _written(value: Any) -> str:
    """Return a value as JSON; half of a surrogate pair, which no database takes, stays escaped."""
    text = _json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
