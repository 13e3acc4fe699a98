"""Cutting texts: where sections, paragraphs, sentences and words end, in scripts with spaces between words and without."""

import re
from collections.abc import Iterator
from typing import Literal

Unit = Literal["paragraph", "sentence", "word"]

HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(\S.*?)(?:[ \t]+#+)?[ \t]*$")
FENCE = re.compile(r" {0,3}(```|~~~)")

# Ends of units, from large to small. A sentence ends with a full stop and a space, and without one in Chinese and Japanese.
ENDS = {
    "paragraph": re.compile(r"\n[ \t]*\n\s*"),
    "line": re.compile(r"\n\s*"),
    "sentence": re.compile(r"[.!?…;։۔؟।॥][\"'”’»)\]]*\s+|[。！？｡．][」』”’）】]*\s*"),
    "word": re.compile(r"\s+|[、，：；]"),
}
BEGIN = {"paragraph": 0, "sentence": 2, "word": 3}  # the first of these that counts


def sections(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield a Markdown text's sections, each with its heading (# to ######); one in a fence of code is none."""
    heading, lines, fence = None, list[str](), None
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        found = HEADING.match(line.rstrip("\n")) if fence is None else None
        if mark and fence in (None, mark[1]):
            fence = mark[1] if fence is None else None
        if found:
            yield heading, "".join(lines)
            heading, lines = found[1], []
        lines.append(line)
    yield heading, "".join(lines)


def cut(text: str, size: int, overlap: int, by: Unit) -> Iterator[str]:
    """Yield a text's pieces of at most `size` characters, at most half of which are the `overlap` with the one before."""
    text = text.strip()
    start = 0
    while start < len(text):
        end = _end(text, start, size, by)
        yield text[start:end].strip()
        start = end if end == len(text) else _again(text, end - overlap, end)


def _end(text: str, start: int, size: int, by: Unit) -> int:
    """Return where a piece ends: behind the last unit that ends in its second half, the largest kind of unit first."""
    if len(text) - start <= size:
        return len(text)
    for ends in list(ENDS.values())[BEGIN[by]:]:
        found = [match.end() for match in ends.finditer(text, start + size // 2, start + size) if match.end() > start + size // 2]
        if found:
            return found[-1]
    return start + size


def _again(text: str, start: int, end: int) -> int:
    """Return where the next piece begins: at a sentence, else a word, in what it has in common with this one."""
    for ends in (ENDS["sentence"], ENDS["word"]):
        found = next((match.end() for match in ends.finditer(text, max(0, start - 3), end) if start <= match.end() < end), None)
        if found is not None:
            return found
    return start
