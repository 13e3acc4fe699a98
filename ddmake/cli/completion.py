"""What a shell offers to complete: targets, aliases, knobs, commands. Nothing is planned, and nothing is ever printed."""

import os
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click

from ddmake.cli.given import given
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.store import FOLDER, open_store, ran, results


def words(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the words that begin so, as far as the Ddfile can be loaded."""
    found = [*_commands(ctx), *_of_ddfile(ctx.params)]
    return list(dict.fromkeys(word for word in found if word.startswith(incomplete)))


def _commands(ctx: click.Context) -> Iterator[str]:
    """Yield the commands' names where one may stand: before any other word."""
    group = ctx.parent.command if ctx.parent is not None else None
    if isinstance(group, click.Group) and ctx.info_name == "make" and not ctx.params.get("words"):
        yield from (name for name, command in group.commands.items() if not command.hidden and name != "make")


def _of_ddfile(params: dict[str, Any]) -> list[str]:
    """Return a Ddfile's targets, aliases and knobs, if it may be run; nothing where it is broken: a shell can't tell why."""
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            file = Path(params.get("file") or "Ddfile")
            folder = file.absolute().parent / FOLDER
            if folder.exists() and not ran.here(folder):
                return _lying(file.absolute().parent)
            return list(_offered(load(file, **given(file, {}, params.get("into"), params.get("config")))))
    except (Exception, SystemExit):
        return []


def _lying(root: Path) -> list[str]:
    """Return the paths of what lies in a project whose Ddfile wasn't run here yet, and isn't for the touch of a key."""
    with closing(open_store(root)) as store:
        return results.paths(store)


def _offered(flow: Workflow) -> Iterator[str]:
    yield from flow.targets
    yield from flow.aliases
    for name, value in flow.knobs.items():
        yield f"{name}="  # beside the next, so that a shell stops here and adds no space
        if value is not None:
            yield f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
