"""The head's side of the caller: a socket that workers connect to, and a process that is started once one does."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LONGEST = 90  # bytes of a socket's path that every system takes


@dataclass
class Spent:
    """What a run has spent so far: requests sent, dollars, and answers of unknown price."""

    sent: int = 0
    dollars: float = 0.0
    unknown: int = 0


class Switch:
    """A place where a run's caller can be reached."""

    def __init__(self, folder: Path, limit: float | None = None):
        self.folder, self.limit, self.spent = folder, limit, Spent()
        base = tempfile.gettempdir()
        self._room = Path(tempfile.mkdtemp(prefix="ddmake-", dir=base if len(os.fsencode(base)) < LONGEST // 2 else "/tmp"))
        self.address = str(self._room / "caller")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address)
        self._listening.listen(64)
        self._end, self._wake = os.pipe()
        self._process: subprocess.Popen[str] | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def close(self) -> None:
        """Have the caller finish what is in flight and commit what has come, and end it."""
        os.close(self._wake)
        self._waiting.join()
        self._listening.close()
        shutil.rmtree(self._room, ignore_errors=True)

    def hurry(self) -> None:
        """Wait for nothing that is in flight."""
        if self._process is not None:
            self._process.terminate()

    def _wait(self) -> None:
        """Start the caller when a worker connects, and listen to what it says until it ends or we do."""
        ready, _, _ = select.select([self._listening, self._end], [], [])
        if self._listening in ready:
            self._process = self._start()
            listening = threading.Thread(target=self._hear, daemon=True)
            listening.start()
            select.select([self._end], [], [])
            self._process.stdin.close()
            self._process.wait()
            listening.join()
        os.close(self._end)

    def _start(self) -> "subprocess.Popen[str]":
        number = self._listening.fileno()
        limit = [] if self.limit is None else [repr(self.limit)]
        command = [sys.executable, "-m", "ddmake.calls", str(self.folder), str(number), *limit]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[number],
                                start_new_session=True)

    def _hear(self) -> None:
        for line in self._process.stdout:
            told = json.loads(line)
            self.spent = Spent(told["sent"], told["spent"], told["unknown"])


@contextmanager
def switch(folder: Path, limit: float | None = None) -> Iterator[Switch]:
    """Give a place where workers reach a caller for the calls of a project; `limit` is what it may spend, in dollars."""
    made = Switch(folder, limit)
    try:
        yield made
    finally:
        made.close()
