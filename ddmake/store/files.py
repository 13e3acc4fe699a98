"""Hashes of files, remembered by stat: a file is read again only when its stat has changed.

A file's hash is kept with its size, mtime, ctime and inode. One whose ctime is within a clock tick of the moment it
was hashed could change again without its stat telling, and isn't trusted (git's "racy" entries).
"""

import os
import re
import sqlite3
import stat
import time
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes

TICK_NS = 20_000_000  # file systems here keep times to a kernel tick, 4 to 10 ms

CACHE = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")  # what `datasets` leaves beside data that somebody maps over

Manifest = dict[str, str]  # sha256 by path within an artifact; "" is the artifact itself, where it is a file


class Files:
    """Remembered hashes of the files under one project's root."""

    def __init__(self, db: sqlite3.Connection, root: Path):
        self.db, self.root = db, root

    def sha(self, path: Path) -> str:
        """Return a file's hash, from memory where its stat is unchanged."""
        found, name = os.stat(path), self._name(path)
        select = "SELECT size, mtime_ns, ctime_ns, inode, noted_ns, sha FROM files WHERE path = ?"
        row = self.db.execute(select, (name,)).fetchone()
        if row and row[:4] == _signs(found) and row[2] < row[4] - TICK_NS:
            return row[5]
        noted = time.time_ns()
        sha = hashes.of_file(path)
        self._note(name, found, noted, sha)
        return sha

    def note(self, path: Path, sha: str) -> None:
        """Remember the hash of a file that was just written or moved by ddmake."""
        self._note(self._name(path), os.stat(path), time.time_ns(), sha)

    def manifest(self, artifact: Path) -> Manifest:
        """Return the hashes of an artifact's files; raises DdmakeError for links out of it and special files."""
        if artifact.is_file():
            return {"": self.sha(artifact)}
        return {name: self.sha(artifact / name) for name in walk(artifact)}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.absolute().as_posix()

    def _note(self, name: str, found: os.stat_result, noted: int, sha: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", (name, *_signs(found), noted, sha))


def walk(folder: Path) -> list[str]:
    """Return the files in a folder, as sorted paths from it."""
    names = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            mode = os.lstat(path).st_mode
            if CACHE.fullmatch(name):
                continue
            if stat.S_ISREG(mode):
                names.append(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(mode):
                raise DdmakeError(f"{path}: an artifact holds plain files only, and this is a link or a special file.")
    return sorted(names)


def _signs(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
