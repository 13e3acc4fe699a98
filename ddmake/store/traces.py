"""Traces: the record of every finished job, and which of them lies at which path."""

import datetime
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.fingerprint import hashes
from ddmake.store.database import connect
from ddmake.store.files import Manifest

if TYPE_CHECKING:
    from sqlite_utils import Database


def m001_traces(db: "Database") -> None:
    """Make the tables of traces, of what is placed where, of remembered file hashes and digests, and of runs."""
    traces = {"id": int, "key": str, "fingerprint": str, "made": str, "record": str}
    db["traces"].create(traces, pk="id", not_null={"key", "record"})
    db["traces"].create_index(["key"])
    db["placed"].create({"path": str, "trace": int, "output": str}, pk="path", foreign_keys=[("trace", "traces", "id")])
    files = {"path": str, "size": int, "mtime_ns": int, "ctime_ns": int, "inode": int, "noted_ns": int, "sha": str}
    db["files"].create(files, pk="path")
    db["digests"].create({"manifest": str, "digest": str}, pk="manifest")
    db["runs"].create({"id": int, "started": str, "ddfile": str, "knobs": str}, pk="id")


def m002_placing(db: "Database") -> None:
    """Make the table of swaps under way: what will lie at a path once a swap is done."""
    db["placing"].create({"path": str, "trace": int, "output": str}, pk="path", foreign_keys=[("trace", "traces", "id")])


MIGRATIONS = (m001_traces, m002_placing)


@dataclass(frozen=True)
class Trace:
    """A finished job. `record` is JSON data; `record["outputs"]` holds each output's digest and manifest by name."""

    id: int
    key: str
    fingerprint: str
    made: str  # when the job ended, ISO 8601, UTC
    record: dict[str, Any]


class Traces:
    """The traces of one project, in `.ddmake/traces.db`."""

    def __init__(self, folder: Path):
        self.db: sqlite3.Connection = connect(folder / "traces.db", MIGRATIONS, synchronous="FULL")

    def by_key(self, key: str) -> Trace | None:
        """Return the newest trace with a key."""
        return self._one("WHERE key = ? ORDER BY id DESC LIMIT 1", key)

    def by_id(self, number: int) -> Trace | None:
        """Return a trace by its number."""
        return self._one("WHERE id = ?", number)

    def at(self, path: str) -> tuple[Trace, str] | None:
        """Return the trace whose result was last placed at a path, and the output's name in it."""
        placed = self.placed_at(path)
        trace = self.by_id(placed[0]) if placed else None
        return (trace, placed[1]) if trace and placed else None

    def placed_at(self, path: str) -> tuple[int, str] | None:
        """Return the number of the trace whose result was last placed at a path, and the output's name in it."""
        return self.db.execute("SELECT trace, output FROM placed WHERE path = ?", (path,)).fetchone()

    def placed_by(self, recipe: str) -> list[tuple[str, int]]:
        """Return the paths that results of a recipe were last placed at, each with its trace's number."""
        select = ("SELECT placed.path, placed.trace FROM placed JOIN traces ON traces.id = placed.trace "
                  "WHERE json_extract(traces.record, '$.recipe.name') = ? ORDER BY placed.path")
        return self.db.execute(select, (recipe,)).fetchall()

    def add(self, key: str, fingerprint: str, record: dict[str, Any]) -> Trace:
        """Commit the trace of a job that has just ended."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = json.dumps(record, ensure_ascii=False)
        insert = "INSERT INTO traces (key, fingerprint, made, record) VALUES (?, ?, ?, ?)"
        number = self.db.execute(insert, (key, fingerprint, now, text)).lastrowid
        return Trace(number or 0, key, fingerprint, now, record)

    def intend(self, trace: Trace, paths: dict[str, str]) -> None:
        """Note that a trace's outputs are about to be put at these paths, by output name."""
        rows = [(path, trace.id, name) for name, path in paths.items()]
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT OR REPLACE INTO placing (path, trace, output) VALUES (?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def intents(self) -> dict[str, tuple[int, str]]:
        """Return the swaps that were begun and not finished: trace's number and output's name, by path."""
        return {path: (trace, name) for path, trace, name in self.db.execute("SELECT path, trace, output FROM placing")}

    def place(self, trace: Trace, paths: dict[str, str]) -> None:
        """Note that a trace's outputs lie at these paths, by output name."""
        rows = [(path, trace.id, name) for name, path in paths.items()]
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT OR REPLACE INTO placed (path, trace, output) VALUES (?, ?, ?)", rows)
        self.db.executemany("DELETE FROM placing WHERE path = ?", [(path,) for path in paths.values()])
        self.db.execute("COMMIT")

    def start_run(self, ddfile: str, knobs: dict[str, Any]) -> None:
        """Note a run's knobs."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.db.execute("INSERT INTO runs (started, ddfile, knobs) VALUES (?, ?, ?)", (now, ddfile, json.dumps(knobs)))

    def last_knobs(self, ddfile: str) -> dict[str, Any] | None:
        """Return the knobs of the last run of a Ddfile."""
        row = self.db.execute("SELECT knobs FROM runs WHERE ddfile = ? ORDER BY id DESC LIMIT 1", (ddfile,)).fetchone()
        return json.loads(row[0]) if row else None

    def remembered(self, manifest: Manifest, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the digest of files with these hashes, computed once."""
        name = hashes.of_value(manifest)
        row = self.db.execute("SELECT digest FROM digests WHERE manifest = ?", (name,)).fetchone()
        if row:
            return json.loads(row[0])
        digest = compute()
        self.db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (name, json.dumps(digest)))
        return digest

    def _one(self, where: str, value: Any) -> Trace | None:
        row = self.db.execute(f"SELECT id, key, fingerprint, made, record FROM traces {where}", (value,)).fetchone()
        return Trace(*row[:4], json.loads(row[4])) if row else None
