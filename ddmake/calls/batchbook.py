"""The book of batches, in `calls.db`: what was handed over to a provider's batch API and hasn't been collected yet.

Each step is committed, and on disk, before the next one is taken. A batch leaves the book when its answers are kept.
"""

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ddmake.backends.base import Request
from ddmake.store.database import Transaction

if TYPE_CHECKING:
    from sqlite_utils import Database

Known = Callable[[list[bytes]], Container[bytes]]

FOLDER = "batches"  # of locks, beside calls.db: who holds a batch's lock drives it


def m004_batches(db: "Database") -> None:
    """Make the tables of batches that are open at a provider, and of what is in them."""
    db["batches"].create(
        {"id": int, "token": str, "account": str, "llm": str, "count": int, "made": float, "file": str, "tried": float,
         "job": str}, pk="id", not_null={"token", "account", "llm", "count", "made"},
    )
    db["batches"].create_index(["token"], unique=True)
    db["batch_items"].create(
        {"id": int, "key": bytes, "token": str, "number": int, "request": str, "rule": str}, pk="id",
        not_null={"key", "token", "number", "request"},
    )
    db["batch_items"].create_index(["key"], unique=True)  # a call is in one open batch at most
    db["batch_items"].create_index(["token"])


@dataclass(frozen=True)
class Item:
    """A request in a batch, and the rule that asks for it."""

    key: bytes
    request: Request
    rule: str


@dataclass(frozen=True)
class Batch:
    """A batch in the book. `tried` is when its creation was last tried, None before that; `job` is the provider's id."""

    token: str
    account: str
    llm: str
    count: int
    made: float
    file: str | None
    tried: float | None
    job: str | None


COLUMNS = "token, account, llm, count, made, file, tried, job"


class Book:
    """The open batches of a project."""

    def __init__(self, calls: Path):
        self.folder = calls.parent / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(calls, timeout=60, isolation_level=None)
        self.db.execute("PRAGMA synchronous=FULL")  # a batch that a power cut made us forget would be paid for twice

    def open(self, account: str, llm: str, items: Sequence[Item], known: Known) -> tuple[str, list[Item]]:
        """Note that requests are to be handed over; return the batch's token, and those of them that are in it.

        Left out are those that another batch holds, and those that are `known`: whoever collects a batch keeps its answers
        before it strikes it out.
        """
        token = uuid4().hex[:16]
        free = [item for item in items if self.holder(item.key) is None]
        answered = known([item.key for item in free])  # not within the transaction: it may wait for who writes
        with Transaction(self.db):
            mine = [item for item in free if item.key not in answered and self.holder(item.key) is None]
            if mine:
                self.db.execute("INSERT INTO batches (token, account, llm, count, made) VALUES (?, ?, ?, ?, ?)",
                                (token, account, llm, len(mine), time.time()))
            self.db.executemany("INSERT INTO batch_items (key, token, number, request, rule) VALUES (?, ?, ?, ?, ?)",
                                [(item.key, token, n, _dumped(item.request), item.rule) for n, item in enumerate(mine)])
        return token, mine

    def uploaded(self, token: str, file: str) -> None:
        """Note the provider's name for the uploaded requests."""
        self.db.execute("UPDATE batches SET file = ? WHERE token = ?", (file, token))

    def trying(self, token: str) -> None:
        """Note that from now on the provider may have a job of this batch."""
        self.db.execute("UPDATE batches SET tried = ? WHERE token = ?", (time.time(), token))

    def created(self, token: str, job: str) -> None:
        """Note the provider's id of the job."""
        self.db.execute("UPDATE batches SET job = ? WHERE token = ?", (job, token))

    def strike(self, token: str) -> None:
        """Strike out a batch: its answers are kept, or the provider doesn't know it."""
        with Transaction(self.db):
            self.db.execute("DELETE FROM batches WHERE token = ?", (token,))
            self.db.execute("DELETE FROM batch_items WHERE token = ?", (token,))
        (self.folder / token).unlink(missing_ok=True)

    def get(self, token: str) -> Batch | None:
        """Return a batch, None for one that isn't open any more."""
        row = self.db.execute(f"SELECT {COLUMNS} FROM batches WHERE token = ?", (token,)).fetchone()
        return None if row is None else Batch(*row)

    def open_ones(self, account: str, llm: str) -> list[str]:
        """Return the tokens of what this account has open for an llm."""
        rows = self.db.execute("SELECT token FROM batches WHERE account = ? AND llm = ? ORDER BY id", (account, llm))
        return [token for token, in rows]

    def holder(self, key: bytes) -> str | None:
        """Return the token of the open batch that a call is in, if any."""
        row = self.db.execute("SELECT token FROM batch_items WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def items(self, token: str) -> dict[int, Item]:
        """Return what is in a batch, by number."""
        rows = self.db.execute("SELECT number, key, request, rule FROM batch_items WHERE token = ?", (token,))
        return {number: Item(key, _loaded(request), rule) for number, key, request, rule in rows}

    @contextmanager
    def driving(self, token: str) -> Iterator[Batch | None]:
        """Hold an open batch's lock, which goes with this process; yield None where somebody else does, or it is closed."""
        lock = os.open(self.folder / token, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield self.get(token) if _locked(lock) else None
        finally:
            os.close(lock)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _dumped(request: Request) -> str:
    return json.dumps({name: value for name, value in vars(request).items() if value})


def _loaded(text: str) -> Request:
    told = json.loads(text)
    tools = told.pop("tools", None)
    return Request(tuple(told.pop("messages")), tools=None if tools is None else tuple(tools), **told)
