"""Two bundled language models of about a million parameters, so that a workflow runs without a key or a network.

They are toys. `tiny` has learned to write abstracts of made-up papers and to sum them up as tweets; `tiny-base` is the
same model before that, when it had only read. Neither knows anything of the world. `toys/Ddfile` makes both again.
"""

from pathlib import Path

from ddmake.toys.grammar import methods_and_tasks

__all__ = ["NAMES", "folder", "methods_and_tasks"]

NAMES = ("tiny", "tiny-base")


def folder(name: str) -> Path:
    """Return the folder of a bundled model; raise `KeyError` for a name that isn't one of `NAMES`."""
    if name not in NAMES:
        raise KeyError(f"{name!r} is no bundled model; there are {', '.join(NAMES)}")
    return Path(__file__).parent / name
