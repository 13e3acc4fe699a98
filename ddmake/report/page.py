"""The page: a Jinja template that escapes all it is given, written to a file piece by piece, so that rows need no memory.

No script, style, picture or font comes from anywhere else, and the page's own policy forbids it.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ddmake import __version__
from ddmake.calls import money, search
from ddmake.calls.money import Spent
from ddmake.cards.card import card
from ddmake.cards.lineage import Lineage
from ddmake.cards.markdown import number, when
from ddmake.cards.private import LEFT_OUT, cleaner
from ddmake.cards.readme import readme
from ddmake.errors import DdmakeError
from ddmake.report.entries import Entry, drawn
from ddmake.report.sections import Sections
from ddmake.report.svg import inline
from ddmake.report.timeline import timeline
from ddmake.report.words import count, duration, printable, unwrapped
from ddmake.store import Store, secrets

FOLDER = Path(__file__).parent
CARDS = 1_000_000  # characters of cards in a page; of what is beyond, the command that writes them is told
ARROWS = 5000  # in a graph that is drawn: with more of them nothing can be seen
BEGINNING = b"<!doctype html>"
PIECE = 1 << 16  # characters that are written at once


@dataclass(frozen=True)
class About:
    """What a report is of: title, knobs, why there are no verdicts ("" where there are), and the rows of a dataset to show."""

    title: str
    ddfile: str
    knobs: Mapping[str, Any]
    unplanned: str
    most: int


@dataclass(frozen=True)
class Sums:
    """What all jobs come to whose results lie there."""

    rows: int
    seconds: float
    asked: Counter[str]
    spent: Spent
    verdicts: Counter[str]


def write(to: Path, store: Store, entries: Sequence[Entry], about: About) -> Sums:
    """Write a report of entries, the whole or nothing, and return what they come to."""
    clean, lineage = cleaner(store.root), Lineage(store.traces)
    records = list(_records(entries))
    sums = _sums(store, entries, records)
    asking = {entry.label: record["started"] for entry, record in records if record["usage"]}
    calls = search.first_of(store.folder, asking, about.most)
    sections = Sections(store, lineage, about.most, calls, clean)
    graph = drawn(entries)
    links = {entry.label: f"#{entry.anchor}" for entry in entries}
    template = _environment(clean, entries).get_template("page.html.j2")
    pieces = template.generate(
        about=about, now=datetime.now(UTC).isoformat(timespec="seconds"), version=__version__, sums=sums, entries=entries,
        knobs={name: LEFT_OUT if secrets.is_named(name, value) else value for name, value in about.knobs.items()},
        graph=inline(graph, links) if len(graph.arrows) <= ARROWS else "",
        results=[table for entry in entries for table in sections.results(entry)],
        runs=timeline(store.traces.runs(), records), sections=(sections.of(entry) for entry in entries), spent=_spent(store),
        cards=_cards(store, lineage, entries), style=Markup(_part("page.css")), script=Markup(_part("page.js")),
        policy=_policy(_part("page.js")),
    )
    _write(to, pieces)
    return sums


def _environment(clean: Callable[[str], str], entries: Sequence[Entry]) -> Environment:
    """Return Jinja's environment: every value is shown without secrets, its control characters spelt out, and escaped."""
    def shown(value: Any) -> Any:
        return printable(clean(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    def value(told: Any) -> str:
        return told if isinstance(told, str) and told.strip() == told != "" else json.dumps(told, ensure_ascii=False, default=str)

    found = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, finalize=shown, trim_blocks=True,
                        lstrip_blocks=True)
    found.filters.update(when=when, number=number, duration=duration, dollars=money.dollars, count=count,
                         unwrapped=unwrapped, value=value, drawing=lambda svg: Markup(clean(svg)))
    found.globals["anchors"] = {path: entry.anchor for entry in entries for path in entry.outputs.values()}
    return found


def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Return the page's Content-Security-Policy: nothing from outside, and no script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
            "form-action 'none'")


def _records(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    """Yield the records of jobs, damaged ones aside, of which their sections tell."""
    for entry in entries:
        try:
            if entry.trace is not None:
                yield entry, entry.trace.record
        except DdmakeError:
            pass


def _sums(store: Store, entries: Sequence[Entry], records: Sequence[tuple[Entry, Mapping[str, Any]]]) -> Sums:
    asked: Counter[str] = Counter()
    for _, record in records:
        for used in record["usage"].values():
            asked.update({name: used.get(name) or 0 for name in ("sent", "cached", "failed", "cut", "tokens_in", "tokens_out")})
    rows = sum(out["digest"].get("rows", 0) for entry, _ in records if entry.trace for out in entry.trace.outputs.values())
    parts = money.parts(store.folder)
    spent = Spent(sum(part.dollars for part in parts), sum(part.unknown for part in parts), sum(part.calls for part in parts))
    seconds = sum(record["seconds"] for _, record in records)
    return Sums(rows, seconds, asked, spent, Counter(entry.word for entry in entries if entry.word))


def _spent(store: Store) -> dict[str, Spent]:
    """Return what was ever paid for each target."""
    found: dict[str, Spent] = {}
    for part in money.parts(store.folder):
        had = found.get(part.rule, Spent(0.0, 0, 0))
        found[part.rule] = Spent(had.dollars + part.dollars, had.unknown + part.unknown, had.calls + part.calls)
    return found


def _cards(store: Store, lineage: Lineage, entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Yield the cards of models and of what nothing else is made of; of those for which there is no room, an empty text."""
    read, room = {path for entry in entries for path in entry.reads}, CARDS
    for entry in entries:
        outputs = entry.trace.outputs if entry.trace is not None else {}
        for name, path in entry.outputs.items():
            if name not in outputs or path in read and outputs[name]["digest"]["kind"] != "model":
                continue
            text = _card(store, lineage, path) if room > 0 else ""
            room -= len(text)
            yield path, text


def _card(store: Store, lineage: Lineage, path: str) -> str:
    try:
        found = card(store, lineage, path)
        return readme(found) if found is not None else ""
    except DdmakeError as error:
        return str(error)


def _write(to: Path, pieces: Iterator[str]) -> None:
    """Write pieces of a page to a file: there is the old one or the new one, and never a part."""
    to = to.resolve()  # through a link, which stays one
    scratch = to.with_name(f".{to.name}.{uuid4().hex}")
    try:
        with scratch.open("w", encoding="utf-8", buffering=PIECE) as file:
            file.writelines(pieces)
        scratch.replace(to)
    finally:
        scratch.unlink(missing_ok=True)
