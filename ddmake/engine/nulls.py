"""Nulls that a prompt would spell out as "None": a model is told so, and it is paid for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.asked import FirstRows, asks, first_rows, is_there

NONE = re.compile(r"\bNone\b")
REMEDY = "Give it a default, as in {{{{ {0} or 'unknown' }}}}, or leave such rows out with .filter()."


@dataclass(frozen=True)
class Null:
    """A column whose nulls stand in prompts, with the first row, by number, in which one does."""

    path: str  # of the dataset
    column: str
    row: int

    @property
    def told(self) -> str:
        """Return it as a sentence without its end."""
        return f"{self.column} is null in row {self.row} of {self.path}, and stands in the prompt as 'None'"

    @property
    def remedy(self) -> str:
        """Return what to do about it."""
        return REMEDY.format(self.column)


def nulls(flow: Workflow, rule: Rule) -> list[Null]:
    """Return the nulls that a rule's prompts would spell out, among the first rows of what lies there."""
    if rule.recipe.asks is None or not is_there(flow, rule):
        return []
    try:
        return list(_found(flow, rule))
    except Exception:  # of a template or the user's own functions: the check before a run tells it
        return []


def _found(flow: Workflow, rule: Rule) -> Iterator[Null]:
    for name, value in rule.inputs.items():
        source, seen = (value.of, " as it is read") if isinstance(value, View) else (value, "")
        rows = first_rows(flow, value) if isinstance(source, Source) else None
        for column, (number, row) in _first_nulls(rows or ()).items():
            if _said(rule, name, row) > _said(rule, name, {**row, column: ""}):
                yield Null(f"{source.path}{seen}", column, number)


def _first_nulls(rows: Any) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return by column the first row that has a null there, and its number."""
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        for column in (column for column, value in row.items() if value is None and column not in found):
            found[column] = number, row
    return found


def _said(rule: Rule, name: str, row: Mapping[str, Any]) -> int:
    """Return how often the prompts for one row say None."""
    given = {**rule.inputs, **rule.arguments, name: FirstRows([dict(row)])}
    contents = (turn.get("content") for one in asks(rule, given) for prompt in one.prompts
                for turn in ([{"content": prompt}] if isinstance(prompt, str) else prompt))
    return sum(len(NONE.findall(str(content or ""))) for content in contents)
