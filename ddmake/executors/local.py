"""Jobs in processes on this machine. They die with the head: each watches its standard input, a pipe that the head holds."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence

from ddmake.executors.base import Ended, Task

GRACE = 10.0  # seconds a cancelled job has to commit its finished calls


class Local:
    """An Executor of child processes."""

    def __init__(self, slots: int):
        self.slots = slots
        self._running: dict[str, tuple[Task, subprocess.Popen]] = {}

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start a process for each task, in a process group of its own."""
        for task in tasks:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            with task.log.open("ab") as log:
                process = subprocess.Popen(task.command, cwd=task.folder, env={**os.environ, **task.env}, stdin=subprocess.PIPE,
                                           stdout=log, stderr=log, start_new_session=True)
            self._running[task.name] = (task, process)

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks whose process has ended."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [(task, process) for task, process in self._running.values() if process.poll() is not None]
            if ended or time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        for task, process in ended:
            del self._running[task.name]
            if process.stdin:
                process.stdin.close()
        return [Ended(task, _told(process.returncode)) for task, process in ended]

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Ask the tasks' process groups to end, and end them after a while."""
        asked = [self._running[task.name][1] for task in tasks if task.name in self._running]
        for process in asked:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(process.poll() is None for process in asked) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in asked:
            _signal(process, signal.SIGKILL)

    def attach(self, tasks: Sequence[Task]) -> list[Task]:
        """Return nothing: a head's processes end with it."""
        return []


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _told(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
