"""Sources of rows, and what is done to rows without a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddmake import step
from ddmake.ddfile.inputs import Rows
from ddmake.errors import DdfileError, DdmakeError


@step(version="1")
def jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """Read rows from a file of JSON lines (https://jsonlines.org); blank lines are skipped."""
    with Path(file).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(line, f"{file}:{number}")


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DdmakeError(f"{place}: {error}") from None
    if not isinstance(row, dict):
        raise DdmakeError(f"{place}: each line holds one object, {{\"column\": value, …}}, not a {type(row).__name__}")
    return row


def _parts(validation: float, test: float) -> list[str]:
    """Return the names of the parts that a split makes."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise DdfileError(f"split: {name} is a share of the rows, from 0 to below 1, not {share}.")
    if validation + test >= 1:
        raise DdfileError(f"split: validation and test take {validation + test:g} of the rows; nothing is left to train on.")
    return ["train", *(["validation"] if validation else []), *(["test"] if test else [])]


@step(version="1", names=_parts, columns=lambda inputs, arguments: inputs["rows"])
def split(rows: Rows, *, validation: float = 0.1, test: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Split rows at random into train, validation and test; the shares are rounded, and no part is empty."""
    order = rows.shuffle(seed=seed, keep_in_memory=True)
    sizes = {name: max(1, round(share * len(rows))) for name, share in (("validation", validation), ("test", test)) if share}
    if sum(sizes.values()) >= len(rows):
        raise DdmakeError(f"split: {len(rows)} rows are too few for {', '.join(_parts(validation, test))}")
    parts, at = {"train": order.select(range(len(rows) - sum(sizes.values())))}, len(rows) - sum(sizes.values())
    for name, size in sizes.items():
        parts[name] = order.select(range(at, at + size))
        at += size
    return parts
