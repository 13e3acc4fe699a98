"""The calls' database: every answer under its own key, so that none is asked for twice.

Rowid table with a unique 16-byte key, 16 kB pages, WAL; one writer thread commits every 50 ms or 256 answers. Each row
carries a checksum: one that doesn't fit, for a flipped byte, is no answer, and is asked for again.
"""

import hashlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ddmake.backends.base import Answer, Request
from ddmake.errors import DdmakeError
from ddmake.store.database import connect, told

if TYPE_CHECKING:
    from sqlite_utils import Database

FLUSH_SECONDS, FLUSH_ROWS = 0.05, 256
LOOK_UP = 500  # keys a query

COLUMNS = "key, answer, model, finish_reason, tokens_in, tokens_out, request, made, checksum"
ANSWER = "key, answer, model, finish_reason, tokens_in, tokens_out"


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
    rows = db.execute(f"SELECT id, {ANSWER} FROM calls").fetchall()
    db.conn.executemany("UPDATE calls SET checksum = ? WHERE id = ?", [(checksum(row[1:]), row[0]) for row in rows])


MIGRATIONS = (m001_calls, m002_checksums)


def checksum(row: tuple) -> bytes:
    """Return the checksum of a call's key and answer."""
    return hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Calls:
    """The finished calls of a project, in `.ddmake/calls.db`."""

    def __init__(self, folder: Path):
        self.path = folder / "calls.db"
        self.db = connect(self.path, MIGRATIONS, synchronous="NORMAL")
        self._waiting: queue.Queue[tuple | None] = queue.Queue()
        self._failed: Exception | None = None
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """Return the answers that are known, by key."""
        wanted, found = list(keys), {}
        try:
            for at in range(0, len(wanted), LOOK_UP):
                found.update(self._look_up(wanted[at:at + LOOK_UP]))
        except sqlite3.Error as error:
            raise self._told(error) from None
        return found

    def put(self, key: bytes, request: Request, answer: Answer) -> None:
        """Keep an answer; it is committed within 50 ms."""
        if self._failed:
            raise self._told(self._failed)
        row = (key, str(answer), answer.model, answer.finish_reason, answer.tokens_in, answer.tokens_out)
        self._waiting.put((*row, json.dumps(request.messages, ensure_ascii=False), time.time(), checksum(row)))

    def close(self) -> None:
        """Commit what is waiting. Raises DdmakeError for what the writer met."""
        self._waiting.put(None)
        self._writer.join()
        self.db.close()
        if self._failed:
            raise self._told(self._failed)

    def _told(self, error: Exception) -> DdmakeError:
        return DdmakeError(f"{self.path}: {told(error)}")

    def _look_up(self, keys: list[bytes]) -> Iterator[tuple[bytes, Answer]]:
        """Yield the sound answers to so many keys; a damaged one is thrown away."""
        marks = ",".join("?" * len(keys))
        for *row, sign in self.db.execute(f"SELECT {ANSWER}, checksum FROM calls WHERE key IN ({marks})", keys):
            if checksum(tuple(row)) == sign:
                key, text, model, finish, tokens_in, tokens_out = row
                yield key, Answer(text, model=model, finish_reason=finish, tokens_in=tokens_in, tokens_out=tokens_out)
            else:
                self.db.execute("DELETE FROM calls WHERE key = ?", (row[0],))

    def _write(self) -> None:
        """Commit answers as they come; what goes wrong is told by the next `put`, or by `close`."""
        try:
            self._commit()
        except sqlite3.Error as error:
            self._failed = error

    def _commit(self) -> None:
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=NORMAL")
            open_ = True
            while open_:
                rows, open_ = self._collect()
                if rows:
                    db.execute("BEGIN IMMEDIATE")
                    db.executemany(f"INSERT OR IGNORE INTO calls ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                    db.execute("COMMIT")

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
