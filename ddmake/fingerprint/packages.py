"""The versions of installed packages, as their records on `sys.path` have them: DIR/NAME-VERSION.dist-info/METADATA.

`importlib.metadata` tells the same, but its import alone takes a tenth of what a small job does in all. The format:
https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

import os
import re
import sys
from functools import lru_cache

RECORDS = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}  # where a record has the version; the second are older


def version(package: str) -> str | None:
    """Return the version of an installed package, None where there is none. Names are compared as pip does."""
    name = _normal(package)
    for folder in sys.path:
        try:
            records = _records(folder, os.stat(folder or ".").st_mtime_ns)
        except OSError:
            continue
        if name in records:
            return _told(records[name])
    return None


@lru_cache(maxsize=256)
def _records(folder: str, changed: int) -> dict[str, str]:
    """Return the files in a folder that tell of packages, by name; `changed` is when it was."""
    found = dict[str, str]()
    for entry in os.listdir(folder or "."):
        stem, end = os.path.splitext(entry)
        if end in RECORDS:
            place = os.path.join(folder, entry)
            found[_normal(stem.partition("-")[0])] = os.path.join(place, RECORDS[end]) if os.path.isdir(place) else place
    return found


def _told(file: str) -> str | None:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return next((line.partition(":")[2].strip() for line in opened if line.startswith("Version:")), None)
    except OSError:  # a record that is being written, or was left behind
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
