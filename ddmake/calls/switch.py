"""The head's side of the caller: a socket that workers connect to, and a process that is started once one does."""

import fcntl
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX, NAME = "ddmake-caller-", "socket"  # of the folders that hold sockets, and of these
LOOK = 0.2  # seconds between two looks whether the caller still lives
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
        self._room, self._lock = _room()
        self.address = str(self._room / NAME)
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
        os.close(self._end)
        shutil.rmtree(self._room, ignore_errors=True)
        os.close(self._lock)

    def hurry(self) -> None:
        """Wait for nothing that is in flight."""
        if self._process is not None:
            self._process.terminate()

    def _wait(self) -> None:
        """Start the caller when a worker connects; one that was killed is started anew when the next one does."""
        while self._listening in select.select([self._listening, self._end], [], [])[0]:
            self._process = self._start()
            hearing = threading.Thread(target=self._hear, args=(self._process, self.spent), daemon=True)
            hearing.start()
            while self._process.poll() is None and not select.select([self._end], [], [], LOOK)[0]:
                pass
            self._process.stdin.close()
            self._process.wait()
            hearing.join()
            if select.select([self._end], [], [], 0)[0]:
                return
            if self.limit is not None:  # what it had in flight isn't known: another could spend more than is allowed
                self._listening.close()
                return

    def _start(self) -> "subprocess.Popen[str]":
        number = self._listening.fileno()
        limit = [] if self.limit is None else [repr(self.limit)]
        command = [sys.executable, "-m", "ddmake.calls", str(self.folder), str(number), *limit]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[number],
                                start_new_session=True)

    def _hear(self, process: "subprocess.Popen[str]", before: Spent) -> None:
        """Listen to what a caller has spent; `before` is what one before it had."""
        for line in process.stdout:
            told = json.loads(line)
            self.spent = Spent(before.sent + told["sent"], before.dollars + told["spent"], before.unknown + told["unknown"])


def _room() -> tuple[Path, int]:
    """Return a new folder for a socket, and the lock that is held as long as it is needed; those of killed heads go."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > LONGEST // 2:
        base = "/tmp"
    for old in Path(base).glob(f"{PREFIX}*"):
        _sweep(old)
    while True:
        room = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(room, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if room.is_dir():
            return room, lock
        os.close(lock)  # another head has swept it away before it was locked


def _sweep(room: Path) -> None:
    """Remove the folder of a head that was killed: nobody holds its lock."""
    with suppress(OSError):  # of another user, say, or in use
        lock = os.open(room, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (room / NAME).unlink(missing_ok=True)
            room.rmdir()
        finally:
            os.close(lock)


@contextmanager
def switch(folder: Path, limit: float | None = None) -> Iterator[Switch]:
    """Give a place where workers reach a caller for the calls of a project; `limit` is what it may spend, in dollars."""
    made = Switch(folder, limit)
    try:
        yield made
    finally:
        made.close()
