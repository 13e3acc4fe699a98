"""`ddmake job`, one job in a process of its own, and `ddmake worker`, one job after another."""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddmake.backends import offline, stopping
from ddmake.cli.process import Process
from ddmake.ddfile.load import load
from ddmake.ddfile.modules import forget
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.watched import forget_answers, watched
from ddmake.errors import DdfileError, DdmakeError, MissingExtra, NotStored, PlanAgain, ProviderError
from ddmake.store import Store, database, open_store, secrets
from ddmake.trainers.pausing import Paused

if TYPE_CHECKING:
    from ddmake.engine.job import Order

EVERY = 0.2  # seconds between two tellings of progress
FINAL = (DdfileError, MissingExtra, NotStored, PlanAgain, ProviderError)  # what another try would meet, too

Result = dict[str, Any]
Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """A job as its command line names it."""

    file: Path
    given: dict[str, Any]  # what the Ddfile is loaded with
    target: str
    order: "Order"


def work(job: Job, result: Path) -> int:
    """Do one job and write how it ended; return the exit code."""
    _die_with_head()
    offline.heed()
    progress = result.with_suffix(".progress")
    signal.signal(signal.SIGTERM, lambda *_: stopping.ask(lambda: None))
    try:
        ended = Workshop().do(job, _Teller(lambda told: _write(progress, told)))
    except stopping.Stopped:
        return 143
    _write(result, ended)
    return ended.get("exit_code", 0)


def serve(parse: Callable[[list[str]], Job]) -> NoReturn:
    """Do the jobs that a head hands over as command lines of `ddmake job`, until it has no more."""
    offline.heed()
    process, shop = Process(), Workshop()
    for told in process.jobs():
        signal.signal(signal.SIGTERM, lambda *_: stopping.ask(lambda: process.say({"finishing": True})))
        try:
            ended = shop.do(parse(told["job"]), _Teller(process.say))
        except stopping.Stopped:
            process.leave(143)
        process.end(ended)
    process.leave(0)


@dataclass
class Workshop:
    """What a process keeps from one job to the next: the store, and the workflow as it was loaded last."""

    _loaded: tuple[Path, dict[str, Any]] | None = None  # the Ddfile, and what it was loaded with
    _flow: Workflow | None = None
    _files: dict[str, str] = field(default_factory=dict)  # that it was read from, by their hashes
    _path: list[str] = field(default_factory=list)  # where modules are looked for
    _stores: dict[tuple[Path, bool], Store] = field(default_factory=dict)  # by the project, and whether it is there to be read

    def do(self, job: Job, tell: "_Teller") -> Result:
        """Do a job, and return how it ended."""
        process = os.getpid()
        try:
            return self._perform(job, tell)
        except Paused as paused:
            return {"word": "again", "told": f"its time is over at step {paused.step}", "gained": paused.gained}
        except DdmakeError as error:
            print(secrets.hidden(str(error)), flush=True)
            code = 1 if isinstance(error, DdfileError) else error.exit_code  # found in a job, it's that job's failure
            return _failed(str(error), code, not isinstance(error, FINAL))
        except sqlite3.DatabaseError as error:
            return _failed(f".ddmake: {database.told(error)}", 1, True)
        except OSError as error:
            return _failed(f"{error.filename or job.target}: {error.strerror or error}", 1, True)
        except Exception as error:  # a defect of ddmake's: the head has to hear of it all the same
            print(secrets.hidden(traceback.format_exc()), flush=True)
            return _failed(f"{type(error).__name__}: {error}", 1, True)
        finally:
            if os.getpid() != process:
                os._exit(1)  # a recipe forked, and this is its child, which has no business here

    def _perform(self, job: Job, tell: "_Teller") -> Result:
        """Do a job on the workflow that is loaded, or on the Ddfile as it is on disk.

        An earlier job may have changed something in memory that a later one reads: its key then isn't the one that it
        was planned under, and the Ddfile is loaded anew.
        """
        if self._flow is not None and self._loaded == (job.file, job.given) and self._unchanged(self._flow, job):
            try:
                return self._on(self._flow, job, tell)
            except (PlanAgain, DdfileError):
                pass
        return self._on(self._load(job), job, tell)

    def _on(self, flow: Workflow, job: Job, tell: "_Teller") -> Result:
        from ddmake.engine.job import perform

        os.chdir(flow.root)
        sys.path[:] = self._path
        forget_answers()
        rule = flow[job.target].rule
        with _as_new(job) if rule.recipe.kind == "train" else nullcontext():
            outcome = perform(flow, self._files, self._store(flow, job), rule, job.order, tell, lambda: self._load(job))
        if outcome.made is not None:
            return {"word": outcome.word, "made": asdict(outcome.made)}
        return {"word": outcome.word, "trace": outcome.trace.id if outcome.trace else None}

    def _load(self, job: Job) -> Workflow:
        """Load the Ddfile as it is on disk."""
        if self._flow is not None:
            for file in self._flow.files:
                forget(file.parent)
        self._flow = None
        flow = load(job.file, **job.given)
        self._files, self._path = watched(flow, self._store(flow, job)), list(sys.path)
        self._flow, self._loaded = flow, (job.file, job.given)
        return flow

    def _unchanged(self, flow: Workflow, job: Job) -> bool:
        """Tell whether the files that a workflow was read from are as they were; modules loaded since are no change."""
        now = watched(flow, self._store(flow, job))
        same = all(now.get(path) == sha for path, sha in self._files.items())
        self._files = now
        return same

    def _store(self, flow: Workflow, job: Job) -> Store:
        """Return the project's store; one on another machine than its head's is there to be read."""
        which = flow.root, job.order.apart is not None
        if which not in self._stores:
            self._stores[which] = open_store(flow.root, to_read=which[1])
        return self._stores[which]


@contextmanager
def _as_new(job: Job) -> Iterator[None]:
    """Have a training find a process as if it was new, and leave it so, for the next one to begin without the imports.

    It may start processes of its own, which load the Ddfile.
    """
    os.environ["DDMAKE_LOADED"] = json.dumps({"file": str(job.file), "given": job.given})
    with warnings.catch_warnings():
        _put_back()
        yield
        _put_back()


def _put_back() -> None:
    if "torch" in sys.modules:
        from ddmake.trainers.warm import as_new

        as_new()


def _failed(told: str, code: int, again: bool) -> Result:
    return {"word": "failed", "told": secrets.hidden(told), "exit_code": code, "again": again}


class _Teller:
    """Tells progress, not too often."""

    def __init__(self, say: Say):
        self.say, self.last = say, 0.0

    def __call__(self, done: int, total: int, note: str) -> None:
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            self.say({"done": done, "total": total, "note": note[:500]})


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all; a head that is gone has taken the folder along."""
    scratch = file.with_suffix(".part")
    try:
        with scratch.open("w") as opened:
            json.dump(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(scratch, file)
    except FileNotFoundError:
        pass


def _die_with_head() -> None:
    """End this process group when the head does: its end of our standard input is then closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return
    pipe = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)  # a recipe that reads its input finds none, and doesn't wait for ever
    os.close(empty)

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
