"""Hashes of files, remembered by stat: a file is read again only when its stat has changed.

A file's hash is kept with its size, mtime, ctime and inode. One whose ctime is within a clock tick of the moment it
was hashed could change again without its stat telling, and isn't trusted (git's "racy" entries).
"""

import os
import re
import sqlite3
import stat
import time
from contextlib import nullcontext
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store.database import Transaction

TICK_NS = 20_000_000  # file systems here keep times to a kernel tick, 4 to 10 ms

CACHE = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")  # what `datasets` leaves beside data that somebody maps over
SELECT = "SELECT size, mtime_ns, ctime_ns, inode, noted_ns, sha FROM files"
EVERY = "SELECT path, size, mtime_ns, ctime_ns, inode, noted_ns, sha FROM files"
SPECIAL = "a pipe, a socket or a device, whose contents can't be hashed. Take it out of its folder."
NOT_PLAIN = "a link or a special file, and an artifact holds plain files only. Write the contents there."
MANY = 50  # files in a folder from which on their rows are read at once

Manifest = dict[str, str]  # sha256 by path within an artifact; "" is the artifact itself, where it is a file
Row = tuple  # size, mtime_ns, ctime_ns, inode, noted_ns, sha


class Unfit(DdmakeError):
    """Something in a folder has no contents that could be hashed."""

    def __init__(self, path: str, told: str):
        super().__init__(f"{path} is {told}")
        self.path, self.told = path, told


class Files:
    """Remembered hashes of the files under one project's root, by their paths from it."""

    def __init__(self, db: sqlite3.Connection, root: Path):
        self.db, self.root = db, root
        self._root = f"{root}{os.sep}"
        self._known: dict[str, Row] = {}  # rows that were read before: trusted as far as the file's stat agrees
        self._remembers = True  # what the database holds

    def load(self) -> None:
        """Read all that is remembered at once, for whoever is about to ask for most of it."""
        self._known = {row[0]: row[1:] for row in self.db.execute(EVERY)}

    def forget(self) -> None:
        """Remember nothing any more, so that every file is read when it is next asked for."""
        self._known = {}
        try:
            self.db.execute("DELETE FROM files")
        except sqlite3.OperationalError:  # it may only be read
            self._remembers = False

    def sha(self, path: str) -> str:
        """Return a file's hash, from memory where its stat is unchanged. Raises FileNotFoundError."""
        new: list[tuple] = []
        sha = self._sha(path, new)
        self._note(new)
        return sha

    def manifest(self, artifact: str) -> Manifest | None:
        """Return the hashes of an artifact's files, links followed; None where nothing is there.

        Raises Unfit for links that lead nowhere or have no end, and for special files.
        """
        try:
            return {"": self.sha(artifact)}
        except IsADirectoryError:
            return self._folder(artifact)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _folder(self, folder: str) -> Manifest:
        new: list[tuple] = []
        try:
            names = walk(self._place(folder), follow=True)
        except Unfit as error:
            raise Unfit(error.path.removeprefix(self._root), error.told) from None
        if len(names) >= MANY:
            self._load_below(folder)
        found = {name: self._sha(f"{folder}/{name}", new) for name in names}
        self._note(new)
        return found

    def _sha(self, path: str, new: list[tuple]) -> str:
        """Return a file's hash; a row to be remembered of one that was read is added to `new`."""
        signs, row = _signs(os.stat(self._place(path))), self._known.get(path)
        if row is None or row[:4] != signs or row[4] - row[2] <= TICK_NS:
            row = self._row(path)
            if row is None or row[:4] != signs or row[4] - row[2] <= TICK_NS:
                row = (*signs, time.time_ns(), hashes.of_file(self._place(path)))
                new.append((path, *row))
        return row[5]

    def exists(self, path: str) -> bool:
        """Tell whether anything lies at a path."""
        return os.path.lexists(self._place(path))

    def note(self, artifact: str, manifest: Manifest) -> None:
        """Remember the hashes of an artifact that was just moved to its place by ddmake."""
        now = time.time_ns()
        paths = [(f"{artifact}/{name}" if name else artifact, sha) for name, sha in manifest.items()]
        self._note([(path, *_signs(os.stat(self._place(path))), now, sha) for path, sha in paths])

    def _place(self, path: str) -> str:
        return path if path.startswith("/") else self._root + path

    def _load_below(self, folder: str) -> None:
        if not self._remembers:
            return
        rows = self.db.execute(f"{EVERY} WHERE path > ? AND path < ?", (f"{folder}/", f"{folder}0"))  # 0 comes after /
        self._known.update({row[0]: row[1:] for row in rows})

    def _row(self, path: str) -> Row | None:
        row = self.db.execute(f"{SELECT} WHERE path = ?", (path,)).fetchone() if self._remembers else None
        if row is not None:
            self._known[path] = row
        return row

    def _note(self, rows: list[tuple]) -> None:
        if not rows:
            return
        part = self.db.in_transaction
        try:
            with nullcontext() if len(rows) == 1 or part else Transaction(self.db):
                self.db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError:  # the disk is full, or may only be read: what isn't remembered is read again
            if part:
                raise
        self._known.update({row[0]: row[1:] for row in rows})


def manifest_of(artifact: Path) -> Manifest:
    """Return the hashes of an artifact's files by reading them; nothing is remembered."""
    if os.path.isfile(artifact):
        return {"": hashes.of_file(artifact)}
    return {name: hashes.of_file(f"{artifact}/{name}") for name in walk(str(artifact))}


def walk(folder: str, follow: bool = False, within: tuple[str, ...] = ()) -> list[str]:
    """Return the files in a folder, as sorted paths from it. Raises Unfit for what is none.

    Links are followed if that is asked for; `within` are the real folders that links have led through so far.
    """
    names, waiting = [], [""]
    while waiting:
        inner = waiting.pop()
        with os.scandir(os.path.join(folder, inner)) as entries:
            for entry in entries:
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False):
                    if not entry.name.startswith("cache-") or not CACHE.fullmatch(entry.name):
                        names.append(name)
                elif follow and entry.is_symlink():
                    names.extend(_linked(entry.path, name, within))
                else:
                    raise Unfit(entry.path, SPECIAL if follow else NOT_PLAIN)
    return sorted(names)


def _linked(link: str, name: str, within: tuple[str, ...]) -> list[str]:
    """Return the files that a link leads to, by their paths through it."""
    real, within = os.path.realpath(link), (*within, os.path.realpath(os.path.dirname(link)))
    if os.path.isfile(real):
        return [name]
    if not os.path.isdir(real):
        raise Unfit(link, f"a link to {os.readlink(link)}, where no file is. Mend it, or take it out of its folder.")
    if any(os.path.join(folder, "").startswith(os.path.join(real, "")) for folder in within):
        raise Unfit(link, f"a link to {os.readlink(link)}, a folder that it lies in. Take it out of there.")
    return [f"{name}/{inner}" for inner in walk(link, True, within)]


def _signs(found: os.stat_result) -> tuple[int, int, int, int]:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(found.st_mode):
        raise DdmakeError("a pipe, a socket or a device can't be an input: its contents can't be hashed.")
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
