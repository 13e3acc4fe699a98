"""Hashes: of bytes, of files, of plain values as canonical JSON. SHA-256 throughout, as hex."""

import hashlib
import json
from pathlib import Path
from typing import Any


def of_value(value: Any) -> str:
    """Hash a value made of JSON's types; the order of a dict's keys counts."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_file(path: Path) -> str:
    """Hash a file's bytes, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
