"""The locks of what jobs make: of each output, and of the key, which two rules may share. They go with their holder's process."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ddmake.ddfile.rule import Rule
from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store import Store

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
LOOK = 0.05  # seconds between two looks at a lock that somebody else holds
HOLDER = 80  # bytes that tell of it: a process, and its machine

Tell = Callable[[int, int, str], None]
Locks = list[int]  # open files


def names_of(rule: Rule, key: str) -> list[str]:
    """Return what a job locks: its outputs, and its key."""
    return [*rule.outputs.values(), f"key {key}"]


@contextmanager
def locked(store: Store, names: Iterable[str], tell: Tell) -> Iterator[None]:
    """Hold locks by these names. Where somebody else has one, tell who, and wait."""
    held: Locks = []
    try:
        for name in sorted(names):
            held.append(_open(store, name))
            _wait(held[-1], tell)
        yield
    finally:
        release(held)


def take(store: Store, names: Iterable[str]) -> Locks | str:
    """Take locks by these names, all or none; return who has one instead, in words, where somebody else does."""
    held: Locks = []
    for name in sorted(names):
        held.append(_open(store, name))
        if not _taken(held[-1]):
            told = _holder(held[-1])
            release(held)
            return told
    return held


def release(held: Locks) -> None:
    """Let go of locks; said in so many words, since a process that a recipe left behind may hold the file open."""
    for lock in held:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _open(store: Store, name: str) -> int:
    folder = f"{store.folder}/locks"
    os.makedirs(folder, exist_ok=True)
    return os.open(f"{folder}/{hashes.of_value(name)[:32]}.lock", os.O_RDWR | os.O_CREAT, 0o666)


def _wait(file: int, tell: Tell) -> None:
    waiting = False
    while not _taken(file):
        if waiting:  # not at the first look: the holder has to write its name, too
            tell(0, 0, _holder(file))
        waiting = True
        time.sleep(LOOK)


def _taken(file: int) -> bool:
    """Take a lock if it is free, and write to its file by whom it is held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise DdmakeError("The file system that .ddmake lies on has no locks (flock), without which two runs could make the same "
                          "at once. Have it mounted with them (Lustre: -o flock), or move the project.") from None
    os.pwrite(file, f"{os.getpid()} {os.uname().nodename}".encode().ljust(HOLDER), 0)
    return True


def _holder(file: int) -> str:
    process, _, machine = os.pread(file, HOLDER, 0).decode().strip().partition(" ")
    where = "" if machine in ("", os.uname().nodename) else f" on {machine}"
    return f"waiting for process {process}{where}, which is making it"
