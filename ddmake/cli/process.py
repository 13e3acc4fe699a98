"""The process of a worker: its pipes to the head, and what of it is put back between two jobs.

Put back are the working directory, the environment, the standard streams, signal handlers, the file mode mask, limits
and the random states. What a job leaves in the memory of libraries stays.
"""

import atexit
import io
import json
import os
import queue
import random
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGCHLD, signal.SIGPIPE)  # signals that a recipe might handle
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
TORCH_SEED = 67280421310721  # what torch itself begins with (c10::detail::default_rng_seed_val)


class Process:
    """This process, as a worker's. From now on nothing that is printed reaches the head's pipes."""

    def __init__(self) -> None:
        self._jobs, self._answers = os.dup(0), os.dup(1)
        self._nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(self._nothing, 0)  # a recipe that reads its input finds none, and doesn't wait for ever
        os.dup2(2, 1)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._given, self._done = 0, 0
        self._env, self._mask = dict(_environment()), _mask()
        self._limits, self._depth = {limit: resource.getrlimit(limit) for limit in LIMITS}, sys.getrecursionlimit()
        self._handlers = {number: signal.getsignal(number) for number in HANDLED}
        threading.Thread(target=self._listen, daemon=True).start()

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Yield jobs as they come, until the head has no more; each is to be ended before the next."""
        while (line := self._lines.get()) is not None:
            told = json.loads(line)
            self._begin(told["folder"], told["log"])
            yield told

    def end(self, result: dict[str, Any]) -> None:
        """Put back what a job has changed, and tell its result; where something can't be put back, this was the last job."""
        try:
            self._put_back()
            last = False
        except Exception:  # a limit that was lowered for good, say
            last = True
        self._done += 1
        self.say({"result": result, "last": last})
        if last:
            self.leave(0)

    def say(self, told: dict[str, Any]) -> None:
        """Tell the head something. A head that is gone hears nothing, and this process ends by it."""
        try:
            os.write(self._answers, json.dumps(told).encode() + b"\n")
        except BrokenPipeError:
            pass

    def leave(self, code: int) -> NoReturn:
        """End the process: libraries clean up behind them, and nobody is waited for."""
        atexit._run_exitfuncs()
        os._exit(code)

    def _listen(self) -> None:
        """Take in jobs. Where the head ends during one, this process ends, and with it all that its job has started."""
        with open(self._jobs, "rb") as lines:
            for line in lines:
                self._given += 1
                self._lines.put(line)
        if self._given > self._done:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._lines.put(None)

    def _begin(self, folder: str, log: str) -> None:
        """Go to a job's folder, and send what is printed to its log."""
        file = _opened(log)
        for number in (1, 2):
            os.dup2(file, number)
        os.dup2(self._nothing, 0)
        if file > 2:
            os.close(file)
        else:  # the job before has closed standard streams, and the log took the place of one
            os.set_inheritable(file, True)
        sys.stdin = open(0, closefd=False)
        sys.stdout, sys.stderr = self._streams = _Log(1), _Log(2)
        os.chdir(folder)

    def _put_back(self) -> None:
        for stream in self._streams:
            stream.flush()
        if _environment() != self._env:
            os.environb.clear()
            os.environb.update(self._env)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.alarm(0)
        os.umask(self._mask)
        sys.setrecursionlimit(self._depth)
        for limit, was in self._limits.items():
            if resource.getrlimit(limit) != was:
                resource.setrlimit(limit, was)
        _reseed()


def _opened(log: str) -> int:
    """Open a log; where that can't be, what is printed is lost."""
    try:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


class _Log(io.TextIOWrapper):
    """A standard stream into a log, which stays open. No job fails by what a full disk doesn't take of it."""

    def __init__(self, number: int):
        super().__init__(io.BufferedWriter(_Lossy(number, "w", closefd=False)), errors="backslashreplace", line_buffering=True)

    def close(self) -> None:
        """Write what is held back."""
        self.flush()


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _environment() -> dict[bytes, bytes]:
    """Return what os.environ holds, as it holds it: to copy it through its own methods takes a tenth of a small job."""
    return os.environ._data  # type: ignore[attr-defined]


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reseed() -> None:
    """Put random states back to what a new process has: drawn anew, torch's the one that it always begins with."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(TORCH_SEED)
