"""Digests of tables by meaning: names, types and values, whatever the chunks they come in.

Each column is hashed apart, so that a consumer of two columns depends on two columns. Buffers are fed to hashers of
their own (validity, lengths, values), which makes the result independent of where one batch ends and the next begins.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Hasher:
    """Hashes the values of one column, or of one level of a nested one."""

    def __init__(self, kind: pa.DataType):
        self.kind = kind
        self.valid, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.inner = [Hasher(field.type) for field in _fields(kind)]

    def feed(self, array: pa.Array) -> None:
        """Take in the next values."""
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        self.valid.update(_bytes(array.is_valid().cast(pa.uint8()), 1))
        kind = array.type
        if pa.types.is_null(kind):
            return
        if pa.types.is_struct(kind):
            for hasher, child in zip(self.inner, array.flatten()):
                hasher.feed(child)
        elif _is_list(kind):
            self.lengths.update(_bytes(_filled(pc.list_value_length(array), "0").cast(pa.int64()), 8))
            self.inner[0].feed(array.flatten())
        elif _is_text(kind):
            self._text(array)
        elif pa.types.is_boolean(kind):
            self.values.update(_bytes(_filled(array, "false").cast(pa.uint8()), 1))
        elif pa.types.is_primitive(kind) and kind.bit_width % 8 == 0:
            self._fixed(array)
        else:
            for value in array.to_pylist():
                self.values.update(repr(value).encode() + b"\0")

    def _text(self, array: pa.Array) -> None:
        binary = array.cast(pa.large_binary())
        filled = _filled(binary, "")
        self.lengths.update(_bytes(pc.binary_length(filled).cast(pa.int64()), 8))
        offsets = memoryview(filled.buffers()[1]).cast("q")[filled.offset:filled.offset + len(filled) + 1]
        if len(filled) and filled.buffers()[2] is not None:
            self.values.update(memoryview(filled.buffers()[2])[offsets[0]:offsets[-1]])

    def _fixed(self, array: pa.Array) -> None:
        width = array.type.bit_width // 8
        if array.null_count:
            array = _filled(array.view(_integer(width)), "0")
        self.values.update(_bytes(array, width))

    def hexdigest(self) -> str:
        """Return the hash of all that was fed."""
        parts = [self.valid.hexdigest(), self.lengths.hexdigest(), self.values.hexdigest(), *(h.hexdigest() for h in self.inner)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()


def digest(schema: pa.Schema, batches: Iterable[pa.RecordBatch], features: dict[str, Any]) -> dict[str, Any]:
    """Return {"rows", "columns": {name: {"type", "hash"}}} of a table; `features` hold what Arrow's types don't tell."""
    hashers = {field.name: Hasher(field.type) for field in schema}
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        for name, hasher in hashers.items():
            hasher.feed(batch.column(name))
    columns = {}
    for field in schema:
        meaning = _special(features.get(field.name))
        columns[field.name] = {"type": type_name(field.type) + meaning, "hash": hashers[field.name].hexdigest()[:32]}
    return {"rows": rows, "columns": columns}


def type_name(kind: pa.DataType) -> str:
    """Return a type's name, the same for the large and the small form of a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return f"{kind.extension_name}<{type_name(kind.storage_type)}>"
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{f.name}: {type_name(f.type)}" for f in _fields(kind)) + ">"
    if _is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return str(kind).replace("large_", "").replace("_view", "")


def _special(feature: Any) -> str:
    """Return what a feature of `datasets` adds to a type, however deep: a ClassLabel's names, an image's kind."""
    if isinstance(feature, list):
        return "".join(map(_special, feature))
    if not isinstance(feature, dict):
        return ""
    if isinstance(feature.get("_type"), str) and feature["_type"] not in ("Value", "List", "LargeList", "Sequence"):
        return " " + json.dumps(feature, sort_keys=True)
    return "".join(f" {name}:{told}" for name, inner in sorted(feature.items()) if (told := _special(inner)))


def _filled(array: pa.Array, text: str) -> pa.Array:
    """Return an array with a value, given as text, in place of nulls. pa.scalar, and with it pc.fill_null, imports pandas."""
    if not array.null_count:
        return array
    builder = pa.lib.StringBuilder()
    builder.append(text)
    return pc.coalesce(array, builder.finish().cast(array.type)[0])


def _bytes(array: pa.Array, width: int) -> memoryview | bytes:
    """Return an array's values as they lie in memory."""
    if len(array) == 0:
        return b""
    return memoryview(array.buffers()[1])[array.offset * width:(array.offset + len(array)) * width]


def _integer(width: int) -> pa.DataType:
    return {1: pa.int8(), 2: pa.int16(), 4: pa.int32(), 8: pa.int64()}[width]


def _fields(kind: pa.DataType) -> list[pa.Field]:
    if isinstance(kind, pa.BaseExtensionType):
        return _fields(kind.storage_type)
    if pa.types.is_struct(kind):
        return [kind.field(i) for i in range(kind.num_fields)]
    if pa.types.is_dictionary(kind):
        return _fields(kind.value_type)
    return [kind.value_field] if _is_list(kind) else []


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(check(kind) for check in checks)
