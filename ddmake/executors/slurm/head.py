"""The head's side of a cluster: gathers tasks to waves, submits them, and hears of them by the files that they leave.

A result is a file, and nothing else tells that a job has ended well. Slurm is asked, once in a while and about all jobs
at once, only to learn why a result is missing. What the machines are to blame for is submitted again, elsewhere.
"""

import os
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from ddmake.executors.base import Ended, Executor, Needs, Site, Task, Told
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import COMMENT, Commands, NoAnswer, Refused, State
from ddmake.executors.slurm.options import Settings, arguments, settings
from ddmake.executors.slurm.waves import Wave

QUICK, SLOW = 0.1, 1.0  # seconds between two looks at results: at first, and once nothing has come for a while
WHILE = 10.0
ASKS = ((300.0, 10.0), (1800.0, 30.0), (float("inf"), 60.0))  # seconds between two queries, by how long the run has gone on
GRACE = 5.0  # seconds that a result may take to be seen after its task has gone
LEAVING = 5.0  # seconds in which a second Ctrl-C cancels what would go on
AT_ONCE = 64  # tasks of an array that run at the same time, where nobody says how many
ANEW = 10  # times that a job is submitted again for its machine's sake
BAD = 2  # jobs that a node has lost, after which no more go there
FILES = 3  # files that are open for a job that runs elsewhere: its locks
MACHINES = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL", "")
SHORT = {"TIMEOUT": "time", "DEADLINE": "time", "OUT_OF_MEMORY": "memory"}
OVER = ("COMPLETED", "COMPLETING", "CANCELLED", "FAILED", *MACHINES, *SHORT)


@dataclass
class Listened:
    """A wave that this head listens to: the tasks that it still waits for, by number, and the wave's lock."""

    wave: Wave
    lock: int
    waiting: dict[int, Task]
    since: float  # when it was submitted
    seen: bool = False  # whether a query has told of it
    gone: dict[int, float] = field(default_factory=dict)  # since when jobs have had no task
    spoken: dict[int, object] = field(default_factory=dict)  # what was told of jobs last


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
        elif "--force" in task.command or not self._take_up(task):
            self._gathered.append(task)

    def poll(self, seconds: float) -> list[Told | Ended]:
        """Return what was heard since the last call."""
        self._send()
        now = time.monotonic()
        if now - self._looked >= (QUICK if now - self._news < WHILE else SLOW):
            self._looked = now
            for one in self._waves:
                self._told.extend(self._look(one))
            if now - self._asked >= next(every for until, every in ASKS if now - self._began < until) and self._waves:
                self._asked = now
                self._ask()
            self._forget()
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
        running = [one.wave.id for one in self._waves if one.waiting]
        if at_once:
            self.commands.cancel(job for job in running if job is not None)
        for one in self._waves:
            if at_once or not one.waiting:
                one.wave.remove()
            os.close(one.lock)

    def _found(self) -> dict[str, tuple[Wave, int]]:
        """Return the jobs that heads have submitted which are gone, by key: the wave and the number in it."""
        left = list(waves.every(self.store))
        if any(wave.id is None for wave in left):
            known = self.commands.by_token()
            for wave in left:
                if wave.id is None and wave.token in known:
                    wave.submitted(known[wave.token])
        found = {}
        for wave in left:
            if wave.id is None and (lock := wave.own()) is not None:  # it was never submitted
                wave.remove()
                os.close(lock)
            else:
                found.update({task.key: (wave, number) for number, task in enumerate(wave.jobs)})
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
            known = Listened(wave, lock, {}, time.monotonic(), seen=True)
            self._waves.append(known)
        known.waiting[number] = task
        return True

    def _send(self) -> None:
        """Submit what was gathered: one wave for all that ask for the same, as far as an array may be long."""
        alike: dict[tuple[str, ...], list[Task]] = {}
        for task in self._gathered:
            alike.setdefault((*arguments(task, self.settings), str(self._packs(task))), []).append(task)
        self._gathered = []
        for (*options, packs), tasks in alike.items():
            for at in range(0, len(tasks), self.commands.most):
                self._submit(tasks[at:at + self.commands.most], options, packs == "True")

    def _packs(self, task: Task) -> bool:
        small = task.needs.seconds is None and not task.needs.gpus and not task.trains and not task.alone
        return self.settings.pack and small

    def _submit(self, tasks: list[Task], options: list[str], packs: bool) -> None:
        count = self.settings.jobs or AT_ONCE
        wave = waves.new(self.store, tasks, min(count, len(tasks)) if packs else len(tasks), packs, options)
        lock = wave.own()
        assert lock is not None, "a new wave is nobody's"
        one = Listened(wave, lock, dict(enumerate(tasks)), time.monotonic())
        self._waves.append(one)
        try:
            wave.submitted(self.commands.submit(self._options(wave, count), _script(wave)))
        except NoAnswer as why:  # it may have been submitted all the same: the next query finds it by its token
            self._told.extend(Told(task, 0, 0, f"{why}; looking for it") for task in tasks[:1])
        except Refused as error:
            one.waiting.clear()
            failed = {"word": "failed", "told": str(error), "exit_code": 1, "again": False}
            self._told.extend(Ended(task, "", failed) for task in tasks)

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
            yield Ended(one.waiting.pop(number), "", one.wave.result(number))
            one.gone.pop(number, None)
        for name in os.listdir(one.wave.folder / "progress"):
            number = int(name) if name.isdigit() else -1
            if number in one.waiting and (told := one.wave.told(number)) and told != one.spoken.get(number):
                one.spoken[number] = told
                yield Told(one.waiting[number], told["done"], told["total"], told["note"])

    def _ask(self) -> None:
        """Ask Slurm which tasks there are, and see to the jobs that have none."""
        try:
            queue = self.commands.queue()
            if any(one.wave.id is None for one in self._waves):
                self._find_lost_ids()
        except (NoAnswer, Refused):
            return  # nothing is known, and nothing done
        for one in self._waves:
            job = one.wave.id
            if job is None:
                continue
            alive = {task: state for task, state in queue.items() if task.partition("_")[0] == job and state.word not in OVER}
            one.seen = one.seen or bool(alive)
            if one.seen or time.monotonic() - one.since > GRACE:
                self._missing(one, job, alive)

    def _find_lost_ids(self) -> None:
        known = self.commands.by_token()
        for one in self._waves:
            if one.wave.id is None and one.wave.token in known:
                one.wave.submitted(known[one.wave.token])
            elif one.wave.id is None and time.monotonic() - one.since > GRACE:  # it never came: submitted again
                one.since = time.monotonic()
                try:
                    one.wave.submitted(self.commands.submit(self._options(one.wave, self.settings.jobs or AT_ONCE),
                                                            _script(one.wave)))
                except NoAnswer:
                    continue

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
                self._say_waiting(one, number, alive.get(f"{job}_{by}"))
            elif now - one.gone.setdefault(number, now) >= GRACE:
                lost[number] = (task, by, taken.get(number, {}).get("node", ""))
        if lost:
            done = one.wave.ended()  # it may have come meanwhile
            told = self.commands.ended(job)
            for number, (task, by, node) in lost.items():
                if number not in done:
                    del one.waiting[number]
                    self._end_lost(task, told.get(f"{job}_{by}", State("")), node, number in taken)

    def _say_waiting(self, one: Listened, number: int, state: State | None) -> None:
        if state is not None and state.word == "PENDING" and one.spoken.get(number) != state.reason:
            one.spoken[number] = state.reason
            self._told.append(Told(one.waiting[number], 0, 0, f"waits in the queue ({state.reason})"))

    def _end_lost(self, task: Task, state: State, node: str, begun: bool) -> None:
        """End a job that left no result, or submit it again where its machine is to blame."""
        word = state.word.partition(" ")[0].rstrip("+")
        if not begun and word in ("COMPLETED", "CANCELLED", ""):
            word = "" if word == "COMPLETED" else word
        if word in SHORT:
            self._told.append(Ended(task, f"Slurm says {word}", short=SHORT[word]))
        elif word in MACHINES and self._anew[task.key] < ANEW:
            self._anew[task.key] += 1
            if node and begun:
                self._lost[node] += 1
            self._told.append(Told(task, 0, 0, f"lost{' with ' + node if node else ''}"
                                   f"{f' ({word})' if word else ''}; submitted again"))
            self._gathered.append(task)
        else:
            how = "it was cancelled" if word == "CANCELLED" else f"Slurm says {word or 'nothing of it'}"
            code = f", exit code {state.code}" if state.code and state.code != "0:0" else ""
            self._told.append(Ended(task, f"{how}{code}"))

    def _forget(self) -> None:
        for one in [one for one in self._waves if not one.waiting]:
            one.wave.remove()
            os.close(one.lock)
            self._waves.remove(one)

    def _let_go(self) -> None:
        """Leave what runs elsewhere to a later head."""
        for one in self._waves:
            self._told.extend(Ended(task, "it goes on on the cluster", left=True) for task in one.waiting.values())
            os.close(one.lock)
        self._waves, self._leave = [], None


def open_on(site: Site) -> Slurm:
    """Return an executor on the cluster that this machine belongs to. Raises DdfileError for options that can't be."""
    return Slurm(site.store, settings(site.root, site.profile, site.flags, site.jobs), site.local)


def _script(wave: Wave) -> str:
    return f"#!/bin/sh\nexec {quote(sys.executable)} -m ddmake.executors.slurm {quote(str(wave.folder))}\n"


def _raise_files() -> int:
    """Let this process open as many files as it may, and return how many that is, less some for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        wanted = soft
    return max(FILES, wanted - 200)
