"""The workflow that a Ddfile is filling while it loads, and the place in it that is speaking."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ddmake.errors import DdfileError
from ddmake.fingerprint.source import is_users

if TYPE_CHECKING:
    from ddmake.ddfile.workflow import Workflow

loading: ContextVar["Workflow | None"] = ContextVar("loading", default=None)
_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)  # a place that speaks though its line has run already


def workflow(what: str) -> "Workflow":
    """Return the workflow that is being loaded.

    Raises DdfileError outside of a Ddfile.
    """
    found = loading.get()
    if found is None:
        raise DdfileError(f"{here()}: {what} belongs in a Ddfile. Load one with: ddmake.load('Ddfile').")
    return found


@contextmanager
def speaking(flow: "Workflow", place: str) -> Iterator[None]:
    """Declare more of a workflow in the name of a place in it, as binding a pattern does."""
    tokens = loading.set(flow), _spoken.set(place)
    try:
        yield
    finally:
        loading.reset(tokens[0])
        _spoken.reset(tokens[1])


def here() -> str:
    """Return the user's place that called into ddmake, as "Ddfile:41"."""
    spoken = _spoken.get()
    if spoken is not None:
        return spoken
    frame = caller()
    return "Ddfile" if frame is None else f"{shown(frame.f_code.co_filename)}:{frame.f_lineno}"


def caller() -> FrameType | None:
    """Return the innermost frame of the user's own code."""
    frame = sys._getframe(1)
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def shown(filename: str) -> str:
    """Return a file's path from the main Ddfile's folder, or its name where it lies far from it."""
    found = loading.get()
    return _short(filename, None if found is None else found.top.root)


@lru_cache(maxsize=1024)
def _short(filename: str, root: Path | None) -> str:
    place = Path(filename).name if root is None else os.path.relpath(filename, root)
    return Path(filename).name if place.startswith("../..") else place
