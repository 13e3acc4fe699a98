"""Text of others in Markdown: fenced, quoted and put in tables so that it can't become markup."""

import re
from collections.abc import Sequence


def fence(text: str, language: str = "") -> str:
    """Return a fenced block; its fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    return f"{ticks}{language}\n{lines}\n{ticks}"


def code(text: object) -> str:
    """Return text as inline code on one line."""
    line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    if not longest:
        return f"`{line}`" if line else ""
    ticks = "`" * (longest + 1)
    return f"{ticks} {line} {ticks}"


def codes(texts: Sequence[object]) -> str:
    """Return several texts as inline code."""
    return ", ".join(code(text) for text in texts)


def both(texts: Sequence[object]) -> str:
    """Return several texts as inline code, as a sentence lists them."""
    *first, last = [code(text) for text in texts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, without the columns that are empty in every row."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    lines = [[head[at] for at in kept], ["---"] * len(kept), *([_cell(row[at]) for at in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: object) -> str:
    """Return a number as it is read best."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def when(time: str) -> str:
    """Return a time in UTC as it is read: without its T and its offset."""
    return time.replace("T", " ").replace("+00:00", " UTC")


def link(text: str) -> str:
    """Return an address as a link, plain words as they are, and anything else as code."""
    if re.fullmatch(r"https?://[^\s<>]+", text):
        return f"<{text}>"
    return text if re.fullmatch(r"[\w .,:;/+()-]*", text) else code(text)


def _cell(text: str) -> str:
    return " ".join(text.split("\n")).replace("|", "\\|")
