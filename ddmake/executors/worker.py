"""A worker as its head sees it: a process that does one job after another.

It reads jobs as JSON lines on its standard input and answers by JSON lines on its standard output: how far it is, and
how a job ended. It ends when its input does, so that no worker outlives its head. It leads a process group, which holds
all that its jobs start.
"""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ddmake.executors.base import Task
from ddmake.executors.processes import Start, spawned


def _opened(log: Path) -> IO[bytes]:
    """Open a log; where that can't be, for a full disk, what is written is lost."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError:
        return open(os.devnull, "ab")


class Worker:
    """A process with one environment, and what it does at the moment."""

    def __init__(self, env: Mapping[str, str], folder: Path, log: Path, start: Start = spawned):
        self.env = dict(env)  # what was added to the head's own
        self.task: Task | None = None
        self.models: frozenset[str] = frozenset()  # that it was asked to load; it keeps those that it has memory for
        self.loaded = False  # whether it has what computes, which takes seconds to import
        self.foreign = False  # whether it did something that may have left anything behind
        self.gpus: set[str] = set()
        self.deadline: float | None = None  # of its task, by its `time`
        self.grace: float | None = None  # until when it may take to stop
        self.late = False
        self._heard = b""
        with _opened(log) as errors:  # where a worker that can't even start says why
            self.process, self._tell, self._said = start(env, folder, errors)
        self.answers = self._said.fileno()
        os.set_blocking(self.answers, False)

    def give(self, task: Task) -> None:
        """Hand over a task; a process that is gone is noticed when it is listened to."""
        self.task, self.late, self.grace = task, False, None
        self.models = frozenset() if task.trains else self.models | task.models
        self.loaded |= task.trains or bool(task.models)
        self.foreign |= task.foreign
        line = {"job": list(task.command), "folder": str(task.folder), "log": str(task.log)}
        try:
            self._tell.write(json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            pass

    def hear(self) -> Iterator[dict[str, Any] | None]:
        """Yield what the worker has said since; None once it can say no more."""
        while True:
            try:
                read = os.read(self.answers, 1 << 16)
            except BlockingIOError:
                return
            if not read:
                yield None
                return
            *lines, self._heard = (self._heard + read).split(b"\n")
            yield from map(json.loads, lines)

    def signal(self, number: signal.Signals) -> None:
        """Signal the worker and all that its job has started."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # gone; macOS says the latter of a group of zombies
            pass

    def let_go(self) -> None:
        """Let an idle worker end by itself: it has nothing more to read."""
        self._tell.close()

    def bury(self) -> str:
        """End whatever is left of the worker, and return in words how its process ended."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self._tell.close()
        self._said.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
