"""The git commit that a workflow's files are of, where they are in a repository: recorded with a job, and never in a key."""

import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

STATUS = ("git", "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--ignored", "--")
HEAD = "# branch.oid "
PATIENCE = 10  # seconds that git may take


def commit_of(root: Path, files: Mapping[str, str]) -> dict[str, Any] | None:
    """Return {"commit", "changed"} for a workflow's files, given by path with their hashes; None outside of a repository.

    `changed` tells whether one of them isn't as the commit has it. Git is asked once for the same files.
    """
    return _asked(root, tuple(sorted(files.items())))


@lru_cache(maxsize=8)
def _asked(root: Path, files: tuple[tuple[str, str], ...]) -> dict[str, Any] | None:
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return None
    inside = [Path(path).relative_to(root).as_posix() for path, _ in files if Path(path).is_relative_to(root)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's are of its own repository
    try:
        told = subprocess.run([*STATUS, *inside], cwd=root, env={**env, "GIT_OPTIONAL_LOCKS": "0"}, capture_output=True,
                              text=True, errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = told.stdout.splitlines() if told.returncode == 0 else []
    head = next((line.removeprefix(HEAD) for line in lines if line.startswith(HEAD)), "")
    if not head or head.startswith("("):  # nothing was committed yet
        return None
    return {"commit": head, "changed": any(not line.startswith("#") for line in lines)}
