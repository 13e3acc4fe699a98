"""Every error that ddmake means to show, each with the exit code it ends the command with.

    DdmakeError            1   something went wrong while working
    ├── DdfileError        2   a mistake in the Ddfile, a knob or a target's name; nothing was run
    │   └── NoSuchName     2   a knob or an output by a name that isn't there; an AttributeError too
    ├── MissingExtra       2   an optional package isn't installed; names the extra that brings it
    ├── RecipeFailed       1   a recipe raised; carries the user's own frames
    │   └── NoRows         1   it made no rows
    ├── NotStored          1   --frozen, and something would have to be fetched, sent or made elsewhere
    ├── ProviderError      1   an API refused what concerns the whole rule: key, model, credit
    └── PlanAgain          3   the Ddfile, a template or a source changed while a run was under way

A message reads: *where: what, by name. Did you mean …? Do this.*
"""

import re
from collections.abc import Iterable


class DdmakeError(Exception):
    """A failure that is told in one sentence, never as a traceback."""

    exit_code = 1


class DdfileError(DdmakeError):
    """A mistake that is found before anything runs."""

    exit_code = 2


class NoSuchName(DdfileError, AttributeError):
    """A name that isn't there, read as an attribute."""


class MissingExtra(DdmakeError):
    """A package that this use needs isn't installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str, use: str):
        super().__init__(f"{use} needs {package}, which isn't installed. Do: pip install 'ddmake[{extra}]'")


class RecipeFailed(DdmakeError):
    """A recipe raised, or yielded what can't be stored."""


class NoRows(RecipeFailed):
    """A recipe made no rows, and nothing tells which columns they would have had."""


class ProviderError(DdmakeError):
    """A provider refused for a reason that the next request would meet too."""


class NotStored(DdmakeError):
    """What a frozen run needs isn't there."""


class PlanAgain(DdmakeError):
    """What a job was planned from has changed since."""

    exit_code = 3


def placed(place: str, error: DdfileError) -> DdfileError:
    """Return a mistake with its place before it, unless it names one already."""
    return error if re.match(r"\S+:\d+: ", str(error)) else DdfileError(f"{place}: {error}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
