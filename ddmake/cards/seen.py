"""Through which views a job saw what it read: `.take(20)` of a dataset is another thing than all of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddmake.cards.plain import Facts, function, plain
from ddmake.cards.used import parameters
from ddmake.fingerprint.values import dicts

LONG = 100  # characters of what a step is given
FUNCTION = "…"  # in place of a lambda, which has no short form

Steps = list[tuple[str, list[Any]]]  # verbs, and what they are given as a person would write it


class Bare(str):
    """A text that is written without quotes."""

    def __repr__(self) -> str:
        return str(self)


def views(made_of: Mapping[str, Any], digest: Facts) -> list[str]:
    """Return the views that a job saw a dataset through, by its digest, as one writes them; none where it saw all of it."""
    return list(dict.fromkeys("".join(map(_written, steps)) for of, steps in viewed(made_of) if same(of, digest)))


def viewed(made_of: Mapping[str, Any]) -> Iterator[tuple[Facts, Steps]]:
    """Yield what a job saw through views, with their steps."""
    for _, value in parameters(made_of):
        for part in dicts(value):
            if isinstance(part.get("of"), dict) and part.get("view"):
                yield part["of"], [(verb, [_given(arg) for arg in args]) for verb, args in part["view"]]


def same(part: Facts, digest: Facts) -> bool:
    """Tell whether a dataset among the ingredients, narrowed to the columns that were read, is the one with this digest."""
    return (part.get("kind") == digest.get("kind") == "dataset" and part["rows"] == digest["rows"]
            and part["columns"].items() <= digest["columns"].items())


def _given(arg: Any) -> Any:
    return Bare(function(arg) or FUNCTION) if isinstance(arg, dict) and "code" in arg else plain(arg)


def _written(step: tuple[str, list[Any]]) -> str:
    verb, args = step
    text = ", ".join(map(repr, args))
    return f".{verb}({text if len(text) <= LONG else f'{text[:LONG]}…'})"
