"""`ddmake job`: one job in a process of its own, its result in a file."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdmakeError
from ddmake.store import open_store

EVERY = 0.2  # seconds between two writings of progress


def work(file: Path, target: str, knobs: dict[str, str], key: str, result: Path) -> int:
    """Do a job and write how it ended; return the exit code."""
    from ddmake.engine.job import perform

    _die_with_head()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    flow = load(file, **knobs)
    os.chdir(flow.root)
    sys.path.insert(0, str(flow.root))  # what the Ddfile lies beside is importable in recipes' bodies too

    def reload() -> Workflow:
        return load(file, **knobs)

    try:
        outcome = perform(flow, open_store(flow.root), flow[target].rule, key, _Teller(result.with_suffix(".progress")), reload)
    except DdmakeError as error:
        print(error, flush=True)
        _write(result, {"word": "failed", "told": str(error), "exit_code": error.exit_code})
        return error.exit_code
    _write(result, {"word": outcome.word, "trace": outcome.trace.id})
    return 0


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

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
