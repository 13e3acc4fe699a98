"""The object store: a copy of every file that a job has made, by its hash.

Copies are reflinks where the file system has them. Never hard links: editing the one would edit the other.
"""

import os
import shutil
from pathlib import Path
from uuid import uuid4

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store.files import Manifest

FICLONE = 0x40049409  # ioctl_ficlone(2): share a file's blocks until one side writes


class Damaged(DdmakeError):
    """A kept file isn't what it was."""


class Objects:
    """The files under `.ddmake/objects/`."""

    def __init__(self, folder: Path):
        self.folder = folder / "objects"

    def put(self, artifact: Path, manifest: Manifest) -> None:
        """Keep a copy of each file of an artifact."""
        for name, sha in manifest.items():
            if not self._path(sha).exists():
                self._copy_in(artifact / name if name else artifact, self._path(sha))

    def has(self, manifest: Manifest) -> bool:
        """Tell whether every file of an artifact is kept."""
        return all(self._path(sha).exists() for sha in manifest.values())

    def get(self, manifest: Manifest, to: Path) -> None:
        """Write an artifact's files at a path where nothing is.

        Raises Damaged where kept files aren't what they were; these are then no longer kept.
        """
        if "" not in manifest:
            to.mkdir(parents=True)
        for name, sha in manifest.items():
            target = to / name if name else to
            target.parent.mkdir(parents=True, exist_ok=True)
            clone(self._path(sha), target)
        bad = {sha for name, sha in manifest.items() if hashes.of_file(to / name if name else to) != sha}
        for sha in bad:
            self._path(sha).unlink()
        if bad:
            raise Damaged(f"kept files were damaged: {', '.join(sha[:16] for sha in sorted(bad))}")

    def _path(self, sha: str) -> Path:
        return self.folder / sha[:2] / sha[2:]

    def _copy_in(self, source: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{uuid4().hex}")
        clone(source, scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)


def clone(source: Path, to: Path) -> None:
    """Copy a file, sharing its blocks where the file system can."""
    try:
        import fcntl

        with source.open("rb") as old, to.open("wb") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    except OSError:
        shutil.copyfile(source, to)
