"""The process of a worker: its pipes to the head, and what of it is put back between two jobs.

Put back are the working directory, the environment, the standard streams, signal handlers, the file mode mask and the
random states. What a job leaves in the memory of libraries stays.
"""

import atexit
import json
import os
import queue
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGCHLD, signal.SIGPIPE)  # signals that a recipe might handle
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
        self._env, self._mask = dict(os.environb), _mask()
        self._handlers = {number: signal.getsignal(number) for number in HANDLED}
        threading.Thread(target=self._listen, daemon=True).start()

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Yield jobs as they come, until the head has no more; what was changed by one is put back before the next."""
        while (line := self._lines.get()) is not None:
            told = json.loads(line)
            self._begin(told["folder"], told["log"])
            yield told
            self._put_back()
            self._done += 1

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
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(self._nothing, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        sys.stdin = open(0, closefd=False)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, errors="backslashreplace", closefd=False) for fd in (1, 2))
        os.chdir(folder)

    def _put_back(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
        if dict(os.environb) != self._env:
            os.environb.clear()
            os.environb.update(self._env)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.alarm(0)
        os.umask(self._mask)
        _reseed()


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
