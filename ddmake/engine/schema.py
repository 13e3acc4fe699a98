"""Which columns a target has, as far as it can be known before it is made."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddmake.artifacts import views
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source, View, suffix
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, placed
from ddmake.fingerprint.source import is_users

Columns = list[str] | None
Known = Callable[[str], Columns]  # the columns of what lies or will lie at a path
READERS = {"": "saved", ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".md": "text"}


def columns_of(flow: Workflow, rule: Rule, known: Known) -> dict[str, Columns]:
    """Return the columns of a rule's outputs, by output name, as far as its recipe tells.

    Raises DdfileError where the recipe needs a column, of a template or by name, that its input is known not to have, and where
    it needs rows and is given a file.
    """
    _need_rows(flow, rule)
    told = rule.recipe.columns
    if told is None:
        for value in rule.inputs.values():
            if isinstance(value, View):
                _seen(value, known, rule)
        return {}
    inputs = {name: _columns(value, known, rule) for name, value in rule.inputs.items()}
    columns = _told(rule, inputs, f"{rule.place}: {rule.label}")
    return {name: columns for name in rule.outputs}


def check_opened(rule: Rule, opened: Mapping[str, Any]) -> None:
    """Raise DdfileError as `columns_of` does, by the columns of what a job has opened: they may not have been known before.

    The target is left to whoever tells how its job ended.
    """
    if rule.recipe.columns is not None:
        _told(rule, {name: _columns_there(opened[name]) for name in rule.inputs}, rule.place)


def _need_rows(flow: Workflow, rule: Rule) -> None:
    """Raise DdfileError for a file where rows are needed, or a folder that no rule makes: it would arrive as a path."""
    for take in rule.recipe.shape.inputs:
        for source in leaves(rule.inputs[take.name]) if take.rows or take.parts is not None else ():
            if isinstance(source, Source) and (remedy := _remedy(flow, source)):
                raise DdfileError(f"{rule.place}: {rule.label}: {source.path} arrives as a path, and rows are needed. {remedy}")


def _remedy(flow: Workflow, source: Source) -> str:
    """Return how to get rows of what would arrive as a path; nothing where it arrives as rows, or isn't there yet."""
    end = suffix(source.path)
    if flow.producer(source) is not None:
        return "Give that output no suffix." if end else ""
    if not (flow.root / source.path).exists():
        return ""
    return f'Read it by {READERS[end]}("data/…", "{source.path}").' if end in READERS else "Read it by a @step that yields rows."


def _told(rule: Rule, inputs: dict[str, Any], place: str) -> Columns:
    assert rule.recipe.columns is not None, "only a recipe that tells its columns is asked"
    try:
        told = rule.recipe.columns(inputs, rule.arguments)
    except DdfileError as error:
        raise placed(place, error) from None
    except Exception as error:  # of a function that a user wrote
        raise _failed(rule, error, place) from error
    if told is None or isinstance(told, (list, tuple)) and all(isinstance(name, str) for name in told):
        return told
    raise DdfileError(f"{place}: columns= of the recipe {rule.recipe.name} returned {told!r}. Return a list of the columns' "
                      "names, or None where they aren't known.")


def _failed(rule: Rule, error: Exception, place: str) -> DdfileError:
    """Return how a recipe's `columns=` failed, with the user's innermost line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    line = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return DdfileError(f"{place}: columns= of the recipe {rule.recipe.name} failed{line}: {type(error).__name__}: {error}")


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
