"""A rule made in shards, as its jobs see it: each makes what comes of a range of its input's rows, and a last one joins that."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddmake.artifacts import rows as stored_rows
from ddmake.artifacts.joined import joined
from ddmake.artifacts.stored import Stored
from ddmake.ddfile.asking import NotYet
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.asked import asks
from ddmake.engine.opening import Opener, Way
from ddmake.engine.shards import Part, Shard, cut_input
from ddmake.errors import DdmakeError, RecipeFailed
from ddmake.store import Store

COUNTS = ("sent", "cached", "failed", "cut", "tokens_in", "tokens_out", "cost")  # of an llm's usage

class PartOpener(Opener):
    """Opens what a recipe is given for a shard: the rows of its range in the place of all."""

    def __init__(self, flow: Workflow, store: Store, rule: Rule, tell: Callable[[int, int, str], None], way: Way, shard: Shard):
        self.failed, self.usable, self.why = 0, 0, ""
        super().__init__(flow, store, rule, tell, replace(way, manner=replace(way.manner, tally=self._tally)))
        self.shard = shard
        self.range = range(0)

    def given(self) -> dict[str, Any]:
        """Return the rule's inputs and arguments, opened, once it is known what the shards before are to ask."""
        given, name = super().given(), cut_input(self.rule)
        whole, (number, of) = given[name], self.shard
        if not hasattr(whole, "column_names"):
            raise DdmakeError(f"{self.rule.place}: {self.rule.label}: shards= cuts a dataset, and {whole} is none.")
        size, more = divmod(len(whole), of)
        first = size * number + min(number, more)
        self.range = range(first, first + size + (number < more))
        self._skip({**given, name: _cut(whole, range(first))})
        return {**given, name: _cut(whole, self.range)}

    @property
    def told(self) -> str:
        """Return which part of the rule this is, in words."""
        (number, of), given = self.shard, self.rule.inputs[cut_input(self.rule)]
        whole = f"a view of {given.of.path}" if isinstance(given, View) else given.path
        rows = f" (rows {self.range[0]} to {self.range[-1]} of {whole})" if self.range else ""
        return f"shard {number + 1} of {of}{rows}"

    def _skip(self, before: Mapping[str, Any]) -> None:
        """Have llms count what is asked about the rows before."""
        passes = set[int]()
        try:
            for asking in asks(self.rule, before):
                if id(asking.llm) in passes:
                    raise DdmakeError(f"{self.rule.recipe.name} asks one llm twice over, so that it can't be made in shards.")
                passes.add(id(asking.llm))
                asking.llm.skip(asking.prompts, asking.schema, asking.tools, asking.labels)
        except NotYet as error:
            raise DdmakeError(f"it can't be made in shards, which have to know what is asked before them: {error}") from None

    def _tally(self, failed: int, usable: int, why: str) -> None:
        self.failed, self.usable, self.why = self.failed + failed, self.usable + usable, self.why or (why if failed else "")


def _cut(whole: Any, numbers: range) -> Any:
    """Return a range of rows, as the whole was opened."""
    if isinstance(whole, Stored):
        return Stored(whole.table.slice(numbers.start, len(numbers)), whole.features)
    return whole.select(numbers)


def join(rule: Rule, parts: Sequence[Part], to: Path, lost: Path) -> tuple[dict[str, Any], int]:
    """Write the rows of parts one after another, and what failed; return the record of it all, and how many rows there are.

    Raises RecipeFailed where there are no rows, or where an llm was asked and no answer can be used.
    """
    failed, usable = sum(part.failed for part in parts), sum(part.usable for part in parts)
    places = {Path(part.place): bool(part.failed) and not part.usable for part in parts if part.place}
    try:
        if failed and not usable:
            raise RecipeFailed(f"{failed} of {failed} rows have no usable answer; {next(p.why for p in parts if p.why)}")
        if not places:
            raise RecipeFailed("it made no rows")
        count = stored_rows.write(joined(places), to)
    except RecipeFailed as error:
        raise RecipeFailed(f"recipe {rule.recipe.name} failed ({rule.place}): {error}") from None
    with lost.open("wb") as file:
        for part in (part for part in parts if os.path.exists(part.lost)):
            with open(part.lost, "rb") as one:
                shutil.copyfileobj(one, file)
    return _record([part.record for part in parts]), count


def _record(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is told of shards as of one job: of machines the first one's."""
    names = dict.fromkeys(name for record in records for name in record["usage"])
    return {"usage": {name: _used([one["usage"][name] for one in records if name in one["usage"]]) for name in names},
            "started": min(record["started"] for record in records),
            "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 3),
            **{name: records[0][name] for name in ("environment", "hardware", "packages")}, "shards": len(records)}


def _used(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was asked of an llm in all."""
    whole: dict[str, Any] = {}
    for one in usages:
        whole = {**one, **whole}  # remarks of one hold for all
    examples = [one["example"] for one in usages if one.get("example") is not None]
    return {**whole, **{name: _sum(one[name] for one in usages) for name in COUNTS},
            "first_failure": next((one["first_failure"] for one in usages if one["first_failure"]), None),
            "models": sorted({model for one in usages for model in one["models"]}),
            "example": min(examples, key=lambda example: example["row"], default=None)}


def _sum(numbers: Iterable[Any]) -> Any:
    known = list(numbers)
    return None if None in known else sum(known)
