"""What `schema=` may be given: a dict of types, a pydantic model, or a JSON schema; and the columns that answers come to have.

All three become one JSON schema, which is what is sent, checked and hashed. A dict of types and a model ask for every field
and for no others. Checks that a model makes in Python can't be said in a JSON schema, so that such a model is refused.
"""

import enum
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from ddmake.ddfile.registry import here
from ddmake.errors import DdfileError

Schema = dict[str, Any]
Kind = str | list[Any] | dict[str, Any]  # "string", "int64", "float64", "bool", "json"; [of items]; {name: of a field}

SIMPLE = {str: "string", bool: "boolean", int: "integer", float: "number"}
KINDS = {"string": "string", "boolean": "bool", "integer": "int64", "number": "float64"}
WORDS = {"type", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}  # one stands in any JSON schema
UNTOLD = ("title", "default")  # of a model: they say nothing of what is asked for
NULL = {"type": "null"}
TAKEN = "str, int, float, bool, list[…], dict[str, …], Literal[…], an Enum, … | None, a dict of these, or a pydantic model"


def json_schema(given: Any) -> Schema:
    """Return a schema as a JSON schema, its words in one order. Raises DdfileError, with the place, for what is none."""
    if _is_model(given):
        found = _of_model(given)
    elif not isinstance(given, Mapping) or not given:
        raise _mistake("", f"it is a dict of fields, a pydantic model or a JSON schema, not {given!r}")
    elif any(_is_type(leaf) for leaf in _leaves(given)):
        found = _of_type(given, "")
    elif WORDS & given.keys():
        found = dict(given)
        _check_references(found)
    else:
        name = next(iter(given))
        raise _mistake(name, f"{given[name]!r} is no type. There are {TAKEN}")
    return _ordered(found)


def fields(schema: Mapping[str, Any]) -> dict[str, Kind] | None:
    """Return the columns that answers under a JSON schema have, with their kinds; None where they aren't objects."""
    properties = schema.get("properties")
    if schema.get("type") != "object" or not properties:
        return None
    return {name: kind(one) for name, one in properties.items()}


def kind(schema: Any) -> Kind:
    """Return how values under a JSON schema are stored: as JSON where a column can't hold them as they are."""
    options = [one for one in _options(schema) if one != NULL]
    kinds = [_kind(one) for one in options]
    if not kinds or any(other != kinds[0] for other in kinds):
        return "float64" if kinds and set(map(str, kinds)) <= {"int64", "float64"} else "json"
    return kinds[0]


def _kind(schema: Any) -> Kind:
    """Return the kind of one that isn't a choice of several."""
    told = schema.get("type") if isinstance(schema, Mapping) else None
    if told == "array" and "items" in schema:
        return [kind(schema["items"])]
    if told == "object" and schema.get("properties") and not schema.get("additionalProperties"):
        return {name: kind(one) for name, one in schema["properties"].items()}
    if told is None and isinstance(schema, Mapping):
        told = _type_of(schema.get("enum", [schema["const"]] if "const" in schema else ()))
    return KINDS.get(told, "json") if isinstance(told, str) else "json"


def _options(schema: Any) -> Sequence[Any]:
    """Return the schemas that a value may be of."""
    if not isinstance(schema, Mapping):
        return [schema]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": told} if told != "null" else NULL for told in schema["type"]]
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return [option for one in several for option in _options(one)]
    if None in schema.get("enum", ()):
        return [{**schema, "enum": [value for value in schema["enum"] if value is not None]}, NULL]
    return [schema]


def _of_type(given: Any, path: str) -> Schema:
    """Return the JSON schema of a type, or of a dict of them."""
    origin, args = get_origin(given), get_args(given)
    if isinstance(given, Mapping):
        return _of_fields(given, path)
    if given in (None, type(None)):
        return dict(NULL)
    if isinstance(given, type) and given in SIMPLE:
        return {"type": SIMPLE[given]}
    if _is_model(given):
        return _of_model(given)
    if origin is Literal or isinstance(given, type) and issubclass(given, enum.Enum):
        return _of_choices(list(args) if origin is Literal else [member.value for member in given], path)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of_type(arg, path) for arg in args]}
    if origin in (list, Sequence) and args:
        return {"type": "array", "items": _of_type(args[0], path)}
    if origin in (dict, Mapping) and args and args[0] is str:
        return {"type": "object", "additionalProperties": _of_type(args[1], path)}
    raise _mistake(path, f"{getattr(given, '__name__', None) or given!r} can't be asked for. There are {TAKEN}")


def _of_fields(given: Mapping[Any, Any], path: str) -> Schema:
    for name in given:
        if not isinstance(name, str) or not name:
            raise _mistake(path, f"{name!r} is no field's name")
    properties = {name: _of_type(value, f"{path}.{name}".lstrip(".")) for name, value in given.items()}
    return {"type": "object", "properties": properties, "required": list(given), "additionalProperties": False}


def _of_choices(values: list[Any], path: str) -> Schema:
    if not all(value is None or isinstance(value, (str, int, float)) for value in values):
        raise _mistake(path, f"a choice is of texts, numbers, truth values and None, not of {values!r}")
    told = _type_of(values)
    return {"enum": values, "type": told} if told else {"enum": values}


def _type_of(values: Sequence[Any]) -> str | None:
    """Return the one type that values have, None where they have several."""
    told = {SIMPLE.get(type(value)) for value in values}
    return told.pop() if len(told) == 1 else None


def _of_model(model: Any) -> Schema:
    """Return a pydantic model's JSON schema: all fields asked for and no others, as OpenAI's own library asks for them."""
    for name in _checks(model.__pydantic_core_schema__):
        raise _mistake("", f"{model.__name__} checks its values by {name}, which a JSON schema can't say: it would not be done. "
                           "Check them in parse=, and leave it out of the model")
    told = model.model_json_schema()
    definitions = told.pop("$defs", {})
    if not any(name in _reached(one, definitions) for name, one in definitions.items()):
        return _strict(_inlined(told, definitions))
    whole = definitions[told["$ref"].rpartition("/")[2]] if "$ref" in told else told
    return {**_strict(whole), "$defs": {name: _strict(one) for name, one in definitions.items()}}


def _checks(core: Any) -> Iterator[str]:
    """Yield the names of functions of Python by which a pydantic model checks values, however deep."""
    if isinstance(core, Mapping):
        told = core.get("function")
        function = told.get("function") if isinstance(told, Mapping) else None
        if function is not None and str(core.get("type")).startswith("function-") and not _is_pydantics(function):
            yield getattr(function, "__name__", "a function")
        core = core.values()
    for inner in core if isinstance(core, (list, tuple, type({}.values()))) else ():
        yield from _checks(inner)


def _is_pydantics(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").partition(".")[0] in ("pydantic", "pydantic_core")


def _reached(schema: Any, definitions: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the names of the definitions that a schema refers to, through others, too."""
    for reference in _references(schema):
        name = reference.rpartition("/")[2]
        if name not in seen:
            seen = _reached(definitions[name], definitions, seen | {name})
    return seen


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its definitions in the places that refer to them."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if isinstance(schema.get("$ref"), str):
        rest = {word: value for word, value in schema.items() if word != "$ref"}
        return {**_inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions), **rest}
    return {word: _inlined(value, definitions) for word, value in schema.items()}


def _strict(schema: Any) -> Any:
    """Return a model's schema without titles and defaults, every object with all its fields and no others."""
    if not isinstance(schema, Mapping):
        return schema
    found = {word: _each(word, value, _strict) for word, value in schema.items() if word not in UNTOLD}
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "properties" in found:
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    return found


def _ordered(schema: Any) -> Any:
    """Return a schema with its words in alphabetical order; fields stay in the order in which they are to be written."""
    if not isinstance(schema, Mapping):
        return schema
    return {word: _each(word, schema[word], _ordered) for word in sorted(schema)}


def _each(word: str, value: Any, change: Any) -> Any:
    """Return what stands behind a word of a schema, with the schemas in it changed."""
    if word in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
        return {name: change(one) for name, one in value.items()}
    if word in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, Sequence):
        return [change(one) for one in value]
    return change(value) if word in ("items", "additionalProperties", "not") else value


def _check_references(schema: Schema) -> None:
    """Raise DdfileError for a reference to what isn't in the schema: nothing is fetched."""
    for reference in _references(schema):
        at: Any = schema
        for part in reference.split("/")[1:]:
            at = at.get(part) if isinstance(at, Mapping) else None
        if not reference.startswith("#") or at is None:
            raise _mistake("", f"$ref {reference!r} refers to nothing in the schema itself")


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        schema = schema.values()
    for inner in schema if isinstance(schema, (list, type({}.values()))) else ():
        yield from _references(inner)


def _leaves(given: Any) -> Iterator[Any]:
    for item in given.values() if isinstance(given, Mapping) else given:
        if isinstance(item, (Mapping, list)):
            yield from _leaves(item)
        else:
            yield item


def _is_model(given: Any) -> bool:
    return isinstance(given, type) and hasattr(given, "model_json_schema")


def _is_type(value: Any) -> bool:
    return isinstance(value, type) or get_origin(value) is not None


def _mistake(path: str, what: str) -> DdfileError:
    return DdfileError(": ".join(filter(None, (here(), "schema", path, f"{what}."))))
