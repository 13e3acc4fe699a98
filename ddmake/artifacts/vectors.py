"""Columns of vectors: written as lists of one length, and read as they lie in memory, mapped and not copied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ddmake.errors import DdmakeError

Matrix = NDArray[np.float32]
BLOCK = 4096  # vectors that are looked at at once


@dataclass(frozen=True)
class Vectors:
    """The vectors of a column, part by part, and the numbers of the rows that have one."""

    parts: Sequence[Matrix]
    rows: NDArray[np.int64]

    @property
    def dimensions(self) -> int:
        """Return the length of a vector; 0 where there is none."""
        return self.parts[0].shape[1] if self.parts else 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: NDArray[np.int64]) -> Matrix:
        """Return the vectors of these numbers, which count those that are there, as a matrix of its own."""
        found = np.empty((len(numbers), self.dimensions), np.float32)
        start = 0
        for part in self.parts:
            here = (numbers >= start) & (numbers < start + len(part))
            found[here] = part[numbers[here] - start]
            start += len(part)
        return found


def of_column(column: pa.ChunkedArray, name: str, first: int = 0) -> Vectors:
    """Return the vectors of a column; in messages its rows count from `first`.

    Raises DdmakeError for a column that holds none, some of unlike lengths, or one with nan or inf in it.
    """
    found = [(start, chunk) for start, chunk in zip(np.cumsum([0, *map(len, column.chunks)]), column.chunks) if len(chunk)]
    parts = [_part(chunk, name) for _, chunk in found]
    rows = [start + np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False)) for start, chunk in found]
    for part, numbers in zip(parts, rows):
        _refuse_odd(part, numbers, name, first)
    parts = [part for part in parts if len(part)]
    if len({part.shape[1] for part in parts}) > 1:
        raise DdmakeError(f"column {name!r} holds vectors of unlike lengths.")
    return Vectors(parts, np.concatenate(rows) if rows else np.zeros(0, np.int64))


def are_vectors(kind: pa.DataType) -> bool:
    """Tell whether a column's type is that of lists of numbers."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in lists) and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def array(vectors: Matrix, there: Sequence[bool]) -> pa.Array:
    """Return vectors as a column's values, null where none is `there`."""
    rows = np.zeros((len(there), vectors.shape[1]), np.float32)
    rows[np.asarray(there, bool)] = vectors
    mask = None if all(there) else pa.array([not one for one in there])
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), vectors.shape[1], mask=mask)


def nothing(count: int, size: int | None = None) -> pa.Array:
    """Return so many nulls in place of vectors, whose length may not be known."""
    return pa.nulls(count, pa.list_(pa.float32()) if size is None else pa.list_(pa.float32(), size))


def feature(dimensions: int) -> dict[str, Any]:
    """Return such a column as `datasets` describes it."""
    return {"feature": {"dtype": "float32", "_type": "Value"}, "length": dimensions, "_type": "List"}


def _refuse_odd(part: Matrix, rows: NDArray[np.int64], name: str, first: int) -> None:
    """Raise DdmakeError for a vector by which nothing can be compared; the first row that has one is named."""
    for start in range(0, len(part), BLOCK):
        fine = np.isfinite(part[start:start + BLOCK]).all(axis=1)
        if not fine.all():
            row = first + rows[start + fine.argmin()]
            raise DdmakeError(f"column {name!r}: the vector of row {row} holds nan, inf or a number beyond float32. "
                              "Mend it, or make it null.")


def _part(chunk: pa.Array, name: str) -> Matrix:
    if not are_vectors(chunk.type):
        raise DdmakeError(f"column {name!r} holds {chunk.type}, and vectors are needed: lists of numbers, as embed() makes them.")
    values = chunk.flatten()  # without those of nulls
    if values.null_count:
        raise DdmakeError(f"column {name!r} holds a vector with a null in it.")
    count = len(chunk) - chunk.null_count
    size = len(values) // max(1, count)
    if not pa.types.is_fixed_size_list(chunk.type) and count:
        lengths = pc.min_max(pc.list_value_length(chunk)).as_py()
        if lengths["min"] != lengths["max"] or not size:
            raise DdmakeError(f"column {name!r} holds vectors of {lengths['min']} and of {lengths['max']} numbers.")
    floats = values if pa.types.is_float32(values.type) else values.cast(pa.float32(), safe=False)  # rounded, as float64 is
    return floats.to_numpy(zero_copy_only=False).reshape(count, size)
