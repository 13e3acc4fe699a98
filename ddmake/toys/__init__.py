"""Two bundled language models of about a million parameters, so that a workflow runs without a key or a network.

They are toys. `tiny` has learned to write abstracts of made-up papers and to sum them up as tweets; `tiny-base` is the
same model before that, when it had only read. Neither knows anything of the world. `toys/Ddfile` makes both again.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddmake.toys.grammar import methods_and_tasks

__all__ = ["NAMES", "folder", "methods_and_tasks"]

NAMES = ("tiny", "tiny-base")


def __getattr__(name: str) -> Any:
    """Load the grammar when it is asked for: every command asks for the names alone."""
    if name != "methods_and_tasks":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ddmake.toys.grammar import methods_and_tasks

    return methods_and_tasks


def folder(name: str) -> Path:
    """Return the folder of a bundled model; raise `KeyError` for a name that isn't one of `NAMES`."""
    if name not in NAMES:
        raise KeyError(f"{name!r} is no bundled model; there are {', '.join(NAMES)}")
    return Path(__file__).parent / name
