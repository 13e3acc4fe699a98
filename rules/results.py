"""What to make of results: one table of many, and the best model of those that were compared."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from ddmake import step, train
from ddmake.backends.models import read_json
from ddmake.ddfile.inputs import MODEL, Rows
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import Columns, free, need
from ddmake.rules.scoring import stored
from ddmake.rules.varied import RECORD

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Row = dict[str, Any]


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _united(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `table`."""
    results, name = inputs["results"], arguments["name"]
    named = isinstance(results, Mapping)
    if not isinstance(results, (Mapping, list)) or not results or any(isinstance(one, str) for one in results) and not named:
        raise DdfileError("table takes a list of results, or a dict of them by name, and at least one.")
    several = list(results.values() if isinstance(results, Mapping) else results)
    for there in several if named else ():
        free(there, [name], "table")
    known = None if None in several else [*([name] if named else []), *dict.fromkeys(key for there in several for key in there)]
    by, mean = _names(arguments["by"]), _names(arguments["mean"])
    if bool(by) != bool(mean):
        raise DdfileError("table: by= names the columns that rows are put together by, and mean= those that means are taken of: "
                          "give both, or neither.")
    for column in by:
        need(known, column, "to put rows together by")
    for column in mean:
        need(known, column, "to take the mean of")
    return [*by, *(key for column in mean for key in (column, f"{column}_sd")), "n"] if by else known


@step(version="2", columns=_united)
def table(results: Any, *, name: str = "name", by: str | Sequence[str] | None = None,
          mean: str | Sequence[str] | None = None) -> Any:
    """Collect results in one table: all rows, one after another, with all columns; what a row lacks is null.

    Results of a dict are told apart by a column `name` of its keys. With `by` and `mean`, rows that are alike in the columns `by`
    make one: of each column in `mean` the mean and, in `<column>_sd`, the standard deviation of the sample (null of one), nulls
    left out; `n` is the number of rows. So means over seeds are taken `by` all that was varied but the seed. An output that ends
    with .csv, .jsonl or .parquet is a file.
    """
    found = list(_all(results, name))
    keys = dict.fromkeys(key for row in found for key in row)
    if not by:
        return ({key: row.get(key) for key in keys} for row in found)
    means = list(_means(found, _names(by), _names(mean)))
    return stored(means, [f"{column}{end}" for column in _names(mean) for end in ("", "_sd")])


def _all(results: Any, name: str) -> Iterator[Row]:
    if not isinstance(results, Mapping):
        yield from (row for rows in results for row in rows)
        return
    for key, rows in results.items():
        yield from ({name: key, **row} for row in rows)


def _means(rows: Sequence[Row], by: Sequence[str], mean: Sequence[str]) -> Iterator[Row]:
    """Yield one row for all that are alike, in the order in which they came first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.get(key) for key in by], default=str), []).append(row)
    for alike in groups.values():
        yield {**{key: alike[0].get(key) for key in by}, **_summed(alike, mean), "n": len(alike)}


def _summed(rows: Sequence[Row], mean: Sequence[str]) -> Row:
    found: Row = {}
    for key in mean:
        values = [row[key] for row in rows if row.get(key) is not None]
        if odd := [value for value in values if isinstance(value, bool) or not isinstance(value, (int, float))]:
            raise DdmakeError(f"table: column {key!r} holds {odd[0]!r}, and means are of numbers.")
        found |= {key: fmean(values) if values else None, f"{key}_sd": stdev(values) if len(values) > 1 else None}
    return found


def _chosen(inputs: Inputs, arguments: Arguments) -> None:
    """Check what `choose` is given, as far as it is known."""
    if not isinstance(inputs["models"], Mapping) or not inputs["models"]:
        raise DdfileError("choose takes a dict of models by their names in the results, and at least one.")
    need(inputs["results"], arguments["metric"], "to choose by")
    need(inputs["results"], arguments["by"], "that names models")


@train(version="1", columns=_chosen)
def choose(models: Annotated[dict[str, Any], MODEL], results: Rows, *, metric: str, by: str = "model", lowest: bool = False,
           output: Path) -> None:
    """Make an artifact of the best model: the one whose row in the results has the highest `metric`, or the `lowest`.

    The column `by` names the models as the dict does; rows of others count for nothing. Of equals the first in the results is
    taken; a score that is null, or no number, never wins. The model is copied as it is, an adapter as an adapter; which it was,
    and by what score, stands in its metrics.json and so in its card, whose lineage is that of the chosen one.
    """
    scores = [(name, _score(row[metric], metric)) for row in results if (name := row[by]) in models]
    scores = [(name, score) for name, score in scores if isfinite(score)]
    if not scores:
        raise DdmakeError(f"choose: none of {', '.join(models)} has a {metric} in the results, whose column {by!r} names "
                          f"{', '.join(sorted({str(row[by]) for row in results})) or 'nobody'}.")
    name, score = (min if lowest else max)(scores, key=lambda one: one[1])
    best = "lowest" if lowest else "highest"
    print(f"choose: {name}, whose {metric} of {score:.6g} is the {best} of {len(scores)}", flush=True)
    _copy(name, models[name], output)
    told = {**read_json(output, RECORD), "chosen": name, "chosen_by": metric, "score": score, "candidates": len(models)}
    (output / RECORD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _score(value: Any, metric: str) -> float:
    """Return a score, one that isn't there as no number. Raises DdmakeError for texts and the like."""
    if value is not None and not isinstance(value, (bool, int, float)):
        raise DdmakeError(f"choose: the column {metric!r} holds {value!r}, and scores are numbers.")
    return nan if value is None else float(value)


def _copy(name: str, model: Any, output: Path) -> None:
    """Copy a model's folder, sharing its blocks where the file system can. Raises DdmakeError for what is none."""
    from ddmake.store.objects import clone

    if not isinstance(model, Path) or not model.is_dir():
        raise DdmakeError(f"choose: {name!r} is no model folder that could be copied. Give a target that makes a model, or "
                          "the Hub's name of one.")
    shutil.copytree(model, output, copy_function=clone, dirs_exist_ok=True)
