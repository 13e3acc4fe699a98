"""JSON schemas as services take them: OpenAI's strict mode, which decodes by the schema; in words, for those that have none.

https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

import json
from collections.abc import Mapping
from typing import Any

MAPS = ("properties", "$defs", "definitions")  # whose values are schemas by names that are no keywords
DROPPED = ("default",)  # strict mode has every property given


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is sent of a schema: a copy for strict mode, or the schema as it is where that mode can't express it."""
    if not _closable(schema):
        return {"name": "answer", "schema": schema}
    return {"name": "answer", "schema": _closed(schema), "strict": True}


def in_words(schema: Mapping[str, Any]) -> str:
    """Return the sentence that asks for JSON of this schema."""
    return f"Answer with JSON alone, by this JSON schema: {json.dumps(schema, ensure_ascii=False)}"


def _closable(node: Any) -> bool:
    """Tell whether no object below has names that the schema doesn't list: strict mode knows no open objects."""
    if isinstance(node, list):
        return all(_closable(item) for item in node)
    if not isinstance(node, Mapping):
        return True
    if node.get("additionalProperties") or "patternProperties" in node or _is_object(node) and "properties" not in node:
        return False
    return all(_closable(item) for name, value in node.items() for item in (value.values() if name in MAPS else [value]))


def _closed(node: Any) -> Any:
    """Return a copy in which each object lists and requires all it has, and no reference has anything beside it."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    copy = {name: {key: _closed(item) for key, item in value.items()} if name in MAPS else _closed(value)
            for name, value in node.items() if name not in DROPPED}
    if _is_object(node):
        copy |= {"additionalProperties": False, "required": list(node["properties"])}
    if "$ref" in copy and len(copy) > 1:
        copy["anyOf"] = [{"$ref": copy.pop("$ref")}]
    return copy


def _is_object(node: Mapping[str, Any]) -> bool:
    return node.get("type") == "object" or "properties" in node
