"""Traces as plain values that another project's store can take in. What comes from outside is checked before it is taken in.

Numbers of traces are a store's own: a trace that is taken in gets a new one, and those that name it are told.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from datetime import datetime
from typing import Any

from ddmake.store import failed, forms, paths
from ddmake.store.traces import Trace, Traces, insert, written

SHA = re.compile(r"[0-9a-f]{64}")
FIELDS = {"number": int, "key": str, "base": str, "epoch": int, "fingerprint": str, "made": str, "outputs": dict, "record": dict,
          "failed": list}
FAILED = (int, str, str, (str, type(None)), str, str)
MOST = 2**31  # epochs and rows' numbers are below

Row = dict[str, Any]


def told(traces: Traces, trace: Trace) -> Row:
    """Return a trace as plain values. Raises DdmakeError where it is damaged."""
    rows = [list(astuple(row)) for row in failed.of(traces.db, trace.id)]
    return {"number": trace.id, "key": trace.key, "base": trace.base, "epoch": trace.epoch, "fingerprint": trace.fingerprint,
            "made": trace.made, "outputs": trace.outputs, "record": trace.record, "failed": rows}


def before(row: Row) -> Iterator[int]:
    """Yield the numbers of the traces whose results a job was given."""
    yield from (given["trace"] for given in row["record"]["inputs"] if given["trace"] is not None)


def check(row: Any) -> None:
    """Raise ValueError, in words, for what comes from outside and can't be a trace."""
    if not _formed(row, FIELDS) or not 0 <= row["epoch"] < MOST:
        raise ValueError("isn't a trace")
    forms.check(row["outputs"], forms.OUTPUTS, "outputs")
    forms.check(row["record"], forms.RECORD, "a job")
    json.dumps({**row, "record": {}}, ensure_ascii=False).encode()  # half of a surrogate pair, which no database takes
    datetime.fromisoformat(row["made"])
    if not row["outputs"]:
        raise ValueError("is a trace without outputs")
    for output in row["outputs"].values():
        _check_output(output)
    for one in row["failed"]:
        if not isinstance(one, list) or len(one) != len(FAILED) or not all(map(isinstance, one, FAILED)) or not one[0] < MOST:
            raise ValueError("has failed rows that can't be any")
        json.loads(one[-1])


def take_in(traces: Traces, rows: Iterable[Row]) -> dict[int, int]:
    """Take in traces that were checked, and return their numbers here by those that they had; part of the caller's transaction.

    One that is here already isn't taken in twice.
    """
    numbers: dict[int, int] = {}
    for row in rows:
        here = _same(traces, row)
        numbers[row["number"]] = here.id if here is not None else _insert(traces, row, numbers)
    return numbers


def _insert(traces: Traces, row: Row, numbers: dict[int, int]) -> int:
    inputs = [{**given, "trace": numbers.get(given["trace"])} for given in row["record"]["inputs"]]
    outputs, record = (written(one) for one in (row["outputs"], {**row["record"], "inputs": inputs}))
    number = insert(traces.db, None, row["key"], row["base"], row["epoch"], row["fingerprint"], row["made"], outputs, record)
    failed.keep(traces.db, number, (failed.Failed(*one) for one in row["failed"]))
    return number


def _same(traces: Traces, row: Row) -> Trace | None:
    """Return the trace here that tells of the same job."""
    what = ("epoch", "fingerprint", "made", "outputs")
    return next((one for one in traces.with_key(row["key"]) if all(getattr(one, name) == row[name] for name in what)), None)


def _check_output(output: Any) -> None:
    """Raise ValueError for an output whose files would be put anywhere else than at its path, or aren't told by hashes."""
    names = [output["path"], *(name for name in output["manifest"] if output["manifest"].keys() != {""})]
    for name in names:
        if why := paths.wrong(name):
            raise ValueError(f"has an output {name!r}, which {why}")
    digest = output["digest"]
    if not all(SHA.fullmatch(sha) for sha in (*output["manifest"].values(), digest["sha"])):
        raise ValueError(f"tells no hashes of {output['path']}")
    if digest["kind"] == "dataset" and (digest.get("rows") is None or digest.get("columns") is None):
        raise ValueError(f"doesn't tell the columns of {output['path']}")


def _formed(value: Any, fields: dict[str, Any]) -> bool:
    """Tell whether a value is a dict of just these fields, each of its kind."""
    if not isinstance(value, dict) or fields.keys() != value.keys():
        return False
    return all(isinstance(value[name], kind) and not isinstance(value[name], bool) for name, kind in fields.items())
