"""Waves: jobs that were submitted together, as one array. Each has a folder under `.ddmake/slurm`, which outlives its head.

    owner         locked by the head that listens, from the first moment on
    wave.json     what was to be submitted: written before
    job           the id that Slurm gave it: written after
    taken/N       by which task job N was taken up
    results/N     how job N ended; this alone tells that it did
    progress/N    how far it has come
    settled       the jobs of which nobody has to hear any more, where there are others
    task-T.log    what task T itself has printed

A file is there whole or not at all: it is written under another name, flushed to the disk and renamed. What can't be read all
the same, since a disk was full or failed, tells nothing, but for wave.json, without which it isn't known what was submitted.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ddmake.errors import DdmakeError
from ddmake.executors.base import Needs, Task

FOLDER = "slurm"  # under .ddmake
LOCK = "locks/slurm.lock"  # under .ddmake, held by who makes a wave's folder, or clears away those that nobody has
PARTS = ("taken", "results", "progress")
FORM = 1  # of wave.json


@dataclass(frozen=True)
class Wave:
    """Jobs that are, or were, on the cluster; `tasks` of an array do them: one each, or `packed` whatever isn't begun."""

    folder: Path
    jobs: Sequence[Task]
    tasks: int
    packed: bool
    options: Sequence[str]  # of sbatch

    @property
    def token(self) -> str:
        """Return what the wave is found by among Slurm's jobs."""
        return self.folder.name

    @property
    def id(self) -> str | None:
        """Return the id that Slurm gave it, None where that isn't known."""
        try:
            return (self.folder / "job").read_text()
        except FileNotFoundError:
            return None

    def submitted(self, job: str) -> None:
        """Note the id that Slurm gave it."""
        write(self.folder / "job", job)

    def ended(self) -> set[int]:
        """Return the jobs that have a result."""
        room = self.folder / "results"
        os.utime(room)  # has a network file system look again, and not list what it remembers
        return {int(name) for name in os.listdir(room) if name.isdigit()}

    def may_end(self, number: int) -> bool:
        """Tell whether a result of a job may still come."""
        return self.folder.exists() and not (self.folder / "results" / str(number)).exists()

    def result(self, number: int) -> dict[str, Any]:
        """Return how a job ended; that it failed, where its result can't be read."""
        file = self.folder / "results" / str(number)
        found = _known(file)
        if isinstance(found.get("word"), str):
            return found
        return {"word": "failed", "told": f"its result can't be read ({file})", "exit_code": 1, "again": True}

    def told(self, number: int) -> tuple[int, int, str] | None:
        """Return how far a job has come, of how much, and a note; None where it doesn't tell."""
        match _known(self.folder / "progress" / str(number)):
            case {"done": int(done), "total": int(total), "note": str(note)}:
                return done, total, note
        return None

    def telling(self) -> set[int]:
        """Return the jobs that have told how far they are."""
        return {int(name) for name in os.listdir(self.folder / "progress") if name.isdigit()}

    def taken(self) -> dict[int, dict[str, Any]]:
        """Return by whom jobs were taken up, as far as it is written yet: the task's number and its node."""
        room = self.folder / "taken"
        os.utime(room)
        return {int(name): _known(room / name) for name in os.listdir(room) if name.isdigit()}

    def begun(self) -> set[int]:
        """Return the jobs that were taken up."""
        return {int(name) for name in os.listdir(self.folder / "taken") if name.isdigit()}

    def printed(self, task: str) -> str:
        """Return what a task, by Slurm's name for it, has itself printed, and Slurm of it."""
        try:
            return (self.folder / f"task-{task.partition('_')[2]}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def take(self, number: int, by: Mapping[str, Any]) -> bool:
        """Take up a job, and tell whether nobody had."""
        try:
            file = os.open(self.folder / "taken" / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(file, "w") as opened:
            json.dump(by, opened)
        return True

    def end(self, number: int, result: Mapping[str, Any]) -> None:
        """Write how a job ended."""
        write(self.folder / "results" / str(number), json.dumps(result))

    def settled(self) -> set[int]:
        """Return the jobs that earlier heads have heard the end of."""
        return set(_known(self.folder / "settled").get("jobs", ()))

    def settle(self, numbers: Collection[int]) -> None:
        """Note that the end of jobs was heard of; once it was of all, the wave goes."""
        known = self.settled() | set(numbers)
        if len(known) == len(self.jobs):
            self.remove()
        elif numbers:
            with suppress(FileNotFoundError):  # somebody has cleared it away
                write(self.folder / "settled", json.dumps({"jobs": sorted(known)}), whole=False)  # else it is heard again

    def tell(self, number: int, told: Mapping[str, Any]) -> None:
        """Write how far a job has come."""
        write(self.folder / "progress" / str(number), json.dumps(told), whole=False)

    def own(self) -> int | None:
        """Return the lock that shows that somebody listens; None where somebody else does, or the wave has gone."""
        return _owned(self.folder)

    def remove(self) -> None:
        """Forget the wave."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new(store: Path, jobs: Sequence[Task], tasks: int, packed: bool, options: Sequence[str]) -> tuple[Wave, int]:
    """Return a new wave, written down under a project's `.ddmake`, and the lock that shows that somebody listens to it."""
    folder = store / FOLDER / uuid4().hex[:16]
    told = {"form": FORM, "tasks": tasks, "packed": packed, "options": list(options), "jobs": [_written(job) for job in jobs]}
    with _alone(store):
        for part in PARTS:
            (folder / part).mkdir(parents=True)
        lock = os.open(folder / "owner", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
    write(folder / "wave.json", json.dumps(told))
    return Wave(folder, jobs, tasks, packed, options), lock


def read(folder: Path) -> Wave:
    """Return a wave as it was written down. Raises FileNotFoundError for one that wasn't, DdmakeError for what can't be read."""
    text = (folder / "wave.json").read_bytes()
    try:
        told = json.loads(text)
        if told.get("form") != FORM:
            raise ValueError("another ddmake has written it")
        return Wave(folder, [_read(job) for job in told["jobs"]], told["tasks"], told["packed"], told["options"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        job = folder / "job"
        cancel = f"scancel {job.read_text()}, and " if job.is_file() else ""
        raise DdmakeError(f"{folder / 'wave.json'} can't be read ({error}), so what its jobs make isn't known. Use the ddmake "
                          f"that submitted them, or give them up: {cancel}rm -r {folder}") from None


def every(store: Path, but: Collection[str] = ()) -> Iterator[Wave]:
    """Yield the waves of a project, the first submitted first, `but` some. Raises DdmakeError for one that can't be read."""
    found = []
    for token in tokens(store).difference(but):
        folder = store / FOLDER / token
        with suppress(FileNotFoundError):  # it isn't written down yet, or somebody has cleared it away
            found.append(((folder / "wave.json").stat().st_mtime_ns, read(folder)))
    yield from (wave for _, wave in sorted(found, key=lambda pair: pair[0]))


def tokens(store: Path) -> set[str]:
    """Return the names of the waves that there are, be they written down yet or not."""
    room = store / FOLDER
    return {entry.name for entry in os.scandir(room) if entry.is_dir()} if room.is_dir() else set()


def sweep(store: Path) -> None:
    """Clear away the folders of heads that were killed before they had written down what they were to submit."""
    for token in tokens(store):
        if abandoned(store, token):
            shutil.rmtree(store / FOLDER / token, ignore_errors=True)


def abandoned(store: Path, token: str) -> bool:
    """Tell whether a wave's head was killed before it had written down what it was to submit."""
    folder = store / FOLDER / token
    if (folder / "wave.json").exists():
        return False
    with _alone(store):
        lock = _owned(folder)
        found = lock is not None and not (folder / "wave.json").exists()
    if lock is not None:
        os.close(lock)
    return found


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Hold the lock on what folders of waves there are."""
    file = store / LOCK
    file.parent.mkdir(exist_ok=True)
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _owned(folder: Path) -> int | None:
    try:
        file = os.open(folder / "owner", os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:  # and it wasn't cleared away meanwhile
            return file
    except BlockingIOError:
        pass
    os.close(file)
    return None


def write(file: Path, text: str, whole: bool = True) -> None:
    """Write a file whole or not at all; it is on the disk then, if that is asked for, so that a crash can't take it back."""
    scratch = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    with scratch.open("w") as opened:
        opened.write(text)
        if whole:
            opened.flush()
            os.fsync(opened.fileno())
    os.replace(scratch, file)


def _known(file: Path) -> dict[str, Any]:
    """Return what a file tells; nothing where it isn't there, or can't be read."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(job: Task) -> dict[str, Any]:
    told = {**vars(job), "needs": vars(job.needs), "env": dict(job.env)}  # dataclasses.asdict would copy all, and slowly
    return {**told, "folder": str(job.folder), "log": str(job.log), "result": str(job.result), "models": sorted(job.models)}


def _read(told: dict[str, Any]) -> Task:
    paths = {name: Path(told[name]) for name in ("folder", "log", "result")}
    asks = tuple((name, value) for name, value in told["asks"])
    return Task(**{**told, **paths, "needs": Needs(**told["needs"]), "models": frozenset(told["models"]), "asks": asks})
