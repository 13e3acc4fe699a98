"""The form of what traces tell. Whoever wrote a database or a bundle has chosen that, so it is checked where it is read.

What a user's arguments are may have any form within ingredients: of these only the outermost is looked at here, and the rest
is read within `reading`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any

from ddmake.errors import DdmakeError

NUMBER = (int, float)
OTHER_FORM = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)  # what reading it ends in


@dataclass(frozen=True)
class Each:
    """A dict whose names are free and whose values have one form."""

    of: Any


@dataclass(frozen=True)
class Perhaps:
    """A part that may be null, or lack."""

    of: Any


EXAMPLE = {"row": int, "messages": [{"role": str, "content": str}], "answer": str}
USED = {**dict.fromkeys(("sent", "cached", "failed", "cut"), int), **dict.fromkeys(("tokens_in", "tokens_out"), (int, NoneType)),
        "cost": Perhaps(NUMBER), "models": [str], "first_failure": Perhaps(str), "example": Perhaps(EXAMPLE)}
MODEL = {"name": str, **dict.fromkeys(("license", "citation", "url", "revision"), Perhaps(str)), "sampling": Perhaps(dict)}
RECORD = {
    "ingredients": dict.fromkeys(("code", "inputs", "arguments", "env"), Perhaps(dict)),
    "recipe": {"name": str, "kind": str, **dict.fromkeys(("place", "doc", "about"), Perhaps(str))},
    "inputs": [{"path": str, "trace": (int, NoneType), "digest": str}],
    "models": [MODEL],
    "usage": Each(USED),
    "started": NUMBER,
    "seconds": NUMBER,
    "environment": dict.fromkeys(("python", "interpreter", "system", "machine"), str),
    "packages": Each(str),
    "hardware": Perhaps({"cpu": str, "cores": int, "memory": NUMBER, "gpus": [str]}),
    "git": Perhaps({"commit": str, "changed": bool}),
    "metrics": Perhaps(dict),
    "of_rows": Perhaps(int),
    "rows": Perhaps(Each(int)),
}
DIGEST = {"kind": str, "sha": str, "rows": Perhaps(int), "columns": Perhaps(Each({"type": str, "hash": str}))}
OUTPUTS = Each({"path": str, "manifest": Each(str), "digest": DIGEST})


def are_outputs(value: Any) -> bool:
    """Tell whether a value tells of outputs as far as every plan reads that: what `check` does, in a twentieth of the time."""
    return type(value) is dict and all(type(out) is dict and type(out.get("path")) is str and _is_manifest(out.get("manifest"))
                                       and _is_digest(out.get("digest")) for out in value.values())


def _is_manifest(value: Any) -> bool:
    return type(value) is dict and all(type(sha) is str for sha in value.values())


def _is_digest(value: Any) -> bool:
    return (type(value) is dict and type(value.get("kind")) is str and type(value.get("sha")) is str
            and type(value.get("rows", 0)) is int and type(columns := value.get("columns", {})) is dict
            and all(type(column) is dict and column.keys() >= {"type", "hash"} for column in columns.values()))


def check(value: Any, form: Any, where: str) -> None:
    """Raise ValueError, which names the part, for a value of another form; what a form doesn't name may be anything."""
    if isinstance(form, Perhaps):
        if value is not None:
            check(value, form.of, where)
    elif isinstance(form, (dict, Each)):
        _kind(value, dict, where)
        parts = dict.fromkeys(value, form.of) if isinstance(form, Each) else form
        for name, part in parts.items():
            if name not in value and not isinstance(part, Perhaps):
                raise ValueError(f"lacks {where}.{name}")
            check(value.get(name), part, f"{where}.{name}")
    elif isinstance(form, list):
        _kind(value, list, where)
        for item in value:
            check(item, form[0], where)
    else:
        _kind(value, form, where)


def _kind(value: Any, kind: Any, where: str) -> None:
    """Raise ValueError for a value that isn't of a kind; true is no number here, and what isn't finite neither."""
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"tells of {where} in a form that ddmake doesn't know")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tell in a sentence that what is read within has another form. Raises DdmakeError."""
    try:
        yield
    except OTHER_FORM as error:
        raise DdmakeError(f"{what} tells something in a form that ddmake doesn't know ({type(error).__name__}: "
                          f"{str(error)[:100]}). Don't trust it: make it again, or get it anew.") from error
