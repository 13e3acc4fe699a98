"""Where targets and sources lie: none in another, or making one would change the other."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddmake.ddfile.target import Source
from ddmake.errors import DdfileError

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule
    from ddmake.ddfile.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Read:
    """An input that was given as a string, and the paths that it may be, the likeliest first."""

    source: Source
    places: tuple[str, ...]


def check(flow: "Workflow", unmade: Iterable[Read]) -> None:
    """Raise DdfileError where an output or a source lies in an output, a source holds one, or an alias is named like one."""
    for name in flow.aliases.keys() & flow.targets.keys():
        raise DdfileError(f"{flow.file.name}: the alias {name!r} is a target's path; give it another name.")
    holding: dict[str, str] = {}  # the folders that targets lie in, each with a target
    for path in flow.targets:
        for folder in above(path):
            if folder in holding:
                break
            holding[folder] = path
    for outer in flow.targets.keys() & holding.keys():
        inner = flow.targets[holding[outer]]
        raise DdfileError(f"{inner.rule.place}: {inner.path} lies inside {outer}, which the rule at "
                          f"{flow.targets[outer].rule.place} makes. Give one of them another path.")
    clear: set[str] = set()  # folders that no target lies above
    for read in unmade:
        _refuse_glob(flow, read.source)
        for place in read.places:
            _check_source(flow, read.source, place, holding, clear)


def above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the innermost first."""
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        yield path
        at = path.rfind("/")


def _refuse_glob(flow: "Workflow", source: Source) -> None:
    """Raise DdfileError for a source that is meant as a glob."""
    if "*" in source.path and not (flow.root / source.path).exists():
        raise DdfileError(f"{_reader(flow, source).place}: the input {source.path!r} is a glob, and an input is one path. Give a "
                          "list of them: sorted(glob(…)).")


def _check_source(flow: "Workflow", source: Source, place: str, holding: Mapping[str, str], clear: set[str]) -> None:
    """Raise DdfileError for a source that lies inside a target, or that holds one."""
    passed = []
    for folder in above(place):
        if folder in clear:
            break
        if folder in flow.targets:
            place = _reader(flow, source).place
            raise DdfileError(f"{place}: {source.path} lies inside {folder}, which a rule makes. Give {folder} as the input.")
        passed.append(folder)
    clear.update(passed)
    if place in holding:
        rule = _reader(flow, source)
        raise DdfileError(f"{rule.place}: the source {place} holds {holding[place]}, which a rule makes. Give that as the input.")


def _reader(flow: "Workflow", source: Source) -> "Rule":
    return next(rule for rule in flow.rules for group in rule.reads if any(read is source for read in group))
