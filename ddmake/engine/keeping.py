"""What of the kept objects may go: by age, by size, by a rule's `keep=N`. Traces stay, for the log.

Kept files belong to results. One that a result on disk or a target of today needs never goes, whoever else shares it;
nor does anything while a job is under way, since that may be about to count on what is kept.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.resources import BYTES, SECONDS
from ddmake.errors import DdfileError, did_you_mean
from ddmake.store import Store
from ddmake.store.traces import Trace

YOUNG = 86400  # seconds in which a file that no trace tells of may belong to a job that isn't recorded yet
LOW_SHARE, LOW_BYTES = 0.05, 2 * 10**9  # of a disk: below either a run warns


@dataclass(frozen=True)
class Result:
    """An earlier result that may go: where it lay, when it was last put there, and the files that it alone needs."""

    path: str
    at: float
    files: frozenset[str]
    size: int


@dataclass(frozen=True)
class Kept:
    """What the store keeps: all files with their sizes, and what of them may go, oldest first."""

    sizes: dict[str, int]
    results: list[Result]
    parts: list[str] = field(default_factory=list)  # half-copied files, and those that no trace tells of

    @property
    def size(self) -> int:
        """Return the size of all that is kept, in bytes."""
        return sum(self.sizes.values())


def kept(flow: Workflow, store: Store) -> Kept:
    """Return what is kept, and what of it no result on disk and no target of today needs."""
    found = dict(store.objects.every())
    sizes = {sha: stat.st_size for sha, stat in found.items()}
    traces = list(store.traces.every())
    needed = set[str]().union(*(_files(trace) for trace in _in_use(flow, store)))
    owners = _owners(traces, store)
    results, taken = [], set(needed)
    for trace, at in sorted(owners, key=lambda owner: (-owner[1], -owner[0].id)):  # what several share goes with the newest
        alone = frozenset(sha for sha in _files(trace) if sha in sizes and sha not in taken)
        taken |= alone
        if alone:
            results.append(Result(_label(trace), at, alone, sum(sizes[sha] for sha in alone)))
    old = time.time() - YOUNG
    parts = [sha for sha, stat in found.items() if sha not in taken and stat.st_mtime < old]
    return Kept(sizes, results[::-1], parts)


def choose(kept: Kept, older_than: float | None, max_size: int | None) -> list[Result]:
    """Return the results that go: those older than so many seconds, then the oldest until the rest fits a size."""
    limit = time.time() - older_than if older_than is not None else 0.0
    going, left = [], kept.size - sum(kept.sizes[sha] for sha in kept.parts)
    for result in kept.results:
        if result.at < limit or max_size is not None and left > max_size:
            going.append(result)
            left -= result.size
    return going


def drop(store: Store, files: Iterable[str]) -> None:
    """Keep files no longer."""
    for sha in files:
        store.objects.drop(sha)


def prune(flow: Workflow, store: Store, rules: Iterable[Rule]) -> int:
    """Drop what `keep=N` leaves no room for at the paths of these rules, and return how many results went."""
    old = {trace.id: trace for rule in rules if rule.options.keep is not None for trace in _beyond(flow, store, rule)}
    if not old or busy(store):
        return 0
    staying = [trace for trace in store.traces.every() if trace.id not in old]
    needed = set[str]().union(*(_files(trace) for trace in [*staying, *_in_use(flow, store)]))
    gone = [trace for trace in old.values() if _files(trace) - needed]
    drop(store, {sha for trace in gone for sha in _files(trace) - needed})
    return len(gone)


def shrink(flow: Workflow, store: Store, max_size: int) -> int:
    """Drop the oldest results until what is kept fits a size, and return the bytes that came free."""
    if sum(stat.st_size for _, stat in store.objects.every()) <= max_size or busy(store):
        return 0
    found = kept(flow, store)
    going = [*found.parts, *(sha for result in choose(found, None, max_size) for sha in result.files)]
    drop(store, going)
    return sum(found.sizes[sha] for sha in going)


def busy(store: Store) -> bool:
    """Tell whether a job of this project is under way in any process."""
    return any(_held(file) for file in (store.folder / "locks").glob("*.lock"))


def low(root: Path) -> int | None:
    """Return the bytes that are free on a folder's disk, where these are few; else None."""
    disk = shutil.disk_usage(root)
    return disk.free if disk.free < LOW_BYTES or disk.free < LOW_SHARE * disk.total else None


def max_size(root: Path) -> int | None:
    """Return `max_size` of [tool.ddmake.store] in the project's pyproject.toml. Raises DdfileError for what it can't mean."""
    import tomllib

    file = root / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DdfileError(f"pyproject.toml can't be read: {error}.") from None
    for name in ("tool", "ddmake", "store"):
        told = told.get(name, {})
        if not isinstance(told, dict):
            raise DdfileError(f"pyproject.toml: {name} is a table, as in [tool.ddmake.store].")
    for name in told:
        if name != "max_size":
            raise DdfileError(f"pyproject.toml: [tool.ddmake.store] has no {name!r}.{did_you_mean(name, ['max_size'])}")
    return size(told["max_size"], "pyproject.toml: max_size") if "max_size" in told else None


def size(text: object, where: str) -> int:
    """Return a size in bytes. Raises DdfileError, by `where`, for a text that means none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", str(text).strip(), re.IGNORECASE)
    if found is None:
        raise DdfileError(f'{where} is {str(text)!r}. Write it like "500MB", "50GB" or "1.5TB".')
    return int(float(found[1]) * BYTES[found[2].upper()])


def span(text: str, where: str) -> float:
    """Return a span of time in seconds. Raises DdfileError, by `where`, for a text that means none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd])", text.strip())
    if found is None:
        raise DdfileError(f"{where} is {text!r}. Write it like 12h or 30d.")
    return float(found[1]) * SECONDS[found[2]]


def _in_use(flow: Workflow, store: Store) -> Iterator[Trace]:
    """Yield the traces of what lies at a path, and of what was last put at a target of today."""
    for path, (trace, _) in store.traces.all_placed().items():
        if os.path.lexists(flow.root / path) or flow.find(path) is not None:
            yield trace


def _owners(traces: Collection[Trace], store: Store) -> list[tuple[Trace, float]]:
    """Return traces with the time at which their result was last made or put into place."""
    placed = store.traces.last_placed()
    return [(trace, datetime.fromisoformat(placed.get(trace.id, trace.made)).timestamp()) for trace in traces]


def _beyond(flow: Workflow, store: Store, rule: Rule) -> list[Trace]:
    """Return the kept results of a rule that are more than its `keep` before the one that lies there, and its alone."""
    seen = {place.trace.id: place.trace for place in store.traces.history(rule.label)}
    others = flow.targets.keys() - rule.outputs.values()
    return [trace for trace in list(seen.values())[max(rule.options.keep or 0, 0) + 1:]
            if all(store.objects.has(out["manifest"]) for out in trace.outputs.values())
            and others.isdisjoint(store.traces.paths_of(trace))]


def _files(trace: Trace) -> set[str]:
    return {sha for out in trace.outputs.values() for sha in out["manifest"].values()}


def _label(trace: Trace) -> str:
    return next(out["path"] for out in trace.outputs.values())


def _held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
