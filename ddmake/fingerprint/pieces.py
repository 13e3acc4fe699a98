"""Pieces of the user's code: a function, a class or a module, each as its text and what it reads."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ddmake.errors import DdfileError
from ddmake.fingerprint import foreign, hashes, reads, source, text, values
from ddmake.fingerprint.source import Imported, Module, file_of, is_users
from ddmake.fingerprint.text import Text
from ddmake.fingerprint.values import Special

PRIVATE = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}  # what abc and typing note in a class
Place = tuple[Module, ast.AST]
DESCRIPTORS = {"member_descriptor", "getset_descriptor", "wrapper_descriptor", "method_descriptor", "_tuplegetter"}


@dataclass(frozen=True, eq=False)
class Ref:
    """A piece of code as it is reached: the thing itself, and the name by which it was read."""

    thing: Any
    name: str


@dataclass(frozen=True)
class Piece:
    """A piece of code. It is told by other words where something reads docstrings or names of functions."""

    label: str  # where it is defined; "" for a lambda, which goes by the name that it is read by
    name: str
    text: str | None
    reads: dict[str, Any]
    refs: list[Ref]
    docs: tuple[str, ...] = ()
    sees: frozenset[str] = frozenset()
    place: Place | None = None  # where it stands

    def told(self, sees: frozenset[str], named: bool) -> dict[str, Any]:
        """Return the piece as it enters a key."""
        told = {"text": self.text, "reads": self.reads}
        if "__doc__" in sees and self.docs:
            told["docs"] = hashes.of_value(self.docs)[:16]
        if "__name__" in sees and named:
            told["name"] = self.name
        if self.place is not None and "hints" in sees:
            told["hints"] = hashes.of_value(text.hints(self.place[1]))[:16]
        if self.place is not None and "source" in sees:
            told["source"] = hashes.of_value(self.place[0].written(self.place[1]))[:16]
        return told


_written: dict[int, tuple[Any, ...]] = {}  # what _text_of made, by the id of a code object, with all that it was made of
MOST_WRITTEN = 20_000


def _text_of(code: CodeType, node: ast.AST, imports: dict[str, Imported], package: str, decorators: list[ast.expr]) -> Text:
    """Return the text of a function; a worker asks for the same ones with each job, and most of the time goes into writing."""
    known = _written.get(id(code))
    if known is not None and known[0] is code and known[1] is node and known[2:5] == (imports, package, decorators):
        return known[5]
    parts = code.co_qualname.split(".")
    told = text.of(node, imports, package, free=code.co_freevars, decorators=decorators,
                   private=parts[-2] if len(parts) > 1 and parts[-2] != "<locals>" else "")
    if len(_written) >= MOST_WRITTEN:
        _written.clear()
    _written[id(code)] = (code, node, imports, package, decorators, told)
    return told


class Pieces:
    """All code that was met, each piece described once."""

    def __init__(self, special: Special, root: str):
        self.special, self.root = special, root
        self._known: dict[int, Piece] = {}
        self._keep: list[Any] = []  # so that no id is given twice
        self._alike: dict[tuple[int, int, str], FunctionType] = {}
        self._modules: dict[str, Module | None] = {}  # by file
        self._imports: dict[int, dict[str, Imported]] = {}  # by the id of a module's names
        self._texts: dict[tuple[int, int], tuple[Text, Place]] = {}  # by the ids of code and of its module's names
        self._places: dict[str, Place] = {}  # where a text stands, by its hash
        self._refs: list[Ref] = []  # met since the last look

    def written(self, sha: str) -> str:
        """Return a text as it stands in its file, by its hash."""
        module, node = self._places[sha]
        return module.written(node)

    def stand_in(self, function: FunctionType) -> FunctionType:
        """Return the first function met that nothing tells from this one."""
        if function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function):
            return function
        return self._alike.setdefault((id(function.__code__), id(function.__globals__), function.__name__), function)

    def value(self, value: Any, name: str) -> tuple[Any, list[Ref]]:
        """Return a value's canonical form, in which a Ref stands for code, and all of its Refs."""
        before, self._refs = self._refs, []
        try:
            return self._value(name, value), self._refs
        finally:
            self._refs = before

    def piece(self, ref: Ref) -> Piece:
        """Return the piece of code that is referred to."""
        known = self._known.get(id(ref.thing))
        if known is None:
            before, self._refs = self._refs, []
            try:
                known = self._known[id(ref.thing)] = self._described(ref)
            finally:
                self._refs = before
            self._keep.append(ref.thing)
        return known

    def _described(self, ref: Ref) -> Piece:
        if isinstance(ref.thing, FunctionType):
            return self._function(ref.thing, ref.name)
        return self._class(ref.thing) if isinstance(ref.thing, type) else self._module(ref.thing)

    def _value(self, name: str, value: Any) -> Any:
        return values.canonical(value, name, partial(self._leaf, name), self.root)

    def _refer(self, name: str, thing: Any) -> Ref:
        ref = Ref(thing, name)
        self._refs.append(ref)
        return ref

    def _leaf(self, name: str, value: Any) -> Any:
        """Return what code and what holds code counts as; NotImplemented for plain values."""
        known = self.special(value)
        if known is not NotImplemented:
            return known
        if isinstance(value, FunctionType):
            return self._refer(name, self.stand_in(value)) if self._written(value) else self._foreign(name, value)
        if isinstance(value, MethodType):
            if foreign.is_modules_own(value):  # random.choice is a method of a hidden generator
                return {"package": value.__func__.__module__, "name": value.__name__}
            return {"method": self._value(name, value.__func__), "self": self._value(f"{name}'s self", value.__self__)}
        if isinstance(value, type) and self._file(value):
            return self._refer(value.__qualname__, value)
        if isinstance(value, ModuleType):
            return self._refer(name, value) if is_users(file_of(value)) else {"package": value.__name__}
        if callable(value) and not isinstance(value, type) and hasattr(value, "__wrapped__") and not self._file(type(value)):
            return {"wrapped": self._value(name, value.__wrapped__)}  # by lru_cache, staticmethod or a package's decorator
        return NotImplemented

    def _written(self, function: FunctionType) -> bool:
        """Tell whether a function's text is the user's, also where it stands in no file: then it can't be hashed."""
        made = function.__code__.co_filename.startswith("<")
        return is_users(function.__globals__.get("__file__") if made else function.__code__.co_filename)

    def _foreign(self, name: str, function: FunctionType) -> dict[str, Any]:
        """Describe a package's function; what it wraps of the user's counts."""
        told = {"package": function.__globals__.get("__name__", "").partition(".")[0], "name": function.__qualname__}
        registry = getattr(function, "registry", None)
        if registry is not None and hasattr(function, "dispatch"):  # functools.singledispatch
            return {**told, "dispatch": [[self._value(name, kind), self._value(name, one)] for kind, one in registry.items()]}
        wrapped = [self._value(name, inner) for inner in foreign.wrapped(function, self._is_users)]
        return {**told, "around": wrapped} if wrapped else told

    def _is_users(self, value: Any) -> bool:
        code = getattr(value, "__code__", None)
        return isinstance(code, CodeType) and is_users(code.co_filename) or isinstance(value, type) and bool(self._file(value))

    def _function(self, function: FunctionType, name: str) -> Piece:
        label = _label(function.__globals__, function.__code__.co_qualname)
        name = label or name
        told, place = self._text(function, name)
        found = {f"{parameter}=": self._value(f"{name}'s {parameter}", value) for parameter, value in _defaults(function)}
        found.update({variable: self._value(variable, value) for variable, value in _cells(function, name)})
        self._read(found, told, function.__globals__)
        for attribute, value in vars(function).items():
            found[f".{attribute}"] = self._value(f"{name}.{attribute}", value)
        return Piece(label, function.__name__, told.sha, dict(sorted(found.items())), self._refs, told.docs, told.sees, place)

    def _text(self, function: FunctionType, label: str) -> tuple[Text, Place]:
        code, scope = function.__code__, function.__globals__
        known = self._texts.get((id(code), id(scope)))
        if known is not None:
            return known
        module = self._parsed(code.co_filename)
        node = module.function(code) if module else None
        if module is None or node is None:
            raise DdfileError(f"{label} can't be hashed: its text isn't in {code.co_filename}. Define it in a file.")
        decorators = [d for d in getattr(node, "decorator_list", ()) if foreign.counts(d, scope)]
        told = _text_of(code, node, self._imported(module, scope), scope.get("__package__") or "", decorators)
        self._texts[id(code), id(scope)] = told, (module, node)
        self._keep.append((code, scope))
        self._places.setdefault(told.sha, (module, node))
        return told, (module, node)

    def _parsed(self, file: str) -> Module | None:
        if file not in self._modules:
            try:
                self._modules[file] = source.module(file)
            except (OSError, SyntaxError, ValueError):
                self._modules[file] = None
        return self._modules[file]

    def _imported(self, module: Module, scope: dict[str, Any]) -> dict[str, Imported]:
        known = self._imports.get(id(scope))
        if known is None:
            known = self._imports[id(scope)] = reads.known_imports(module, scope)
            self._keep.append(scope)
        return known

    def _read(self, found: dict[str, Any], told: Text, scope: dict[str, Any], module: Module | None = None) -> None:
        """Add what a text reads; two different things by one name are told apart.

        What a class reads is run once, when its module is loaded: there, a value that can't be hashed counts by the text
        in the `module` that makes it.
        """
        for path, value in reads.of(told, scope):
            try:
                one = self._value(path, value)
            except DdfileError:
                node = module and module.assigned(path)
                if module is None or node is None:
                    raise
                made = text.of(node, self._imported(module, scope))
                self._read(found, replace(made, reads=tuple(r for r in made.reads if r.path != path)), scope, module)
                one = {"made by": made.sha}
            while path in found and not _same(found[path], one):
                path += "'"
            found[path] = one

    def _class(self, cls: type) -> Piece:
        label = _label(_scope(cls), cls.__qualname__)
        file = self._file(cls) or ""
        module = self._parsed(file)
        node = module.class_(cls, file) if module else None
        members = [(name + part, inner) for name, member in vars(cls).items() if not self._machinery(name, member)
                   for part, inner in _members(member)]
        found: dict[str, Any] = {}
        told = None
        if module is not None and node is not None:
            codes = [inner.__code__ for _, inner in members if isinstance(inner, FunctionType)]
            apart = [one for code in codes if code.co_filename == file and (one := module.function(code))]
            told = text.of(node, self._imported(module, _scope(cls)), _scope(cls).get("__package__") or "", apart=apart)
            self._places.setdefault(told.sha, (module, node))
            self._read(found, told, _scope(cls), module)
        found.update({f"({base.__name__})": self._value(base.__qualname__, base) for base in cls.__bases__ if self._file(base)})
        found.update({f".{name}": self._value(f"{label}.{name}", member) for name, member in members})
        if hasattr(cls, "__pydantic_core_schema__"):
            found["docstring"] = vars(cls).get("__doc__")  # is part of the JSON schema, and thus of what is asked
        docs, sees = (told.docs, told.sees) if told else ((), frozenset())
        place = (module, node) if module is not None and node is not None else None
        return Piece(label, cls.__name__, told and told.sha, dict(sorted(found.items())), self._refs, docs, sees, place)

    def _module(self, module: ModuleType) -> Piece:
        """Describe a user's module that is handed around whole: its text, and all that its names reach.

        A value in it that can't be hashed counts by the text that makes it.
        """
        found = {}
        for name, value in vars(module).items():
            if not name.startswith("__"):
                try:
                    found[name] = self._value(name, value)
                except DdfileError:
                    continue
        parsed = self._parsed(str(module.__file__)) if module.__file__ else None
        told = text.of(parsed.tree, self._imported(parsed, vars(module)), module.__package__ or "") if parsed else None
        if parsed and told:
            self._places.setdefault(told.sha, (parsed, parsed.tree))
        docs = told.docs if told else ()
        return Piece(module.__name__, module.__name__, told and told.sha, dict(sorted(found.items())), self._refs, docs)

    def _file(self, cls: type) -> str | None:
        """Return the file of a user's class, None for any other."""
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return file if is_users(file) else None

    def _machinery(self, name: str, member: Any) -> bool:
        """Tell whether a class's attribute is Python's own business."""
        function = getattr(member, "__func__", member)
        functional = isinstance(function, FunctionType)
        dunder = name.startswith("__") and name.endswith("__") and not functional
        private = name in PRIVATE or name.startswith("_") and name.endswith("_") and not functional
        plain = type(member).__name__ in DESCRIPTORS
        generated = functional and not is_users(function.__code__.co_filename) or name.startswith("__annotate")
        return dunder or private or plain or generated or isinstance(member, BuiltinFunctionType)


def _scope(cls: type) -> dict[str, Any]:
    return vars(sys.modules[cls.__module__])


def _label(scope: dict[str, Any], qualname: str) -> str:
    """Return where code is defined, as "helper.shout"; "" for a lambda at a module's own level."""
    module = scope.get("__name__", "")
    outer, inner, _ = qualname.partition(".<locals>")
    if qualname.endswith("<lambda>") and not inner:
        return ""
    place = outer if module in ("", "Ddfile") else f"{module}.{outer}"
    return f"function in {place}" if inner else place


def _same(one: Any, other: Any) -> bool:
    if type(one) is Ref and type(other) is Ref:
        return one.thing is other.thing
    return one is other or type(one) is type(other) and repr(one) == repr(other)


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code, given = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(given):code.co_argcount], given)
    yield from (function.__kwdefaults__ or {}).items()


def _cells(function: FunctionType, label: str) -> Iterator[tuple[str, Any]]:
    """Yield what a function closes over."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:
            raise DdfileError(f"{label} can't be hashed: {name!r}, which it closes over, isn't set yet.") from None


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
