"""Values in a canonical form made of JSON's types, so that they can be hashed, stored and compared.

Tuples differ from lists, ints from floats, and dicts by the order of their keys, since a recipe can see all of that.
"""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import logging
import re
import types
import typing
import uuid
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from ddmake.errors import DdfileError

PLAIN = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID, range, complex,
         slice, datetime.timezone)
CONTAINERS = (dict, list, tuple, set, frozenset, str, int, float, bytes, collections.deque)

Special = Callable[[Any], Any]  # asked first for what isn't plain data; NotImplemented: not known


def canonical(value: Any, name: str, special: Special, _inside: tuple[int, ...] = ()) -> Any:
    """Return a value's canonical form.

    Raises DdfileError, by `name`, where a value can't be hashed soundly.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    known = special(value)
    if known is not NotImplemented:
        return known
    if id(value) in _inside:
        raise DdfileError(f"{name} can't be hashed: it holds itself.")
    again = functools.partial(canonical, special=special, _inside=(*_inside, id(value)))
    for form in (_container, _named, _object):
        found = form(value, name, again, special)
        if found is not NotImplemented:
            return found
    raise DdfileError(
        f"{name} can't be hashed soundly: it is a {type(value).__module__}.{type(value).__qualname__}. "
        "Make it inside the recipe, or pass what it is made of as an argument."
    )


def _container(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    kind = type(value)
    if kind is list:
        return [again(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [again(item, f"{name}[{i}]") for i, item in enumerate(value)]}
    if kind is dict:
        return {"dict": [[again(k, name), again(v, f"{name}[{k!r}]")] for k, v in value.items()]}
    if kind in (set, frozenset):
        return {"set": sorted((again(item, name) for item in value), key=repr)}
    if kind in (bytes, bytearray):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if kind is collections.defaultdict:
        return {"defaultdict": again(dict(value), name), "factory": again(value.default_factory, name)}
    if kind in (collections.OrderedDict, collections.Counter, types.MappingProxyType):
        return {kind.__name__: again(dict(value), name)}
    if kind is collections.deque:
        return {"deque": again(list(value), name), "maxlen": value.maxlen}
    return NotImplemented


def _named(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    """Return what counts by a name or by how it is written."""
    if isinstance(value, enum.Enum):
        return {"enum": again(type(value), name), "member": value.name}
    if type(value) in PLAIN or isinstance(value, datetime.tzinfo):
        return {type(value).__name__: repr(value)}
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if isinstance(value, re.Pattern):
        return {"pattern": again(value.pattern, name), "flags": value.flags}
    if isinstance(value, functools.partial):
        return {"partial": again(value.func, name), "args": again(value.args, name), "keywords": again(value.keywords, name)}
    if isinstance(value, type) and typing.get_origin(value) is None:
        return {"type": f"{value.__module__}.{value.__qualname__}"}
    if typing.get_origin(value) is not None:
        return {"type": again(typing.get_origin(value), name), "of": [again(arg, name) for arg in typing.get_args(value)]}
    if isinstance(value, (typing.TypeVar, logging.Logger)):
        return {type(value).__name__: getattr(value, "name", None) or value.__name__}
    if value is Ellipsis or value is NotImplemented or type(value) is object or type(value).__module__ == "typing":
        return {"object": "" if type(value) is object else repr(value)}
    return NotImplemented


def _object(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    """Return an object as its class and what it holds, where its class is a dataclass, a known one or the user's own."""
    bound = getattr(value, "__self__", None)
    if callable(value) and hasattr(value, "__qualname__") and hasattr(value, "__name__"):
        if bound is not None and not isinstance(bound, types.ModuleType):
            return {"method": value.__name__, "self": again(bound, f"{name}'s self")}
        return {"builtin": f"{value.__module__}.{value.__qualname__}"}
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes") and not value.dtype.hasobject:
        return {"array": str(value.dtype), "shape": list(value.shape), "bytes": hashlib.sha256(value.tobytes()).hexdigest()}
    kind = special(type(value))
    users = kind is not NotImplemented
    if not users and not dataclasses.is_dataclass(value) and type(value) is not types.SimpleNamespace:
        return NotImplemented
    held = dict(getattr(value, "__dict__", {}))
    slots = [slot for cls in type(value).__mro__ for slot in _slots(cls) if hasattr(value, slot)]
    held.update({slot: getattr(value, slot) for slot in slots})
    base = next((base for base in CONTAINERS if isinstance(value, base)), None)
    told = {"class": kind if users else type(value).__qualname__,
            "fields": {key: again(item, f"{name}.{key}") for key, item in held.items()}}
    return told if base is None else {**told, "content": again(base(value), name)}


def _slots(cls: type) -> list[str]:
    given = cls.__dict__.get("__slots__", ())
    return [s for s in ([given] if isinstance(given, str) else given) if s not in ("__dict__", "__weakref__")]
