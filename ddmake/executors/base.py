"""What an executor is: where jobs run. A job is a command line; its result is a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """A job to be run. It ends well only if its result file is there; how it ended otherwise just explains that."""

    name: str
    command: Sequence[str]
    folder: Path  # where it runs
    log: Path
    result: Path
    cpus: int
    env: Mapping[str, str]  # added to the environment


@dataclass(frozen=True)
class Ended:
    """A task that runs no more; `how` says in words how it ended, where the executor knows."""

    task: Task
    how: str = ""


class Executor(Protocol):
    """Runs tasks, somewhere."""

    slots: int  # tasks that may be submitted and not ended at once

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start tasks; those of one call may be started together."""
        ...

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks that ended since the last call, waiting for one no longer than so many seconds."""
        ...

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Stop tasks, with all that they started; they are still polled for."""
        ...

    def attach(self, tasks: Sequence[Task]) -> list[Task]:
        """Take charge again of tasks that an earlier head submitted; return those that still run."""
        ...
