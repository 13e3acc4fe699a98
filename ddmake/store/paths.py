"""Paths that somebody else wrote: in a bundle, in the traces that it holds. They are looked at before anything is put there.

And those that a user names with -o.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

LONGEST = 1024  # bytes of a path that every system takes
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
KEPT_FREE = (".git", ".ddmake")  # what lies there is obeyed by git, or trusted by ddmake


def wrong(path: object) -> str | None:
    """Return why a path can't be one inside of a project, None for one that can."""
    if not isinstance(path, str) or not path or CONTROL.search(path):
        return "is no path"
    try:
        long = len(path.encode()) > LONGEST
    except UnicodeEncodeError:  # half of a surrogate pair
        return "is no path"
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder that is unpacked to"
    if any(_seen(part).casefold() in KEPT_FREE for part in parts):
        return "lies where only git and ddmake write"
    return "is longer than systems take" if long else None


def _seen(part: str) -> str:
    """Return a name without letters that aren't seen, which some file systems pass over."""
    return part if part.isascii() else "".join(letter for letter in part if unicodedata.category(letter) != "Cf")


def in_the_way(place: Path, beginning: bytes) -> str | None:
    """Return why a file that begins so can't be written at a path, None where it can: over nothing, or one of its kind.

    Else a slip in -o would cost a Ddfile, or a device.
    """
    if not os.path.lexists(place):
        return None
    if not place.is_file():
        return "is no plain file"
    with place.open("rb") as file:
        return None if file.read(len(beginning)) in (beginning, b"") else "is there, and is something else"


def clash(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two paths of which one would overwrite the other, also where names in upper and lower case are the same."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        same = unicodedata.normalize("NFC", path).casefold()
        other = files.get(same) or folders.get(same)
        if other is not None:
            return other, path
        files[same] = path
        parts = same.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folder in files:
                return files[folder], path
            folders.setdefault(folder, path)
    return None
