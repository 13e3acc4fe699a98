"""Waves: jobs that were submitted together, as one array. Each has a folder under `.ddmake/slurm`, which outlives its head.

    wave.json     what was to be submitted: written before
    job           the id that Slurm gave it: written after
    owner         locked by the head that listens
    taken/N       by which task job N was taken up
    results/N     how job N ended; this alone tells that it did
    progress/N    how far it has come
    settled       the jobs of which nobody has to hear any more, where there are others
    task-T.log    what task T itself has printed

A file is there whole or not at all: it is written under another name, flushed to the disk and renamed.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ddmake.executors.base import Needs, Task

FOLDER = "slurm"  # under .ddmake
PARTS = ("taken", "results", "progress")


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

    def result(self, number: int) -> dict[str, Any]:
        """Return how a job ended."""
        return json.loads((self.folder / "results" / str(number)).read_text())

    def told(self, number: int) -> dict[str, Any] | None:
        """Return how far a job has come; None where it doesn't tell."""
        try:
            return json.loads((self.folder / "progress" / str(number)).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def taken(self) -> dict[int, dict[str, Any]]:
        """Return by whom jobs were taken up: the task's number and its node."""
        room, found = self.folder / "taken", {}
        for name in os.listdir(room):
            try:
                found[int(name)] = json.loads((room / name).read_text())
            except ValueError:  # it is being written
                found[int(name)] = {}
        return found

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
        try:
            return set(json.loads((self.folder / "settled").read_text()))
        except FileNotFoundError:
            return set()

    def settle(self, numbers: Collection[int]) -> None:
        """Note that the end of jobs was heard of; once it was of all, the wave goes."""
        known = self.settled() | set(numbers)
        if len(known) == len(self.jobs):
            self.remove()
        elif numbers:
            write(self.folder / "settled", json.dumps(sorted(known)))

    def tell(self, number: int, told: Mapping[str, Any]) -> None:
        """Write how far a job has come."""
        write(self.folder / "progress" / str(number), json.dumps(told), whole=False)

    def own(self) -> int | None:
        """Return the lock that shows that somebody listens; None where somebody else does."""
        file = os.open(self.folder / "owner", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file

    def remove(self) -> None:
        """Forget the wave."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new(store: Path, jobs: Sequence[Task], tasks: int, packed: bool, options: Sequence[str]) -> Wave:
    """Return a new wave, written down under a project's `.ddmake`."""
    folder = store / FOLDER / uuid4().hex[:16]
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    told = {"tasks": tasks, "packed": packed, "options": list(options), "jobs": [_written(job) for job in jobs]}
    write(folder / "wave.json", json.dumps(told))
    return Wave(folder, jobs, tasks, packed, options)


def read(folder: Path) -> Wave:
    """Return a wave as it was written down. Raises FileNotFoundError for one that wasn't."""
    told = json.loads((folder / "wave.json").read_text())
    return Wave(folder, [_read(job) for job in told["jobs"]], told["tasks"], told["packed"], told["options"])


def every(store: Path) -> Iterator[Wave]:
    """Yield the waves of a project, the first submitted first."""
    written = (store / FOLDER).glob("*/wave.json")
    for file in sorted(written, key=lambda file: file.stat().st_mtime_ns):
        yield read(file.parent)


def write(file: Path, text: str, whole: bool = True) -> None:
    """Write a file whole or not at all; it is on the disk then, if that is asked for, so that a crash can't take it back."""
    scratch = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    with scratch.open("w") as opened:
        opened.write(text)
        if whole:
            opened.flush()
            os.fsync(opened.fileno())
    os.replace(scratch, file)


def _written(job: Task) -> dict[str, Any]:
    told = {**vars(job), "needs": vars(job.needs), "env": dict(job.env)}  # dataclasses.asdict would copy all, and slowly
    return {**told, "folder": str(job.folder), "log": str(job.log), "result": str(job.result), "models": sorted(job.models)}


def _read(told: dict[str, Any]) -> Task:
    paths = {name: Path(told[name]) for name in ("folder", "log", "result")}
    asks = tuple((name, value) for name, value in told["asks"])
    return Task(**{**told, **paths, "needs": Needs(**told["needs"]), "models": frozenset(told["models"]), "asks": asks})
