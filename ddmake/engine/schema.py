"""Which columns a target has, as far as it can be known before it is made."""

from collections.abc import Callable, Mapping
from typing import Any

from ddmake.artifacts import views
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
    told = rule.recipe.columns
    if told is None:
        for value in rule.inputs.values():
            if isinstance(value, View):
                _seen(value, known, rule)
        return {}
    columns = _told(rule, {name: _columns(value, known, rule) for name, value in rule.inputs.items()})
    return {name: columns for name in rule.outputs}


def check_opened(rule: Rule, opened: Mapping[str, Any]) -> None:
    """Raise DdfileError as `columns_of` does, by the columns of what a job has opened: they may not have been known before."""
    if rule.recipe.columns is not None:
        _told(rule, {name: _columns_there(opened[name]) for name in rule.inputs})


def _told(rule: Rule, inputs: dict[str, Any]) -> Columns:
    assert rule.recipe.columns is not None, "only a recipe that tells its columns is asked"
    try:
        return rule.recipe.columns(inputs, rule.arguments)
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None


def _columns(value: Any, known: Known, rule: Rule) -> Any:
    """Return an input's columns: a list, None where they aren't known, or a dict or list of these."""
    if isinstance(value, Source):
        return known(value.path)
    if isinstance(value, View):
        return _seen(value, known, rule)
    if isinstance(value, dict):
        return {name: _columns(item, known, rule) for name, item in value.items()}
    return [_columns(item, known, rule) for item in value] if isinstance(value, list) else None


def _seen(view: View, known: Known, rule: Rule) -> Columns:
    """Return the columns that a view leaves. Raises DdfileError where it names one that isn't there."""
    columns = known(view.of.path)
    try:
        views.check(columns, view.steps, view.of.path)
    except DdfileError as error:
        raise placed(rule.place, error) from None
    return views.columns_after(columns, view.steps)


def _columns_there(value: Any) -> Any:
    """Return the columns of an opened input, as `_columns` does."""
    if isinstance(value, dict):
        return {name: _columns_there(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_columns_there(item) for item in value]
    return getattr(value, "column_names", None)
