"""A run: hands stale jobs to an executor as their inputs settle, and tells an observer what becomes of them."""

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Plan, Planner, Verdict
from ddmake.executors.base import Executor, Task
from ddmake.fingerprint import hashes
from ddmake.store import Store

POLL = 0.1  # seconds between two looks at progress
BROKEN = {"failed": "which failed", "edited": "which was edited", "waiting": "which waits"}


@dataclass(frozen=True)
class Done:
    """What became of a rule: "fresh", "made", "restored", "failed", "not run", "waiting", "edited", "manual"."""

    rule: Rule
    word: str
    told: str = ""  # why, where it isn't good news
    record: Mapping[str, Any] | None = None  # of its trace, where it has one
    log: Path | None = None
    exit_code: int = 0


class Observer(Protocol):
    """Is told of a run as it goes."""

    def started(self, rule: Rule, word: str) -> None:
        """Hear that a rule's job was submitted: to "make" or to "restore"."""

    def progress(self, rule: Rule, done: int, total: int, note: str) -> None:
        """Hear how far a job has come."""

    def ended(self, done: Done) -> None:
        """Hear what became of a rule."""


@dataclass
class Run:
    """One run of a plan."""

    flow: Workflow
    store: Store
    planner: Planner
    plan: Plan
    executor: Executor
    observer: Observer
    keep_going: bool
    cpus: int
    results: list[Done] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folder = self.store.folder / "runs" / uuid4().hex[:12]
        self._left = {id(rule): len(self.plan.graph.before(rule)) for rule in self.plan.graph.order}
        self._ready = deque(rule for rule in self.plan.graph.order if not self._left[id(rule)])
        self._under_way: dict[str, tuple[Rule, Task]] = {}
        self._broken: dict[int, str] = {}  # rules whose targets aren't to be had, with the reason to tell
        self._stopping = False

    def go(self) -> list[Done]:
        """Make what is stale, and return what became of every rule."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            while self._ready or self._under_way:
                self._submit()
                self._collect()
        finally:
            self.executor.cancel([task for _, task in self._under_way.values()])
            for file in self._folder.glob("*"):
                file.unlink()
            self._folder.rmdir()
        return self.results

    def _submit(self) -> None:
        """Decide on the rules whose inputs have settled, and submit what is stale as far as there is room."""
        batch = []
        while self._ready and len(self._under_way) < self.executor.slots:
            rule = self._ready.popleft()
            verdict = self._verdict(rule)
            if isinstance(verdict, Done):
                self._end(verdict)
            elif verdict.word in ("make", "restore"):
                task = self._task(rule, verdict)
                self._under_way[task.name] = (rule, task)
                batch.append(task)
                self.observer.started(rule, verdict.word)
            else:
                self._settle(verdict)
        if batch:
            self.executor.submit(batch)

    def _verdict(self, rule: Rule) -> Verdict | Done:
        broken = next((self._broken[id(b)] for b in self.plan.graph.before(rule) if id(b) in self._broken), None)
        if broken is not None:
            return Done(rule, "not run", broken)
        if self._stopping:
            return Done(rule, "not run", "stopped")
        return self.planner.decide(rule)

    def _settle(self, verdict: Verdict) -> None:
        """Take a verdict that asks for no work."""
        self.planner.settle(verdict)
        record = verdict.trace.record if verdict.trace else None
        code = 1 if verdict.word == "edited" else 0
        self._end(Done(verdict.rule, verdict.word, verdict.reason, record, exit_code=code))

    def _task(self, rule: Rule, verdict: Verdict) -> Task:
        name = hashes.of_value(rule.label)[:16]
        result = self._folder / f"{name}.json"
        knobs = [f"{knob}={_written(value)}" for knob, value in self.flow.given.items()]
        command = [sys.executable, "-m", "ddmake", "-f", str(self.flow.file), "job", f"./{rule.label}", *knobs,
                   "--key", str(verdict.key), "--result", str(result)]
        log = self.store.folder / "logs" / rule.label / f"{time.strftime('%Y%m%d-%H%M%S')}-{str(verdict.key)[:8]}.log"
        threads = str(rule.options.cpus or self.cpus)
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        return Task(name, command, self.flow.root, log, result, rule.options.cpus or self.cpus, env)

    def _collect(self) -> None:
        """Hear which jobs have ended, and how far the others are."""
        if not self._under_way:
            return
        for ended in self.executor.poll(POLL):
            rule, task = self._under_way.pop(ended.task.name)
            self._end(self._outcome(rule, task, ended.how))
        for rule, task in self._under_way.values():
            if told := _read(task.result.with_suffix(".progress")):
                self.observer.progress(rule, told["done"], told["total"], told["note"])

    def _outcome(self, rule: Rule, task: Task, how: str) -> Done:
        """Read a job's result file; where there is none, the job was lost."""
        result = _read(task.result)
        if result is None:
            return Done(rule, "failed", f"its process ended without a result ({how})", log=task.log, exit_code=1)
        if result["word"] == "failed":
            return Done(rule, "failed", result["told"], log=task.log, exit_code=result["exit_code"])
        placed = self.store.traces.at(rule.label)
        assert placed is not None, f"{rule.label} ended without a trace"
        self.planner.settle(Verdict(rule, "fresh", trace=placed[0]))
        return Done(rule, result["word"], record=placed[0].record, log=task.log)

    def _end(self, done: Done) -> None:
        """Note what became of a rule, and set free those behind it."""
        self.results.append(done)
        self.observer.ended(done)
        if done.word == "not run":
            self._broken[id(done.rule)] = done.told
        elif done.word in BROKEN:
            self._broken[id(done.rule)] = f"behind {done.rule.label}, {BROKEN[done.word]}"
        if done.word == "failed" and not self.keep_going:
            self._stopping = True
        for rule in self.plan.graph.after(done.rule):
            self._left[id(rule)] -= 1
            if not self._left[id(rule)]:
                self._ready.append(rule)


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
