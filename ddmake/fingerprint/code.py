"""Code by meaning: a function, and all of the user's own code and values that it reaches.

What lies in an installed package counts as that package, whose version is recorded; a rule may declare it.
Nothing is skipped in silence: a value that can't be hashed soundly raises DdfileError and is named.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ddmake.errors import DdfileError
from ddmake.fingerprint import hashes, reads, source, values

Special = Callable[[Any], Any]  # canonical form of what a higher floor knows; NotImplemented for the rest
Code = dict[str, dict[str, Any]]  # by label: {"text": hash, "reads": {name: value, or {"code": label}}}


def of_value(value: Any, name: str, special: Special) -> tuple[Any, Code]:
    """Return a value's canonical form, and the code that it holds with all that this reaches, by label.

    Raises DdfileError for a value that can't be hashed.
    """
    walk = Walk(special)
    told = walk.value(name, value)
    while walk.waiting:
        label, one = walk.waiting.pop()
        walk.found[label] = walk.describe(label, one)
    return told, dict(sorted(walk.found.items()))


class Walk:
    """One walk over all that a function reaches; each piece of code is described once, each read of it noted."""

    def __init__(self, special: Special):
        self.special = special
        self.found: Code = {}
        self.waiting: list[tuple[str, Any]] = []
        self._labels: dict[int, str] = {}
        self._taken: set[str] = set()
        self._keep: list[Any] = []  # so that no id is given twice

    def refer(self, name: str, thing: Any) -> dict[str, str]:
        """Return a reference to a piece of code, which is queued to be described when it is new."""
        if id(thing) not in self._labels:
            label, number = name, 2
            while label in self._taken:
                label, number = f"{name}#{number}", number + 1
            self._labels[id(thing)] = label
            self._taken.add(label)
            self._keep.append(thing)
            self.waiting.append((label, thing))
        return {"code": self._labels[id(thing)]}

    def value(self, name: str, value: Any) -> Any:
        """Return what a value counts as: its canonical form, with references for the code in it."""
        return values.canonical(value, name, lambda inner: self._leaf(name, inner))

    def _leaf(self, name: str, value: Any) -> Any:
        known = self.special(value)
        if known is not NotImplemented:
            return known
        if isinstance(value, FunctionType):
            users = source.is_users(value.__code__.co_filename)
            return self.refer(name, value) if users else self._foreign(name, value)
        if hasattr(value, "cache_info") and hasattr(value, "__wrapped__"):
            return {"cached": self.value(name, value.__wrapped__)}
        if isinstance(value, MethodType):
            return {"method": self.value(name, value.__func__), "self": self.value(f"{name}'s self", value.__self__)}
        if isinstance(value, type) and _file(value):
            return self.refer(value.__qualname__, value)
        if isinstance(value, ModuleType):
            return self.refer(name, value) if source.is_users(getattr(value, "__file__", None)) else {"package": value.__name__}
        return NotImplemented

    def describe(self, label: str, thing: Any) -> dict[str, Any]:
        """Return a piece of code as its text's hash and what it reads."""
        if isinstance(thing, FunctionType):
            return self._function(label, thing)
        return self._class(label, thing) if isinstance(thing, type) else self._module(thing)

    def _function(self, label: str, function: FunctionType) -> dict[str, Any]:
        node = source.function_node(function.__code__)
        if node is None:
            raise DdfileError(f"{label} can't be hashed: its text isn't in {function.__code__.co_filename}. Define it in a file.")
        found = {f"{name}=": self.value(f"{label}'s {name}", value) for name, value in _defaults(function)}
        for name, value in _cells(function, label):
            found[name] = self.value(name, value)
        for name, value in reads.of_function(function, node):
            found[name] = self.value(name, value)
        for name, value in vars(function).items():
            found[f".{name}"] = self.value(f"{label}.{name}", value)
        return {"text": hashes.of_value(source.normalised(node))[:16], "reads": dict(sorted(found.items()))}

    def _foreign(self, name: str, function: FunctionType) -> dict[str, Any]:
        """Describe a package's function; what it wraps of the user's counts."""
        wrapped = [self.value(name, inner) for inner in _wrapped(function)]
        told = {"package": (function.__module__ or "").partition(".")[0], "name": function.__qualname__}
        return {**told, "around": wrapped} if wrapped else told

    def _class(self, label: str, cls: type) -> dict[str, Any]:
        node = source.class_node(cls, _file(cls) or "")
        found = {f"({base.__name__})": self.value(base.__qualname__, base) for base in cls.__bases__ if _file(base)}
        for name, member in vars(cls).items():
            if not _machinery(name, member):
                for part, inner in _members(member):
                    found[name + part] = self.value(f"{label}.{name}", inner)
        text = None if node is None else hashes.of_value(source.normalised(node))[:16]
        return {"text": text, "reads": dict(sorted(found.items()))}

    def _module(self, module: ModuleType) -> dict[str, Any]:
        """Describe a user's module that is handed around whole: its text, and all that its names reach.

        A value in it that can't be hashed counts by the text that makes it.
        """
        found = {}
        for name, value in vars(module).items():
            if not name.startswith("__"):
                try:
                    found[name] = self.value(name, value)
                except DdfileError:
                    continue
        text = source.normalised(source.module_tree(str(module.__file__)))
        return {"text": hashes.of_value(text)[:16], "reads": dict(sorted(found.items()))}


def _file(cls: type) -> str | None:
    """Return the file of a user's class, None for any other."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file if source.is_users(file) else None


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not parameter.empty:
            yield name, parameter.default


def _cells(function: FunctionType, label: str) -> Iterator[tuple[str, Any]]:
    """Yield what a function closes over."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            value = cell.cell_contents
        except ValueError:
            raise DdfileError(f"{label} can't be hashed: {name!r}, which it closes over, isn't set yet.") from None
        if name != "__class__":
            yield name, value


def _wrapped(function: FunctionType) -> list[Any]:
    """Return the user's functions and classes that a package's function was made around."""
    found, seen, waiting = [], {id(function)}, [function]
    while waiting:
        for value in _held(waiting.pop(0)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            code = getattr(value, "__code__", None)
            if isinstance(code, CodeType) and source.is_users(code.co_filename) or isinstance(value, type) and _file(value):
                found.append(value)
            elif isinstance(value, (FunctionType, MethodType)):
                waiting.append(value)
    return found


def _held(function: Any) -> Iterator[Any]:
    """Yield what a package's function holds: its cells, defaults and attributes, and what containers among them hold."""
    function = getattr(function, "__func__", function)
    held = [cell.cell_contents for cell in function.__closure__ or () if cell != type(cell)()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    for value in held:
        yield value
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()


def _machinery(name: str, member: Any) -> bool:
    """Tell whether a class's attribute is Python's own business."""
    dunder = name.startswith("__") and name.endswith("__") and not isinstance(member, (FunctionType, classmethod, staticmethod))
    private = name == "_abc_impl" or name.startswith("_") and name.endswith("_") and not isinstance(member, FunctionType)
    plain = type(member).__name__ in ("member_descriptor", "getset_descriptor", "wrapper_descriptor", "method_descriptor",
                                      "_tuplegetter")
    function = getattr(member, "__func__", member)
    generated = isinstance(function, FunctionType) and not source.is_users(function.__code__.co_filename)
    return dunder or private or plain or generated or isinstance(member, BuiltinFunctionType)


def _members(member: Any) -> Iterator[tuple[str, Any]]:
    """Yield the functions of a property or a wrapped method, or a plain attribute itself."""
    if isinstance(member, property):
        parts = {"": member.fget, ".setter": member.fset, ".deleter": member.fdel}
        yield from ((part, function) for part, function in parts.items() if function is not None)
    elif isinstance(member, (classmethod, staticmethod)):
        yield "", member.__func__
    elif type(member).__module__ == "functools" and hasattr(member, "func"):  # cached_property, partialmethod
        yield "", member.func
    else:
        yield "", member
