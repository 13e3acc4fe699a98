"""A run: hands stale jobs to an executor as their inputs settle, and tells an observer what becomes of them.

A job that is too big for what is free waits, and smaller ones overtake it; after so many, nothing else starts until it has.
"""

import json
import os
import shutil
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Planner
from ddmake.engine.resources import ANY, WAITING, local_models, needs
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.executors.base import Ended, Executor, Needs, Task
from ddmake.fingerprint import hashes
from ddmake.store import Store
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
        self._tries: dict[Rule, int] = {}
        self._broken: dict[Rule, str] = {}  # rules that can't be made any more, with the reason to tell
        self._failed = False
        self._asked, self._stopped = False, False  # whether the user wants the run to end; whether the jobs were told

    def go(self) -> list[Done]:
        """Make what is stale, and return what became of every rule."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "head").write_text(str(os.getpid()))  # tells `clean` whether anybody still needs the folder
        self.planner.read_anew()
        try:
            while self._frontier.ready or self._held or self._under_way:
                self._submit()
                self._collect()
        finally:
            self.executor.close()
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
        while (chosen := self._next()) is not None:
            rule, verdict = chosen
            task = self._task(rule, verdict)
            self._under_way[task.name] = (rule, verdict, task)
            self.executor.submit(task)
            self.observer.started(rule, verdict.word)

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
            elif self.executor.fits(asked := _needs(verdict)):
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
        name = hashes.of_value(rule.label)[:16]
        result = self._folder / f"{name}.json"
        command = [*self._command, f"./{rule.label}", "--key", str(verdict.key), "--result", str(result),
                   *(["--force"] if rule in self.planner.forced else []), *(["--retry"] if rule in self.planner.retried else []),
                   *(["--caller", self.caller] if self.caller else [])]
        making = verdict.word == "make"
        trains, foreign = making and rule.recipe.kind == "train", making and not rule.recipe.packaged
        what = str(verdict.key)[:8] + ("" if making else f"-{verdict.word}")  # what made a result is told from what put it back
        log = self.store.folder / "logs" / rule.label / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}.log"
        return Task(name, command, self.flow.root, log, result, _needs(verdict),
                    _environment(rule, rule.options.cpus or self.threads), local_models(rule) if making else frozenset(),
                    trains=trains, alone=trains and (foreign or _many(rule)), foreign=foreign)

    def _collect(self) -> None:
        """Hear which jobs have ended, and how far the others are."""
        if not self._under_way:
            return
        for told in self.executor.poll(POLL):
            if isinstance(told, Ended):
                self._take_in(told)
            else:
                self.observer.progress(self._under_way[told.task.name][0], told.done, told.total, told.note)

    def _take_in(self, ended: Ended) -> None:
        """Take in how a job ended; one that failed and may be tried again is held for that."""
        rule, verdict, task = self._under_way.pop(ended.task.name)
        done = self._outcome(rule, task, ended)
        tries = self._tries[rule] = self._tries.get(rule, 0) + 1
        if done.word == "failed" and done.again and tries <= rule.options.retries and not self._ending:
            self.observer.again(rule, done.told)
            self._held.setdefault(task.needs, deque()).appendleft((rule, verdict))
            return
        if done.word == "failed" and tries > 1:
            done = replace(done, told=f"{done.told} (tried {tries} times)")
        self._end(replace(done, tries=tries))

    def _outcome(self, rule: Rule, task: Task, ended: Ended) -> Done:
        """Return what became of a job by its result; where there is none, the job was lost."""
        result = ended.result or _read(task.result)
        if result is None and self._stopped:
            return Done(rule, "not run", "stopped")
        if result is None:
            limit = f"it ran longer than its time={rule.options.time!r} and was stopped; raise `time` if it needs more"
            told = limit if ended.late else f"its process ended without a result ({ended.how})"
            return Done(rule, "failed", told, log=task.log, exit_code=1, again=True)
        if result["word"] == "failed":
            return Done(rule, "failed", result["told"], log=task.log, exit_code=result["exit_code"], again=result["again"])
        trace = self.store.traces.by_id(result["trace"])
        assert trace is not None, f"{rule.label} ended without a trace"
        self.planner.settle(Verdict(rule, "fresh", trace=trace))
        return Done(rule, result["word"], trace=trace, log=task.log)

    def _end(self, done: Done) -> None:
        """Note what became of a rule, and set free those behind it."""
        self.results.append(done)
        self.observer.ended(done)
        self._failed = self._failed or done.word == "failed"
        if done.word in BROKEN and any(rule not in self._broken for rule in self.plan.graph.after(done.rule)):
            for rule in self.plan.graph.behind([done.rule]):
                self._broken.setdefault(rule, f"behind {done.rule.label}, {BROKEN[done.word]}")
        self._frontier.done(done.rule)


def _needs(verdict: Verdict) -> Needs:
    """Return what a job needs; putting something back into place needs nothing."""
    return needs(verdict.rule) if verdict.word == "make" else ANY


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
