"""What isn't published: secrets, and the paths of folders on this machine.

Of weights the header is looked at, of compressed rows what they hold. A path is found by the folders that ddmake knows: the
project's, the user's, the local cache of the Hub, and its own.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddmake.cards.private import folders as all_folders
from ddmake.errors import DdmakeError
from ddmake.store import secrets
from ddmake.store.secrets import Found

WEIGHTS = ".safetensors"  # begins with eight bytes that tell how long its header is
SHORTEST = 3  # parts of a folder's path that can be sought: /root and /home stand in many a text
REMEDY = "Nothing was sent. Take it out where it comes from, and make the target again."


def folders(root: Path) -> list[bytes]:
    """Return the folders of this machine that no published text may name."""
    return [os.fsencode(folder) for folder in all_folders(root) if len(folder.parts) >= SHORTEST]


def refuse_files(files: Iterable[tuple[str, Path]], private: list[bytes]) -> None:
    """Look through files that are uploaded as they are. Raises DdmakeError, with file and line, for what isn't published."""
    for name, place in files:
        found = _in(_text(place), private)
        if found is not None:
            raise DdmakeError(f"{name}:{found.line} holds {found.what}. {REMEDY}")


def refuse_rows(table: pa.Table, path: str, private: list[bytes]) -> None:
    """Look through rows, as they are before they are compressed. Raises DdmakeError, with row and column."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        first = 0
        for chunk in column.chunks:
            if any(_in(buffer.to_pybytes(), private) for buffer in _buffers(chunk)):
                _refuse_row(chunk, first, f"column {name!r}", path, private)
            first += len(chunk)


def _buffers(chunk: pa.Array) -> list[pa.Buffer]:
    whole = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
    return [buffer for buffer in whole.buffers() if buffer is not None]


def _refuse_row(chunk: pa.Array, first: int, column: str, path: str, private: list[bytes]) -> None:
    """Raise for the row that holds it; texts that only look like something where one follows another hold nothing."""
    for number, value in enumerate(chunk):
        found = _in(_plain(value.as_py()), private)
        if found is not None:
            raise DdmakeError(f"{path}: row {first + number}, {column}, holds {found.what}. {REMEDY}")


def _plain(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode("utf-8", "replace")


def _text(place: Path) -> bytes:
    """Return what can hold a text: a whole file, of weights the header."""
    if place.suffix != WEIGHTS:
        return place.read_bytes()
    with place.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def _in(text: bytes, private: list[bytes]) -> Found | None:
    found = secrets.in_bytes(text)
    if found is not None:
        return found
    at = next((at for folder in private if (at := text.find(folder)) >= 0), None)
    return None if at is None else Found("a path of this machine", text.count(b"\n", 0, at) + 1)
