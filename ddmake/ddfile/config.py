"""Knobs: what a Ddfile lets its user turn from the command line, typed by their defaults."""

from collections.abc import Mapping
from typing import Any

from ddmake.ddfile.registry import here, workflow
from ddmake.errors import DdfileError, NoSuchName, did_you_mean
from ddmake.fingerprint.reads import Namespace

TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class Knobs(Namespace):
    """The values of the knobs, by attribute: `cfg.n`."""

    def __init__(self, values: Mapping[str, Any]):
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(self.__dict__)
        raise NoSuchName(f"{here()}: there is no knob {name!r} in config({known}).{did_you_mean(name, self.__dict__)}")


def config(**knobs: Any) -> Knobs:
    """Declare the knobs with their defaults, and return their values: `cfg = config(n=1000, llm="openai/gpt-4o")`.

    Raises DdfileError for a value that isn't of its default's type.
    """
    flow = workflow("config()")
    for name, default in knobs.items():
        if name in flow.knobs:
            raise DdfileError(f"{here()}: the knob {name!r} is declared twice.")
        flow.knobs[name] = convert(name, flow.given[name], default) if name in flow.given else default
    return Knobs({name: flow.knobs[name] for name in knobs})


def convert(name: str, given: Any, default: Any) -> Any:
    """Return a knob's value in its default's type; text is read as that type, a list of it at its commas."""
    kind = type(default)
    try:
        if kind is bool:
            return _boolean(given)
        if kind in (list, tuple):
            items = given.split(",") if isinstance(given, str) else list(given)
            return kind(convert(name, item.strip() if isinstance(item, str) else item, default[0]) if default else item
                        for item in items if item != "")
        if kind in (int, float, str) and not isinstance(given, bool):
            return kind(given) if isinstance(given, str) or kind is not int or given == int(given) else _reject()
        return given if default is None or isinstance(given, kind) else _reject()
    except (ValueError, TypeError):
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, kind.__name__)
        raise DdfileError(f"The knob {name} takes {noun} (its default is {default!r}), not {given!r}.") from None


def _boolean(given: Any) -> bool:
    word = str(given).lower()
    return True if word in TRUE else False if word in FALSE else _reject()


def _reject() -> Any:
    raise ValueError
