"""What an executor is: where jobs run. A job is a command line; its result is a file, or told by the worker that did it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Needs:
    """What a task takes of a machine while it runs. None where its rule doesn't say."""

    cpus: int | None = None
    gpus: int | None = None
    memory: int | None = None  # bytes
    seconds: float | None = None  # after which it is stopped
    waits: bool = False  # it mostly waits for a service, and keeps no core busy
    here: bool = False  # it runs beside the head, wherever other tasks do


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
    apart: str = ""  # where it may run on another machine: the name of this try; the head then commits what it makes
    label: str = ""  # of its rule
    key: str = ""  # of its job: a task that an earlier head has submitted for the same is taken up again
    asks: tuple[tuple[str, str], ...] = ()  # what its rule asks of a cluster beside its needs, as options and their values


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
    short: Literal["", "time", "memory"] = ""  # of what it had too little, and was stopped for it
    left: bool = False  # it runs on, and this head hears of it no more


class Executor(Protocol):
    """Runs tasks, somewhere; `away` on other machines than the head's, but for those that are to run here."""

    away: bool

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
        """Ask tasks to stop once their requests in flight are answered, or leave them to a later head; poll for them on."""
        ...

    def close(self, at_once: bool = True) -> None:
        """Let go of everything. What still runs beside the head is stopped, and `at_once` what runs elsewhere, too."""
        ...


@dataclass(frozen=True)
class Site:
    """What an executor is opened for: a project, what runs beside its head, and what the user says of the executor."""

    root: Path
    store: Path  # the project's .ddmake
    local: Executor  # runs the tasks that are to run beside the head
    jobs: int | None = None  # at once, where the user says so
    flags: Sequence[str] = ()  # "name=value"
    profile: Path | None = None


Open = Callable[[Site], Executor]  # what an entry point in the group `ddmake.executors` names
