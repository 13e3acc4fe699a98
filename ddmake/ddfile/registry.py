"""The workflow that a Ddfile is filling while it loads, and the place in it that is speaking."""

import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from ddmake.errors import DdfileError
from ddmake.fingerprint.source import is_users

if TYPE_CHECKING:
    from ddmake.ddfile.workflow import Workflow

loading: ContextVar["Workflow | None"] = ContextVar("loading", default=None)


def workflow(what: str) -> "Workflow":
    """Return the workflow that is being loaded.

    Raises DdfileError outside of a Ddfile.
    """
    found = loading.get()
    if found is None:
        raise DdfileError(f"{here()}: {what} belongs in a Ddfile. Load one with: ddmake.load('Ddfile').")
    return found


def here() -> str:
    """Return the user's place that called into ddmake, as "Ddfile:41"."""
    frame = sys._getframe(1)
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return "Ddfile" if frame is None else f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def _short(filename: str) -> str:
    """Return a file's path from the Ddfile's folder, or its name where it lies elsewhere."""
    found = loading.get()
    path = Path(filename)
    if found is not None and path.is_relative_to(found.root):
        return str(path.relative_to(found.root))
    return path.name
