"""Whether files lie on a network file system, where machines see each other's changes late and SQLite can't share memory."""

import os
from functools import lru_cache
from pathlib import Path

MOUNTS = "/proc/self/mounts"  # Linux's table of what is mounted where: proc(5)
KINDS = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "glusterfs", "panfs", "orangefs", "ocfs2",
         "gfs2", "wekafs", "quobyte", "9p", "virtiofs"}


@lru_cache(maxsize=64)
def networked(folder: Path, mounts: str = MOUNTS) -> bool:
    """Tell whether a folder lies on a network file system; where there is no table of mounts, it is taken for a local one."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            table = [line.split(" ") for line in lines]
    except OSError:
        return False
    real = os.path.realpath(folder)
    holding = [(len(place), kind) for _, told, kind, *_ in table if _holds(place := _plain(told), real)]
    kind = max(holding, default=(0, ""), key=lambda one: one[0])[1]
    return kind in KINDS or kind.startswith("fuse.") and kind != "fuse.fuse-overlayfs"


def _holds(place: str, path: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


def _plain(told: str) -> str:
    """Return a path as it is; the table writes spaces and the like as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        told = told.replace(code, character)
    return told
