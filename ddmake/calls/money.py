"""What was spent, read from the calls' database. A call without a price is counted as one; it never counts as 0."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

PAID = "coalesce(priced, '') <> 'local'"  # what runs here costs nothing, and is no news
SUMS = ("count(*), total(tokens_in), total(tokens_out), sum(tokens_in IS NULL OR tokens_out IS NULL), total(cost), "
        f"sum(cost IS NULL AND {PAID})")


@dataclass(frozen=True)
class Spent:
    """What some calls have cost; `unknown` of them nobody knows the cost of."""

    dollars: float
    unknown: int
    calls: int

    @property
    def told(self) -> str:
        """Return the sum as a person reads it."""
        if not self.unknown:
            return dollars(self.dollars)
        return f"at least {dollars(self.dollars)}" if self.dollars else "$?"


@dataclass(frozen=True)
class Part:
    """What a rule paid to one llm on one day."""

    rule: str
    llm: str
    day: str  # 2026-11-18, in local time
    calls: int
    tokens_in: int
    tokens_out: int
    untold: int  # calls whose tokens nobody told
    dollars: float
    unknown: int  # calls whose cost nobody knows


def dollars(amount: float) -> str:
    """Return an amount as a person reads it: in cents, and what is less than one by two digits that count."""
    if amount >= 0.01 or amount <= 0:
        return f"${amount:,.2f}"
    return f"${amount:.{1 - math.floor(math.log10(amount))}f}"


def in_all(folder: Path, now: Spent) -> Spent:
    """Return what a project's calls have cost in all; what a run has spent `now` tells of more than was answered."""
    found = _sum(folder, PAID, ())
    return Spent(found.dollars, max(found.unknown, now.unknown), max(found.calls, now.calls))


def by_rule(folder: Path, rule: str, since: float) -> Spent:
    """Return what the calls of a rule have cost since a moment (seconds since 1970)."""
    return _sum(folder, f"{PAID} AND rule = ? AND made >= ?", (rule, since))


def _sum(folder: Path, which: str, values: tuple[object, ...]) -> Spent:
    with _opened(folder) as db:
        sums = "total(cost), coalesce(sum(cost IS NULL), 0), count(*)"
        return Spent(*db.execute(f"SELECT {sums} FROM calls WHERE {which}", values).fetchone())


def parts(folder: Path) -> list[Part]:
    """Return what was paid, by rule, llm and day; nothing where no call was made."""
    from ddmake.calls.cache import FILE

    if not (folder / FILE).exists():
        return []
    with _opened(folder) as db:
        names = "coalesce(rule, ''), coalesce(nullif(llm, ''), model, ''), date(made, 'unixepoch', 'localtime')"
        rows = db.execute(f"SELECT {names}, {SUMS} FROM calls GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
        return [Part(rule, llm, day, calls, int(t_in), int(t_out), untold, cost, unknown)
                for rule, llm, day, calls, t_in, t_out, untold, cost, unknown in rows]


@contextmanager
def _opened(folder: Path) -> Iterator["Connection"]:
    from ddmake.calls.cache import FILE, MIGRATIONS  # not for those who only want to say how much
    from ddmake.store.database import connect

    with closing(connect(folder / FILE, MIGRATIONS, synchronous="NORMAL")) as db:
        db.execute("PRAGMA query_only=1")
        yield db
