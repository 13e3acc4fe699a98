"""Whose a training's checkpoints are. A job that was given up may run on somewhere, out of reach; another goes on in its place,
claims the checkpoints, and the first writes no more of them.
"""

from pathlib import Path
from uuid import uuid4

from ddmake.errors import DdmakeError

OWNER = "owner"  # beside the checkpoints

_claims: dict[Path, str] = {}  # this process's, by folder


def claim(folder: Path) -> None:
    """Make a folder's checkpoints this process's."""
    mine = _claims[folder] = uuid4().hex
    scratch = folder / f"{OWNER}.{mine}"
    scratch.write_text(mine, encoding="utf-8")
    scratch.replace(folder / OWNER)


def need_own(folder: Path) -> None:
    """Raise DdmakeError where another process has claimed the checkpoints that this one had."""
    mine = _claims.get(folder)
    if mine is not None and (folder / OWNER).read_text(encoding="utf-8") != mine:
        raise DdmakeError("this training was taken up by another process, and goes on there.")
