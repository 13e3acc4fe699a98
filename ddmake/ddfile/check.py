"""Checks of what a user wrote: argument names against signatures, values against annotations."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from ddmake.ddfile.registry import here
from ddmake.errors import DdfileError, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")
LONG = 200  # characters of a value that are shown


signature_of = functools.cache(inspect.signature)


def checked(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function tell unknown arguments and wrong types as DdfileErrors, by `name`."""

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            bind(name, signature_of(function), args, kwargs)
            return function(*args, **kwargs)

        return call

    return wrap


def bind(name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise DdfileError, with the nearest name, for an argument that is unknown, missing, doubled or of the wrong type."""
    known = [n for n in signature.parameters if n != "self"]
    for unknown in (n for n in kwargs if n not in signature.parameters):
        raise DdfileError(
            f"{here()}: {name} has no argument {unknown!r}.{did_you_mean(unknown, known)} It takes: {', '.join(known)}."
        )
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise DdfileError(f"{here()}: {name}: {error}. It takes: {', '.join(known)}.") from None
    for argument, value in bound.arguments.items():
        check_type(f"{name}'s {argument}", value, signature.parameters[argument].annotation)


def check_type(what: str, value: Any, annotation: Any) -> None:
    """Raise DdfileError where a value isn't of its annotation; what isn't a plain type is let through."""
    if type(value) is not annotation and not fits(value, annotation):
        spec = {"LLM": "llm", "Embedder": "embedder"}.get(describe(annotation))
        hint = f" Write {spec}({value!r})." if spec and isinstance(value, str) else ""
        if get_origin(annotation) in (dict, Mapping) and isinstance(value, (list, tuple)):
            hint = ' Give each a name: {"a": …, "b": …}.'
        shown = repr(value)
        given = f"{shown} ({type(value).__name__})" if len(shown) <= LONG else f"a {type(value).__name__}"
        raise DdfileError(f"{here()}: {what} takes {describe(annotation)}, not {given}.{hint}")


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a value is of an annotated type: plain classes, unions, literals, sequences, mappings."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, (str, TypeVar)):
        return True
    if origin is Annotated:
        return fits(value, args[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    kind = origin or annotation
    if not isinstance(kind, type):
        return True
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, (int, float))
    if origin in (list, Sequence) and args:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(v, args[0]) for v in value)
    return isinstance(value, kind) or getattr(type(value), "stands_for", None) is kind


def describe(annotation: Any) -> str:
    """Return an annotation in words a user knows: "int", "str or None", "one of 'a', 'b'"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if annotation is type(None):
        return "None"
    if origin in (list, Sequence):
        return f"a list of {describe(args[0]).removeprefix('a ')}" if args else "a list"
    if origin in (dict, Mapping):
        return "a dict" if args[1] is Any else f"a dict of names to {describe(args[1])}"
    return getattr(annotation, "__name__", str(annotation))
