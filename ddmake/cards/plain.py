"""How a card writes what traces hold: paths, and canonical forms as a person would write them.

Left out: whatever is named like a secret, and the folders of files outside of the project.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from ddmake.cards.private import LEFT_OUT
from ddmake.store import secrets

SAID = {"code": "(a function)", "builtin": "(a function)", "llm": "(a model)", "embedder": "(a model)",
        "template": "(a prompt)"}  # instead of their forms

Facts = dict[str, Any]


def shown(path: str) -> str:
    """Return a path as a card may name it: of one outside of the project its last part alone."""
    if path[:1] not in "/.~":  # most are inside, and a chain has thousands
        return path
    parts = PurePosixPath(path).parts
    return parts[-1] if parts and (parts[0] in ("/", "..") or path.startswith("~")) else path


def spoken(model: str) -> str:
    """Return a model's name as a card may give it: of a folder outside of the project its last part alone."""
    return f"hf/{shown(model[3:])}" if model.startswith("hf/") else shown(model)


def plain(value: Any) -> Any:
    """Return a canonical form as a person would write it; what is named like a secret is left out."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class" in value and "fields" in value:
        return {str(value["class"]).lower(): opened(value["fields"].items())}
    if "dict" in value:
        return opened(value["dict"])
    for kind in ("tuple", "set"):
        if kind in value:
            return [plain(item) for item in value[kind]]
    said = next((text for kind, text in SAID.items() if kind in value), None)
    return f"(the function {name})" if (name := function(value)) else said or opened(value.items())


def function(value: Any) -> str:
    """Return the name of a function of the user's by its canonical form; nothing for lambdas, and all else."""
    named = value.get("value") if isinstance(value, dict) else None
    name = named.get("code") if isinstance(named, dict) else None
    return name if isinstance(name, str) and name.isidentifier() else ""


def opened(pairs: Iterable[Any]) -> Facts:
    """Return pairs of names and values, of those that are named like a secret the names alone."""
    return {str(name): LEFT_OUT if secrets.is_named(name, part) else plain(part) for name, part in pairs}
