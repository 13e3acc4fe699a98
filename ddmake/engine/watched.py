"""The files that a workflow is read from: its Ddfile, the user's modules, templates."""

import os
import sys
from functools import lru_cache

from ddmake.ddfile.workflow import Workflow
from ddmake.fingerprint.source import is_users
from ddmake.store import Store

_strange: set[str] = set()  # names of modules that aren't the user's: there are thousands, and each is looked at once


def watched(flow: Workflow, store: Store) -> dict[str, str]:
    """Return the hashes of the files that a workflow was read from, by path; a file is read again when its stat tells."""
    files = {*map(str, flow.files), *_templates(flow), *_modules(flow)}
    inside = f"{flow.root}/"
    return {path: store.files.sha(path.removeprefix(inside)) for path in sorted(files)}


def _templates(flow: Workflow) -> list[str]:
    folders = {f"{file.parent}/templates" for file in flow.files}
    return [os.path.join(parent, name) for folder in folders for parent, _, names in os.walk(folder) for name in names]


def _modules(flow: Workflow) -> list[str]:
    """Return the files of the user's modules that are loaded."""
    beside = tuple({f"{file.parent}/" for file in flow.files})
    return [file for _, file in _users(len(sys.modules), next(reversed(sys.modules))) if file.startswith(beside)]


def forget_answers() -> None:
    """Empty the caches of the users' functions (functools.cache): what one job has asked is no answer for the next."""
    for name, _ in _users(len(sys.modules), next(reversed(sys.modules))):
        for value in list(vars(sys.modules[name]).values()):
            for held in (value, *vars(value).values()) if isinstance(value, type) else (value,):
                clear = getattr(getattr(held, "__func__", held), "cache_clear", None)
                if callable(clear):
                    clear()


@lru_cache(maxsize=1)
def _users(count: int, newest: str) -> list[tuple[str, str]]:
    """Return the users' modules with their files; looked for anew when there are more modules than there were, or others."""
    found = []
    for name in [name for name in list(sys.modules) if name not in _strange]:
        file = getattr(sys.modules[name], "__file__", None)
        if is_users(file):
            found.append((name, file))
        else:
            _strange.add(name)
    return found
