"""Why a target is stale: the difference between the ingredients it was made of and today's, in words."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ddmake
from ddmake.engine.ingredients import Ingredients

SHOWN = 3  # differences told in one line
LONG = 24  # characters of a value told in one line
CONTENTS = "the contents of its folder changed"  # told of a model that goes by its folder
FOLLOWS = (" is new", " no longer read", " is gone")  # what mostly follows from another difference


def reason(before: Ingredients, now: Ingredients, folders: Mapping[str, str] = {}) -> str:
    """Return in a line what changed, the most telling first. `folders` are those of models, by the argument that names one."""
    found = [_named(line, folders) for line in dict.fromkeys(_differences(before, now))]
    found = [line for line in found if not line.endswith(FOLLOWS)] or found
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else "changed"


def _named(line: str, folders: Mapping[str, str]) -> str:
    """Return a line that tells of a model's folder with the folder's name, where that is known."""
    path = line.removesuffix(f": {CONTENTS}")
    return f"{path}: the contents of {folders[path]} changed" if path != line and path in folders else line


def _differences(before: Ingredients, now: Ingredients) -> Iterator[str]:
    if before.get("epoch", 0) != now.get("epoch", 0):
        yield f"sample epoch {before.get('epoch', 0)} -> {now.get('epoch', 0)}"
    for part, tell in TOLD.items():
        for name, old, new in _unlike(before.get(part, {}), now.get(part, {})):
            yield from tell(name, old, new)
    for part, noun in NOUNS.items():
        was, is_now = before.get(part, {}), now.get(part, {})
        for name, old, new in _unlike(was, is_now):
            told = name if "/" in name else f"{noun} {name}"
            both = name in was and name in is_now
            yield _changed(told, old, new) if both else f"{told} is {'new' if name in is_now else 'gone'}"
    rest = [part for part in ("schema", "kind", "outputs") if before.get(part) != now.get(part)]
    yield from (f"{part} changed" for part in rest)


def _unlike(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs of two dicts, by name."""
    names = dict.fromkeys([*new, *old])
    return [(n, old.get(n), new.get(n)) for n in names if not _same(old.get(n), new.get(n)) or (n in old) != (n in new)]


def _same(old: Any, new: Any) -> bool:
    """Tell whether two values are the same and of the same kinds: 1 isn't True, nor 1.0."""
    return old is new or json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _code(name: str, old: Any, new: Any) -> Iterator[str]:
    """Tell what changed in one piece of code: its text, or a value that it reads."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from (f"{noun} of {name} changed" for part, noun in PARTS.items() if old.get(part) != new.get(part))
        for read, was, now in _unlike(old["reads"], new["reads"]):
            yield from _values(_read(name, read), was, now)
    elif name.startswith("ddmake."):
        if new is not None:
            yield _recipe(name.rpartition(".")[2], old, new)
    elif name == "version":
        yield _changed("version", old, new)
    else:
        yield f"code of {name} is {'new' if old is None else 'no longer read'}"


def _read(name: str, read: str) -> str:
    """Return what a piece of code reads in words: "n=" is a default, "(Base)" a base, ".limit" its own attribute."""
    if read.endswith("="):
        return f"default of {read[:-1]}"
    if read.startswith("("):
        return f"base {read[1:-1]}"
    return name + read if read.startswith(".") else read


def _recipe(name: str, old: str | None, new: str) -> str:
    """Tell that a packaged recipe's version went up, with what its changelog says of that."""
    if old is None:
        return f"recipe {name} is new"
    sentences = _changelog().get(name, {})
    told = [sentences[version] for version in sentences if _number(old) < _number(version) <= _number(new)]
    return f"recipe {name} {old} -> {new}" + (f": {' '.join(told)}" if told else "")


@cache
def _changelog() -> dict[str, dict[str, str]]:
    import tomllib

    return tomllib.loads((Path(ddmake.__file__).parent / "rules" / "changes.toml").read_text(encoding="utf-8"))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _inputs(name: str, old: Any, new: Any) -> Iterator[str]:
    if old is None or new is None:
        yield f"input {name} is {'new' if old is None else 'gone'}"
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield from _items(f"input {name}", old, new, lambda path, was, now: _inputs(path.removeprefix("input "), was, now))
        return
    if "view" in old or "view" in new:
        yield from _view(name, old.get("view", []), new.get("view", []))
        old, new = old.get("of", old), new.get("of", new)
    if _same(old, new):
        return
    if "columns" in old and "columns" in new:
        yield f"input {name}: {_columns(old, new)}"
    elif "dict" in old and "dict" in new:
        was, now = _pairs(old), _pairs(new)
        for part, one, other in _unlike(was, now):
            yield from _inputs(part, one, other)
        if was.keys() == now.keys() and list(was) != list(now):
            yield f"order of input {name} changed"
    elif "llm" in old and "llm" in new:
        yield from _llm(name, old, new)
    else:
        yield f"input {name} changed"


def _view(name: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    """Tell what changed in a view's steps: one by one where the steps are the same ones."""
    if [verb for verb, _ in old] != [verb for verb, _ in new]:
        yield f"view of {name}: {_steps(old)} -> {_steps(new)}"
        return
    for (verb, was), (_, now) in zip(old, new):
        if not _same(was, now):
            if _plain(was) and _plain(now):
                yield f"view of {name}: {verb} {_list(was)} -> {_list(now)}"
            else:
                yield from (f"view of {name}: {line}" for line in _values(verb, was, now))


def _steps(steps: list[Any]) -> str:
    return ", ".join(verb for verb, _ in steps) or "none"


def _list(items: list[Any]) -> str:
    return ", ".join(map(_word, items))


def _plain(items: list[Any]) -> bool:
    return not any(isinstance(item, (dict, list)) for item in items) and len(_list(items)) <= LONG


def _pairs(value: dict[str, Any]) -> dict[str, Any]:
    """Return a dict by its keys: as they are where they are texts, as JSON where they are anything else."""
    return {name if isinstance(name, str) else json.dumps(name): item for name, item in value["dict"]}


def _columns(old: Any, new: Any) -> str:
    if old["rows"] != new["rows"]:
        return f"{old['rows']:,} -> {new['rows']:,} rows"
    changed = [name for name, _, _ in _unlike(old["columns"], new["columns"])]
    return f"column {', '.join(changed)} changed" if changed else "order of columns changed"


def _values(path: str, old: Any, new: Any) -> Iterator[str]:
    """Tell what differs between two values in canonical form, by the path to what is unlike."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield from _items(path, old, new, _values)
        return
    for form, tell in FORMS.items():
        if form in old and form in new:
            yield from tell(path, old, new)
            return
    if old.keys() != new.keys():
        yield f"{path} changed"
        return
    for _, was, now in _unlike(old, new):
        yield from _values(path, was, now)


def _items(path: str, old: Any, new: Any, tell: Callable[[str, Any, Any], Iterator[str]]) -> Iterator[str]:
    """Tell what differs between two lists of one length item by item; of anything else that it changed."""
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path} {len(old):,} -> {len(new):,} items"
            return
        for number, (was, now) in enumerate(zip(old, new)):
            if not _same(was, now):
                yield from tell(f"{path}[{number}]", was, now)
    elif path.startswith("input "):
        yield f"{path} changed"
    else:
        yield _changed(path, old, new)


def _mapping(path: str, old: Any, new: Any) -> Iterator[str]:
    was, now = _pairs(old), _pairs(new)
    for name, one, other in _unlike(was, now):
        if name in was and name in now:
            yield from _values(f"{path}[{name!r}]", one, other)
        else:
            yield f"{path}[{name!r}] {'added' if name in now else 'taken away'}"
    if was.keys() == now.keys() and list(was) != list(now):
        yield f"order of {path} changed"


def _object(path: str, old: Any, new: Any) -> Iterator[str]:
    if not _same(old.get("class"), new.get("class")):
        yield f"class of {path} changed"
    for name, was, now in _unlike(old["fields"], new["fields"]):
        yield from _values(f"{path}.{name}", was, now)
    if not _same(old.get("content"), new.get("content")):
        yield from _values(path, old.get("content"), new.get("content"))


def _holding(path: str, old: Any, new: Any) -> Iterator[str]:
    """Tell what differs between two values that hold code."""
    if not ("value" in old and "value" in new):
        if old["code"] != new["code"]:
            yield f"{path} {old['code']} -> {new['code']}"
        return
    found = [line for name, was, now in _unlike(old["code"], new["code"]) for line in _code(name, was, now)]
    yield from found
    if not _same(old["value"], new["value"]):
        yield from _values(path, old["value"], new["value"])


def _llm(path: str, old: Any, new: Any) -> Iterator[str]:
    was, now = next((old[form], new[form]) for form in ("llm", "embedder") if form in old and form in new)
    if was.get("name") != now.get("name"):  # another toy has other weights, which goes without saying
        was, now = {**was, "weights": None}, {**now, "weights": None}
    if isinstance(was.get("name"), dict) and isinstance(now.get("name"), dict) and not _same(was["name"], now["name"]):
        yield f"{path}: {CONTENTS}"
        now = {**now, "name": was["name"]}
    yield from (_changed(f"{path}: {part}", one, other) for part, one, other in _unlike(was, now))


def _template(path: str, old: Any, new: Any) -> Iterator[str]:
    changed = [name for name, _, _ in _unlike(old["template"], new["template"])]
    yield from [f"template {name} changed" if name else f"{path} changed" for name in changed] or [f"{path} changed"]


def _knobs(path: str, old: Any, new: Any) -> Iterator[str]:
    for name, was, now in _unlike(old["knobs"], new["knobs"]):
        yield from _values(f"{path}.{name}", was, now)


def _member(path: str, old: Any, new: Any) -> Iterator[str]:
    part = "member" if old["member"] != new["member"] else "value"
    yield from _values(path, old[part], new[part])


def _set(path: str, old: Any, new: Any) -> Iterator[str]:
    yield f"{path} changed"


def _changed(path: str, old: Any, new: Any) -> str:
    """Return "n 1 -> 2" where both are short, else "n changed"."""
    one, other = _word(old), _word(new)
    if one == other:
        one, other = json.dumps(old), json.dumps(new)
    short = not isinstance(old, (dict, list)) and not isinstance(new, (dict, list)) and max(len(one), len(other)) <= LONG
    return f"{path} {one} -> {other}" if short else f"{path} changed"


def _word(value: Any) -> str:
    return "unset" if value is None else '""' if value == "" else str(value)


FORMS = {"template": _template, "llm": _llm, "embedder": _llm, "knobs": _knobs, "dict": _mapping, "fields": _object,
         "code": _holding, "member": _member, "set": _set}  # canonical forms that have words of their own
TOLD = {"inputs": _inputs, "code": _code, "arguments": _values}
NOUNS = {"packages": "package", "env": "environment variable", "wildcards": "wildcard"}
PARTS = {  # of a piece of code
    "text": "code", "docs": "docstring", "name": "name", "hints": "type hints", "source": "source text",
}
