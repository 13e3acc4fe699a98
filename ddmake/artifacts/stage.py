"""Swapping an artifact into place, so that a path holds the old one or the new one and never a part."""

import os
import shutil
from pathlib import Path
from uuid import uuid4


def swap(new: Path, place: Path, trash: Path) -> None:
    """Move an artifact to its place; what lay there goes. `trash` lies on the same file system."""
    place.parent.mkdir(parents=True, exist_ok=True)
    trash.mkdir(parents=True, exist_ok=True)
    old = trash / uuid4().hex
    if place.exists() or place.is_symlink():
        os.rename(place, old)
    os.rename(new, place)
    remove(old)


def put_aside(path: Path) -> None:
    """Rename what lies at a path to `<name>.bak`, or `.bak2` and so on where that is taken."""
    names = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in range(1, 1000))
    os.rename(path, next(name for name in names if not name.exists()))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
