"""Swapping an artifact into place, so that a path holds the old one or the new one and never a part."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

from ddmake.store.points import reached


def swap(new: Path, place: Path, trash: Path) -> None:
    """Move an artifact to its place; what lay there goes. `trash` lies on the same file system."""
    place.parent.mkdir(parents=True, exist_ok=True)
    old = None
    if os.path.lexists(place):
        trash.mkdir(parents=True, exist_ok=True)
        old = trash / uuid4().hex
        os.rename(place, old)
        reached("old one moved away")
    os.rename(new, place)
    reached("new one in place")
    if old is not None:
        remove(old)


def put_aside(path: Path) -> Path:
    """Rename what lies at a path to `<name>.bak`, or `.bak2` and so on where that is taken, and return where it is."""
    names = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in range(1, 1_000_000))
    free = next(name for name in names if not os.path.lexists(name))
    os.rename(path, free)
    return free


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
