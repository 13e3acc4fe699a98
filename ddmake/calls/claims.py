"""Claims: who sends a request says so first, and others wait for the answer instead of sending it, too.

A claim is committed together with the look-up that found no answer, and goes with the answer, in one transaction. An owner
is a process that holds the lock on `.ddmake/callers/<owner>`; the lock goes with the process, however it ends, and its
claims are then anybody's.
"""

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import uuid4

from ddmake.backends.base import Answer
from ddmake.calls.cache import LOOK_UP, Calls

FOLDER = "callers"


@dataclass(frozen=True)
class Claimed:
    """What became of keys that were to be asked for."""

    known: dict[bytes, Answer]
    mine: list[bytes]
    theirs: list[bytes]  # somebody else is asking for them


class Claims:
    """The claims of one process on the calls of a project."""

    def __init__(self, calls: Calls):
        self.calls, self.folder = calls, calls.path.parent / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.owner, self._lock = self._signed_on()
        self._sweep()

    def take(self, keys: Iterable[bytes], anew: frozenset[bytes] = frozenset()) -> Claimed:
        """Claim those keys that have no answer and no living owner; those to be asked `anew` have none that counts."""
        wanted = list(keys)
        found = Claimed({}, [], [])
        for at in range(0, len(wanted), LOOK_UP):
            self._take(wanted[at:at + LOOK_UP], anew, found)
        return found

    def release(self, keys: Iterable[bytes]) -> None:
        """Give up claims on keys that got no answer."""
        with self.calls.writing:
            self.calls.db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", [(key, self.owner) for key in keys])

    def close(self) -> None:
        """Give up all claims, and the lock that shows that this process lives."""
        with self.calls.writing:
            self.calls.db.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
        (self.folder / self.owner).unlink(missing_ok=True)
        os.close(self._lock)

    def _signed_on(self) -> tuple[str, int]:
        """Return a name for this process, and the lock that it holds; one swept away before it was locked doesn't count."""
        while True:
            owner = uuid4().hex
            lock = os.open(self.folder / owner, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / owner).exists():
                return owner, lock
            os.close(lock)

    def _take(self, keys: list[bytes], anew: frozenset[bytes], found: Claimed) -> None:
        db = self.calls.db
        with self.calls.writing:
            db.execute("BEGIN IMMEDIATE")
            try:
                known = self.calls.get(key for key in keys if key not in anew)
                missing = [key for key in keys if key not in known]
                owners = self._claim(missing)
                dead = {owner for owner in set(owners.values()) if not self._alive(owner)}
                if dead:
                    db.executemany("DELETE FROM claims WHERE owner = ?", [(owner,) for owner in dead])
                    owners = self._claim(missing)
            finally:
                db.execute("COMMIT")
        found.known.update(known)
        for key in missing:
            (found.mine if owners[key] == self.owner else found.theirs).append(key)

    def _claim(self, keys: list[bytes]) -> dict[bytes, str]:
        """Claim keys as far as nobody has, and return by whom each is claimed now."""
        db, marks = self.calls.db, ",".join("?" * len(keys))
        db.executemany("INSERT OR IGNORE INTO claims (key, owner) VALUES (?, ?)", [(key, self.owner) for key in keys])
        return dict(db.execute(f"SELECT key, owner FROM claims WHERE key IN ({marks})", keys).fetchall())

    def _alive(self, owner: str) -> bool:
        """Tell whether a claim's owner still lives: its lock can't be had."""
        if owner == self.owner or ":" in owner:  # a batch at a provider lives longer than any process
            return True
        try:
            lock = os.open(self.folder / owner, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _sweep(self) -> None:
        """Clear away what processes have left that were killed."""
        for file in self.folder.iterdir():
            if not self._alive(file.name):
                with self.calls.writing:
                    self.calls.db.execute("DELETE FROM claims WHERE owner = ?", (file.name,))
                file.unlink(missing_ok=True)
