"""Which columns a target has, as far as it can be known before it is made."""

from collections.abc import Callable
from typing import Any

from ddmake.artifacts.views import columns_after
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source, View
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, placed

Columns = list[str] | None
Known = Callable[[str], Columns]  # the columns of what lies or will lie at a path


def columns_of(flow: Workflow, rule: Rule, known: Known) -> dict[str, Columns]:
    """Return the columns of a rule's outputs, by output name, as far as its recipe tells.

    Raises DdfileError where the recipe needs a column, of a template or by name, that its input is known not to have.
    """
    inputs = {name: _columns(value, known, rule) for name, value in rule.inputs.items()}
    tell = rule.recipe.columns
    if tell is None:
        return {}
    try:
        told = tell(inputs, rule.arguments)
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None
    return {name: told for name in rule.outputs}


def _columns(value: Any, known: Known, rule: Rule) -> Any:
    """Return an input's columns: a list, None where they aren't known, or a dict of these."""
    if isinstance(value, Source):
        return known(value.path)
    if isinstance(value, View):
        before = known(value.of.path)
        _check_view(value, before, rule)
        return columns_after(before, value.steps)
    if isinstance(value, dict):
        return {name: _columns(item, known, rule) for name, item in value.items()}
    return None


def _check_view(view: View, columns: Columns, rule: Rule) -> None:
    for at, (verb, args) in enumerate(view.steps):
        here = columns_after(columns, view.steps[:at])
        asked = args if verb in ("select", "explode") else args[0] if verb == "rename" else ()
        missing = [name for name in asked if here is not None and name not in here]
        if missing:
            has = f"It has: {', '.join(here or [])}."
            raise DdfileError(f"{rule.place}: .{verb}(): {view.of.path} has no column {missing[0]!r}. {has}")
