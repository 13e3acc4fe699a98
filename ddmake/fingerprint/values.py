"""Values in a canonical form made of JSON's types, so that they can be hashed, stored and compared.

Tuples differ from lists, ints from floats, and dicts by the order of their keys, since a recipe can see all of that.
"""

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import re
import uuid
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, get_origin

from ddmake.errors import DdfileError

PLAIN = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID, range, complex,
         slice, datetime.timezone)


def canonical(value: Any, name: str, special: Callable[[Any], Any]) -> Any:
    """Return a value's canonical form; `special` is asked first for what isn't plain data.

    Raises DdfileError, by `name`, where a value can't be hashed soundly.
    """
    if value is None or isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum):
        return value
    known = special(value)
    return _composed(value, name, special) if known is NotImplemented else known


def _composed(value: Any, name: str, special: Callable[[Any], Any]) -> Any:
    again = functools.partial(canonical, special=special)
    if isinstance(value, list):
        return [again(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [again(item, f"{name}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, dict):
        return {"dict": [[again(k, name), again(v, f"{name}[{k!r}]")] for k, v in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((again(item, name) for item in value), key=repr)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, enum.Enum):
        return {"enum": f"{type(value).__qualname__}.{value.name}", "value": again(value.value, name)}
    if isinstance(value, PLAIN):
        return {type(value).__name__: repr(value)}
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if isinstance(value, re.Pattern):
        return {"pattern": value.pattern, "flags": value.flags}
    if isinstance(value, functools.partial):
        return {"partial": again(value.func, name), "args": again(value.args, name), "keywords": again(value.keywords, name)}
    if isinstance(value, type) or get_origin(value) is not None:
        return {"type": value.__qualname__ if isinstance(value, type) and get_origin(value) is None else repr(value)}
    if callable(value) and hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        return {"builtin": f"{value.__module__}.{value.__qualname__}"}
    return _instance(value, name, special)


def _instance(value: Any, name: str, special: Callable[[Any], Any]) -> Any:
    """Return an object as its class and attributes, where the class is a dataclass or the user's own."""
    kind = special(type(value))
    if dataclasses.is_dataclass(value):
        held = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif kind is not NotImplemented and hasattr(value, "__dict__"):
        held = vars(value)
    elif type(value).__module__ == "numpy" and hasattr(value, "tobytes") and not value.dtype.hasobject:
        return {"array": str(value.dtype), "shape": list(value.shape), "bytes": hashlib.sha256(value.tobytes()).hexdigest()}
    else:
        raise DdfileError(
            f"{name} can't be hashed soundly: it is a {type(value).__module__}.{type(value).__qualname__}. "
            "Make it inside the recipe, or pass what it is made of as an argument."
        )
    fields = {key: canonical(item, f"{name}.{key}", special) for key, item in held.items()}
    return {"class": type(value).__qualname__ if kind is NotImplemented else kind, "fields": fields}
