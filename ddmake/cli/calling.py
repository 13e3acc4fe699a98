"""`ddmake calls`: what was asked and answered, to be searched, looked at and taken along. The Ddfile isn't loaded for it."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from ddmake.calls import search
from ddmake.calls.search import Call
from ddmake.cli.listing import when_of
from ddmake.cli.show import count, table
from ddmake.cli.terminal import fitted, one_line, printable, screen
from ddmake.cli.turns import text_of
from ddmake.engine.keeping import span
from ddmake.errors import DdfileError
from ddmake.store import FOLDER

SHOWN = 20  # calls in a table, unless another number is given


@dataclass(frozen=True)
class Wanted:
    """Which calls are meant, as the command line says it."""

    words: tuple[str, ...]
    rule: str | None
    model: str | None
    since: str | None
    failed: bool
    number: int | None

    def which(self) -> search.Which:
        """Return the same as a search takes it. Raises DdfileError for a span of time that can't be read."""
        since = None if self.since is None else time.time() - span(self.since, "--since")
        return search.Which(self.words, self.rule, self.model, since, self.failed, self.number)


def calls(file: Path, wanted: Wanted, most: int | None, export: Path | None, as_json: bool) -> int:
    """Print the calls that are meant, or write them to a file, and return the exit code."""
    folder, which = file.absolute().parent / FOLDER, wanted.which()
    if export is not None:
        number = _export(search.found(folder, which, most), export)
        click.echo(f"{count(number, 'calls')} written to {export}.")
    elif as_json:
        sys.stdout.writelines(_json(call) + "\n" for call in search.found(folder, which, most))
    elif wanted.number is not None:
        _whole(list(search.found(folder, which)), wanted.number)
    else:
        most = most or SHOWN
        click.echo("\n".join(_lines(list(search.found(folder, which, most + 1)), most)))
    return 0


def dollars(cost: float) -> str:
    """Return a cost as it is told of one call: to a millionth."""
    return f"${cost:.6f}".rstrip("0").rstrip(".") if cost >= 1e-6 or not cost else f"${cost:.1g}"


def paragraph(title: str, text: str) -> list[str]:
    """Return the lines of a text that others wrote, indented, under its title."""
    return ["", click.style(printable(title), bold=True), *(f"  {line}" for line in printable(text).splitlines() or [""])]


def _lines(found: list[Call], most: int) -> list[str]:
    if not found:
        return ["No such call was made here."]
    head = ("id", "made", "target", "model", "$", "asked", "answered")
    more = [f"… more (-n {10 * most}); one of them in full: ddmake calls --id {found[0].id}"]
    return [*fitted([head, *map(_row, found[:most])], screen()), *(more if len(found) > most else [])]


def _row(call: Call) -> tuple[str, ...]:
    wide = screen()
    asked = next((text_of(turn.get("content")) for turn in reversed(call.asked["messages"]) if turn.get("role") == "user"), "")
    said = call.error or ("(cut) " if call.finish_reason == "length" else "") + call.answer
    cost = dollars(call.cost)[1:] if call.cost is not None else "" if call.priced == "local" else "?"
    names = (one_line(name or "", wide) for name in (call.rule, call.model or call.llm))
    return (str(call.id), when_of(call.made), *names, cost, one_line(asked, wide), one_line(said, wide))


def _whole(found: list[Call], number: int) -> None:
    """Print one call in full. Raises DdfileError where there is none of that number."""
    if not found:
        raise DdfileError(f"There is no call {number}. What there is: ddmake calls")
    call = found[0]
    tokens = [f"{n:,} {way}" for n, way in ((call.tokens_in, "in"), (call.tokens_out, "out")) if n is not None]
    facts = [("call", str(call.id)), ("made", when_of(call.made)), ("target", call.rule), ("llm", call.llm),
             ("model", call.model), ("tokens", ", ".join(tokens)), ("ended by", call.finish_reason), ("error", call.error),
             ("cost", None if call.cost is None else f"{dollars(call.cost)} ({call.priced or 'price not noted'})"),
             *((name, _told(value)) for name, value in call.more.items() if name != "reasoning")]
    lines = table([(name, printable(value)) for name, value in facts if value])
    for turn in call.asked["messages"]:
        lines += paragraph(turn.get("role", ""), text_of(turn.get("content")))
    for name in ("schema", "tools"):
        lines += paragraph(name, json.dumps(call.asked[name], indent=2, ensure_ascii=False)) if call.asked.get(name) else []
    lines += paragraph("reasoning", call.more["reasoning"]) if call.more.get("reasoning") else []
    click.echo("\n".join([*lines, *paragraph("answer", call.answer)]))


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(call: Call) -> str:
    told = {name: value for name, value in vars(call).items() if name not in ("asked", "more", "made")}
    made = datetime.fromtimestamp(call.made, UTC).isoformat(timespec="seconds")
    return json.dumps({**told, "made": made, **call.asked, **call.more}, ensure_ascii=False)


def _export(found: Iterable[Call], to: Path) -> int:
    """Write calls to a file, a line each, and return how many there were; there is the whole file or none."""
    scratch, number = to.with_name(f".{to.name}.{uuid4().hex}"), 0
    try:
        with scratch.open("w", encoding="utf-8") as file:
            for call in found:
                file.write(_json(call) + "\n")
                number += 1
        scratch.replace(to)
    finally:
        scratch.unlink(missing_ok=True)
    return number
