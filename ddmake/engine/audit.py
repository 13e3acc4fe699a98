"""Verifying: whether what lies there, what is kept and what is recorded is what it was, by reading every byte.

No recipe runs, and nothing is mended. What is stale is another matter, and isn't looked at here.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddmake.artifacts.digest import digest
from ddmake.calls.cache import FILE as CALLS
from ddmake.calls.cache import SIGNED, checksum
from ddmake.engine.ingredients import SCHEMA, Keys
from ddmake.errors import DdmakeError
from ddmake.store import FOLDER, Store
from ddmake.store.files import Manifest
from ddmake.store.traces import Trace

VECTORS = "embeddings.db"
SHA = 64  # characters of a kept file's name; what is half-copied has a longer one


@dataclass(frozen=True)
class Wrong:
    """Something that isn't as recorded, and what to do."""

    where: str
    what: str
    remedy: str


@dataclass
class Report:
    """What was looked at, by number, and what of it isn't as recorded."""

    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)

    def count(self, what: str, found: Iterable[Wrong | None]) -> None:
        """Take in what was found of one kind: None where it is as recorded."""
        found = list(found)
        self.counts[what] = len(found)
        self.wrong += [one for one in found if one is not None]


def audit(store: Store, paths: Iterable[str], whole: bool) -> Report:
    """Look at what lies at paths; if `whole`, at all else in the store, too. No hash that is remembered is trusted."""
    report = Report()
    store.files.forget()
    report.count("outputs", _outputs(store, paths))
    if whole:
        report.count("kept files", _objects(store))
        report.count("records", _traces(store))
        report.count("calls", _read(store.folder / CALLS, _calls))
        if (store.folder / VECTORS).exists():
            report.count("vectors", _read(store.folder / VECTORS, _vectors))
    return report


def _outputs(store: Store, paths: Iterable[str]) -> Iterator[Wrong | None]:
    for path in paths:
        placed = store.traces.at(path)
        if placed is not None:
            told = placed[0].outputs[placed[1]]
            yield _output(store, path, told["manifest"]) or _meaning(store, path, told)


def _meaning(store: Store, path: str, told: dict[str, Any]) -> Wrong | None:
    """Tell where files are as recorded and don't mean what is recorded: by that other rules' keys were told."""
    try:
        same = digest(store.root / path, told["manifest"]) == told["digest"]
    except Exception:  # files that can't be read as what they are said to be
        same = False
    return None if same else Wrong(path, "doesn't hold what its record says", f"Make it again: ddmake --force {path}")


def _output(store: Store, path: str, kept: Manifest) -> Wrong | None:
    try:
        now = store.files.manifest(path)
    except DdmakeError as error:
        return Wrong(path, f"isn't what was made ({str(error).rstrip('.')})", f"Take it back: ddmake --restore {path}")
    if now is None:
        return Wrong(path, "is gone", f"Take it back: ddmake {path}")
    changed = next((part for part in dict.fromkeys([*kept, *now]) if kept.get(part) != now.get(part)), None)
    if changed is None:
        return None
    how = "was added" if changed not in kept else "is gone" if changed not in now else "isn't what was made"
    remedy = f"Take it back: ddmake --restore {path}; or keep it: ddmake --adopt {path}"
    return Wrong(f"{path}/{changed}".rstrip("/"), how, remedy)


def _objects(store: Store) -> Iterator[Wrong | None]:
    for sha, _ in store.objects.every():
        if len(sha) == SHA:
            sound = store.objects.sound(sha)
            where = f"{FOLDER}/objects/{sha[:2]}/{sha[2:]}"
            yield None if sound else Wrong(where, "is damaged", "Delete it; a result that needs it can't be restored any more.")


def _traces(store: Store) -> Iterator[Wrong | None]:
    for trace in store.traces.every():
        try:
            what = f"trace {trace.id} tells of something else than its key"
            yield None if _is_itself(trace) else Wrong(f"{FOLDER}/traces.db", what, "Don't trust what it tells of.")
        except DdmakeError as error:
            yield Wrong(f"{FOLDER}/traces.db", str(error).partition(": ")[2], "")
    for number in sorted(store.traces.damaged):
        yield Wrong(f"{FOLDER}/traces.db", f"trace {number} is damaged", "What it told of is made again by the next run.")


def _is_itself(trace: Trace) -> bool:
    """Tell whether a trace's key is the hash of what it says it was made of. Raises DdmakeError where its record is damaged."""
    made_of = trace.record["ingredients"]
    return made_of.get("schema") != SCHEMA or Keys().of(made_of) == trace.key


def _calls(file: Path) -> Iterator[Wrong | None]:
    for number, *row, told in _rows(file, f"SELECT id, {SIGNED}, checksum FROM calls"):
        damaged = Wrong(f"{FOLDER}/{file.name}", f"call {number} is damaged", "It is sent again when it is needed.")
        yield None if checksum(tuple(row)) == told else damaged


def _vectors(file: Path) -> Iterator[Wrong | None]:
    from ddmake.calls.embedding import checksum as sign_of  # brings numpy along

    for number, key, vector, told in _rows(file, "SELECT id, key, vector, checksum FROM vectors"):
        damaged = Wrong(f"{FOLDER}/{file.name}", f"vector {number} is damaged", "It is made again when it is needed.")
        yield None if sign_of(key, vector) == told else damaged


def _rows(file: Path, select: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a database, none where there is none."""
    if file.exists():
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            yield from db.execute(select)


def _read(file: Path, look: Callable[[Path], Iterator[Wrong | None]]) -> Iterator[Wrong | None]:
    try:
        yield from look(file)
    except sqlite3.DatabaseError as error:
        yield Wrong(f"{FOLDER}/{file.name}", str(error), "Move the file away to start without what it holds.")
