"""Finished calls and vectors as plain values that another project can take in; their checksums are made anew there.

What is under way, claims and open batches, stays where it is: it belongs to an account and to processes.
"""

import base64
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ddmake.calls.cache import COLUMNS, FILE, SIGNED, Calls, checksum
from ddmake.store.database import Transaction

NAMES = tuple(name.strip() for name in COLUMNS.split(",")[:-1])  # all but the checksum
TEXT, NUMBER, NONE = str, (int, float), type(None)
KINDS = {"key": TEXT, "answer": TEXT, "model": (TEXT, NONE), "finish_reason": (TEXT, NONE), "tokens_in": (int, NONE),
         "tokens_out": (int, NONE), "cost": (int, float, NONE), "error": (TEXT, NONE), "more": (TEXT, NONE),
         "request": (TEXT, NONE), "made": (int, float, NONE), "llm": (TEXT, NONE), "rule": (TEXT, NONE), "priced": (TEXT, NONE)}
KEY, MOST = 16, 2**62  # bytes of a key; numbers are below
GROUP = 1000  # rows that are committed at once

Row = dict[str, Any]
T = TypeVar("T")


def told(folder: Path, rules: Collection[str] | None) -> Iterator[Row]:
    """Yield the sound calls of a project, by their keys; with `rules` only those that these have paid for."""
    file, signed = folder / FILE, len(SIGNED.split(","))
    if not file.exists():
        return
    with closing(_to_read(file)) as db:
        for *row, sign in db.execute(f"SELECT {COLUMNS} FROM calls ORDER BY key"):
            found = dict(zip(NAMES, row))
            if checksum(row[:signed]) == sign and (rules is None or found["rule"] in rules):
                yield {**found, "key": found["key"].hex()}


def check(row: Any) -> None:
    """Raise ValueError for what comes from outside and can't be a call."""
    if not isinstance(row, dict) or row.keys() != KINDS.keys() or not all(isinstance(row[name], KINDS[name]) for name in KINDS):
        raise ValueError("isn't a call")
    numbers = [one for one in row.values() if isinstance(one, (int, float))]
    if len(bytes.fromhex(row["key"])) != KEY or not all(abs(one) < MOST for one in numbers):
        raise ValueError("isn't a call")
    for name in ("more", "request"):
        if row[name] is not None and not isinstance(json.loads(row[name]), (dict, list)):
            raise ValueError(f"is a call with {name} of another form")
    "".join(one for one in row.values() if isinstance(one, str)).encode()  # half of a surrogate pair, which no database takes


def take_in(folder: Path, rows: Iterable[Row]) -> int:
    """Take in calls that were checked, and return how many are new here; an answer that is known already stays."""
    marks, new = ",".join("?" * (len(NAMES) + 1)), 0
    with closing(Calls(folder)) as calls:
        for some in _groups(map(_signed, rows)):
            with Transaction(calls.db):
                new += calls.db.executemany(f"INSERT OR IGNORE INTO calls ({COLUMNS}) VALUES ({marks})", some).rowcount
    return new


def vectors_told(folder: Path) -> Iterator[Row]:
    """Yield the sound vectors of a project, by their keys."""
    from ddmake.calls.embedding import FILE as FILE_OF_VECTORS
    from ddmake.calls.embedding import checksum as signed

    file = folder / FILE_OF_VECTORS
    if not file.exists():
        return
    with closing(_to_read(file)) as db:
        for key, vector, sign in db.execute("SELECT key, vector, checksum FROM vectors ORDER BY key"):
            if signed(key, vector) == sign:
                yield {"key": key.hex(), "vector": base64.b64encode(vector).decode()}


def check_vector(row: Any) -> None:
    """Raise ValueError for what comes from outside and can't be a vector."""
    if not isinstance(row, dict) or row.keys() != {"key", "vector"} or not all(isinstance(one, str) for one in row.values()):
        raise ValueError("isn't a vector")
    bytes.fromhex(row["key"])
    if len(base64.b64decode(row["vector"], validate=True)) % 4:
        raise ValueError("isn't a vector of float32")


def take_in_vectors(folder: Path, rows: Iterable[Row]) -> None:
    """Take in vectors that were checked; one that is known already stays."""
    from ddmake.calls.embedding import Vectors

    with closing(Vectors(folder)) as vectors:
        for some in _groups(rows):
            pairs = {bytes.fromhex(row["key"]): base64.b64decode(row["vector"]) for row in some}
            known = vectors.get(list(pairs))
            vectors.put((key, vector) for key, vector in pairs.items() if key not in known)


def _groups(rows: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(rows)
    while some := list(islice(rest, GROUP)):
        yield some


def _signed(row: Row) -> tuple[Any, ...]:
    values = (bytes.fromhex(row["key"]), *(row[name] for name in NAMES[1:]))
    return *values, checksum(values[:len(SIGNED.split(","))])


def _to_read(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
