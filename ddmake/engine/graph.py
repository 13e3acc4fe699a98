"""The graph of rules; the one file that knows networkx."""

from collections.abc import Iterable

import networkx as nx

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError


class Graph:
    """The rules of a workflow that some targets need, in an order in which they can be made."""

    def __init__(self, flow: Workflow, wanted: Iterable[Rule]):
        numbers = {id(rule): number for number, rule in enumerate(flow.rules)}
        self._rules = flow.rules
        self._numbers = numbers
        self._graph = nx.DiGraph()
        self._graph.add_nodes_from(range(len(flow.rules)))
        for number, rule in enumerate(flow.rules):
            made = (flow.producer(source) for source in flow.sources(rule))
            self._graph.add_edges_from({(numbers[id(before)], number) for before in made if before is not None})
        self._refuse_cycles()
        self._keep([numbers[id(rule)] for rule in wanted])
        self.order = [self._rules[number] for number in nx.lexicographical_topological_sort(self._graph)]

    def before(self, rule: Rule) -> list[Rule]:
        """Return the rules whose targets a rule reads."""
        return [self._rules[n] for n in sorted(self._graph.predecessors(self._numbers[id(rule)]))]

    def after(self, rule: Rule) -> list[Rule]:
        """Return the rules that read a rule's targets."""
        return [self._rules[n] for n in sorted(self._graph.successors(self._numbers[id(rule)]))]

    def _refuse_cycles(self) -> None:
        try:
            cycle = nx.find_cycle(self._graph)
        except nx.NetworkXNoCycle:
            return
        path = [self._rules[edge[0]] for edge in cycle]
        around = " -> ".join(rule.label for rule in [*path, path[0]])
        raise DdfileError(f"{path[0].place}: a cycle: {around}. Each is made of the one before it; take one input away.")

    def _keep(self, wanted: list[int]) -> None:
        """Drop what no wanted rule needs."""
        needed, waiting = set(wanted), list(wanted)
        while waiting:
            new = set(self._graph.predecessors(waiting.pop())) - needed
            needed |= new
            waiting.extend(new)
        self._graph.remove_nodes_from([n for n in self._graph if n not in needed])
