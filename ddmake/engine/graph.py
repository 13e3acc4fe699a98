"""The graph of rules, and an order in which they can be made. The one file that knows networkx.

Rules that read the same long list share one group of edges: a layer of a thousand rules that all read the layer before
them costs two thousand edges, not a million. Nothing here recurses.

Rules mostly stand after what they read, and their order in the Ddfile is then the order of the run; networkx, whose
import takes longer than planning a thousand rules, is asked where they don't.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError

SHOWN = 12  # rules of a cycle that are shown


class Graph:
    """The rules of a workflow that some targets need, in an order in which they can be made.

    `alone` leaves out what the wanted rules depend on.
    """

    def __init__(self, flow: Workflow, wanted: Iterable[Rule], alone: bool = False):
        self._rules = flow.rules
        self._numbers = {rule: number for number, rule in enumerate(flow.rules)}
        self._members: dict[int, list[int]] = {}  # the rules that make what a group holds, by the group's id
        self._readers: dict[int, list[int]] = {}  # the rules that read a group
        self._groups: list[list[int]] = [self._groups_of(number) for number in range(len(flow.rules))]
        asked = [self._numbers[rule] for rule in wanted]
        self._needed = set(asked) if alone else self._keep(asked)
        self.order = [self._rules[number] for number in self._sorted()]

    def before(self, rule: Rule) -> list[Rule]:
        """Return the rules whose targets a rule reads."""
        return [self._rules[n] for n in sorted(self._before(self._numbers[rule]))]

    def after(self, rule: Rule) -> list[Rule]:
        """Return the needed rules that read a rule's targets."""
        return [self._rules[n] for n in sorted(set(self._after(self._numbers[rule])) & self._needed)]

    def behind(self, rules: Iterable[Rule]) -> set[Rule]:
        """Return all needed rules that depend on one of these, however far."""
        start = {self._numbers[rule] for rule in rules}
        return {self._rules[n] for n in (self._behind(start) - start) & self._needed}

    def needed_by(self, rules: Iterable[Rule]) -> set[Rule]:
        """Return these rules and all that they depend on."""
        return {self._rules[n] for n in self._keep([self._numbers[rule] for rule in rules])}

    def frontier(self) -> "Frontier":
        """Return what is ready to be worked on at the start of a run."""
        return Frontier(self)

    def _groups_of(self, number: int) -> list[int]:
        """Return the groups that a rule reads and that have rules in them, noting it as their reader."""
        found = []
        for group in self._rules[number].reads:
            if id(group) not in self._members:
                made = (self._numbers[source.target.rule] for source in group if source.target is not None)
                self._members[id(group)] = list(dict.fromkeys(made))
            if self._members[id(group)]:
                self._readers.setdefault(id(group), []).append(number)
                found.append(id(group))
        return found

    def _before(self, number: int) -> Iterable[int]:
        return {member for group in self._groups[number] for member in self._members[group]}

    def _after(self, number: int) -> Iterable[int]:
        return (reader for group in self._holding.get(number, ()) for reader in self._readers[group])

    @cached_property
    def _holding(self) -> dict[int, list[int]]:
        """Return the groups that rules' targets stand in, by the rules' numbers."""
        held: dict[int, list[int]] = {}
        for group in self._readers:
            for member in self._members[group]:
                held.setdefault(member, []).append(group)
        return held

    def _keep(self, wanted: Iterable[int]) -> set[int]:
        """Return the numbers of the rules that these need, themselves included."""
        return _reached(wanted, lambda number: self._groups[number], self._members)

    def _behind(self, start: Iterable[int]) -> set[int]:
        """Return the numbers of the rules that depend on these, themselves included."""
        return _reached(start, lambda number: self._holding.get(number, ()), self._readers)

    def _sorted(self) -> list[int]:
        """Return the needed rules, as in the Ddfile where that will do. Raises DdfileError for a cycle, needed or not."""
        if all(max(self._members[group]) < readers[0] for group, readers in self._readers.items()):
            return sorted(self._needed)
        return [number for number in self._topological() if number in self._needed]

    def _topological(self) -> list[int]:
        """Return all rules sorted by networkx; a group of edges is a node of its own there."""
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from((number, -1) for number in range(len(self._rules)))
        for at, (group, readers) in enumerate(self._readers.items()):
            graph.add_edges_from(((member, -1), (max(self._members[group]), at)) for member in self._members[group])
            graph.add_edges_from(((max(self._members[group]), at), (reader, -1)) for reader in readers)
        try:
            return [number for number, group in nx.lexicographical_topological_sort(graph) if group < 0]
        except nx.NetworkXUnfeasible:
            around = [edge[0] for edge in nx.find_cycle(graph)]
        path = [self._rules[number] for number, group in around if group < 0]
        first = min(range(len(path)), key=lambda at: self._numbers[path[at]])
        path = [*path[first:], *path[:first + 1]]
        names = [rule.label for rule in path]
        if len(names) > SHOWN:
            names[SHOWN // 2:-SHOWN // 2] = [f"{len(names) - SHOWN:,} more"]
        told = " -> ".join(names)
        raise DdfileError(f"{path[0].place}: a cycle: {told}. Each is made of the one before it; take one input away.")


class Frontier:
    """The rules whose inputs are settled, as a run goes on: counters of what is left, no edge looked at twice."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._in_group = {group: sum(member in graph._needed for member in graph._members[group]) for group in graph._readers}
        self._left = {number: sum(self._in_group[group] > 0 for group in graph._groups[number]) for number in graph._needed}
        self.ready: deque[Rule] = deque(rule for rule in graph.order if not self._left[graph._numbers[rule]])

    def done(self, rule: Rule) -> None:
        """Take a rule as settled; those that only waited for it become ready."""
        graph = self._graph
        for group in graph._holding.get(graph._numbers[rule], ()):
            self._in_group[group] -= 1
            if self._in_group[group]:
                continue
            for reader in graph._readers[group]:
                if reader in self._left:
                    self._left[reader] -= 1
                    if not self._left[reader]:
                        self.ready.append(graph._rules[reader])


def _reached(start: Iterable[int], groups: Callable[[int], Iterable[int]], rules: dict[int, list[int]]) -> set[int]:
    """Return all rules that are reached from some by way of groups; each group is walked once."""
    found, seen = set(start), set[int]()
    waiting = list(found)
    while waiting:
        for group in groups(waiting.pop()):
            if group not in seen:
                seen.add(group)
                new = [number for number in rules[group] if number not in found]
                found.update(new)
                waiting.extend(new)
    return found
