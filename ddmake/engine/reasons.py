"""Why a target is stale: the difference between the ingredients it was made of and today's, in words."""

from typing import Any

from ddmake.engine.ingredients import Ingredients

SHOWN = 3  # differences told in one line
LONG = 24  # characters of a value told in one line


def reason(before: Ingredients, now: Ingredients) -> str:
    """Return in a line what changed, the most telling first."""
    found = list(dict.fromkeys(_differences(before, now)))
    found = [line for line in found if not line.endswith(("is new", "no longer read"))] or found  # what follows from another
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else "changed"


def _differences(before: Ingredients, now: Ingredients) -> list[str]:
    tell = {"inputs": _inputs, "arguments": _arguments, "code": _code, "packages": _named("package"),
            "env": _named("environment variable")}
    found = []
    for part in ("inputs", "code", "arguments", "packages", "env"):
        old, new = before.get(part, {}), now.get(part, {})
        for name in dict.fromkeys([*new, *old]):
            if old.get(name) != new.get(name) or (name in old) != (name in new):
                found.extend(tell[part](name, old.get(name), new.get(name)))
    rest = [part for part in ("schema", "kind", "outputs") if before.get(part) != now.get(part)]
    return found + [f"{part} changed" for part in rest]


def _code(name: str, old: Any, new: Any) -> list[str]:
    """Tell what changed in one piece of code: its text, or a value that it reads."""
    if isinstance(old, dict) and isinstance(new, dict):
        was, now = old["reads"], new["reads"]
        text = [f"code of {name} changed"] if old["text"] != new["text"] else []
        return text + [f"{read} {_change(was.get(read), now.get(read))}" for read in dict.fromkeys([*now, *was])
                       if was.get(read) != now.get(read)]
    if name.startswith("ddmake.rules."):
        short = name.rpartition(".")[2]
        return [f"recipe {short} is new" if old is None else f"recipe {short} {_change(old, new)}"] if new is not None else []
    if name == "version":
        return [f"version {_change(old, new)}"]
    return [f"code of {name} is {'new' if old is None else 'no longer read'}"]


def _inputs(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = old.get("of", old), new.get("of", new)
        if old.get("view") != new.get("view"):
            return [f"view of {name} changed"]
        if isinstance(inner[0], dict) and "columns" in inner[0] and "columns" in inner[1]:
            return [f"input {name}: {_columns(*inner)}"]
        if "dict" in old and "dict" in new:
            was, now = dict(map(tuple, _pairs(old))), dict(map(tuple, _pairs(new)))
            return [line for part in dict.fromkeys([*now, *was]) if was.get(part) != now.get(part)
                    for line in _inputs(part, was.get(part), now.get(part))]
    return [f"input {name} changed"]


def _pairs(value: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(str(name), item) for name, item in value["dict"]]


def _columns(old: Any, new: Any) -> str:
    if old["rows"] != new["rows"]:
        return f"{old['rows']:,} -> {new['rows']:,} rows"
    changed = [n for n in dict.fromkeys([*new["columns"], *old["columns"]]) if old["columns"].get(n) != new["columns"].get(n)]
    return f"column {', '.join(changed)} changed" if changed else "order of columns changed"


def _arguments(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        if "template" in old and "template" in new:
            return _template(name, old["template"], new["template"])
        if "llm" in old and "llm" in new:
            was, now = old["llm"], new["llm"]
            if was.get("name") != now.get("name"):  # another toy has other weights, which goes without saying
                was, now = {**was, "weights": None}, {**now, "weights": None}
            return [f"{name}: {part} {_change(was.get(part), now.get(part))}"
                    for part in dict.fromkeys([*now, *was]) if was.get(part) != now.get(part)]
        if old.keys() == new.keys() == {"value", "code"}:
            was, now = old["code"], new["code"]
            changed = [part for part in dict.fromkeys([*now, *was]) if was.get(part) != now.get(part)]
            return [line for part in changed for line in _code(part, was.get(part), now.get(part))] or [f"{name} changed"]
    return [f"{name} {_change(old, new)}"]


def _template(name: str, old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = [part for part in dict.fromkeys([*new, *old]) if old.get(part) != new.get(part)]
    return [f"template {part} changed" if part else f"{name} changed" for part in changed] or [f"{name} changed"]


def _named(noun: str) -> Any:
    return lambda name, old, new: [f"{noun} {name} {_change(old, new)}"]


def _change(old: Any, new: Any) -> str:
    """Return "1 -> 2" where both are short, else "changed"."""
    def short(value: Any) -> bool:
        return not isinstance(value, (dict, list)) and len(str(value)) <= LONG

    def word(value: Any) -> str:
        return "unset" if value is None else str(value)

    return f"{word(old)} -> {word(new)}" if short(old) and short(new) else "changed"
