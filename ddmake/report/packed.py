"""Rows for the page's script: lines of JSON, compressed and in base64, so that nothing in them can be markup.

A line is a row: its number, then its cells. A cell is a text, a number, true, false or null, or a pair that tells what else it
is: ["json", text], ["turns", [[role, text], …]], ["image", data URL].
"""

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ddmake.report.words import amount

LONG = 20_000  # characters of a cell; what is longer is cut, and says so
SMALL = 50_000  # bytes of an image that is shown
MANY = 24  # numbers in a row that are shown of a vector, before it is cut
GZIP = 31  # zlib's number for gzip's form
IMAGES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}

Row = tuple[int, Sequence[Any]]


def packed(columns: Mapping[str, str], given: Iterable[str], rows: Iterable[Row], clean: Callable[[str], str]) -> Iterator[str]:
    """Yield rows of these columns (types by name) in base64, piece by piece; `given` are columns that were there before."""
    deflate, rest = zlib.compressobj(6, zlib.DEFLATED, GZIP), b""
    for line in _lines(columns, set(given), rows):
        rest += deflate.compress(clean(line).encode())
        whole = len(rest) - len(rest) % 3
        if whole:
            yield base64.b64encode(rest[:whole]).decode()
            rest = rest[whole:]
    yield base64.b64encode(rest + deflate.flush()).decode()


def _lines(columns: Mapping[str, str], given: set[str], rows: Iterable[Row]) -> Iterator[str]:
    yield json.dumps({"columns": [{"name": name, "type": kind, "given": name in given} for name, kind in columns.items()]})
    for number, values in rows:
        yield "\n" + json.dumps([number, *map(cell, values)])


def cell(value: Any) -> Any:
    """Return a value as a cell."""
    if value is None or isinstance(value, (bool, int)):
        return value if not isinstance(value, int) or abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, (bytes, bytearray)):
        return _image(bytes(value))
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # as `datasets` stores an image
        return _image(value["bytes"])
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in value):
            return ["turns", [[turn["role"], _cut(_said(turn))] for turn in value]]
        if len(value) > MANY and all(isinstance(item, (int, float)) for item in value):
            return ["json", f"[{', '.join(map(str, value[:MANY]))}, … {len(value):,} numbers]"]
    return ["json", _cut(written(value))]


def written(value: Any) -> str:
    """Return a value as JSON is written for people."""
    def plain(odd: Any) -> str:
        return f"{amount(len(odd))}, binary" if isinstance(odd, bytes) else str(odd)

    return json.dumps(value, ensure_ascii=False, indent=1, default=plain)


def _said(turn: Mapping[str, Any]) -> str:
    """Return what a chat message says: its text, and all else that isn't null as JSON."""
    content = turn.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    rest = {name: value for name, value in turn.items() if name not in ("role", "content") and value is not None}
    return "\n".join(filter(None, [content if isinstance(content, str) else "", written(rest) if rest else ""]))


def _part(part: Any) -> str:
    """Return a part of a message's content: its text, or what it is."""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    return f"[{part.get('type', '?')}]" if isinstance(part, Mapping) else written(part)


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]}… {len(text) - LONG:,} more characters"


def _image(data: bytes) -> Any:
    kind = next((kind for start, kind in IMAGES.items() if data.startswith(start)), None)
    if kind is None or len(data) > SMALL:
        return ["json", f"{amount(len(data))}, {kind or 'binary'}"]
    return ["image", f"data:{kind};base64,{base64.b64encode(data).decode()}"]
