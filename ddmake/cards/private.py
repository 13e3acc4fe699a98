"""What no card and no page may hold, whoever wrote it: secrets, and where folders of this machine lie."""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ddmake
from ddmake.store.secrets import FORMS, NAME

SHORTEST = 8  # characters of an environment variable's value that can be a secret
LEFT_OUT = "[secret left out]"
BLOCK = r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[\s\S]*?(?:-----END (?:[A-Z]+ )?PRIVATE KEY-----|\Z)"
BEGINNINGS = [start.decode() for start in FORMS]  # what a text has to hold before the expression is tried on it
KEY = re.compile(rf"{BLOCK}|(?<![A-Za-z0-9])(?:{'|'.join(form.decode() for _, form in FORMS.values())})")

Clean = Callable[[str], str]


def folders(root: Path) -> dict[Path, str]:
    """Return the folders of this machine that nobody else is to hear of, with what stands for each."""
    found = {Path(ddmake.__file__).parent: "ddmake", Path.home(): "~"}
    if "HF_HOME" in os.environ:
        found[Path(os.environ["HF_HOME"]).absolute()] = "$HF_HOME"
    return {**found, root.resolve(): ".", root.absolute(): "."}


def cleaner(root: Path) -> Clean:
    """Return a function that leaves secrets out of texts, and shortens the paths of a project's folder and of the home folder."""
    secrets = sorted({value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST}, key=len)
    short = {str(path): told for path, told in folders(root).items() if len(path.parts) > 1}
    longest = sorted(short, key=len, reverse=True)
    folder = re.compile(rf"(?:{'|'.join(map(re.escape, longest))})(?![\w.-])") if short else None

    @cache  # names of fields and much else come again and again
    def clean(text: str) -> str:
        for secret in reversed(secrets):
            text = text.replace(secret, LEFT_OUT)
        if any(beginning in text for beginning in BEGINNINGS):
            text = KEY.sub(LEFT_OUT, text)
        if folder is not None and any(path in text for path in longest):
            text = folder.sub(lambda found: short[found[0]], text)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is spelt out

    return clean


def cleaned(value: Any, clean: Clean) -> Any:
    """Return a value of JSON's types with all of its texts cleaned, names among them."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [cleaned(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(str(name)): cleaned(item, clean) for name, item in value.items()}
    return value
