"""`Ddfile.lock`: the commit that each name on the Hub stands for. It lies beside the Ddfile and is committed with it.

One sorted line a name, so that two branches' locks merge. Names that no rule uses any more are kept: another knob's value
may bring them back. Of an adapter by itself the line also says which branch its base is on, so that a lock alone tells what a
rule is made of. Asking the Hub is `ddmake.backends.hub`'s.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from ddmake.errors import DdfileError

FILE = "Ddfile.lock"
WRITING = ".ddmake/hub.lock"  # held by who writes the file, whose lines are read before
HEAD = "# What names on the Hub stand for. Commit this file; `ddmake --update-hub` asks the Hub again.\n"
COMMIT = re.compile(r"[0-9a-f]{40}")
ON = " on "  # between an adapter's commit and its base
MAIN = "main"

DATASET: Literal["dataset"] = "dataset"
DatasetName = Annotated[str, DATASET]  # marks a recipe's argument that names a dataset on the Hub


@dataclass(frozen=True, order=True)
class HubName:
    """A repository on the Hub, at a branch, a tag or a commit."""

    kind: Literal["model", "dataset"]
    repo: str
    revision: str = MAIN

    def __str__(self) -> str:
        """Return the name as messages and keys have it: org/model@main, datasets/org/name@main."""
        return f"{'datasets/' if self.kind == DATASET else ''}{self.repo}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Tell whether the revision is a whole commit's hash, which nothing can move."""
        return COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True)
class Pin:
    """What a name stands for: a commit; of an adapter by itself also the branch or tag on the Hub that its base is on."""

    commit: str
    base: HubName | None = None

    def __str__(self) -> str:
        """Return the pin as the lock has it."""
        return self.commit if self.base is None else f"{self.commit}{ON}{self.base}"


Pins = dict[HubName, Pin]


def read(root: Path) -> Pins:
    """Return what the lock in a project's folder says. Raises DdfileError for one that can't be read."""
    try:
        stat = os.stat(root / FILE)
    except FileNotFoundError:
        return {}
    return _read(root / FILE, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=4)
def _read(file: Path, *_: int) -> Pins:
    """Read the file; the other arguments tell one version of it from the next."""
    import tomllib

    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DdfileError(f"{FILE}: {error}. Mend it, or delete it to have its names looked up again.") from None
    tables = {kind: names if isinstance(names, dict) else {"": names} for kind, names in told.items()}
    return dict(_line(kind, text, told) for kind, names in tables.items() for text, told in names.items())


def _line(kind: str, text: str, told: str) -> tuple[HubName, Pin]:
    repo, at, revision = text.partition("@")
    commit, on, base = told.partition(ON) if isinstance(told, str) else ("", "", "")
    under, base_at, branch = base.partition("@")
    if kind not in ("model", DATASET) or not at or not COMMIT.fullmatch(commit) or on and not (under and base_at and branch):
        raise DdfileError(f"{FILE}: [{kind}] {text!r} is no name under [model] or [dataset], as \"org/name@main\" = \"commit\". "
                          "Mend the line, or delete it to have its name looked up again.")
    return HubName(kind, repo, revision), Pin(commit, HubName("model", under, branch) if on else None)


def write(root: Path, pins: Pins) -> None:
    """Add pins to the lock in a project's folder, or change those that it has; whole or not at all, one process at a time."""
    from filelock import FileLock

    (root / WRITING).parent.mkdir(exist_ok=True)
    with FileLock(root / WRITING):
        before = read(root)
        now = {**before, **pins}
        if now != before:
            _put(root, now)


def _put(root: Path, pins: Pins) -> None:
    scratch = root / f".{FILE}.{os.getpid()}"
    with scratch.open("w", encoding="utf-8") as opened:
        opened.write(_text(pins))
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(scratch, root / FILE)


def _text(pins: Pins) -> str:
    """Return the lock's text: TOML, whose strings JSON's are."""
    parts = [HEAD]
    for kind in sorted({name.kind for name in pins}):
        lines = (f"{json.dumps(f'{name.repo}@{name.revision}')} = {json.dumps(str(pins[name]))}\n"
                 for name in sorted(pins) if name.kind == kind)
        parts.append(f"\n[{kind}]\n{''.join(lines)}")
    return "".join(parts)
