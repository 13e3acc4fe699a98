"""Text that others wrote, on a terminal: no control character reaches it, and what is wide is cut to the screen."""

import re
import shutil
from collections.abc import Sequence

from ddmake.cli.show import width

# what a terminal might obey (C0, C1), what turns text round, separators of lines, halves of surrogate pairs
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NARROW = 8  # columns of a terminal below which a cell tells nothing
GAP = 2  # between two cells


def printable(text: str) -> str:
    """Return a text with its control characters spelt out, new lines and tabs aside."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


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
