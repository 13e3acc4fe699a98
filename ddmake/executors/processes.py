"""How a worker's process is started: as a new program, or, where this one is as good as new, as a copy of it."""

import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn, Protocol

COMMAND = [sys.executable, "-m", "ddmake"]
WORKER = "worker"  # the command of ddmake's that a worker runs
SLICE = 0.05  # seconds between two looks at a copy that is waited for


class Started(Protocol):
    """A process that leads a group of its own; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, less than 0 where a signal has ended it; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        ...


Start = Callable[[Mapping[str, str], Path, IO[bytes]], tuple[Started, IO[bytes], IO[bytes]]]


def spawned(env: Mapping[str, str], folder: Path, errors: IO[bytes]) -> tuple[Started, IO[bytes], IO[bytes]]:
    """Start a worker as a new program; return it, what it reads and what it says."""
    process = subprocess.Popen([*COMMAND, WORKER], cwd=folder, env={**os.environ, **env}, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=errors, bufsize=0, start_new_session=True)
    assert process.stdin is not None and process.stdout is not None
    return process, process.stdin, process.stdout


def forked(env: Mapping[str, str], folder: Path, errors: IO[bytes]) -> tuple[Started, IO[bytes], IO[bytes]]:
    """Start a worker as a copy of this process, which has no other threads; return it, what it reads and what it says.

    It shares the memory of what is loaded here, and needn't start Python again.
    """
    theirs, tell = os.pipe()
    hear, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        _work(env, folder, (theirs, said, errors.fileno()))
    os.close(theirs)
    os.close(said)
    return Copy(pid), os.fdopen(tell, "wb", buffering=0), os.fdopen(hear, "rb", buffering=0)


class Copy:
    """A process that this one has forked."""

    def __init__(self, pid: int):
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, less than 0 where a signal has ended it; None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self._ended(0 if until is None else os.WNOHANG)) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(WORKER, timeout or 0)
            time.sleep(SLICE)
        return code

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _work(env: Mapping[str, str], folder: Path, streams: tuple[int, int, int]) -> NoReturn:
    """Be a worker, with nothing left of what this process was."""
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for name in os.listdir("/proc/self/fd"):  # os.closerange may try each number, of a thousand million
            if int(name) > 2:
                with suppress(OSError):  # what listed them, which has gone
                    os.close(int(name))
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(env)
        os.chdir(folder)
        sys.argv[1:] = [WORKER]
        runpy.run_module("ddmake", run_name="__main__", alter_sys=True)
    except BaseException:  # it could not even begin, else it would have left
        traceback.print_exc()
    finally:
        os._exit(1)
