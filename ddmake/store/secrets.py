"""Secrets in what leaves the machine: keys of services by their form, and by the values that environment variables have here.

A secret of another form isn't found, nor is one that is encoded or cut in two.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

NAME = re.compile(r"secret|passw|passphrase|credential|authorization|api[_-]?key|(access|auth|bearer)[_-]?token|"
                  r"(^|[_-])(api)?(key|token|pwd)([_-]|$)", re.IGNORECASE)  # of variables, arguments, knobs and flags
CHUNK, OVERLAP = 1 << 20, 1 << 12  # bytes that are read at once, and those that the next piece begins with again
PLACES = ("PWD", "OLDPWD")  # named alike, of the shell's: the folder that one is in, or was
SHORTEST = 12  # characters of a variable's value: a shorter one may stand anywhere

FORMS = {  # by what they begin with, which is sought first: that is far quicker than an expression
    b"sk-": ("an API key", rb"(?=[\w-]*\d)sk-[\w-]{20,}"),
    b"hf_": ("a token of the Hub", rb"hf_[A-Za-z0-9]{30,}"),
    b"gsk_": ("an API key", rb"gsk_[A-Za-z0-9]{30,}"),
    b"nvapi-": ("an API key", rb"nvapi-[\w-]{30,}"),
    b"xai-": ("an API key", rb"xai-[A-Za-z0-9]{30,}"),
    b"r8_": ("an API key", rb"r8_[A-Za-z0-9]{30,}"),
    b"AIza": ("an API key", rb"AIza[\w-]{35}"),
    b"gh": ("a token of GitHub", rb"gh[opsur]_[A-Za-z0-9]{36,}"),
    b"github_pat_": ("a token of GitHub", rb"github_pat_\w{22,}"),
    b"glpat-": ("a token of GitLab", rb"glpat-[\w-]{20,}"),
    b"AKIA": ("a key of AWS", rb"AKIA[0-9A-Z]{16}"),
    b"xox": ("a token of Slack", rb"xox[abprs]-[\w-]{10,}"),
    b"PRIVATE KEY-----": ("a private key", rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
}
PATTERNS = {start: (what, re.compile(rb"(?<![A-Za-z0-9])" + form)) for start, (what, form) in FORMS.items()}


@dataclass(frozen=True)
class Found:
    """A secret: what it is, and the line that it stands in. Its text is told nowhere."""

    what: str
    line: int


def is_named(name: object, value: object) -> bool:
    """Tell whether something is named like a secret, and can be one; a number is none, whatever it counts."""
    return NAME.search(str(name)) is not None and not isinstance(value, (int, float, NoneType))


def in_file(file: Path) -> Found | None:
    """Return the first secret in a file, None where none is found."""
    known, line, kept = _of_environment(), 1, b""
    with file.open("rb") as stream:
        while data := stream.read(CHUNK):
            text = kept + data
            found = in_bytes(text, known)
            if found is not None:
                return Found(found.what, line + found.line - 1)
            kept = text[-OVERLAP:]
            line += text.count(b"\n") - kept.count(b"\n")
    return None


def in_bytes(text: bytes, known: dict[str, bytes] | None = None) -> Found | None:
    """Return a secret in a text; `known` are the values of variables, by name."""
    for name, value in (_of_environment() if known is None else known).items():
        at = text.find(value)
        if at >= 0:
            return Found(f"the value of {name}", text.count(b"\n", 0, at) + 1)
    for start, (what, pattern) in PATTERNS.items():
        match = pattern.search(text) if start in text else None
        if match is not None:
            return Found(what, text.count(b"\n", 0, match.start()) + 1)
    return None


def hidden(text: str) -> str:
    """Return a text with the names of variables in place of the secrets that these hold."""
    for name, value in _of_environment().items():
        text = text.replace(value.decode("utf-8", "surrogateescape"), f"[the value of {name}]")
    return text


def _of_environment() -> dict[str, bytes]:
    """Return the values of the environment variables that hold secrets by their names."""
    found = {name: value.encode("utf-8", "surrogateescape") for name, value in os.environ.items()
             if NAME.search(name) and name not in PLACES}
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}
