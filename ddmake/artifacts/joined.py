"""Datasets on disk read as one, whose rows come one after another: with the columns and types that one writing would have given.

Rows stay mapped: no more than a batch of them is in memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddmake.artifacts.rows import Batches, unify
from ddmake.errors import RecipeFailed


@dataclass(frozen=True)
class Piece:
    """One of the datasets. A column without a value may have any type: nothing but others' values tells which.

    It is `vain` where what was to be made of its rows failed for all of them: a column of nothing may then stand for others.
    """

    table: pa.Table
    vain: bool
    features: dict[str, Any]
    bare: frozenset[str]  # the columns without a value

    @classmethod
    def at(cls, place: Path, vain: bool) -> "Piece":
        """Return the dataset in a folder."""
        info, state = (json.loads((place / f"{name}.json").read_text(encoding="utf-8")) for name in ("dataset_info", "state"))
        files = [place / entry["filename"] for entry in state["_data_files"]]
        table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files])
        bare = frozenset(name for name, column in zip(table.column_names, table.columns) if column.null_count == len(column))
        return cls(table, vain, info.get("features") or {}, bare)

    @property
    def full(self) -> pa.Schema:
        """Return the columns with values."""
        return pa.schema([field for field in self.table.schema if field.name not in self.bare])


def joined(places: Mapping[Path, bool]) -> Batches:
    """Return the rows of datasets, those of the first one first, given with whether they are vain.

    Raises RecipeFailed where they don't agree on a column.
    """
    pieces = [Piece.at(place, vain) for place, vain in places.items()]
    schema = _schema(pieces)
    return Batches(_batches(pieces, schema), _features(pieces, schema), schema)


def _schema(pieces: Sequence[Piece]) -> pa.Schema:
    """Return all columns, in the order in which they come, each with a type that holds its values."""
    full = reduce(unify, [piece.full for piece in pieces])
    bare = reduce(unify, [pa.schema([field for field in piece.table.schema if field.name not in full.names]) for piece in pieces])
    sure = {name for piece in pieces if not piece.vain for name in piece.table.column_names}
    names = dict.fromkeys(field.name for piece in pieces for field in piece.table.schema
                          if field.name in sure or not pa.types.is_null(field.type))
    return pa.schema([(full if name in full.names else bare).field(name) for name in names])


def _features(pieces: Sequence[Piece], schema: pa.Schema) -> dict[str, Any]:
    """Return what `datasets` says of columns that stay as they are."""
    full, bare = dict[str, Any](), dict[str, Any]()
    for piece in pieces:
        for field in piece.table.schema:
            feature, found = piece.features.get(field.name), bare if field.name in piece.bare else full
            if feature is None or field.name not in schema.names or field.type != schema.field(field.name).type:
                continue
            if found.setdefault(field.name, feature) != feature and found is full:
                raise RecipeFailed(f"its rows don't agree: column {field.name!r} is {full[field.name]} and {feature}")
    return {**bare, **full}


def _batches(pieces: Sequence[Piece], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for piece in pieces:
        there = piece.full.names
        for batch in piece.table.to_batches():
            columns = [_as(batch.column(field.name), field.type) if field.name in there else pa.nulls(batch.num_rows, field.type)
                       for field in schema]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values if values.type == kind else values.cast(kind)
