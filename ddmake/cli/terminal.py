"""Text that others wrote, on a terminal: no control character reaches it, and what is wide is cut to the screen."""

import shutil
from collections.abc import Sequence

from ddmake.cli.lines import width
from ddmake.report.words import printable

NARROW = 8  # columns of a terminal below which a cell tells nothing
GAP = 2  # between two cells


def one_line(text: str, wide: int) -> str:
    """Return as much of a text as fits a line of so many columns."""
    line = " ".join(printable(text[:wide * 4]).split())
    return cut(line + "…" if len(text) > wide * 4 else line, wide)


def cut(line: str, wide: int) -> str:
    """Return a line with its end left out where it is wider than so many columns."""
    if width(line) <= wide:
        return line
    kept = line[:wide]
    while width(kept) >= wide:
        kept = kept[:-1]
    return f"{kept}…"


def screen() -> int:
    """Return the columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def fitted(rows: Sequence[Sequence[str]], wide: int) -> list[str]:
    """Return rows as aligned lines of so many columns; the widest cells are cut, and what has no room at all is left out."""
    fits = max(1, (wide + GAP) // (NARROW + GAP))
    natural = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))][:fits]
    widths = _shares(natural, wide - GAP * (len(natural) - 1))
    lines = ([cut(cell, most) for cell, most in zip(row, widths)] for row in rows)
    return [(" " * GAP).join(cell + " " * (most - width(cell)) for cell, most in zip(line, widths)).rstrip() for line in lines]


def _shares(natural: Sequence[int], room: int) -> list[int]:
    """Return a width for each column: its own where that is small, an equal share of what the small ones leave else."""
    shares, left = list(natural), room
    for number, at in enumerate(sorted(range(len(natural)), key=natural.__getitem__)):
        shares[at] = min(natural[at], left // (len(natural) - number))
        left -= shares[at]
    return shares
