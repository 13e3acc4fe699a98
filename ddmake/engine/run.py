"""A run: hands stale jobs to an executor as their inputs settle, and tells an observer what becomes of them.

A job that is too big for what is free waits, and smaller ones overtake it; after so many, nothing else starts until it has.
"""

import json
import os
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import apart, locks, shards
from ddmake.engine.commit import folder_of
from ddmake.engine.plan import Planner
from ddmake.engine.resources import ANY, HERE, WAITING, local_models, needs
from ddmake.engine.shards import Shards
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdmakeError
from ddmake.executors.base import Ended, Executor, Needs, Task
from ddmake.fingerprint import hashes
from ddmake.store import Store, database
from ddmake.store.traces import Trace

POLL = 0.2  # seconds after which a stop that was asked for is seen to
OVERTAKING = 50  # jobs that may start before one that waits for room
TO_DO = ("make", "restore", "adopt")
BROKEN = {"failed": "which failed", "edited": "which was edited", "waiting": "which waits"}


@dataclass(frozen=True)
class Done:
    """What became of a rule: "fresh", "made", "restored", "failed", "not run", "waiting", "edited", "manual"."""

    rule: Rule
    word: str
    told: str = ""  # why, where it isn't good news
    trace: Trace | None = None
    log: Path | None = None
    exit_code: int = 0
    again: bool = False  # whether another try might end better
    tries: int = 0  # how often a job was started for it


class Observer(Protocol):
    """Is told of a run as it goes."""

    def started(self, rule: Rule, word: str) -> None:
        """Hear that a rule's job was submitted: to "make" or to "restore"."""

    def progress(self, rule: Rule, done: int, total: int, note: str) -> None:
        """Hear how far a job has come; a `total` of 0 isn't known, and a note without numbers is a remark."""

    def again(self, rule: Rule, told: str) -> None:
        """Hear that a job failed, and why, and will be tried again."""

    def stopping(self) -> None:
        """Hear that the run ends once what is in flight is finished."""

    def ended(self, done: Done) -> None:
        """Hear what became of a rule."""


@dataclass
class Run:
    """One run of a plan. `threads` is what a job gets whose rule doesn't say how many cores it takes.

    `caller` is where the process is reached that asks services.
    """

    flow: Workflow
    store: Store
    planner: Planner
    plan: Plan
    executor: Executor
    observer: Observer
    keep_going: bool
    threads: int
    caller: str | None = None
    results: list[Done] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folder = self.store.folder / "runs" / uuid4().hex[:12]
        self._command = ["-f", str(self.flow.file), "--edited", self.planner.edited, *self.flow.words()]
        self._frontier = self.plan.graph.frontier()
        self._held: dict[Needs, deque[tuple[Rule, Verdict]]] = {}  # what waits for room, by what it needs
        self._overtaken = 0  # jobs that started while one was held
        self._under_way: dict[str, tuple[Rule, Verdict, Task]] = {}
        self._locks: dict[Rule, locks.Locks] = {}  # of what is made elsewhere: its own machine can't hold them
        self._shards: dict[Rule, tuple[Verdict, Shards]] = {}  # rules that are being made in such
        self._barred: list[Rule] = []  # whose locks another head has
        self._tries: dict[str, int] = {}  # by the name of a task
        self._raised: dict[Rule, Needs] = {}  # what rules need by now, whose jobs lacked time or memory
        self._broken: dict[Rule, str] = {}  # rules that can't be made any more, with the reason to tell
        self._failed = False
        self._asked, self._stopped = False, False  # whether the user wants the run to end; whether the jobs were told
        self.at_once = False  # whether what runs elsewhere is to end with the run, too

    def go(self) -> list[Done]:
        """Make what is stale, and return what became of every rule."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "head").write_text(str(os.getpid()))  # tells `clean` whether anybody still needs the folder
        self.planner.read_anew()
        try:
            while self._frontier.ready or self._held or self._under_way or self._barred or self._shards:
                self._submit()
                self._collect()
        finally:
            self.executor.close(self.at_once)
            for held in self._locks.values():
                locks.release(held)
            shutil.rmtree(self._folder, ignore_errors=True)
        return self.results

    def stop(self) -> None:
        """Ask the run to end: nothing new is started, and jobs end once their requests in flight are answered."""
        self._asked = True

    @property
    def _ending(self) -> bool:
        return self._asked or self._failed and not self.keep_going

    def _submit(self) -> None:
        """Start what is stale and has its inputs settled, as far as there is room."""
        if self._asked and not self._stopped:
            self._stopped = True
            self.observer.stopping()
            self.executor.cancel([task for _, _, task in self._under_way.values()])
        if self._ending:
            self._drop_held()
        for rule in list(self._shards):
            self._go_on(rule)
        self._frontier.ready.extend(self._barred)
        self._barred = []
        while (chosen := self._next()) is not None:
            rule, verdict = chosen
            task = self._task(rule, verdict)
            if task.apart and not self._locked(rule, task):
                self._barred.append(rule)
                continue
            self.observer.started(rule, verdict.word)
            if task.apart and (of := shards.count(rule, self.planner.digest)) > 1:
                self._shards[rule] = (verdict, self._cut(rule, verdict, of))
                self._go_on(rule)
            else:
                self._start(rule, verdict, task)

    def _start(self, rule: Rule, verdict: Verdict, task: Task) -> None:
        self._under_way[task.name] = (rule, verdict, task)
        self.executor.submit(task)

    def _cut(self, rule: Rule, verdict: Verdict, of: int) -> Shards:
        """Return the shards of a rule; what earlier heads' have made of it counts, unless it is to be made anew."""
        folder = folder_of(self.store, str(verdict.key))
        apart.keep_calls(self.store, str(verdict.key), rule in self.planner.retried)
        if rule in self.planner.forced or rule in self.planner.retried:
            shards.forget(folder)
        return Shards(folder, of)

    def _go_on(self, rule: Rule) -> None:
        """Start what a rule has ready of its shards, as far as there is room."""
        verdict, mine = self._shards[rule]
        while mine.ready and rule in self._shards:
            task = mine.task(self._task(rule, verdict), mine.ready[0])
            if self._asked:
                self._close(rule, task, Done(rule, "not run", "stopped"))
            elif self.executor.fits(task.needs):
                self._start(rule, verdict, task)
            else:
                return
            mine.ready.popleft()

    def _locked(self, rule: Rule, task: Task) -> bool:
        """Take the locks of a task that runs elsewhere; where another head has them, tell who."""
        held = locks.take(self.store, locks.names_of(rule, task.key))
        if isinstance(held, str):
            self.observer.progress(rule, 0, 0, held)
            return False
        self._locks[rule] = held
        return True

    def _next(self) -> tuple[Rule, Verdict] | None:
        """Return the next rule to be worked on that there is room for; of those held back, the longest waiting first."""
        for asked in list(self._held)[:1 if self._overtaken >= OVERTAKING else None]:
            if self.executor.fits(asked):
                return self._take(asked)
        if self._overtaken >= OVERTAKING:
            return None
        while self._frontier.ready and self._fits_more():
            rule = self._frontier.ready.popleft()
            verdict = self._verdict(rule)
            if isinstance(verdict, Done):
                self._end(verdict)
            elif verdict.word not in TO_DO:
                self._settle(verdict)
            elif self.executor.fits(asked := self._needs(verdict)):
                self._overtaken += bool(self._held)
                return rule, verdict
            else:
                self._held.setdefault(asked, deque()).append((rule, verdict))
        return None

    def _fits_more(self) -> bool:
        """Tell whether anything that is ready might start."""
        return self.executor.fits(ANY) or self.caller is not None and self.executor.fits(WAITING)

    def _take(self, asked: Needs) -> tuple[Rule, Verdict]:
        """Take one from those held back for the same needs; the others of these then wait behind the rest."""
        first = next(iter(self._held)) == asked
        self._overtaken = 0 if first else self._overtaken + 1
        waiting = self._held.pop(asked)
        chosen = waiting.popleft()
        if waiting:
            self._held[asked] = waiting
        return chosen

    def _drop_held(self) -> None:
        for waiting in self._held.values():
            for rule, _ in waiting:
                self._end(Done(rule, "not run", "stopped"))
        self._held, self._overtaken = {}, 0

    def _verdict(self, rule: Rule) -> Verdict | Done:
        broken = self._broken.get(rule)
        if broken is not None:
            return Done(rule, "not run", broken)
        if self._ending:
            return Done(rule, "not run", "stopped")
        return self.planner.decide(rule)

    def _settle(self, verdict: Verdict) -> None:
        """Take a verdict that asks for no work."""
        self.planner.settle(verdict)
        code = 1 if verdict.word == "edited" else 0
        self._end(Done(verdict.rule, verdict.word, verdict.reason, verdict.trace, exit_code=code))

    def _task(self, rule: Rule, verdict: Verdict) -> Task:
        name, asked, making = hashes.of_value(rule.label)[:16], self._needs(verdict), verdict.word == "make"
        trial = uuid4().hex[:12] if self.executor.away and making and not asked.here else ""
        result = self._folder / f"{name}.json"
        command = [*self._command, f"./{rule.label}", "--key", str(verdict.key), "--result", str(result),
                   *(["--force"] if rule in self.planner.forced else []), *(["--retry"] if rule in self.planner.retried else []),
                   *(["--apart", trial] if trial else ["--caller", self.caller] if self.caller else [])]
        trains, foreign = making and rule.recipe.kind == "train", making and not rule.recipe.packaged
        what = str(verdict.key)[:8] + ("" if making else f"-{verdict.word}")  # what made a result is told from what put it back
        log = self.store.folder / "logs" / rule.label / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}.log"
        return Task(name, command, self.flow.root, log, result, asked,
                    _environment(rule, rule.options.cpus or self.threads), local_models(rule) if making else frozenset(),
                    trains=trains, alone=trains and (foreign or _many(rule)), foreign=foreign,
                    apart=trial, label=rule.label, key=str(verdict.key), asks=tuple(sorted(rule.options.slurm.items())))

    def _needs(self, verdict: Verdict) -> Needs:
        """Return what a job needs; putting something back into place needs nothing."""
        return self._raised.get(verdict.rule) or needs(verdict.rule) if verdict.word == "make" else HERE

    def _collect(self) -> None:
        """Hear which jobs have ended, and how far the others are."""
        if not self._under_way:
            if self._barred:
                time.sleep(POLL)
            return
        for told in self.executor.poll(POLL):
            if isinstance(told, Ended):
                self._take_in(told)
            else:
                rule = self._under_way[told.task.name][0]
                far = self._shards[rule][1].heard(told) if rule in self._shards else (told.done, told.total, told.note)
                self.observer.progress(rule, *far)

    def _take_in(self, ended: Ended) -> None:
        """Take in how a job ended; one that failed and may be tried again is held for that, and gets more of what it lacked."""
        rule, verdict, task = self._under_way.pop(ended.task.name)
        done = self._outcome(rule, ended.task, ended)  # which knows its log, where an earlier head had submitted it
        tries = self._tries[task.name] = self._tries.get(task.name, 0) + 1
        if done.word == "failed" and done.again and tries <= rule.options.retries and not self._ending:
            self.observer.again(rule, done.told)
            mine = self._shards[rule][1] if rule in self._shards else None
            if mine is not None:
                mine.ready.append(mine.numbers[task.name])
            if mine is None or mine.numbers[task.name] is not None:  # what joins shards needs nothing that the rule says
                self._raised[rule] = _more(task.needs, ended.short)
            if mine is None:
                locks.release(self._locks.pop(rule, []))
                self._held.setdefault(self._raised[rule], deque()).appendleft((rule, verdict))
            return
        if done.word == "failed" and tries > 1:
            done = replace(done, told=f"{done.told} (tried {tries} times)")
        self._close(rule, task, replace(done, tries=tries))

    def _close(self, rule: Rule, task: Task, done: Done) -> None:
        """Take in what became of a task in the end, and with it, where nothing more is to be done for it, of its rule."""
        if rule in self._shards:
            mine = self._shards[rule][1]
            whole = mine.take(mine.numbers[task.name], done)
            if whole is None:
                return
            del self._shards[rule]
            if whole.word == "failed":
                whole = replace(whole, told=self._with_calls(rule, task, whole.told))
            done = whole
        locks.release(self._locks.pop(rule, []))
        self._end(done)

    def _outcome(self, rule: Rule, task: Task, ended: Ended) -> Done:
        """Return what became of a job by its result; where there is none, the job was lost."""
        result = ended.result or _read(task.result)
        if result is None and (self._stopped or ended.left):
            return Done(rule, "not run", ended.how if ended.left else "stopped")
        if result is None or result["word"] == "failed":
            told = result["told"] if result is not None else _lost(task.needs, rule, ended)
            told = self._with_calls(rule, task, told) if task.apart and rule not in self._shards else told
            code, again = (result["exit_code"], result["again"]) if result is not None else (1, True)
            return Done(rule, "failed", told, log=task.log, exit_code=code, again=again)
        if result["word"] == "part":
            return Done(rule, "part", log=task.log)
        try:
            trace = self._trace(rule, result)
        except (DdmakeError, OSError, sqlite3.DatabaseError) as error:  # of what was made elsewhere, and is committed here
            told = f".ddmake: {database.told(error)}" if isinstance(error, sqlite3.DatabaseError) else str(error)
            return Done(rule, "failed", told, log=task.log, exit_code=1)
        self.planner.settle(Verdict(rule, "fresh", trace=trace))
        return Done(rule, result["word"], trace=trace, log=task.log)

    def _with_calls(self, rule: Rule, task: Task, told: str) -> str:
        """Take in the answers of a job that has failed, and return what is told of it, be it that they can't be."""
        why = apart.keep_calls(self.store, task.key, rule in self.planner.retried)
        return f"{told}; its answers can't be taken in: {why}" if why and why not in told else told

    def _trace(self, rule: Rule, result: Mapping[str, Any]) -> Trace:
        """Return the trace of a job that ended well; one that ran elsewhere is committed for it."""
        if "made" in result:
            return apart.commit(self.store, rule, result["made"], rule in self.planner.retried)
        trace = self.store.traces.by_id(result["trace"])
        assert trace is not None, f"{rule.label} ended without a trace"
        return trace

    def _end(self, done: Done) -> None:
        """Note what became of a rule, and set free those behind it."""
        self.results.append(done)
        self.observer.ended(done)
        self._failed = self._failed or done.word == "failed"
        if done.word in BROKEN and any(rule not in self._broken for rule in self.plan.graph.after(done.rule)):
            for rule in self.plan.graph.behind([done.rule]):
                self._broken.setdefault(rule, f"behind {done.rule.label}, {BROKEN[done.word]}")
        self._frontier.done(done.rule)


def _more(had: Needs, short: str) -> Needs:
    """Return needs with twice of what a job had too little of."""
    if short == "time" and had.seconds:
        return replace(had, seconds=had.seconds * 2)
    return replace(had, memory=had.memory * 2) if short == "memory" and had.memory else had


def _lost(had: Needs, rule: Rule, ended: Ended) -> str:
    """Return what is said of a job that left no result."""
    if ended.short == "time":
        limit = f"{_times(had.seconds, needs(rule).seconds)}its time={rule.options.time!r}" if had.seconds else "it may there"
        return f"it ran longer than {limit} and was stopped; raise `time` if it needs more"
    if ended.short == "memory":
        limit = f"{_times(had.memory, needs(rule).memory)}mem={rule.options.mem!r}" if had.memory else "it was given"
        return f"{ended.how}it took more memory than {limit}; raise `mem`"
    return f"its process ended without a result ({ended.how})"


def _times(had: float | None, asked: float | None) -> str:
    """Return how often what a rule asks for a job had, where it had it several times."""
    return f"{had / asked:.0f} × " if had and asked and had > asked else ""


def _environment(rule: Rule, threads: int) -> dict[str, str]:
    """Return what a job's process finds in its environment beside the head's."""
    found = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if rule.options.gpus:
        found["DDMAKE_GPUS"] = str(rule.options.gpus)
    if rule.arguments.get("deterministic"):
        found["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # is read once, when a GPU is first used
    return found


def _many(rule: Rule) -> bool:
    """Tell whether a training starts processes of its own, which they do by a fork: nothing may have computed before."""
    return int(rule.arguments.get("processes") or rule.options.gpus or 1) > 1


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
