"""The object store: a copy of every file that a job has made, by its hash.

Copies are reflinks where the file system has them. Never hard links: editing the one would edit the other.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store.files import Manifest

FICLONE = 0x40049409  # ioctl_ficlone(2): share a file's blocks until one side writes
_no_reflinks: set[int] = set()  # devices that refused one


class Damaged(DdmakeError):
    """A kept file isn't what it was."""


class Objects:
    """The files under `.ddmake/objects/`."""

    def __init__(self, folder: Path):
        self.folder = folder / "objects"
        self._folder = f"{self.folder}{os.sep}"

    def put(self, artifact: Path, manifest: Manifest) -> None:
        """Keep a copy of each file of an artifact; what this returns from is on the disk."""
        for name, sha in manifest.items():
            if not os.path.exists(self._path(sha)):
                self._copy_in(os.path.join(artifact, name) if name else str(artifact), self._path(sha))

    def has(self, manifest: Manifest) -> bool:
        """Tell whether every file of an artifact is kept."""
        return all(os.path.exists(self._path(sha)) for sha in manifest.values())

    def get(self, manifest: Manifest, to: Path) -> None:
        """Write an artifact's files at a path where nothing is.

        Raises Damaged where kept files aren't what they were; these are then no longer kept.
        """
        if "" not in manifest:
            to.mkdir(parents=True)
        for name, sha in manifest.items():
            target = to / name if name else to
            target.parent.mkdir(parents=True, exist_ok=True)
            clone(self._path(sha), str(target))
        bad = {sha for name, sha in manifest.items() if hashes.of_file(to / name if name else to) != sha}
        for sha in bad:
            os.unlink(self._path(sha))
        if bad:
            raise Damaged(f"kept files were damaged: {', '.join(sha[:16] for sha in sorted(bad))}")

    def every(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the hash and stat of each kept file; what a kill has left half-copied is yielded by its odd name."""
        for folder in sorted(self.folder.glob("??")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield folder.name + entry.name, entry.stat(follow_symlinks=False)

    def sound(self, sha: str) -> bool:
        """Tell whether a kept file is what it was, by reading it."""
        return hashes.of_file(Path(self._path(sha))) == sha

    def place(self, sha: str) -> Path:
        """Return where a kept file lies, or would."""
        return Path(self._path(sha))

    def drop(self, sha: str) -> None:
        """Keep a file no longer."""
        self.place(sha).unlink(missing_ok=True)

    def _path(self, sha: str) -> str:
        return f"{self._folder}{sha[:2]}/{sha[2:]}"

    def _copy_in(self, source: str, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scratch = f"{path}.{uuid4().hex}"
        try:
            clone(source, scratch)
            file = os.open(scratch, os.O_RDONLY)
            os.fsync(file)
            os.close(file)
            os.replace(scratch, path)
        except OSError:
            Path(scratch).unlink(missing_ok=True)  # on a full disk every byte counts
            raise


def clone(source: str, to: str) -> None:
    """Copy a file, sharing its blocks where the file system can."""
    if os.stat(source).st_dev not in _no_reflinks and _reflink(source, to):
        return
    shutil.copyfile(source, to)


def _reflink(source: str, to: str) -> bool:
    """Try to share a file's blocks; a device that refuses isn't asked again."""
    import errno
    import fcntl

    with open(source, "rb") as old, open(to, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            return True
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
                _no_reflinks.add(os.fstat(old.fileno()).st_dev)
            return False
