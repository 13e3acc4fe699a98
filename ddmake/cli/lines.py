"""Lines of cells that stand below each other, as wide as a terminal shows them."""

import unicodedata
from collections.abc import Iterable, Sequence

Row = Sequence[str]
WIDE = 60  # cells that are wider don't widen their column: one long path would push all else off the screen


def table(rows: Sequence[Row], indent: int = 0) -> list[str]:
    """Return rows as aligned lines."""
    if not rows:
        return []
    widths = [_column([width(row[column]) for row in rows]) for column in range(len(rows[0]) - 1)]
    pad = "  "
    lines = (pad.join([*(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths) if wide), row[-1]]) for row in rows)
    return [(pad * indent + line).rstrip() for line in lines]


def aligned(rows: Sequence[Row], right: Iterable[int]) -> list[str]:
    """Return rows as aligned lines, some of their columns at the right."""
    wide = {column: max(width(row[column]) for row in rows) for column in right}
    return table([[" " * (wide.get(at, 0) - width(cell)) + cell for at, cell in enumerate(row)] for row in rows])


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for an East Asian letter, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _column(widths: Sequence[int]) -> int:
    """Return the width of a column: that of its widest cell, very wide ones aside."""
    return max((wide for wide in widths if wide <= WIDE), default=0) or min(widths)
