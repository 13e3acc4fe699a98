"""Knobs: what a Ddfile lets its user turn from the command line, typed by their defaults."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.registry import here, workflow
from ddmake.errors import DdfileError, NoSuchName, did_you_mean
from ddmake.fingerprint.reads import Namespace

if TYPE_CHECKING:
    from ddmake.ddfile.workflow import Workflow

TAKEN = ("prefix", "into", "last")  # parameters of load() and include()
KINDS = (bool, int, float, str, list, tuple, dict, type(None))  # of knobs
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
        if name in TAKEN:
            raise DdfileError(f"{here()}: a knob can't be named {name!r}, which means something else to load() or include().")
        if not isinstance(default, KINDS):
            raise DdfileError(f"{here()}: the knob {name!r} can't be {type(default).__name__}; its default is text, a number, "
                              "True or False, a list or dict of these, or None.")
        given, full = {**flow.last, **flow.given}, flow.within.replace("/", ".") + name
        _tell(flow, name, convert(full, given[name], default) if name in given else default, default)
    return Knobs({name: flow.knobs[name] for name in knobs})


def _tell(flow: "Workflow", name: str, value: Any, default: Any) -> None:
    """Note a knob in its workflow, and by its full name in those that include it."""
    flow.knobs[name], flow.defaults[name] = value, default
    while flow.parent is not None:
        name, flow = f"{flow.namespace}.{name}", flow.parent
        flow.knobs[name], flow.defaults[name] = value, default


def words(flow: "Workflow") -> list[str]:
    """Return the words of a command line that load a workflow again: its knobs as they were given, and where to."""
    given = {name: flow.knobs[name] for name in {**flow.last, **flow.given} if name in flow.knobs}
    plain = {name: text for name, value in given.items() if (text := _written(name, value, flow.defaults[name])) is not None}
    rest = {name: value for name, value in given.items() if name not in plain}
    config = ["--config", json.dumps(rest, ensure_ascii=False)] if rest else []
    return [*(f"{name}={text}" for name, text in plain.items()), *config, *(["--into", flow.into] if flow.into else [])]


def _written(name: str, value: Any, default: Any) -> str | None:
    """Return a knob's value as one types it, None where what is typed would be read as another."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    try:
        same = convert(name, text, default)
    except DdfileError:
        return None
    return text if repr(same) == repr(value) else None


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
