"""Which rules are meant by the names on a command line and in aliases: paths, aliases, folders of targets, globs."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ddmake.ddfile.binding import normal
from ddmake.ddfile.target import Target
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule
    from ddmake.ddfile.workflow import Workflow

GLOB = re.compile(r"(?P<folders>\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<not>!?)(?P<of>[^\]]+)\]")


def select(flow: "Workflow", names: Sequence[str]) -> "list[Rule]":
    """Return the rules that are named, in the Ddfile's order; nothing named means `all`.

    Raises DdfileError for a name that nothing goes by.
    """
    chosen = set()
    for name in names or ["all"]:
        found = named(flow, name)
        chosen.update(flow.targets[path].rule for path in (found if found is not None else [flow[name].path]))
    return [rule for rule in flow.rules if rule in chosen]


def named(flow: "Workflow", name: str) -> list[str] | None:
    """Return the paths of the targets that a name stands for, None for a name that nothing goes by."""
    if flow.within + name in flow.aliases:
        return flow.aliases[flow.within + name]
    if name == "all" and flow.parent is None:
        return [path for path, target in flow.targets.items() if not target.rule.options.manual]
    path = normal(name)
    exact = [place for place in (path, flow.prefix + path) if place in flow.targets]
    found = exact[:1] or _without_manual(flow, fitting(flow.targets, dict.fromkeys((path, flow.prefix + path))))
    target = None if found else flow.find(name)
    return [target.path] if target else found or None


def aliased(flow: "Workflow", name: str, item: Target | str, place: str) -> list[str]:
    """Return the paths that an alias's item stands for. Raises DdfileError where there are none."""
    if isinstance(item, Target):
        return [part.as_source().path for part in (item.parts.values() if item.output is None else [item])]
    found = named(flow, item)
    if found is None:
        near = did_you_mean(normal(item), flow.targets)
        raise DdfileError(f"{place}: the alias {name.removeprefix(flow.within)!r} names {item!r}, which no rule in "
                          f"{flow.file.name} makes.{near}")
    return found


def fitting(paths: Iterable[str], places: Iterable[str]) -> list[str]:
    """Return the paths in these folders, else those that such globs fit: `*` goes up to the next slash, `**` beyond."""
    paths, places = list(paths), tuple(places)
    below = [path for path in paths if path.startswith(tuple(f"{place}/" for place in places))]
    if below or not any(GLOB.search(place) for place in places):
        return below
    forms = [re.compile(_regex(place), re.DOTALL) for place in places]
    return [path for path in paths if any(form.fullmatch(unicodedata.normalize("NFC", path)) for form in forms)]


def _regex(glob: str) -> str:
    glob, made, at = unicodedata.normalize("NFC", glob), "", 0
    for found in GLOB.finditer(glob):
        letters = ("^" if found["not"] else "") + re.escape(found["of"] or "").replace(r"\-", "-")
        parts = {"folders": "(?:.*/)?", "all": ".*", "some": "[^/]*", "one": "[^/]", "of": f"[{letters}]"}
        made += re.escape(glob[at:found.start()]) + parts[found.lastgroup or ""]
        at = found.end()
    return made + re.escape(glob[at:])


def _without_manual(flow: "Workflow", paths: list[str]) -> list[str]:
    """Leave out what is made only when it is named itself, unless there is nothing else."""
    return [path for path in paths if not flow.targets[path].rule.options.manual] or paths
