"""What a report is about: the rules of today's plan and, by their traces, jobs whose results lie there without a rule."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ddmake.engine import drawing
from ddmake.engine.drawing import Box, Drawing
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.store import Store
from ddmake.store.traces import Trace

PAST = "past"  # said of what no rule makes today, where there is a plan

Placed = dict[str, tuple[Trace, str]]  # by path: the trace of what was last put there, and the output's name


@dataclass(frozen=True)
class Entry:
    """A rule, or a job that was done: its outputs' paths by name, today's verdict, and the trace of what lies there."""

    number: int
    outputs: dict[str, str]
    recipe: str
    word: str  # a verdict, PAST, or "" where there is no plan
    reason: str
    about: str
    reads: tuple[str, ...]
    trace: Trace | None

    @property
    def label(self) -> str:
        """Return the path that the entry goes by."""
        return next(iter(self.outputs.values()))

    @property
    def anchor(self) -> str:
        """Return its place on the page."""
        return f"rule-{self.number}"


def planned(store: Store, plan: Plan, whole: bool) -> list[Entry]:
    """Return a plan's rules; with `whole`, then what else lies there, by other knobs or of earlier Ddfiles."""
    placed = store.traces.all_placed()
    found = [_of_verdict(number, verdict, placed) for number, verdict in enumerate(plan.verdicts, 1)]
    if not whole:
        return found
    known = {path for entry in found for path in entry.outputs.values()}
    rest = {path: where for path, where in placed.items() if path not in known}
    return [*found, *_of_traces(rest, PAST, len(found) + 1)]


def recorded(store: Store, names: Sequence[str]) -> list[Entry]:
    """Return the jobs whose results were last placed, all or those named with all before them, oldest first.

    Raises DdfileError for a name under which nothing lies.
    """
    placed = store.traces.all_placed()
    return list(_of_traces(_needed(placed, names) if names else placed, "", 1))


def drawn(entries: Iterable[Entry]) -> Drawing:
    """Return the graph of entries."""
    return drawing.drawn((Box(tuple(e.outputs.values()), e.recipe, e.word), e.reads) for e in entries)


def _of_verdict(number: int, verdict: Verdict, placed: Placed) -> Entry:
    rule = verdict.rule
    trace = placed[rule.label][0] if rule.label in placed else verdict.trace
    return Entry(number, dict(rule.outputs), rule.recipe.name, verdict.listed, verdict.reason, rule.options.about or "",
                 tuple(drawing.read(rule)), trace)


def _of_traces(placed: Placed, word: str, first: int) -> Iterator[Entry]:
    """Yield an entry for each job with a result among those placed."""
    jobs: dict[int, tuple[Trace, dict[str, str]]] = {}
    for path, (trace, output) in placed.items():
        jobs.setdefault(trace.id, (trace, {}))[1][output] = path
    for number, (_, (trace, outputs)) in enumerate(sorted(jobs.items()), first):
        recipe, reads = _recorded(trace)
        yield Entry(number, outputs, recipe.get("name", "?"), word, "", recipe.get("about") or "", reads, trace)


def _recorded(trace: Trace) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return a job's recipe and what it read; nothing where its record is damaged, which its section tells."""
    try:
        return trace.record["recipe"], tuple(given["path"] for given in trace.record["inputs"])
    except DdmakeError:
        return {}, ()


def _needed(placed: Placed, names: Sequence[str]) -> Placed:
    """Return what was placed at paths, or in folders, by name, and all that it was made of."""
    waiting = [path for name in names for path in _named(placed, posixpath.normpath(name))]
    found: Placed = {}
    while waiting:
        path = waiting.pop()
        if path in placed and path not in found:
            found[path] = placed[path]
            waiting += _recorded(placed[path][0])[1]
    return found


def _named(placed: Placed, name: str) -> list[str]:
    found = [path for path in placed if path == name or path.startswith(f"{name}/")]
    if not found:
        raise DdfileError(f"Nothing was ever made at {name!r}.{did_you_mean(name, placed)} What was: ddmake report --no-verdicts")
    return found
