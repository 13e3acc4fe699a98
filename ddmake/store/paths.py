"""Paths that somebody else wrote: in a bundle, in the traces that it holds. They are looked at before anything is put there."""

import re
import unicodedata
from collections.abc import Iterable

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
    if any(part.casefold() in KEPT_FREE for part in parts):
        return "lies where only git and ddmake write"
    return "is longer than systems take" if long else None


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
