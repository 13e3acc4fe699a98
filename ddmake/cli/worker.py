"""`ddmake job`: one job in a process of its own, its result in a file."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from ddmake.ddfile.load import load
from ddmake.ddfile.modules import forget
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdmakeError
from ddmake.store import open_store

EVERY = 0.2  # seconds between two writings of progress


def work(file: Path, target: str, knobs: dict[str, str], key: str, result: Path) -> int:
    """Do a job and write how it ended; return the exit code."""
    from ddmake.engine.job import perform

    _die_with_head()
    signal.signal(signal.SIGTERM, _stop)
    flow = load(file, **knobs)
    os.chdir(flow.root)

    def reload() -> Workflow:
        forget(flow.root)
        return load(file, **knobs)

    try:
        outcome = perform(flow, open_store(flow.root), flow[target].rule, key, _Teller(result.with_suffix(".progress")), reload)
    except DdmakeError as error:
        print(error, flush=True)
        _write(result, {"word": "failed", "told": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except Stopped:
        return 143
    except Exception as error:  # a full disk, or a defect of ddmake's: the head has to hear of it all the same
        traceback.print_exc()
        _write(result, {"word": "failed", "told": f"{type(error).__name__}: {error}", "exit_code": 1})
        return 1
    _write(result, {"word": outcome.word, "trace": outcome.trace.id})
    return 0


class Stopped(BaseException):
    """The head asks this process to end."""


def _stop(*_: object) -> NoReturn:
    raise Stopped


class _Teller:
    """Writes progress to a file, not too often."""

    def __init__(self, file: Path):
        self.file, self.last = file, 0.0

    def __call__(self, done: int, total: int, note: str) -> None:
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            _write(self.file, {"done": done, "total": total, "note": note})


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
