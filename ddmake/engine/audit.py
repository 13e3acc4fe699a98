"""Verifying: whether what lies there, what is kept and what is recorded is what it was, by reading every byte.

No recipe runs, and nothing is mended. What is stale is another matter, and isn't looked at here.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ddmake.calls.cache import SIGNED, checksum
from ddmake.ddfile.rule import Rule
from ddmake.errors import DdmakeError
from ddmake.store import FOLDER, Store
from ddmake.store.files import Manifest

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


def audit(store: Store, rules: Iterable[Rule], whole: bool) -> Report:
    """Look at the outputs of rules; if `whole`, at all else in the store, too. No hash that is remembered is trusted."""
    report = Report()
    store.files.forget()
    report.count("outputs", _outputs(store, rules))
    if whole:
        report.count("kept files", _objects(store))
        report.count("records", _traces(store))
        report.count("calls", _calls(store.folder / "calls.db"))
    return report


def _outputs(store: Store, rules: Iterable[Rule]) -> Iterator[Wrong | None]:
    for rule in rules:
        for path in rule.outputs.values():
            placed = store.traces.at(path)
            if placed is not None:
                yield _output(store, path, placed[0].outputs[placed[1]]["manifest"])


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
            trace.record  # noqa: B018  it is read for its checksum
            yield None
        except DdmakeError as error:
            yield Wrong(f"{FOLDER}/traces.db", str(error).partition(": ")[2], "")
    for number in sorted(store.traces.damaged):
        yield Wrong(f"{FOLDER}/traces.db", f"trace {number} is damaged", "What it told of is made again by the next run.")


def _calls(file: Path) -> Iterator[Wrong | None]:
    if not file.exists():
        return
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        for number, *row, told in db.execute(f"SELECT id, {SIGNED}, checksum FROM calls"):
            damaged = Wrong(f"{FOLDER}/calls.db", f"call {number} is damaged", "It is sent again when it is needed.")
            yield None if checksum(tuple(row)) == told else damaged
    except sqlite3.DatabaseError as error:
        yield Wrong(f"{FOLDER}/calls.db", str(error), "Move the file away to start without its answers.")
    finally:
        db.close()
