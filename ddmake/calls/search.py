"""Searching what was asked and answered: the calls' database is read as it lies, newest first, a row at a time."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.calls.cache import FILE, MIGRATIONS
from ddmake.store.database import connect

if TYPE_CHECKING:
    from sqlite3 import Connection

COLUMNS = ("id, made, rule, llm, model, request, answer, finish_reason, tokens_in, tokens_out, cost, priced, error, more")
UNUSABLE = "(error IS NOT NULL OR finish_reason IN ('length', 'content_filter'))"


@dataclass(frozen=True)
class Which:
    """Which calls are meant: all of what is given has to hold."""

    words: tuple[str, ...] = ()  # each in what was asked or answered, in upper or lower case
    rule: str | None = None  # the rule that paid, or a folder of such
    model: str | None = None  # a part of the llm's or the model's name
    since: float | None = None  # seconds since 1970
    failed: bool = False  # refused, cut, or broken off
    number: int | None = None


@dataclass(frozen=True)
class Call:
    """A finished call. Tokens and cost are None where they aren't known."""

    id: int
    made: float  # seconds since 1970
    rule: str | None
    llm: str | None
    model: str | None
    asked: dict[str, Any]  # messages, and schema and tools where there are any
    answer: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None
    priced: str | None
    error: str | None
    more: dict[str, Any]


def found(folder: Path, which: Which, most: int | None = None) -> Iterator[Call]:
    """Yield the calls of a project that are meant, the newest first; none where none was made."""
    if not (folder / FILE).exists():
        return
    conditions, values = _conditions(which)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    with _opened(folder) as db:
        limit = -1 if most is None else most
        yield from map(_call, db.execute(f"SELECT {COLUMNS} FROM calls{where} ORDER BY id DESC LIMIT ?", (*values, limit)))


def first_of(folder: Path, since: Mapping[str, float], most: int) -> dict[str, tuple[list[int], int]]:
    """Return, for rules and the moments from which on they asked, the numbers of their first calls, and how many there were.

    Of a rule that asked nothing since, its last calls before. All rules are looked up in one pass.
    """
    if not (folder / FILE).exists():
        return {}
    inside: dict[str, list[int]] = {rule: [] for rule in since}
    before = {rule: deque[int](maxlen=most) for rule in since}
    count = dict.fromkeys(since, 0)
    with _opened(folder) as db:
        for number, rule, made in db.execute("SELECT id, rule, made FROM calls ORDER BY id"):
            if rule not in since:
                continue
            if made < since[rule]:
                before[rule].append(number)
            elif len(inside[rule]) < most:
                inside[rule].append(number)
            count[rule] += made >= since[rule]
    return {rule: (inside[rule] or list(before[rule]), count[rule] or len(before[rule])) for rule in since}


def numbered(folder: Path, numbers: Sequence[int]) -> Iterator[Call]:
    """Yield calls by their numbers, the oldest first."""
    with _opened(folder) as db:
        wanted = f"SELECT {COLUMNS} FROM calls WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        yield from map(_call, db.execute(wanted, (json.dumps(numbers),)))


def _call(row: tuple[Any, ...]) -> Call:
    asked, more = json.loads(row[5] or "[]"), json.loads(row[13] or "{}")
    return Call(*row[:5], asked if isinstance(asked, dict) else {"messages": asked}, *row[6:13], more)


@contextmanager
def _opened(folder: Path) -> Iterator["Connection"]:
    with closing(connect(folder / FILE, MIGRATIONS, synchronous="NORMAL")) as db:
        db.execute("PRAGMA query_only=1")
        yield db


def _conditions(which: Which) -> tuple[list[str], list[Any]]:
    """Return SQL conditions, and the values in them."""
    conditions, values = [], []
    for word in which.words:
        conditions.append(r"(request LIKE ? ESCAPE '\' OR answer LIKE ? ESCAPE '\')")
        values += [_like(json.dumps(word, ensure_ascii=False)[1:-1]), _like(word)]
    if which.rule is not None:
        rule = which.rule.removeprefix("./").rstrip("/")
        conditions.append(r"(rule = ? OR rule LIKE ? ESCAPE '\')")
        values += [rule, _like(f"{rule}/")[1:]]
    if which.model is not None:
        conditions.append(r"(llm LIKE ? ESCAPE '\' OR model LIKE ? ESCAPE '\')")
        values += [_like(which.model)] * 2
    if which.since is not None:
        conditions.append("made >= ?")
        values.append(which.since)
    if which.number is not None:
        conditions.append("id = ?")
        values.append(which.number)
    return conditions + ([UNUSABLE] if which.failed else []), values


def _like(text: str) -> str:
    """Return SQL's pattern for what has a text in it."""
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text}%"
