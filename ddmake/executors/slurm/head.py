"""The head's side of a cluster: gathers tasks to waves, submits them, and hears of them by the files that they leave.

A result is a file, and nothing else tells that a job has ended well. Slurm is asked, once in a while and about all jobs
at once, only to learn why a result is missing. What the machines are to blame for is submitted again, elsewhere.
"""

import resource
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any
from uuid import uuid4

from ddmake.errors import DdfileError, DdmakeError
from ddmake.executors.base import Ended, Executor, Needs, Site, Task, Told
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.asking import Question
from ddmake.executors.slurm.commands import Commands, Full, NoAnswer, Refused, State
from ddmake.executors.slurm.earlier import Earlier
from ddmake.executors.slurm.fates import OVER, Fate, after_printing, explained, fate
from ddmake.executors.slurm.listening import GRACE, Listened
from ddmake.executors.slurm.options import Settings, arguments, settings
from ddmake.executors.slurm.several import named
from ddmake.executors.slurm.submitting import of_wave, script
from ddmake.executors.slurm.waves import Wave

QUICK, SLOW = 0.1, 1.0  # seconds between two looks at results: at first, and once nothing has come for a while
WHILE = 10.0
ASKS = ((300.0, 10.0), (1800.0, 30.0), (float("inf"), 60.0))  # seconds between two queries, by how long the run has gone on
SILENT = 60.0  # seconds after which it is told that Slurm doesn't answer
FULL = 30.0  # seconds between two tries to submit where no more jobs may be in the queue
LEAVING = 5.0  # seconds in which a second Ctrl-C cancels what would go on
AT_ONCE = 64  # tasks of an array that run at the same time, where nobody says how many
MOST = 100  # jobs that a training may need to come to its end
OTHERWISE = {"--force", "--retry"}  # in the command of a job that is to be done anew, whatever was done for its key
OTHER = "it has begun as it was submitted before, with other options; ddmake cancel ends it"
FILES = 3  # files that are open for a job that runs elsewhere: its locks
BAD = 2  # jobs that a node has lost, after which no more go there


class Slurm:
    """An Executor on a cluster; tasks that are to run beside the head go to `local`. `store` is a project's `.ddmake`."""

    away = True

    def __init__(self, store: Path, settings: Settings, local: Executor, commands: Commands | None = None):
        self.store, self.settings, self.local = store, settings, local
        self.commands = commands or Commands()
        self._room = _raise_files() // FILES
        self._gathered: list[Task] = []
        self._held: dict[str, str] = {}  # why tasks that were gathered wait, as it was told last, by name
        self._most: int | None = None  # tasks that an array may have, as far as the queue has room
        self._later, self._limit = 0.0, ""  # when it is tried again whether it has, and what said that it hasn't
        self._waves: list[Listened] = []
        self._withdrawn: list[tuple[Wave, int]] = []  # jobs of earlier heads that are to be submitted otherwise
        self._told: deque[Told | Ended] = deque()
        self._anew: Counter[str] = Counter()  # how often a job was submitted again, by its key
        self._kills: Counter[str] = Counter()  # of these, after it was killed by nobody knows whom
        self._lost: Counter[str] = Counter()  # jobs that nodes have lost
        self._earlier = Earlier(store, self.commands)
        self._question: Question | None = None  # that Slurm hasn't answered yet
        self._began = self._news = self._asked = self._answered = time.monotonic()
        self._looked = 0.0
        self._leave: float | None = None  # when this head lets go of what runs

    def fits(self, needs: Needs) -> bool:
        """Tell whether a task with these needs could be handed over now."""
        if needs.here:
            return self.local.fits(needs)
        return len(self._gathered) + sum(len(one.waiting) for one in self._waves) < self._room

    def submit(self, task: Task) -> None:
        """Hand over a task: to the head's own machine, or to the next wave, unless another head had submitted it."""
        if not task.apart:
            self.local.submit(task)
        elif not OTHERWISE.isdisjoint(task.command) or not self._take_up(task):
            self._gathered.append(task)

    def poll(self, seconds: float) -> list[Told | Ended]:
        """Return what was heard since the last call."""
        self._withdraw()
        self._forget()
        self._send()
        now = time.monotonic()
        if now - self._looked >= (QUICK if now - self._news < WHILE else SLOW):
            self._looked = now
            for one in self._waves:
                self._told.extend(self._look(one))
        self._ask(now)
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
            one.part()
        self._waves = []
        self._earlier.tidy()

    def _cancel_all(self) -> None:
        """Cancel what runs elsewhere. Raises DdmakeError where Slurm doesn't answer."""
        try:
            if any(one.wave.id is None for one in self._waves):
                self._take_ids(self.commands.by_token())
            self.commands.cancel(job for one in self._waves if one.waiting and (job := one.wave.id) is not None)
        except NoAnswer as why:
            raise DdmakeError(f"{why}: some jobs may go on. Try again in a while: ddmake cancel") from None
        for one in self._waves:
            one.heard.update(range(len(one.wave.jobs)))

    def _take_up(self, task: Task) -> bool:
        """Listen to a job that another head has submitted for the same key, and tell whether there is one."""
        wave, number = self._earlier.taken_up(task.key) or (None, 0)
        if wave is None:
            return False
        known = next((one for one in self._waves if one.wave is wave), None)
        if known is None:
            lock = self._earlier.lock(wave, number)
            if lock is None:
                return False
            known = Listened(wave, lock, {}, seen=True, heard=self._earlier.over(wave))
            self._waves.append(known)
        self._earlier.forget(task.key)
        if number in known.heard:
            return False
        if list(wave.options) != arguments(task, self.settings):
            if wave.take(number, {}):  # no task has begun with it, and now none will
                known.heard.add(number)
                self._withdrawn.append((wave, number))
                return False
            self._told.append(Told(task, 0, 0, OTHER))
        known.waiting[number] = replace(task, log=wave.jobs[number].log)
        known.share = self.settings.jobs or AT_ONCE
        return True

    def _withdraw(self) -> None:
        """Take out of the queue what will be submitted otherwise; a task that stays there finds that it has nothing to do."""
        jobs, self._withdrawn = self._withdrawn, []
        with suppress(NoAnswer):
            self.commands.cancel({job if wave.packed else f"{job}_{number}" for wave, number in jobs
                                  if (job := wave.id) is not None and (not wave.packed or len(wave.begun()) == len(wave.jobs))})

    def _send(self) -> None:
        """Submit what was gathered, as far as there is room: together what asks for the same."""
        if not self._gathered or time.monotonic() < self._later:
            return
        alike: dict[tuple[str, ...], list[Task]] = {}
        for task in self._gathered:
            alike.setdefault((*arguments(task, self.settings), str(self._packs(task))), []).append(task)
        self._gathered = []
        for (*options, packs), tasks in alike.items():
            self._send_alike(tasks, options, packs == "True")

    def _packs(self, task: Task) -> bool:
        small = task.needs.seconds is None and not task.needs.gpus and not task.trains and not task.alone
        return self.settings.pack and small

    def _send_alike(self, tasks: list[Task], options: list[str], packs: bool) -> None:
        """Submit tasks as arrays of the length that is allowed, and hold back those for which there is no room."""
        while tasks:
            room = self._free()
            if room < 1:
                return self._hold(tasks, f"waits for others to end (-j {self.settings.jobs})")
            if time.monotonic() < self._later:
                return self._hold(tasks, self._limit)
            width = min(len(tasks), self._most or self.commands.most, room if packs else len(tasks))
            now = tasks if packs else tasks[:width]
            try:
                self._submit(now, width, packs, options, room)
            except Full as why:
                if width == 1:
                    self._later, self._limit = time.monotonic() + FULL, f"waits for room in the queue ({why})"
                    return self._hold(tasks, self._limit)
                self._most = width // 2
            else:
                self._most = self._most and self._most * 2
                tasks = tasks[len(now):]

    def _free(self) -> int:
        """Return how many tasks may be started beside those of all waves."""
        if self.settings.jobs is None:
            return AT_ONCE
        return self.settings.jobs - sum(one.running for one in self._waves)

    def _hold(self, tasks: list[Task], why: str) -> None:
        """Keep tasks for later, and tell why."""
        self._gathered += tasks
        self._told.extend(Told(task, 0, 0, why) for task in tasks if self._held.get(task.name) != why)
        self._held |= dict.fromkeys((task.name for task in tasks), why)

    def _submit(self, tasks: list[Task], width: int, packs: bool, options: list[str], share: int) -> None:
        """Submit a wave. Raises Full, and leaves nothing then."""
        wave, lock = waves.new(self.store, tasks, width, packs, options)
        self._earlier.known.add(wave.token)
        one = Listened(wave, lock, dict(enumerate(tasks)), share)
        self._waves.append(one)
        try:
            self._hand_over(one)
        except Full:
            self._waves.remove(one)
            wave.remove()
            one.part()
            raise

    def _hand_over(self, one: Listened) -> None:
        """Submit a wave. Where Slurm doesn't answer it may have it all the same: a later query finds it by its token.

        Raises Full.
        """
        try:
            bad = sorted(node for node, lost in self._lost.items() if lost >= BAD)
            one.wave.submitted(self.commands.submit(of_wave(one.wave, one.share, bad), script(one.wave)))
        except NoAnswer as why:
            self._told.extend(one.say(f"{why}; trying on"))
        except Refused as error:
            if self._lost:  # perhaps for the nodes that were to be left out
                self._lost.clear()
                return self._hand_over(one)
            failed = {"word": "failed", "told": f"Slurm refuses its job: {error}", "exit_code": 1, "again": False}
            self._told.extend(Ended(one.hear(number), "", failed) for number in list(one.waiting))
        one.since = time.monotonic()

    def _look(self, one: Listened) -> Iterator[Told | Ended]:
        """Yield what the files of a wave tell."""
        try:
            for task, result, far in one.results():
                yield self._goes_on(task, result, far) if result["word"] == "again" else Ended(task, "", result)
            yield from one.progress()
        except FileNotFoundError:
            gone = {"word": "failed", "told": f"{one.wave.folder} was removed while it ran", "exit_code": 1, "again": False}
            yield from [Ended(one.hear(number), "", gone) for number in list(one.waiting)]

    def _goes_on(self, task: Task, result: Mapping[str, Any], far: tuple[int, int, str]) -> Told | Ended:
        """Submit a training again whose time was over; one that would need too many jobs like this has too little."""
        gained, (done, total, _) = result.get("gained", 0), far
        if not gained or (total - done) / gained > MOST:
            return Ended(task, result["told"], short="time")
        return self._again(task, result["told"], "goes on in the next job")

    def _again(self, task: Task, why: str, what: str) -> Told | Ended:
        """Submit a job again, unless this head is about to leave."""
        if self._leave is not None:
            return Ended(task, why, left=True)
        self._gathered.append(_anew(task))
        return Told(task, 0, 0, f"{why}; {what}")

    def _ask(self, now: float) -> None:
        """Ask Slurm in a while which tasks there are; once it has answered, see to the jobs that have none."""
        if self._question is None:
            every = next(every for until, every in ASKS if now - self._began < until)
            if now - self._asked >= every and self._waves:
                self._asked = now
                self._question = Question(self.commands, any(one.wave.id is None for one in self._waves))
        elif self._question.answered:
            question, self._question = self._question, None
            self._take_answer(question)

    def _take_answer(self, question: Question) -> None:
        """See to what has gone from the queue. Where Slurm didn't answer nothing is known, and nothing done."""
        if question.queue is None:
            silent = time.monotonic() - self._answered
            for one in self._waves if silent >= SILENT else ():
                self._told.extend(one.say(f"Slurm doesn't answer ({question.why}); what runs goes on"))
            return
        self._answered = time.monotonic()
        known = [one for one in self._waves if one.since < question.began]
        if question.tokens:
            self._find_lost_ids(known, question.ids)
        try:
            self._compare([one for one in known if one.since < question.began], question.queue)
            self._widen()
        except (NoAnswer, Refused):
            return

    def _take_ids(self, ids: Mapping[str, str]) -> None:
        for one in self._waves:
            if one.wave.id is None and one.wave.token in ids:
                one.wave.submitted(ids[one.wave.token])

    def _find_lost_ids(self, known: Sequence[Listened], ids: Mapping[str, str]) -> None:
        """Note the ids that weren't told when waves were submitted; what Slurm doesn't know is submitted again."""
        self._take_ids(ids)
        for one in known:
            if one.wave.id is None and time.monotonic() - one.since > GRACE:
                try:
                    self._hand_over(one)
                except Full as why:
                    self._told.extend(one.say(f"waits for room in the queue ({why})"))

    def _compare(self, known: Sequence[Listened], queue: Mapping[str, State]) -> None:
        """See which jobs have no task in the queue. Raises NoAnswer."""
        for one in known:
            job = one.wave.id
            if job is None:
                continue
            alive = {task: state for task, state in queue.items() if task.partition("_")[0] == job and state.word not in OVER}
            one.seen = one.seen or bool(alive)
            if one.seen or time.monotonic() - one.since > GRACE:
                self._told.extend(one.waits(alive))
                self._missing(one, job, one.lost(alive))

    def _missing(self, one: Listened, job: str, lost: Mapping[int, Mapping[str, Any]]) -> None:
        """See to the jobs of a wave that have neither a result nor a task that would write one. Raises NoAnswer."""
        if not lost:
            return
        told = self.commands.ended(job)
        done = one.wave.ended()  # it may have come meanwhile
        for number, by in lost.items():
            name, state = explained(told, job if by["task"] is None else f"{job}_{by['task']}")
            printed = one.wave.printed(name)
            state = after_printing(state, printed)
            if number not in done and not one.may_come(number, state):
                task = one.hear(number)
                _keep(task.log, printed)
                before = self._anew[task.key], self._kills[task.key]
                self._end_lost(task, fate(state, by["node"], *before, by["begun"], one.wave.packed), by["node"])

    def _widen(self) -> None:
        """Let waves have the room that others don't need any more, where -j says how many tasks may run. Raises NoAnswer."""
        for one in self._waves if self.settings.jobs is not None else ():
            more = min(self._free(), min(one.wave.tasks, len(one.waiting)) - one.share)
            if more > 0 and (job := one.wave.id) is not None:
                self.commands.throttle(job, one.share + more)
                one.share += more

    def _end_lost(self, task: Task, found: Fate, node: str) -> None:
        """End a job that left no result, or submit it again where it isn't to blame."""
        if found.again:
            self._anew[task.key] += found.counts
            self._kills[task.key] += found.killed
            if found.broken:
                self._lost[node] += 1
            self._told.append(self._again(replace(task, alone=task.alone or found.alone), found.how, "submitted again"))
        else:
            self._told.append(Ended(task, found.how, short=found.short))

    def _forget(self) -> None:
        """Part from the waves of which nothing is to be heard any more, now that what was heard is taken in."""
        for one in self._waves:
            one.settle()
        for one in [one for one in self._waves if not one.waiting]:
            one.part()
            self._waves.remove(one)

    def _let_go(self) -> None:
        """Leave what runs elsewhere to a later head."""
        for one in self._waves:
            self._told.extend(Ended(task, "it goes on on the cluster", left=True) for task in one.waiting.values())
            one.part()
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


def _raise_files() -> int:
    """Let this process open as many files as it may, and return how many that is, less some for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        wanted = soft
    return max(FILES, wanted - 200)
