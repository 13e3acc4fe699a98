"""Columns: Python's values as Arrow's arrays, of the type that holds them or of one that is asked for."""

import datetime
import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from ddmake.ddfile.structure import Kind
from ddmake.errors import RecipeFailed

NUMBERS: dict[Any, type] = {int: np.int64, float: np.float64}
FEW = 100_000  # rows up to which it isn't worth while to import pandas, as pyarrow does, for a column of texts or numbers


def array(name: str, values: list[Any], first: int) -> pa.Array:
    """Return a column's values from row `first` on as an array of the type that holds them, or raise RecipeFailed."""
    plain = [str(v) if isinstance(v, str) else v for v in values]
    if (quick := _texts(plain, first)) is not None or (quick := _numbers(plain, first)) is not None:
        return quick
    if {datetime.date, datetime.datetime} <= {type(v) for v in values}:
        raise RecipeFailed(f"column {name!r} from row {first} on mixes dates with dates and times; one would lose its time")
    try:
        return pa.array(plain, from_pandas=False)
    except OverflowError:
        raise _beyond(name, values, first) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise RecipeFailed(f"column {name!r} from row {first} on can't be stored: {error}") from None


def _beyond(name: str, values: list[Any], first: int) -> RecipeFailed:
    """Return what is told of a column with a whole number that can't be stored."""
    row = first + next((number for number, value in enumerate(values) if _too_large(value)), 0)
    return RecipeFailed(f"column {name!r} of row {row} holds a whole number beyond 64 bits. Make it a text, or a float")


def _too_large(value: Any) -> bool:
    """Tell whether a value is, or holds, a whole number that 64 bits don't."""
    if isinstance(value, (dict, list, tuple)):
        return any(map(_too_large, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -2**63 <= value < 2**63


def _texts(values: list[Any], first: int) -> pa.Array | None:
    """Return a column of texts; None where it isn't one, or pyarrow's own way is better.

    That one imports pandas, which takes as long as some hundred thousand texts take by this one.
    """
    kinds = set(map(type, values))
    if "pandas" in sys.modules or first >= FEW or str not in kinds or not kinds <= {str, type(None)}:
        return None
    builder = pa.lib.StringBuilder()
    try:
        builder.append_values(values)
    except UnicodeEncodeError:
        return None
    return builder.finish()


def _numbers(values: list[Any], first: int) -> pa.Array | None:
    """Return a column of numbers of one kind, for the same reason; None for any other, and one that 64 bits don't hold."""
    kinds = set(map(type, values))
    kind = NUMBERS.get(next(iter(kinds), None)) if len(kinds) == 1 else None
    if "pandas" in sys.modules or first >= FEW or kind is None:
        return None
    try:
        numbers = np.array(values, kind)
    except OverflowError:
        return None
    return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(values), [None, pa.py_buffer(numbers)])


def typed(name: str, values: list[Any], kind: Kind, first: int) -> pa.Array:
    """Return values from row `first` on as an array of a kind, whatever they are; raises RecipeFailed for one too large."""
    stored = values if kind == "string" else [_stored(value, kind) for value in values]
    if kind == "string" and (texts := _texts(stored, first)) is not None:
        return texts
    try:
        return pa.array(stored, _arrow(kind))
    except UnicodeEncodeError:  # half of a character, as a model may write one in JSON's escapes
        return pa.array([_mended(value) for value in stored], _arrow(kind))
    except OverflowError:
        raise _beyond(name, values, first) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RecipeFailed(f"column {name!r} from row {first} on can't be stored: {error}") from None


def _arrow(kind: Kind) -> pa.DataType:
    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow(inner)) for name, inner in kind.items()])
    return {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}.get(kind, pa.string())


def _stored(value: Any, kind: Kind) -> Any:
    """Return a value with numbers as their column has them, and those parts of it as JSON that have no type of their own."""
    if value is None:
        return None
    if isinstance(kind, list):
        return [_stored(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {name: _stored(value.get(name), inner) for name, inner in kind.items()}
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    return int(value) if kind == "int64" else float(value) if kind == "float64" else value


def _mended(value: Any) -> Any:
    """Return a value whose texts hold whole characters alone, U+FFFD for each half."""
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {name: _mended(item) for name, item in value.items()}
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value
