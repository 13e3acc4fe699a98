"""`ddmake lint`: what is likely a mistake in a Ddfile, though it loads."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from ddmake.ddfile.load import load
from ddmake.engine.lint import findings
from ddmake.errors import DdfileError


def lint(file: Path, words: list[str], knobs: dict[str, str], as_json: bool) -> int:
    """Print what is likely a mistake, and return the exit code: 1 if there is anything."""
    if words:
        raise DdfileError(f"ddmake lint takes no targets, but knobs: {words[0]!r} is neither.")
    flow = load(file, **knobs)
    os.chdir(flow.root)
    found = findings(flow)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            click.echo(f"{one.place}: {one.what}. {one.remedy}")
        click.echo(f"{len(found)} finding{'s' * (len(found) != 1)}." if found else "Nothing to find fault with.")
    return 1 if found else 0
