"""The head's side of a cluster: gathers tasks to waves, submits them, and hears of them by the files that they leave.

A result is a file, and nothing else tells that a job has ended well. Slurm is asked, once in a while and about all jobs
at once, only to learn why a result is missing. What the machines are to blame for is submitted again, elsewhere.
"""

import os
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Any
from uuid import uuid4

from ddmake.errors import DdfileError, DdmakeError
from ddmake.executors.base import Ended, Executor, Needs, Site, Task, Told
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import COMMENT, Commands, NoAnswer, Refused, State
from ddmake.executors.slurm.fates import OVER, after_printing, explained, fate
from ddmake.executors.slurm.options import Settings, arguments, settings
from ddmake.executors.slurm.several import named
from ddmake.executors.slurm.waves import Wave

QUICK, SLOW = 0.1, 1.0  # seconds between two looks at results: at first, and once nothing has come for a while
WHILE = 10.0
ASKS = ((300.0, 10.0), (1800.0, 30.0), (float("inf"), 60.0))  # seconds between two queries, by how long the run has gone on
GRACE = 5.0  # seconds that a result may take to be seen after its task has gone
LEAVING = 5.0  # seconds in which a second Ctrl-C cancels what would go on
AT_ONCE = 64  # tasks of an array that run at the same time, where nobody says how many
OTHERWISE = {"--force", "--retry"}  # in the command of a job that is to be done anew, whatever was done for its key
FILES = 3  # files that are open for a job that runs elsewhere: its locks
BAD = 2  # jobs that a node has lost, after which no more go there


@dataclass
class Listened:
    """A wave that this head listens to: the tasks that it still waits for, by number, and the wave's lock."""

    wave: Wave
    lock: int
    waiting: dict[int, Task]
    heard: set[int] = field(default_factory=set)  # jobs whose end this head knows
    since: float = field(default_factory=time.monotonic)  # when it was submitted
    seen: bool = False  # whether a query has told of it
    gone: dict[int, float] = field(default_factory=dict)  # since when jobs have had no task
    spoken: dict[int, object] = field(default_factory=dict)  # how far jobs had come, as it was told last
    reason: str = ""  # why it waits, as it was told last


class Slurm:
    """An Executor on a cluster; tasks that are to run beside the head go to `local`. `store` is a project's `.ddmake`."""

    away = True

    def __init__(self, store: Path, settings: Settings, local: Executor, commands: Commands | None = None):
        self.store, self.settings, self.local = store, settings, local
        self.commands = commands or Commands()
        self._room = _raise_files() // FILES
        self._gathered: list[Task] = []
        self._waves: list[Listened] = []
        self._told: deque[Told | Ended] = deque()
        self._anew: Counter[str] = Counter()  # how often a job was submitted again, by its key
        self._lost: Counter[str] = Counter()  # jobs that nodes have lost
        self._earlier = self._found()
        self._began = self._news = self._asked = time.monotonic()
        self._looked = 0.0
        self._leave: float | None = None  # when this head lets go of what runs

    def fits(self, needs: Needs) -> bool:
        """Tell whether a task with these needs could be handed over now."""
        if needs.here:
            return self.local.fits(needs)
        return len(self._gathered) + sum(len(one.waiting) for one in self._waves) < self._room

    def submit(self, task: Task) -> None:
        """Hand over a task: to the head's own machine, or to the next wave, unless an earlier head had submitted it."""
        if not task.apart:
            self.local.submit(task)
        elif not OTHERWISE.isdisjoint(task.command) or not self._take_up(task):
            self._gathered.append(task)

    def poll(self, seconds: float) -> list[Told | Ended]:
        """Return what was heard since the last call."""
        self._forget()
        self._send()
        now = time.monotonic()
        if now - self._looked >= (QUICK if now - self._news < WHILE else SLOW):
            self._looked = now
            for one in self._waves:
                self._told.extend(self._look(one))
            if now - self._asked >= next(every for until, every in ASKS if now - self._began < until) and self._waves:
                self._asked = now
                self._ask()
        if self._leave is not None and now >= self._leave:
            self._let_go()
        told = [*self._told, *self.local.poll(0 if self._told else min(seconds, QUICK))]
        self._told.clear()
        self._news = now if any(isinstance(one, Ended) for one in told) else self._news
        return told

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Ask what runs here to stop; what runs elsewhere is let go of after a while, and goes on."""
        self.local.cancel([task for task in tasks if not task.apart])
        self._told.extend(Ended(task, "stopped", left=True) for task in self._gathered)
        self._gathered, self._leave = [], time.monotonic() + LEAVING

    def close(self, at_once: bool = True) -> None:
        """Stop what runs here, and `at_once` what runs elsewhere; else that is left to a later head."""
        self.local.close()
        if at_once:
            self._cancel_all()
        for one in self._waves:
            self._part(one)
        self._waves = []

    def _cancel_all(self) -> None:
        """Cancel what runs elsewhere. Raises DdmakeError where Slurm doesn't answer."""
        try:
            self.commands.cancel(job for one in self._waves if one.waiting and (job := one.wave.id) is not None)
        except NoAnswer as why:
            raise DdmakeError(f"{why}: some jobs may go on. Try again in a while: ddmake cancel") from None
        for one in self._waves:
            one.heard.update(range(len(one.wave.jobs)))

    def _found(self) -> dict[str, tuple[Wave, int]]:
        """Return the jobs that heads have submitted which are gone, by key: the last wave that has it, and the number there.

        Raises DdmakeError where it has to be asked whether a wave was submitted, and Slurm doesn't answer.
        """
        left = list(waves.every(self.store))
        if any(wave.id is None for wave in left):
            try:
                known = self.commands.by_token()
            except NoAnswer as why:
                raise DdmakeError(f"{why}, so what an earlier run has submitted isn't known. Try again in a while.") from None
            for wave in left:
                if wave.id is None and wave.token in known:
                    wave.submitted(known[wave.token])
        found = {}
        for wave in left:
            if wave.id is None and not wave.taken() and (lock := wave.own()) is not None:  # it was never submitted
                wave.remove()
                os.close(lock)
            else:
                settled = wave.settled()
                found.update({task.key: (wave, number) for number, task in enumerate(wave.jobs) if number not in settled})
        wanted = {wave.token for wave, _ in found.values()}
        for wave in left:
            if wave.token not in wanted and (lock := wave.own()) is not None:  # later ones do all that it had
                wave.remove()
                os.close(lock)
        return found

    def _take_up(self, task: Task) -> bool:
        """Listen to a job that an earlier head has submitted for the same key, and tell whether there is one."""
        wave, number = self._earlier.pop(task.key, (None, 0))
        if wave is None:
            return False
        known = next((one for one in self._waves if one.wave is wave), None)
        if known is None:
            lock = wave.own()
            if lock is None:  # another head has it
                return False
            known = Listened(wave, lock, {}, seen=True)
            self._waves.append(known)
        known.waiting[number] = replace(task, log=wave.jobs[number].log)
        return True

    def _send(self) -> None:
        """Submit what was gathered: one wave for all that ask for the same, as far as an array may be long."""
        alike: dict[tuple[str, ...], list[Task]] = {}
        for task in self._gathered:
            alike.setdefault((*arguments(task, self.settings), str(self._packs(task))), []).append(task)
        self._gathered = []
        for (*options, packs), tasks in alike.items():
            most = len(tasks) if packs == "True" else self.commands.most
            for at in range(0, len(tasks), most):
                self._submit(tasks[at:at + most], options, packs == "True")

    def _packs(self, task: Task) -> bool:
        small = task.needs.seconds is None and not task.needs.gpus and not task.trains and not task.alone
        return self.settings.pack and small

    def _submit(self, tasks: list[Task], options: list[str], packs: bool) -> None:
        count = self.settings.jobs or AT_ONCE
        wave = waves.new(self.store, tasks, min(count, len(tasks), self.commands.most) if packs else len(tasks), packs, options)
        lock = wave.own()
        assert lock is not None, "a new wave is nobody's"
        one = Listened(wave, lock, dict(enumerate(tasks)))
        self._waves.append(one)
        self._hand_over(one)

    def _hand_over(self, one: Listened) -> None:
        """Submit a wave. Where Slurm doesn't answer it may have it all the same: a later query finds it by its token."""
        try:
            one.wave.submitted(self.commands.submit(self._options(one.wave, self.settings.jobs or AT_ONCE), _script(one.wave)))
        except NoAnswer as why:
            one.reason = f"{why}; trying on"
            self._told.extend(Told(task, 0, 0, one.reason) for task in one.waiting.values())
        except Refused as error:
            if self._lost:  # perhaps for the nodes that were to be left out
                self._lost.clear()
                return self._hand_over(one)
            failed = {"word": "failed", "told": f"Slurm refuses its job: {error}", "exit_code": 1, "again": False}
            self._told.extend(Ended(task, "", failed) for task in one.waiting.values())
            one.heard.update(one.waiting)
            one.waiting.clear()

    def _options(self, wave: Wave, count: int) -> list[str]:
        last = wave.tasks - 1
        bad = sorted(node for node, lost in self._lost.items() if lost >= BAD)
        return [*wave.options, *([f"--exclude={','.join(bad)}"] if bad else []), "--no-requeue", "--kill-on-invalid-dep=yes",
                f"--array=0-{last}%{count}", f"--comment={COMMENT}{wave.token}", f"--output={wave.folder}/task-%a.log",
                f"--chdir={wave.jobs[0].folder}",
                *([] if any(told.startswith("--job-name") for told in wave.options) else ["--job-name=ddmake"])]

    def _look(self, one: Listened) -> Iterator[Told | Ended]:
        """Yield what the files of a wave tell."""
        for number in sorted(one.wave.ended() & one.waiting.keys()):
            task, result = one.waiting.pop(number), one.wave.result(number)
            one.heard.add(number)
            yield self._goes_on(task, result) if result["word"] == "again" else Ended(task, "", result)
            one.gone.pop(number, None)
        for name in os.listdir(one.wave.folder / "progress"):
            number = int(name) if name.isdigit() else -1
            if number in one.waiting and (told := one.wave.told(number)) and told != one.spoken.get(number):
                one.spoken[number] = told
                yield Told(one.waiting[number], told["done"], told["total"], told["note"])

    def _goes_on(self, task: Task, result: Mapping[str, Any]) -> Told | Ended:
        """Submit a training again whose time was over; one that has come no further in it has too little."""
        if not result["gained"]:
            return Ended(task, result["told"], short="time")
        return self._again(task, result["told"], "goes on in the next job")

    def _again(self, task: Task, why: str, what: str) -> Told | Ended:
        """Submit a job again, unless this head is about to leave."""
        if self._leave is not None:
            return Ended(task, why, left=True)
        self._gathered.append(_anew(task))
        return Told(task, 0, 0, f"{why}; {what}")

    def _ask(self) -> None:
        """Ask Slurm which tasks there are, and see to the jobs that have none."""
        try:
            if any(one.wave.id is None for one in self._waves):
                self._find_lost_ids()
            self._compare(self.commands.queue())
        except (NoAnswer, Refused):
            return  # nothing is known, and nothing done

    def _compare(self, queue: Mapping[str, State]) -> None:
        """See which jobs have no task in the queue. Raises NoAnswer."""
        for one in self._waves:
            job = one.wave.id
            if job is None:
                continue
            alive = {task: state for task, state in queue.items() if task.partition("_")[0] == job and state.word not in OVER}
            one.seen = one.seen or bool(alive)
            if one.seen or time.monotonic() - one.since > GRACE:
                self._say_waiting(one, alive)
                self._missing(one, job, alive)

    def _find_lost_ids(self) -> None:
        known = self.commands.by_token()
        for one in self._waves:
            if one.wave.id is None and one.wave.token in known:
                one.wave.submitted(known[one.wave.token])
            elif one.wave.id is None and time.monotonic() - one.since > GRACE:  # it never came: submitted again
                one.since = time.monotonic()
                self._hand_over(one)

    def _missing(self, one: Listened, job: str, alive: dict[str, State]) -> None:
        """See to the jobs of a wave that have neither a result nor a task that would write one."""
        numbers = {int(task.partition("_")[2]) for task in alive if task.partition("_")[2].isdigit()}
        taken, now = one.wave.taken(), time.monotonic()
        lost = {}
        for number, task in one.waiting.items():
            by = taken.get(number, {}).get("task", None if one.wave.packed else number)
            lives = bool(numbers) if by is None else by in numbers
            if lives:
                one.gone.pop(number, None)
            elif now - one.gone.setdefault(number, now) >= GRACE:
                lost[number] = (task, by, taken.get(number, {}).get("node", ""))
        if not lost:
            return
        told = self.commands.ended(job)
        done = one.wave.ended()  # it may have come meanwhile
        for number, (task, by, node) in lost.items():
            name, state = explained(told, job if by is None else f"{job}_{by}")
            printed = one.wave.printed(name)
            state = after_printing(state, printed)
            if number not in done and state.word in OVER:  # and not hidden from the queue
                del one.waiting[number]
                one.heard.add(number)
                _keep(task.log, printed)
                self._end_lost(task, state, node, number in taken)

    def _say_waiting(self, one: Listened, alive: Mapping[str, State]) -> None:
        """Tell of a wave why it waits, as long as all of it does."""
        reasons = {state.reason if state.word == "PENDING" and state.reason != "None" else "" for state in alive.values()}
        reason = f"waits in the queue ({', '.join(sorted(reasons))})" if reasons and "" not in reasons else ""
        if reason != one.reason:
            one.reason = reason
            self._told.extend(Told(task, 0, 0, reason) for number, task in one.waiting.items() if number not in one.spoken)

    def _end_lost(self, task: Task, state: State, node: str, begun: bool) -> None:
        """End a job that left no result, or submit it again where its machine is to blame."""
        found = fate(state, node, begun, self._anew[task.key])
        if found.again:
            self._anew[task.key] += found.counts
            if found.broken:
                self._lost[node] += 1
            self._told.append(self._again(task, found.how, "submitted again"))
        else:
            self._told.append(Ended(task, found.how, short=found.short))

    def _forget(self) -> None:
        """Part from the waves of which nothing is to be heard any more, now that what was heard is taken in."""
        for one in [one for one in self._waves if not one.waiting]:
            self._part(one)
            self._waves.remove(one)

    def _part(self, one: Listened) -> None:
        one.wave.settle(one.heard)
        os.close(one.lock)

    def _let_go(self) -> None:
        """Leave what runs elsewhere to a later head."""
        for one in self._waves:
            self._told.extend(Ended(task, "it goes on on the cluster", left=True) for task in one.waiting.values())
            self._part(one)
        self._waves, self._leave = [], None


def open_on(site: Site) -> Slurm:
    """Return an executor on the cluster that this machine belongs to. Raises DdfileError for options that can't be."""
    if which("sbatch") is None:
        raise DdfileError("sbatch isn't here, so there is no Slurm to run jobs. Run ddmake where jobs are submitted, or "
                          "leave out --executor slurm.")
    return Slurm(site.store, settings(site.root, site.profile, site.flags, site.jobs), site.local)


def _anew(task: Task) -> Task:
    """Return a task to be submitted again."""
    return named(task, uuid4().hex[:12])


def _keep(log: Path, printed: str) -> None:
    """Add to a job's log what was printed around it, which may tell why it left no result."""
    if printed:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as opened:
            opened.write(printed)


def _script(wave: Wave) -> str:
    # a warning that comes before somebody listens would end it
    return f"#!/bin/sh\ntrap '' USR1\nexec {quote(sys.executable)} -m ddmake.executors.slurm {quote(str(wave.folder))}\n"


def _raise_files() -> int:
    """Let this process open as many files as it may, and return how many that is, less some for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        wanted = soft
    return max(FILES, wanted - 200)
