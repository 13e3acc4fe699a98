"""Listening to a wave: what its files tell, and which of its jobs have neither a result nor a task that would write one."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ddmake.executors.base import Task, Told
from ddmake.executors.slurm.commands import State
from ddmake.executors.slurm.fates import OVER, why_it_waits
from ddmake.executors.slurm.waves import Wave

GRACE = 5.0  # seconds that a result may take to be seen after its task has gone
LATE = 60.0  # the same where Slurm says that its task has ended well
LEAVES = "COMPLETING"  # a task that does nothing more, and of which Slurm doesn't know yet how it ended


@dataclass
class Listened:
    """A wave that this head listens to: the wave's lock, and the tasks that it still waits for, by number."""

    wave: Wave
    lock: int
    waiting: dict[int, Task]
    share: int = 0  # tasks that may run at once
    heard: set[int] = field(default_factory=set)  # jobs whose end this head knows
    since: float = field(default_factory=time.monotonic)  # when it was submitted
    seen: bool = False  # whether a query has told of it
    _gone: dict[int, float] = field(default_factory=dict)  # since when jobs have had no task
    _spoken: dict[int, tuple[int, int, str]] = field(default_factory=dict)  # how far jobs had come, as it was told last
    _reasons: dict[int, str] = field(default_factory=dict)  # why jobs wait, as it was told last
    _settled: int = 0  # jobs that a later head needn't hear of, as it is written down

    @property
    def running(self) -> int:
        """Return how many tasks may be running."""
        return min(self.share, len(self.waiting))

    def results(self) -> Iterator[tuple[Task, dict[str, Any], tuple[int, int, str]]]:
        """Yield the jobs that have ended since the last call, with their results and how far they were told to be."""
        for number in sorted(self.wave.ended() & self.waiting.keys()):
            yield self.hear(number), self.wave.result(number), self._spoken.get(number, (0, 0, ""))

    def hear(self, number: int) -> Task:
        """Take a job from those that are waited for."""
        self.heard.add(number)
        self._gone.pop(number, None)
        return self.waiting.pop(number)

    def progress(self) -> Iterator[Told]:
        """Yield how far jobs are, where they have come further since the last call."""
        for number in sorted(self.wave.telling() & self.waiting.keys()):
            if (told := self.wave.told(number)) is not None and told != self._spoken.get(number):
                self._spoken[number] = told
                yield Told(self.waiting[number], *told)

    def say(self, reason: str) -> Iterator[Told]:
        """Tell why all jobs wait, unless it was told."""
        for number in self.waiting:
            yield from self._say(number, reason)

    def waits(self, alive: Mapping[str, State]) -> Iterator[Told]:
        """Tell why jobs wait that nobody has begun, unless it was told."""
        begun = self.wave.begun()
        reasons = {task.partition("_")[2]: state.reason for task, state in alive.items()
                   if state.word == "PENDING" and state.reason != "None"}
        queue = f"waits in the queue ({', '.join(sorted(map(why_it_waits, set(reasons.values()))))})"
        for number in self.waiting:
            if number in begun:
                yield from self._say(number, "")
            elif self.wave.packed:
                yield from self._say(number, queue if reasons and len(reasons) == len(alive) else "waits for its turn")
            elif (reason := reasons.get(str(number))) is not None:
                yield from self._say(number, f"waits in the queue ({why_it_waits(reason)})")

    def _say(self, number: int, reason: str) -> Iterator[Told]:
        """Tell why a job waits, unless it was told, or it has told of something better."""
        if reason != self._reasons.get(number, "") and number not in self._spoken:
            self._reasons[number] = reason
            yield Told(self.waiting[number], 0, 0, reason)

    def lost(self, alive: Mapping[str, State]) -> dict[int, dict[str, Any]]:
        """Return the jobs that have had no task for a while, by number, with who had taken them up."""
        tasks = {int(task.partition("_")[2]): state for task, state in alive.items() if task.partition("_")[2].isdigit()}
        fit = any(state.word != LEAVES for state in tasks.values())  # to take up what nobody has begun
        taken, now, found = self.wave.taken(), time.monotonic(), {}
        for number in self.waiting:
            by = taken.get(number, {}).get("task", None if self.wave.packed else number)
            if fit if by is None else by in tasks:
                self._gone.pop(number, None)
            elif now - self._gone.setdefault(number, now) >= GRACE:
                found[number] = {"node": "", **taken.get(number, {}), "task": by, "begun": number in taken}
        return found

    def may_come(self, number: int, state: State) -> bool:
        """Tell whether a result may still come of a job that has no task: another machine's file isn't always seen at once."""
        if state.word == "COMPLETED" and number in self.wave.taken():
            return time.monotonic() - self._gone[number] < LATE
        return state.word not in OVER  # and only hidden from the queue

    def settle(self) -> None:
        """Write down which jobs a later head needn't hear of."""
        if len(self.heard) > self._settled:
            self._settled = len(self.heard)
            self.wave.settle(self.heard)

    def part(self) -> None:
        """Let go of the wave."""
        self.settle()
        os.close(self.lock)
