"""Traces: the record of every finished job, and which of them lies, and lay, at which path.

Each row carries a checksum of what it says: one that doesn't fit, for a flipped byte, is never taken for a result.
"""

import datetime
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store import failed, forms, said
from ddmake.store.database import Transaction, connect, connect_to_read
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


def m003_light_traces(db: "Database") -> None:
    """Part what every run reads of a trace from its record; add checksums, sample epochs, and what lay where before."""
    old = db.execute("SELECT id, key, fingerprint, made, record FROM traces").fetchall()
    db["placed_before"].create({"id": int, "path": str, "trace": int, "output": str, "at": str}, pk="id")
    db["placed_before"].create_index(["path"])
    db["epochs"].create({"path": str, "epoch": int}, pk="path")
    db["texts"].create({"sha": str, "text": str}, pk="sha")
    db["records"].create({"trace": int, "record": str, "checksum": str}, pk="trace", not_null={"record", "checksum"})
    db["traces"].drop()
    columns = {"id": int, "key": str, "base": str, "epoch": int, "fingerprint": str, "made": str, "outputs": str, "checksum": str}
    db["traces"].create(columns, pk="id", not_null={"key", "base", "outputs", "checksum"})
    db["traces"].create_index(["key"])
    db["traces"].create_index(["base"])
    for number, key, fingerprint, made, text in old:
        record = json.loads(text)
        outputs = json.dumps(record.pop("outputs"), ensure_ascii=False)
        insert(db.conn, number, key, key, 0, fingerprint, made, outputs, json.dumps(record, ensure_ascii=False))
    db.execute("INSERT INTO placed_before (path, trace, output, at) SELECT path, trace, output, made FROM placed "
               "JOIN traces ON traces.id = placed.trace")


def m004_folders_of_runs(db: "Database") -> None:
    """Note of a run the folder that `--into` put its targets under."""
    db["runs"].add_column("folder", str, not_null_default="")


MIGRATIONS = (m001_traces, m002_placing, m003_light_traces, m004_folders_of_runs, failed.m005_failed_rows, said.m006_said)

KNOWN = 10_000  # traces that a process keeps in mind
LIGHT = "traces.id, key, base, epoch, fingerprint, made, outputs, checksum"
NEW_TRACE = "INSERT INTO traces (id, key, base, epoch, fingerprint, made, outputs, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


_decode = json.JSONDecoder().raw_decode


def _checksum(*told: Any) -> str:
    return hashlib.blake2b("\0".join(map(str, told)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def written(value: Any) -> str:
    """Return a value as JSON that can be stored: where half a surrogate pair is in it, no other letters stand for themselves."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def insert(db: sqlite3.Connection, number: int | None, key: str, base: str, epoch: int, fingerprint: str, made: str,
           outputs: str, record: str) -> int:
    """Write a trace under a number, or the next one, and return that; part of the caller's transaction."""
    told = (key, base, epoch, fingerprint, made, outputs)
    new = db.execute(NEW_TRACE, (number, *told, _checksum(*told))).lastrowid or 0
    db.execute("INSERT INTO records (trace, record, checksum) VALUES (?, ?, ?)", (new, record, _checksum(new, record)))
    return new


class Outputs(dict[str, dict[str, Any]]):
    """What a trace tells of its outputs, by name. Raises DdmakeError for a name that it doesn't tell of."""

    def __missing__(self, name: str) -> None:
        raise DdmakeError(f".ddmake/traces.db: a trace tells nothing of the output {name!r} that is said to lie there. "
                          "Somebody else has written it: trust nothing of this store.")


class Trace:
    """A finished job: what every run needs of it; `outputs` and the whole `record` are read when they are asked for."""

    def __init__(self, db: sqlite3.Connection, row: tuple):
        self._db = db
        self.id: int = row[0]
        self.key: str = row[1]
        self.base: str = row[2]  # the key, were the sample epoch 0
        self.epoch: int = row[3]
        self.fingerprint: str = row[4]
        self.made: str = row[5]  # when the job ended, ISO 8601, UTC
        self._outputs: str = row[6]

    @cached_property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Return {"path", "digest", "manifest"} of each output, by name. Raises DdmakeError where they have another form."""
        try:
            found = _decode(self._outputs)[0]
        except (ValueError, RecursionError):
            found = None
        if not forms.are_outputs(found):
            raise DdmakeError(f".ddmake/traces.db: trace {self.id} tells of its outputs in a form that ddmake doesn't know. "
                              "Somebody else has written it: trust nothing of this store.")
        return Outputs(found)

    def rows(self, output: str) -> int | None:
        """Return how many rows an output has, by its digest, or, of a file, as they were counted; None where they weren't."""
        digest = self.outputs[output]["digest"]
        if digest["kind"] == "file":
            return (self.record.get("rows") or {}).get(output)
        return digest.get("rows")

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return all else that is known of the job. Raises DdmakeError where it is damaged, or has another form."""
        row = self._db.execute("SELECT record, checksum FROM records WHERE trace = ?", (self.id,)).fetchone()
        try:
            forms.check(self.outputs, forms.OUTPUTS, "outputs")
            if row is None or _checksum(self.id, row[0]) != row[1]:
                raise ValueError("is damaged")
            record = json.loads(row[0])
            forms.check(record, forms.RECORD, "it")
        except (ValueError, RecursionError) as error:
            told = "is nested too deep" if isinstance(error, RecursionError) else error
            where = self.label
            raise DdmakeError(f".ddmake/traces.db: the record of {where} {told}. Make it again: ddmake --force {where}") from None
        return record

    @property
    def label(self) -> str:
        """Return the paths that the job's outputs were made for."""
        return ", ".join(out["path"] for out in self.outputs.values()) or f"trace {self.id}"


@dataclass(frozen=True)
class Placement:
    """A result that lay, or lies, at a path."""

    trace: Trace
    output: str
    at: str  # since when, ISO 8601, UTC


@dataclass(frozen=True)
class RunNote:
    """A run that was started: when, of which Ddfile, with which knobs, and the folder that its targets were put under."""

    started: str
    ddfile: str
    knobs: dict[str, Any]
    folder: str


class Traces:
    """The traces of one project, in `.ddmake/traces.db`; those of others are opened `to_read`."""

    def __init__(self, folder: Path, to_read: bool = False):
        file = folder / "traces.db"
        self.db: sqlite3.Connection = (
            connect_to_read(file, MIGRATIONS) if to_read else connect(file, MIGRATIONS, synchronous="NORMAL"))
        self.damaged: set[int] = set()  # numbers of rows that were left out
        self._known: dict[int, Trace] = {}  # the last traces that were read by their number; a trace never changes

    def by_key(self, key: str, path: str = "") -> Trace | None:
        """Return the sound trace with a key that was last placed at a path, else the newest one."""
        what = ("FROM traces LEFT JOIN placed_before ON placed_before.trace = traces.id AND placed_before.path = ? "
                "WHERE key = ? ORDER BY placed_before.id DESC, traces.id DESC")
        return next(self._read(what, (path, key)), None)

    def with_key(self, key: str) -> Iterator[Trace]:
        """Yield the sound traces with a key, oldest first."""
        return self._read("FROM traces WHERE key = ? ORDER BY id", (key,))

    def by_base(self, base: str) -> Trace | None:
        """Return the newest sound trace of a recipe on these inputs, whatever its sample epoch."""
        return next(self._read("FROM traces WHERE base = ? ORDER BY id DESC", (base,)), None)

    def by_id(self, number: int) -> Trace | None:
        """Return a trace by its number."""
        if number not in self._known:
            found = next(self._read("FROM traces WHERE id = ?", (number,)), None)
            if found is None:
                return None
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[number] = found
        return self._known[number]

    def keys(self) -> set[str]:
        """Return the keys that there are traces of."""
        return {key for key, in self.db.execute("SELECT key FROM traces")}

    def every(self) -> Iterator[Trace]:
        """Yield all sound traces, oldest first."""
        return self._read("FROM traces ORDER BY id", ())

    def at(self, path: str) -> tuple[Trace, str] | None:
        """Return the trace whose result was last placed at a path, and the output's name in it."""
        placed = self.placed_at(path)
        trace = self.by_id(placed[0]) if placed else None
        return (trace, placed[1]) if trace and placed else None

    def all_placed(self) -> dict[str, tuple[Trace, str]]:
        """Return what `at` returns for every path at once."""
        found, traces = {}, {}
        for row in self.db.execute(f"SELECT {LIGHT}, path, output FROM placed JOIN traces ON traces.id = placed.trace"):
            trace = traces.get(row[0]) or self._sound(row[:8])
            if trace is not None:
                traces[row[0]] = trace
                found[row[8]] = (trace, row[9])
        return found

    def placed_at(self, path: str) -> tuple[int, str] | None:
        """Return the number of the trace whose result was last placed at a path, and the output's name in it."""
        return self.db.execute("SELECT trace, output FROM placed WHERE path = ?", (path,)).fetchone()

    def placed_by(self, recipe: str) -> list[tuple[str, int]]:
        """Return the paths that results of a recipe were last placed at, each with its trace's number."""
        select = ("SELECT placed.path, placed.trace FROM placed JOIN records ON records.trace = placed.trace "
                  "WHERE json_extract(records.record, '$.recipe.name') = ? ORDER BY placed.path")
        return self.db.execute(select, (recipe,)).fetchall()

    def history(self, path: str) -> list[Placement]:
        """Return the results that were placed at a path, the newest first."""
        select = "SELECT trace, output, at FROM placed_before WHERE path = ? ORDER BY id DESC"
        found = [(self.by_id(number), output, at) for number, output, at in self.db.execute(select, (path,)).fetchall()]
        return [Placement(trace, output, at) for trace, output, at in found if trace is not None]

    def paths_of(self, trace: Trace) -> set[str]:
        """Return the paths that a result lies, or lay, at."""
        return {path for path, in self.db.execute("SELECT path FROM placed_before WHERE trace = ?", (trace.id,))}

    def last_placed(self) -> dict[int, str]:
        """Return when each result was last put into place, by its trace's number."""
        return dict(self.db.execute("SELECT trace, max(at) FROM placed_before GROUP BY trace").fetchall())

    def displace(self, path: str) -> None:
        """Note that nothing of ours lies at a path any more; what lay there stays known."""
        self.db.execute("DELETE FROM placed WHERE path = ?", (path,))

    def runs(self) -> "list[RunNote]":
        """Return the runs that were started, the newest first."""
        rows = self.db.execute("SELECT started, ddfile, knobs, folder FROM runs ORDER BY id DESC")
        return [RunNote(started, ddfile, json.loads(knobs), folder) for started, ddfile, knobs, folder in rows]

    def commit(self, key: str, base: str, epoch: int, fingerprint: str, outputs: dict[str, Any], record: dict[str, Any],
               texts: Mapping[str, str], paths: Mapping[str, str], failures: Iterable[failed.Failed] = ()) -> Trace:
        """Commit the trace of a job that has just ended, its failed rows, and that its outputs are about to be put at `paths`.

        What is committed is on the disk when this returns: a power failure can't part it from what is swapped next.
        """
        now, told, record_text = _now(), written(outputs), written(record)
        self.db.execute("PRAGMA synchronous=FULL")
        with self.transaction():
            number = insert(self.db, None, key, base, epoch, fingerprint, now, told, record_text)
            self.db.executemany("INSERT OR IGNORE INTO texts (sha, text) VALUES (?, ?)", texts.items())
            failed.keep(self.db, number, failures)
            self._intend(number, paths)
        self.db.execute("PRAGMA synchronous=NORMAL")
        return Trace(self.db, (number, key, base, epoch, fingerprint, now, told))

    def text(self, sha: str) -> str | None:
        """Return the text of a piece of code by the hash that stands for it in ingredients."""
        row = self.db.execute("SELECT text FROM texts WHERE sha = ?", (sha,)).fetchone()
        return row[0] if row else None

    def intend(self, trace: Trace, paths: Mapping[str, str]) -> None:
        """Note that a trace's outputs are about to be put at these paths, by output name."""
        with self.transaction():
            self._intend(trace.id, paths)

    def intents(self) -> dict[str, tuple[int, str]]:
        """Return the swaps that were begun and not finished: trace's number and output's name, by path."""
        return {path: (trace, name) for path, trace, name in self.db.execute("SELECT path, trace, output FROM placing")}

    def place(self, trace: Trace, paths: Mapping[str, str]) -> None:
        """Note that a trace's outputs lie at these paths, by output name; part of the caller's transaction, if there is one."""
        if not self.db.in_transaction:
            with self.transaction():
                return self.place(trace, paths)
        now, rows = _now(), [(path, trace.id, name) for name, path in paths.items()]
        self.db.executemany("INSERT INTO placed_before (path, trace, output, at) VALUES (?, ?, ?, ?)", [(*r, now) for r in rows])
        self.db.executemany("INSERT OR REPLACE INTO placed (path, trace, output) VALUES (?, ?, ?)", rows)
        self.db.executemany("DELETE FROM placing WHERE path = ?", [(path,) for path in paths.values()])

    def transaction(self) -> Transaction:
        """Return a context in which all writes are committed together, or none."""
        return Transaction(self.db)

    def epochs(self) -> dict[str, int]:
        """Return the sample epochs that were raised, by the first output's path."""
        return dict(self.db.execute("SELECT path, epoch FROM epochs").fetchall())

    def raise_epochs(self, epochs: Mapping[str, int]) -> None:
        """Note the sample epochs of rules by their first output's path."""
        with self.transaction():
            self.db.executemany("INSERT OR REPLACE INTO epochs (path, epoch) VALUES (?, ?)", list(epochs.items()))

    def start_run(self, ddfile: str, knobs: dict[str, Any], folder: str) -> None:
        """Note a run's knobs, and the folder that its targets are put under."""
        insert = "INSERT INTO runs (started, ddfile, knobs, folder) VALUES (?, ?, ?, ?)"
        self.db.execute(insert, (_now(), ddfile, json.dumps(knobs), folder))

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
        with suppress(sqlite3.OperationalError):  # it may only be read: what isn't remembered is computed again
            self.db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (name, json.dumps(digest)))
        return digest

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget traces, and that they lay anywhere."""
        self._known.clear()
        rows = [(number,) for number in numbers]
        with self.transaction():
            for statement in ("DELETE FROM placed WHERE trace = ?", "DELETE FROM placed_before WHERE trace = ?",
                              "DELETE FROM records WHERE trace = ?", "DELETE FROM failed WHERE trace = ?",
                              "DELETE FROM traces WHERE id = ?"):
                self.db.executemany(statement, rows)

    def _intend(self, number: int, paths: Mapping[str, str]) -> None:
        rows = [(path, number, name) for name, path in paths.items()]
        self.db.executemany("INSERT OR REPLACE INTO placing (path, trace, output) VALUES (?, ?, ?)", rows)

    def _read(self, what: str, values: tuple) -> Iterator[Trace]:
        for row in self.db.execute(f"SELECT {LIGHT} {what}", values):
            trace = self._sound(row)
            if trace is not None:
                yield trace

    def _sound(self, row: tuple) -> Trace | None:
        """Return a row's trace, or None where its checksum doesn't fit, or its time is none."""
        with suppress(ValueError, TypeError):
            datetime.datetime.fromisoformat(row[5])
            if _checksum(*row[1:7]) == row[7]:
                return Trace(self.db, row)
        self.damaged.add(row[0])
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
