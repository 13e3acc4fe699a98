"""Structured answers: JSON read from what an llm said, and checked against the schema that was asked for."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from ddmake.errors import DdfileError

FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
OPENING = re.compile(r'\{\s*["}]|\[\s*[\[{"\]\dtfn-]')  # as objects and lists begin; [1] and {so} are words, too
LARGE = 2**63  # beyond what a column of integers holds
LONG = 200  # characters of a validator's sentence that are told
TYPES: Mapping[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
                                         "null": (type(None),), "array": (list,), "object": (dict,)}
COMMON = {"type", "enum", "properties", "required", "additionalProperties", "items", "anyOf", "description"}

Schema = Mapping[str, Any]


def read(text: str, schema: Schema) -> tuple[Any, str | None]:
    """Return what an answer's JSON holds, and None; or None, and in a sentence why it isn't what the schema asks for.

    The JSON may stand in a fence or with words around it, as models write it that have no format for it.
    """
    problem = None
    for data, trouble in _found(text):
        if trouble is None:
            trouble = wrong(data, schema)
        if trouble is None:
            return data, None
        problem = problem or trouble
    return None, problem


def wrong(data: Any, schema: Schema) -> str | None:
    """Return in a sentence, with its path, what a schema doesn't allow in data; None where all is well."""
    if fits(data, schema):
        return None
    from jsonschema.exceptions import best_match

    error = best_match(_validator(json.dumps(schema)).iter_errors(data))
    if error is None:
        return None
    path = error.json_path.removeprefix("$").removeprefix(".")
    message = error.message if len(error.message) <= LONG else f"{error.message[:LONG]} …"
    return f"{path}: {message}" if path else message


def check(schema: Schema) -> None:
    """Raise DdfileError for what is no JSON schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=_draft()).check_schema(schema)
    except SchemaError as error:
        path = error.json_path.removeprefix("$").removeprefix(".")
        raise DdfileError(f"schema: {path + ': ' if path else ''}{error.message}.") from None


def fits(data: Any, schema: Any) -> bool:
    """Tell whether data surely fits a schema of the common words: False is for the library to decide, which is slow."""
    if type(schema) is not dict or not schema.keys() <= COMMON:
        return False
    if "anyOf" in schema and not any(fits(data, one) for one in schema["anyOf"]):
        return False
    if "enum" in schema and not any(type(data) is type(one) and data == one for one in schema["enum"]):
        return False
    kind = schema.get("type")
    if kind is not None and (type(kind) is not str or type(data) not in TYPES.get(kind, ())):
        return False
    if type(data) is dict:
        return _object_fits(data, schema)
    return type(data) is not list or "items" not in schema or all(fits(item, schema["items"]) for item in data)


def _object_fits(data: dict[str, Any], schema: Schema) -> bool:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, value in data.items():
        if name in known:
            if not fits(value, known[name]):
                return False
        elif others is not True and (others is False or not fits(value, others)):
            return False
    return all(name in data for name in schema.get("required", ()))


def _found(text: str) -> Iterator[tuple[Any, str | None]]:
    """Yield what JSON a text holds, the whole of it first; where it isn't JSON, (None, why)."""
    try:
        yield _DECODER.decode(text), None
        return
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    for fenced in FENCED.finditer(text):
        try:
            yield _DECODER.decode(fenced[1]), None
        except (ValueError, RecursionError):
            continue
    yield from _within(text)
    yield None, problem


def _within(text: str) -> Iterator[tuple[Any, None]]:
    """Yield the objects and lists that stand in a text between words, up to one that is broken: parts of it are no answer."""
    start = OPENING.search(text)
    while start is not None:
        try:
            data, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return
        yield data, None
        start = OPENING.search(text, end)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(text: str) -> int:
    value = int(text)
    if not -LARGE <= value < LARGE:
        raise ValueError(f"{text[:LONG]} is larger than a column's numbers")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_int=_integer)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """Return the validator for a schema in JSON; it fetches nothing that the schema may refer to."""
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    library = validator_for(parsed, default=_draft())
    checker = library.TYPE_CHECKER.redefine("integer", lambda _, value: _is_integer(value))
    return extend(library, type_checker=checker)(parsed, registry=Registry())


def _is_integer(value: Any) -> bool:
    """Tell whether a value is an integer, perhaps written as 2.0, that a column can hold."""
    whole = type(value) is int or isinstance(value, float) and value.is_integer()
    return whole and -LARGE <= value < LARGE


def _draft() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator
