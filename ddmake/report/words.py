"""Numbers, sizes and texts of others, as a person is shown them."""

import re

# what a terminal might obey (C0, C1), what turns text round, separators of lines, halves of surrogate pairs
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text with its control characters spelt out, new lines and tabs aside."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def shortened(text: str, most: int) -> str:
    """Return a text with its middle left out where it is longer: a path's end tells it from others."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half - 1]}…{text[-half:]}"


def unwrapped(text: str) -> str:
    """Return a docstring without the ends of lines that only its file's width made; lists and indented lines keep theirs."""
    return re.sub(r"(?<=\S)\n(?=[^\s\-*+|>`\d])", " ", text)


def count(number: int, noun: str) -> str:
    """Return a number of things in words; the noun is the plural, in which the s is what ends it."""
    return f"{number:,} {noun}" if number != 1 else f"1 {noun.removesuffix('s')}"


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def amount(size: int) -> str:
    """Return a number of bytes as a person says it."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} {units[0]}" if units[0] == "B" or number >= 100 else f"{number:.1f} {units[0]}"
