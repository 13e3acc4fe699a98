"""Values in a canonical form made of JSON's types, so that they can be hashed, stored and compared.

Tuples differ from lists, ints from floats, and dicts by the order of their keys, since a recipe can see all of that.
Nothing in it depends on Python's minor version or on where the project lies.
"""

import collections
import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from ddmake.errors import DdfileError

SCALARS = frozenset((types.NoneType, bool, int, float, str))
WRITTEN = {  # types whose values are what they are written as
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone", "zoneinfo.ZoneInfo",
    "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "builtins.range", "builtins.complex", "builtins.slice",
}
REDUCED = {"operator.itemgetter", "operator.attrgetter", "operator.methodcaller"}  # made again from what they were made of
CONTAINERS = (dict, list, tuple, set, frozenset, str, int, float, bytes, collections.deque)
DIGITS = 10_000  # bits; Python refuses to write longer ints as digits

Special = Callable[[Any], Any]  # asked first for what isn't plain data; NotImplemented: not known


def canonical(value: Any, name: str, special: Special, root: str = "", _inside: tuple[int, ...] = ()) -> Any:
    """Return a value's canonical form, in which the folder `root` counts for nothing.

    Raises DdfileError, by `name`, where a value can't be hashed soundly.
    """
    if type(value) in SCALARS:
        return scalar(value, root)
    known = special(value)
    if known is not NotImplemented:
        return known
    if id(value) in _inside:
        raise DdfileError(f"{name} can't be hashed: it holds itself.")
    again = functools.partial(canonical, special=special, root=root, _inside=(*_inside, id(value)))
    for form in (_container, _named, _object):
        found = form(value, name, again, special)
        if found is not NotImplemented:
            return found
    raise DdfileError(
        f"{name} can't be hashed soundly: it is a {type(value).__module__}.{type(value).__qualname__}. "
        "Make it inside the recipe, or pass what it is made of as an argument."
    )


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dicts in a canonical form, from outside in and in order."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            part = list(part.values())
        if isinstance(part, list):
            waiting += [inner for inner in reversed(part) if isinstance(inner, (dict, list))]


def scalar(value: Any, root: str) -> Any:
    """Return a plain value's canonical form: of a text that names the folder `root`, what stands around that."""
    if type(value) is str:
        if root and "/" in value and len(parts := _naming(root).split(value)) > 1:
            return {"here": parts[1] if len(parts) == 2 and not parts[0] else parts}
        return value
    return {"int": hex(value)} if type(value) is int and value.bit_length() > DIGITS else value


@functools.cache
def _naming(root: str) -> re.Pattern[str]:
    """Return the pattern of a folder's path in a text, as it was reached or without symbolic links."""
    paths = sorted({root, os.path.realpath(root)}, key=len, reverse=True)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, paths))})(?![\w.-])")


def _container(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    kind = type(value)
    if kind is list:
        return [again(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [again(item, f"{name}[{i}]") for i, item in enumerate(value)]}
    if kind is dict:
        return {"dict": [[again(k, name), again(v, f"{name}[{k!r}]")] for k, v in value.items()]}
    if kind in (set, frozenset):
        return {"set": sorted((again(item, name) for item in value), key=_order)}
    if kind in (bytes, bytearray):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if kind is collections.defaultdict:
        return {"defaultdict": again(dict(value), name), "factory": again(value.default_factory, name)}
    if kind in (collections.OrderedDict, collections.Counter, types.MappingProxyType):
        return {kind.__name__: again(dict(value), name)}
    if kind is collections.deque:
        return {"deque": again(list(value), name), "maxlen": value.maxlen}
    return NotImplemented


def _order(item: Any) -> str:
    """Return what a set's items are sorted by; code among them, which has no order of its own, by its name."""
    if hasattr(item, "thing"):
        return f"{item.thing.__module__}.{item.thing.__qualname__}"
    return ascii(item)


def _named(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    """Return what counts by a name or by how it is written."""
    kind = _full_name(type(value))
    if isinstance(value, enum.Enum):
        return {"enum": again(type(value), name), "member": value.name, "value": again(value._value_, name)}
    if kind in WRITTEN:
        return _written(type(value).__name__, value)
    if isinstance(value, PurePath):
        return {"path": again(value.as_posix(), name)}
    if isinstance(value, re.Pattern):
        return {"pattern": again(value.pattern, name), "flags": value.flags}
    if isinstance(value, functools.partial):
        return {"partial": again(value.func, name), "args": again(value.args, name), "keywords": again(value.keywords, name)}
    if kind in REDUCED:
        return {kind: again(value.__reduce__()[1:], name)}
    if isinstance(value, type) and typing.get_origin(value) is None:
        return {"type": _full_name(value)}
    if typing.get_origin(value) is not None:
        return _generic(value, name, again)
    if kind in ("typing.TypeVar", "logging.Logger"):
        return {type(value).__name__: getattr(value, "name", None) or value.__name__}
    if value is Ellipsis or value is NotImplemented or type(value) is object or type(value).__module__ == "typing":
        return _written("object", "" if type(value) is object else value)
    return NotImplemented


def _full_name(kind: type) -> str:
    """Return a type's name with its module, without the private modules into which Python moves types now and then."""
    parts = kind.__module__.split(".")
    return ".".join([parts[0].lstrip("_"), *(p for p in parts[1:] if not p.startswith("_")), kind.__qualname__])


def _written(noun: str, value: Any) -> Any:
    told = value if value == "" else repr(value)
    return NotImplemented if " at 0x" in told else {noun: told}


def _generic(value: Any, name: str, again: Callable[..., Any]) -> Any:
    """Return a type with parameters; `int | str` is `Union[int, str]`."""
    origin = typing.get_origin(value)
    told = "union" if origin in (typing.Union, types.UnionType) else again(origin, name)
    return {"type": told, "of": [again(arg, name) for arg in typing.get_args(value)]}


def _object(value: Any, name: str, again: Callable[..., Any], special: Special) -> Any:
    """Return an object as its class and what it holds, where its class is a dataclass, a known one or the user's own."""
    kind = special(type(value))
    users = kind is not NotImplemented
    bound = getattr(value, "__self__", None)
    if not users and callable(value) and hasattr(value, "__qualname__") and hasattr(value, "__name__"):
        if bound is not None and not isinstance(bound, types.ModuleType):
            return {"method": value.__name__, "self": again(bound, f"{name}'s self")}
        return {"builtin": f"{(getattr(value, '__module__', None) or '').lstrip('_')}.{value.__qualname__}"}
    if _full_name(type(value)).startswith("numpy.") and hasattr(value, "tobytes") and not value.dtype.hasobject:
        told = {"array": str(value.dtype), "shape": list(value.shape), "bytes": hashlib.sha256(value.tobytes()).hexdigest()}
        return told if type(value).__name__ == "ndarray" or not value.shape else NotImplemented
    if _hides(value, special) if users else not dataclasses.is_dataclass(value) and type(value) is not types.SimpleNamespace:
        return NotImplemented
    held = {key: item for key, item in getattr(value, "__dict__", {}).items() if users or not _cached(type(value), key)}
    slots = [slot for cls in type(value).__mro__ for slot in _slots(cls) if hasattr(value, slot)]
    held.update({slot: getattr(value, slot) for slot in slots})
    base = next((base for base in CONTAINERS if isinstance(value, base)), None)
    told = {"class": kind if users else type(value).__qualname__,
            "fields": {key: again(item, f"{name}.{key}") for key, item in held.items()}}
    if isinstance(value, BaseException):
        return {**told, "content": again(value.args, name)}
    return told if base is None else {**told, "content": again(_plain(base, value), name)}


def _hides(value: Any, special: Special) -> bool:
    """Tell whether a package's class, which the user's one builds on, keeps what it holds out of sight."""
    mine = [cls for cls in type(value).__mro__ if special(cls) is NotImplemented and cls is not object]
    return any("__reduce__" in vars(cls) and not issubclass(cls, (*CONTAINERS, BaseException)) for cls in mine)


def _cached(cls: type, name: str) -> bool:
    """Tell whether an attribute is what a package's cached_property remembers: it's there only once somebody has asked."""
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def _plain(base: type, value: Any) -> Any:
    """Return what an object of a container's subclass contains, whatever its own methods make of it."""
    if base is dict:
        return dict(dict.items(value))
    return list(collections.deque.__iter__(value)) if base is collections.deque else base(base.__iter__(value)) \
        if base in (list, tuple, set, frozenset) else base.__getnewargs__(value)[0]


def _slots(cls: type) -> list[str]:
    given = cls.__dict__.get("__slots__", ())
    return [s for s in ([given] if isinstance(given, str) else given) if s not in ("__dict__", "__weakref__")]
