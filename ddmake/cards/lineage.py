"""The chain of finished jobs behind an artifact, read from their traces: each once, oldest first."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddmake.cards.facts import facts
from ddmake.store import said
from ddmake.store.forms import reading
from ddmake.store.traces import Trace, Traces


@dataclass(frozen=True)
class Step:
    """A finished job in a chain. `name` is the path by which the chain reaches it."""

    name: str
    trace: Trace


class Lineage:
    """Reads traces and remembers them, so that the cards of a whole project read each of them once."""

    def __init__(self, traces: Traces):
        self.traces = traces
        self.said = said.of(traces.db)
        self._read: dict[int, Trace | None] = {}
        self._facts: dict[int, dict[str, Any]] = {}

    def placed(self, path: str) -> tuple[Trace, str] | None:
        """Return the trace whose result lies at a path, and the output's name in it."""
        row = self.traces.placed_at(path)
        trace = self.trace(row[0]) if row else None
        return (trace, row[1]) if trace else None

    def trace(self, number: int) -> Trace | None:
        """Return a trace by number; None if the store doesn't hold it."""
        if number not in self._read:
            self._read[number] = self.traces.by_id(number)
        return self._read[number]

    def chain(self, path: str, trace: Trace) -> list[Step]:
        """Return all jobs that a result at a path came from, itself last.

        A job's inputs were committed before it, so the order of their numbers is one in which they can be made.
        """
        names, waiting = {trace.id: path}, deque([trace])
        found: dict[int, Trace] = {}
        while waiting:
            step = waiting.popleft()
            found[step.id] = step
            for before, name in self._before(step, only_chosen=True):
                if before.id not in names:
                    names[before.id] = name
                    waiting.append(before)
        return _named([Step(names[number], found[number]) for number in sorted(found)])

    def facts(self, trace: Trace) -> dict[str, Any]:
        """Return what a card tells of a job. Raises DdmakeError where its record tells of it in another form."""
        if trace.id not in self._facts:
            with reading(f"The record of {trace.label}"):
                self._facts[trace.id] = facts(trace, {before.id: before for before, _ in self._before(trace)}, self.said)
        return self._facts[trace.id]

    @cached_property
    def evaluations(self) -> list[tuple[str, Trace]]:
        """Return the placed results of `evaluate`, by path."""
        found = [(path, self.placed(path)) for path, _ in self.traces.placed_by("evaluate")]
        return [(path, placed[0]) for path, placed in found if placed and placed[1] != "answers"]

    def _before(self, trace: Trace, only_chosen: bool = False) -> Iterator[tuple[Trace, str]]:
        """Yield the jobs before one; of a model that was chosen among others perhaps only those that made just this one."""
        chosen = {out["digest"]["sha"] for out in trace.outputs.values()} if trace.record["recipe"]["name"] == "choose" else None
        for given in trace.record["inputs"]:
            if only_chosen and chosen is not None and given["digest"] not in chosen:
                continue
            before = None if given["trace"] is None else self.trace(given["trace"])
            if before is not None:
                yield before, given["path"]


def _named(steps: list[Step]) -> list[Step]:
    """Return steps under names that differ: an older job of the same path gets its fingerprint's first digits."""
    taken: set[str] = set()
    named = []
    for step in reversed(steps):
        name = f"{step.name}@{step.trace.fingerprint.removeprefix('adopted ')[:8]}" if step.name in taken else step.name
        taken.add(name)
        named.append(Step(name, step.trace))
    return named[::-1]
