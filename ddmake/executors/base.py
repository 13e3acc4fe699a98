"""What an executor is: where jobs run. A job is a command line; its result is a file, or told by the worker that did it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Needs:
    """What a task takes of a machine while it runs. None where its rule doesn't say."""

    cpus: int | None = None
    gpus: int | None = None
    memory: int | None = None  # bytes
    seconds: float | None = None  # after which it is stopped
    waits: bool = False  # it mostly waits for a service, and keeps no core busy


@dataclass(frozen=True)
class Task:
    """A job to be run. It ends well only if there is a result; how it ended otherwise just explains that."""

    name: str
    command: Sequence[str]  # the arguments of `ddmake job`
    folder: Path  # where it runs
    log: Path
    result: Path
    needs: Needs
    env: Mapping[str, str]  # added to the environment
    models: frozenset[str] = frozenset()  # the local models that it loads
    trains: bool = False  # whether it fills the memory, so that nothing is kept there for others
    alone: bool = False  # whether its process does nothing before and after it
    foreign: bool = False  # whether it runs a recipe of the user's, which may leave anything in its process


@dataclass(frozen=True)
class Told:
    """How far a task has come; a `total` of 0 isn't known."""

    task: Task
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Ended:
    """A task that runs no more, with its result as far as the executor knows it; `how` says in words how it ended."""

    task: Task
    how: str = ""
    result: Mapping[str, Any] | None = None
    late: bool = False  # stopped after its time


class Executor(Protocol):
    """Runs tasks, somewhere."""

    def fits(self, needs: Needs) -> bool:
        """Tell whether a task with these needs could start now."""
        ...

    def submit(self, task: Task) -> None:
        """Start a task that fits; an executor may gather tasks until it is polled."""
        ...

    def poll(self, seconds: float) -> list[Told | Ended]:
        """Return what was heard of the tasks since the last call, waiting for something no longer than so many seconds."""
        ...

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Ask tasks to stop once their requests in flight are answered; they are still polled for."""
        ...

    def close(self) -> None:
        """Stop all that still runs, at once."""
        ...

    def attach(self, tasks: Sequence[Task]) -> list[Task]:
        """Take charge again of tasks that an earlier head submitted; return those that still run."""
        ...
