"""`ddmake cost`: what was paid, by target, model and day. The Ddfile isn't loaded for it: it speaks of what was asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ddmake.calls import money
from ddmake.calls.money import Part, Spent
from ddmake.cli.estimating import UNKNOWN, short
from ddmake.cli.show import aligned, count
from ddmake.errors import DdfileError, did_you_mean
from ddmake.store import FOLDER

HEAD = ("target", "model", "day", "calls", "tokens in/out", "$")
NUMBERS = range(3, 6)  # columns that are aligned at the right


def cost(file: Path, names: Sequence[str], as_json: bool) -> int:
    """Print what was paid for targets, all or those named, and return the exit code."""
    folder = file.absolute().parent / FOLDER
    found = _chosen(money.parts(folder), names)
    if as_json:
        click.echo(json.dumps([_json(part) for part in found], indent=2, ensure_ascii=False))
    elif not found:
        click.echo("No llm was asked here yet.")
    else:
        click.echo("\n".join([*aligned([HEAD, *map(_row, found)], NUMBERS), _total(found)]))
    return 0


def _chosen(found: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Return what targets, or those in folders, have paid. Raises DdfileError for one that has asked nobody."""
    wanted = [name.removeprefix("./").rstrip("/") for name in names]
    for name in wanted:
        if not any(_of(part, name) for part in found):
            raise DdfileError(f"Nothing was asked for {name!r}.{did_you_mean(name, {part.rule for part in found})} "
                              "What was: ddmake cost")
    return [part for part in found if not wanted or any(_of(part, name) for name in wanted)]


def _of(part: Part, name: str) -> bool:
    return part.rule == name or part.rule.startswith(f"{name}/")


def _row(part: Part) -> tuple[str, ...]:
    return (part.rule, part.llm, part.day, f"{part.calls:,}", _tokens(part), _paid(part))


def _tokens(part: Part) -> str:
    """Return tokens in and out; with a + where some calls came without."""
    if part.untold == part.calls:
        return UNKNOWN
    more = "+" if part.untold else ""
    return f"{short(part.tokens_in)}{more} / {short(part.tokens_out)}{more}"


def _paid(part: Part) -> str:
    """Return dollars; with a + where some calls have no price."""
    if part.unknown and not part.dollars:
        return UNKNOWN
    return f"{money.dollars(part.dollars)[1:]}{'+' if part.unknown else ''}"


def _total(found: Sequence[Part]) -> str:
    """Return what all that is listed has cost."""
    calls, unknown = sum(part.calls for part in found), sum(part.unknown for part in found)
    told = f"{count(calls, 'calls')}, {Spent(sum(part.dollars for part in found), unknown, calls).told}."
    if not unknown:
        return told
    return f"{told} The price of {count(unknown, 'calls')} isn't known: state price= on the llm, for those to come."


def _json(part: Part) -> dict[str, Any]:
    """Return a part as JSON has it; what isn't known at all is null."""
    told = asdict(part)
    if part.untold == part.calls:
        told.update(tokens_in=None, tokens_out=None)
    return {**told, "dollars": None if part.unknown == part.calls else part.dollars}
