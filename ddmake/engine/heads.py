"""Heads on other machines that locks don't tell of: a network file system may be mounted so that they stay on each machine.

There each head has a file under `.ddmake/heads`, which it locks and goes on changing. A file of another machine that
changes, and whose lock is free all the same, belongs to a head that lives and whose locks aren't seen here. No clocks
are compared.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ddmake.errors import DdmakeError
from ddmake.store import Store
from ddmake.store.network import networked

EVERY = 2.0  # seconds between two changes
LOOK = 8.0  # seconds in which a head that lives has changed its file, also as other machines see it


@contextmanager
def shown(store: Store) -> Iterator[None]:
    """Show other machines that a head is at work here. Raises DdmakeError where one is on another, and locks don't reach it."""
    if not networked(store.folder):
        yield
        return
    room, here = store.folder / "heads", socket.gethostname()
    room.mkdir(exist_ok=True)
    mine = room / f"{here}-{uuid4().hex[:12]}"
    file = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    over = threading.Event()
    teller = threading.Thread(target=_change, args=(file, over), daemon=True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        teller.start()
        _refuse_beside([other for other in room.iterdir() if other.name.rpartition("-")[0] != here])
        yield
    finally:
        over.set()
        mine.unlink(missing_ok=True)
        if teller.ident is not None:
            teller.join()
        os.close(file)


def _change(file: int, over: threading.Event) -> None:
    """Change a file as long as this head is at work."""
    number = 0
    while not over.wait(EVERY):
        number += 1
        with suppress(OSError):
            os.pwrite(file, b"%-20d" % number, 0)
            os.fsync(file)  # else the server hears of it when the file is closed


def _refuse_beside(others: list[Path]) -> None:
    """Raise DdmakeError where a head of another machine is at work whose lock isn't seen; clear away what dead ones have left."""
    before = {file: told for file in others if (told := _unlocked(file)) is not None}
    if not before:
        return
    time.sleep(LOOK)
    for file, told in before.items():
        if (now := _unlocked(file)) not in (told, None):
            raise DdmakeError(f"{file.name.rpartition('-')[0]} makes something of this project at this moment, and its locks "
                              "aren't seen here, so that both could make the same at once. Wait until it has ended, or have "
                              "the file system mounted with locks for all machines (NFS: without nolock and local_lock, "
                              "Lustre: -o flock).")
        if now is not None:
            file.unlink(missing_ok=True)


def _unlocked(file: Path) -> bytes | None:
    """Return what stands in a file that nobody seems to have locked; None for one that is locked, or gone."""
    try:
        opened = os.open(file, os.O_RDWR)  # which has a network file system ask its server
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.pread(opened, 20, 0)
    except BlockingIOError:
        return None
    finally:
        os.close(opened)
