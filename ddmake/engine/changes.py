"""What differs between two ingredients, in full: old and new values, and text diffs of templates and code.

`reasons` tells the same in a line; here each difference is shown.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from ddmake.engine.ingredients import Ingredients

NAMES = {"schema": "the form of keys", "kind": "kind of recipe", "epoch": "sample", "packages": "package",
         "env": "environment variable", "wildcards": "wildcard", "outputs": "file type of output", "inputs": "input"}
LONG = 60  # characters of a value that stand in one line

Text = Callable[[str], str | None]  # the text of a piece of code, by its hash


@dataclass(frozen=True)
class Change:
    """One difference: what it is about, and old -> new in a line or as the lines of a unified diff."""

    what: str
    told: str = ""
    diff: tuple[str, ...] = ()


def changes(before: Ingredients, now: Ingredients, old_text: Text, new_text: Text) -> list[Change]:
    """Return what differs between what a result was made of and what it would be made of now."""
    finder = Finder(old_text, new_text)
    found = (finder.part(part, before.get(part), now.get(part)) for part in _names(before, now))
    return list(dict.fromkeys(change for some in found for change in some))


class Finder:
    """Finds differences; code's texts come from outside, since ingredients hold their hashes alone."""

    def __init__(self, old_text: Text, new_text: Text):
        self.old_text, self.new_text = old_text, new_text

    def part(self, part: str, old: Any, new: Any) -> Iterator[Change]:
        """Yield the differences in one part of the ingredients."""
        if part == "code":
            yield from self.code(old or {}, new or {})
        elif isinstance(old or new, dict):
            noun = f"{NAMES[part]} " if part in NAMES else ""
            for name in _names(old or {}, new or {}):
                yield from self.value((noun + name).strip(), (old or {}).get(name), (new or {}).get(name))
        else:
            yield from self.value(NAMES.get(part, part), old or 0, new or 0)  # the first sample's number isn't noted

    def code(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
        """Yield the differences of code: texts, and the values that they read."""
        for label in _names(old, new):
            was, now = old.get(label), new.get(label)
            if was == now:
                continue
            if not isinstance(was or now, dict):
                yield Change(f"version of {label.rpartition('.')[2]}", _told(was, now))
                continue
            yield from self._text(f"code of {label}", (was or {}).get("text"), (now or {}).get("text"))
            for name in _names((was or {}).get("reads", {}), (now or {}).get("reads", {})) if was and now else ():
                yield from self.value(name, was["reads"].get(name), now["reads"].get(name))

    def value(self, what: str, old: Any, new: Any) -> Iterator[Change]:
        """Yield the differences of two values in canonical form."""
        if old == new and _shape(old) == _shape(new):
            return
        if not (isinstance(old, dict) and isinstance(new, dict)):
            yield from self._plain(what, old, new)
        elif "template" in old and "template" in new:
            yield from _templates(what, old["template"], new["template"])
        elif old.keys() == new.keys() == {"value", "code"}:
            yield from self.code(old["code"], new["code"])
            yield from self.value(what, old["value"], new["value"])
        elif "llm" in old and "llm" in new:
            yield from self._fields(f"{what}: ", old["llm"], new["llm"])
        elif "columns" in old and "columns" in new:
            yield from _table(what, old, new)
        elif "view" in old or "view" in new:
            yield from self.value(what, old.get("of", old), new.get("of", new))
            yield from self._view(what, old.get("view", []), new.get("view", []))
        elif "sha" in old and "sha" in new:
            yield Change(what, f"contents changed ({old['sha'][:8]} -> {new['sha'][:8]})")
        elif "dict" in old and "dict" in new:
            yield from self._fields(f"{what}: ", _pairs(old), _pairs(new))
        elif "fields" in old and "fields" in new:
            yield from self._fields(f"{what}: ", old["fields"], new["fields"])
        elif "code" not in old and "code" not in new:
            yield from self._fields(f"{what}: ", old, new)

    def _fields(self, head: str, old: Any, new: Any) -> Iterator[Change]:
        old, new = dict(old), dict(new)
        for name in _names(old, new):
            yield from self.value(f"{head}{name}", old.get(name), new.get(name))

    def _plain(self, what: str, old: Any, new: Any) -> Iterator[Change]:
        if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > LONG:
            yield Change(what, "", _diff(old, new))
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for at, (was, now) in enumerate(zip(old, new)):
                yield from self.value(f"{what}[{at}]", was, now)
        else:
            yield Change(what, _told(old, new))

    def _view(self, what: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
        if old != new:
            yield Change(f"view of {what.removeprefix('input ')}", f"{_steps(old)} -> {_steps(new)}")

    def _text(self, what: str, old: str | None, new: str | None) -> Iterator[Change]:
        """Yield the difference of two texts that are known by hash."""
        if old == new:
            return
        if old is None or new is None:
            yield Change(what, "is new" if old is None else "is no longer read")
            return
        was, now = self.old_text(old), self.new_text(new)
        told = "changed" if was is None or now is None else ""
        yield Change(what, told and "changed; the text that it had wasn't kept", () if told else _diff(was or "", now or ""))


def _templates(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in _names(old, new):
        if old.get(name) != new.get(name):
            yield Change(f"template {name}" if name else what, "", _diff(old.get(name, ""), new.get(name, "")))


def _table(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the differences of two datasets: rows, and columns by name and type."""
    if old["rows"] != new["rows"]:
        yield Change(what, f"{old['rows']:,} -> {new['rows']:,} rows")
    was, now = old["columns"], new["columns"]
    for name in _names(was, now):
        if name not in was or name not in now:
            yield Change(what, f"column {name} is {'new' if name in now else 'gone'}")
        elif was[name]["type"] != now[name]["type"]:
            yield Change(what, f"column {name}: {was[name]['type']} -> {now[name]['type']}")
        elif was[name] != now[name]:
            yield Change(what, f"column {name} has other values")
    if was == now and list(was) != list(now):
        yield Change(what, f"order of columns: {', '.join(was)} -> {', '.join(now)}")


def _diff(old: str, new: str) -> tuple[str, ...]:
    """Return the lines of a unified diff, without the lines that would name files."""
    lines = unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3)
    return tuple(lines)[2:] or ("(only the end of the last line differs)",)


def _names(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*new, *old]))


def _pairs(value: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): item for name, item in value["dict"]}


def _steps(steps: list[Any]) -> str:
    return "".join(f".{verb}({', '.join(map(_word, args))})" for verb, args in steps) or "all of it"


def _told(old: Any, new: Any) -> str:
    """Return "1 -> 2"; what is too long for a line is cut."""
    return f"{_word(old)} -> {_word(new)}"


def _word(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[:LONG - 1]}…"


def _shape(value: Any) -> Any:
    """Return what tells equal values of different kinds or orders apart: 1 and True, and a dict's order."""
    return json.dumps(value) if isinstance(value, (dict, list)) else type(value)
