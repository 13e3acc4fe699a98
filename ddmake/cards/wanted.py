"""Where something is to be published, and how: what a Ddfile or a command line says of it."""

import re
from dataclasses import dataclass

from ddmake.errors import DdfileError

REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9]([\w-]*[A-Za-z0-9])?/\w([\w.-]{0,94}\w)?", re.ASCII)  # as the Hub has names


@dataclass(frozen=True)
class Wanted:
    """Where something is to be published, and how."""

    repo: str
    private: bool | None = None  # None: a new repository is private, another stays as it is
    pull_request: bool = False
    merged: bool = False
    revision: str | None = None  # a branch
    license: str | None = None
    message: str | None = None


def check(wanted: Wanted) -> None:
    """Raise DdfileError for what can't be meant."""
    if not REPO.fullmatch(wanted.repo):
        raise DdfileError(f"publish: {wanted.repo!r} can't be a repository's name on the Hub. Name its owner and it: me/tweets.")
    if wanted.pull_request and wanted.private is not None:
        raise DdfileError("publish: a pull request leaves the repository as private or public as it is: leave out private.")
