"""Where the results of two workspaces differ, by their traces alone: nothing of either is executed.

A fingerprint stands for a recipe and all recipes and sources before it, a digest for what came of it. So equal fingerprints with
other digests are other data by the same recipe, and other fingerprints with equal digests another recipe to the same result.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ddmake.engine.changes import Change, Finder, changes
from ddmake.engine.ingredients import Ingredients
from ddmake.errors import DdmakeError
from ddmake.sharing import bundle as bundles
from ddmake.sharing.bundle import RECORDS
from ddmake.sharing.unpacking import check_records
from ddmake.store import FOLDER, exchange
from ddmake.store.exchange import Row
from ddmake.store.traces import Traces

Word = Literal["same", "data", "recipe", "edited", "source", "behind", "only here", "only there"]


@dataclass(frozen=True)
class Result:
    """What lies at a path: an output of a finished job."""

    fingerprint: str
    digest: dict[str, Any]
    ingredients: Ingredients
    inputs: dict[str, tuple[str, bool]]  # digests by path, and whether a rule made them
    edited: bool = False  # by hand, and adopted


@dataclass(frozen=True)
class Side:
    """One of the two workspaces: its results by path, and the texts of code that they tell of by hash."""

    results: dict[str, Result]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """How the results at one path differ: in what, why in a few words, and all that is unlike."""

    path: str
    word: Word
    told: str = ""
    same_data: bool = False
    changes: list[Change] = field(default_factory=list)


def read(place: Path) -> Side:
    """Return what a folder or a bundle tells of its results. Raises DdmakeError where that isn't sound."""
    if place.is_dir():
        return _of_folder(place)
    with bundles.opened(place) as bundle:
        checked = check_records(bundle)
        rows = {row["number"]: row for row in checked.traces}
        texts = {row["sha"]: row["text"] for row in bundle.lines(f"{RECORDS}texts.jsonl")}
        return Side({one.path: _result(rows[one.number], one.output) for one in checked.results}, texts)


def compare(here: Side, there: Side) -> Iterator[Difference]:
    """Yield what becomes of each path that either side has a result at; texts go from what is there to what is here."""
    for path in sorted({*here.results, *there.results}):
        ours, theirs = here.results.get(path), there.results.get(path)
        if ours is None or theirs is None:
            yield Difference(path, "only there" if ours is None else "only here")
        elif ours.fingerprint != theirs.fingerprint and (ours.edited or theirs.edited):
            where = "on both sides" if ours.edited and theirs.edited else "here" if ours.edited else "there"
            yield Difference(path, "edited", f"by hand {where}, and adopted", changes=_data(path, ours, theirs))
        elif ours.fingerprint != theirs.fingerprint:
            yield _recipe(path, ours, theirs, here, there)
        elif ours.digest != theirs.digest:
            yield Difference(path, "data", "same recipe", changes=_data(path, ours, theirs))
        else:
            yield Difference(path, "same", same_data=True)


def _of_folder(place: Path) -> Side:
    if not (place / FOLDER / "traces.db").exists():
        raise DdmakeError(f"{place}: nothing was made there: it has no {FOLDER}. Name the folder of a Ddfile, or a bundle.")
    traces = Traces(place / FOLDER, to_read=True)
    with closing(traces.db):
        results, texts = {}, {}
        for path, (trace, output) in traces.all_placed().items():
            row = exchange.told(traces, trace)
            try:
                exchange.check(row)
            except ValueError as error:
                raise DdmakeError(f"{place / FOLDER}: the trace of {path} {error}. Don't trust what it tells of.") from None
            results[path] = _result(row, output)
        texts.update(traces.db.execute("SELECT sha, text FROM texts").fetchall())
    return Side(results, texts)


def _result(row: Row, output: str) -> Result:
    record = row["record"]
    inputs = {given["path"]: (given["digest"], given["trace"] is not None) for given in record["inputs"]}
    return Result(row["fingerprint"], row["outputs"][output]["digest"], record["ingredients"], inputs,
                  bool(record.get("adopted")))


def _recipe(path: str, ours: Result, theirs: Result, here: Side, there: Side) -> Difference:
    """Return how two results differ whose fingerprints do: by themselves, by a source, or by a result before them."""
    same = ours.digest == theirs.digest
    own = changes({**theirs.ingredients, "inputs": {}}, {**ours.ingredients, "inputs": {}}, there.texts.get, here.texts.get)
    own += [one for one in _inputs(ours, theirs) if one.what.startswith("view of ")]
    sources = [name for name, (sha, made) in ours.inputs.items() if not made and theirs.inputs.get(name, (sha, made))[0] != sha]
    before = [name for name in ours.inputs if _unlike(name, here, there)]
    renamed = [*(ours.inputs.keys() ^ theirs.inputs.keys())]
    if own:
        return Difference(path, "recipe", ", ".join(dict.fromkeys(one.what for one in own)), same, own)
    if sources:
        return Difference(path, "source", f"{', '.join(sources)} {'have' if len(sources) > 1 else 'has'} other contents", same)
    if before:
        return Difference(path, "behind", ", ".join(before), same)
    if renamed:
        return Difference(path, "recipe", f"other inputs: {', '.join(sorted(renamed))}", same, _inputs(ours, theirs))
    return Difference(path, "recipe", "made of earlier results", same, _inputs(ours, theirs))


def _unlike(name: str, here: Side, there: Side) -> bool:
    ours, theirs = here.results.get(name), there.results.get(name)
    return ours is not None and theirs is not None and ours.fingerprint != theirs.fingerprint


def _inputs(ours: Result, theirs: Result) -> list[Change]:
    unknown: Callable[[str], str | None] = {}.get
    return list(Finder(unknown, unknown).part("inputs", theirs.ingredients.get("inputs"), ours.ingredients.get("inputs")))


def _data(path: str, ours: Result, theirs: Result) -> list[Change]:
    """Return what differs between two digests: rows, columns, or contents as a whole."""
    unknown: Callable[[str], str | None] = {}.get
    return list(Finder(unknown, unknown).value(path, theirs.digest, ours.digest))
