"""The order of a run: the Ddfile's own where that will do, networkx's where not, and a frontier that looks at no edge twice."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddmake import load
from ddmake.engine.graph import Graph
from ddmake.errors import DdfileError

HEAD = "from ddmake import step\n@step\ndef job(inputs, *, i):\n    yield {'i': i}\n"


def flow(folder, rules):
    """Return a workflow of rules (path, paths that it reads), in the order in which they are given."""
    (folder / "Ddfile").write_text(HEAD + "".join(f"job({path!r}, {reads!r}, i={n})\n" for n, (path, reads) in enumerate(rules)))
    return load(folder / "Ddfile")


def fits(order, flow):
    """Tell whether each rule comes after all that it reads."""
    at = {rule: number for number, rule in enumerate(order)}
    return all(at[source.target.rule] < at[rule] for rule in order for source in flow.sources(rule))


graphs = st.integers(1, 12).flatmap(lambda n: st.tuples(
    st.lists(st.sets(st.integers(0, n - 1)), min_size=n, max_size=n), st.permutations(range(n))))


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_rules_in_any_order_are_made_after_what_they_read(tmp_path_factory, graph):
    reads, order = graph
    rules = [(f"t{i}", [f"t{j}" for j in sorted(reads[i]) if j < i]) for i in range(len(reads))]
    made = flow(tmp_path_factory.mktemp("g"), [rules[i] for i in order])
    found = Graph(made, made.rules)
    assert sorted(rule.label for rule in found.order) == sorted(path for path, _ in rules)
    assert fits(found.order, made)
    frontier, done = found.frontier(), []
    while frontier.ready:
        done.append(frontier.ready.pop())
        frontier.done(done[-1])
    assert len(done) == len(rules) and fits(done, made)


@settings(max_examples=30, deadline=None)
@given(graphs, st.data())
def test_only_what_is_needed_is_in_the_graph(tmp_path_factory, graph, data):
    reads, _ = graph
    rules = [(f"t{i}", [f"t{j}" for j in sorted(reads[i]) if j < i]) for i in range(len(reads))]
    made = flow(tmp_path_factory.mktemp("g"), rules)
    wanted = made.rules[data.draw(st.integers(0, len(rules) - 1))]
    needed, waiting = {wanted}, [wanted]
    while waiting:
        for source in made.sources(waiting.pop()):
            if source.target.rule not in needed:
                needed.add(source.target.rule)
                waiting.append(source.target.rule)
    found = Graph(made, [wanted])
    assert set(found.order) == needed
    assert found.behind([made.rules[0]]) <= needed


def test_rules_that_stand_in_order_need_no_networkx(tmp_path):
    made = flow(tmp_path, [(f"t{i}", [f"t{i - 1}"] if i else []) for i in range(50)])
    with patch.dict("sys.modules", {"networkx": None}):
        assert [rule.label for rule in Graph(made, made.rules).order] == [f"t{i}" for i in range(50)]


SHAPES = {
    "a chain of 10,000": "last = []\nfor i in range(10_000):\n    last = [job(f't{i}', last, i=i)]\n",
    "a fan of 10,000": "one = job('one', [], i=0)\nfor i in range(10_000):\n    job(f't{i}', [one], i=i)\n",
    "a funnel of 10,000": "job('all', [job(f't{i}', [], i=i) for i in range(10_000)], i=0)\n",
    "all-to-all layers of 10 x 100": "layer = []\nfor n in range(10):\n    layer = [job(f'{n}/{i}', layer, i=i) for i in range(100)]\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_no_shape_is_too_deep_or_too_wide(tmp_path, name):
    (tmp_path / "Ddfile").write_text(HEAD + SHAPES[name])
    made = load(tmp_path / "Ddfile")
    found = Graph(made, made.rules)
    edges = sum(map(len, found._members.values())) + sum(map(len, found._readers.values()))
    assert edges <= 2 * len(made.rules) + 2, "rules that read the same list share its edges"
    frontier, done = found.frontier(), 0
    while frontier.ready:
        frontier.done(frontier.ready.popleft())
        done += 1
    assert done == len(made.rules)


def test_a_cycle_of_any_length_is_shown_as_a_path(tmp_path):
    made = flow(tmp_path, [(f"t{i}", [f"t{(i + 1) % 3000}"]) for i in range(3000)])
    with pytest.raises(DdfileError) as error:
        Graph(made, made.rules)
    assert "a cycle: t0 -> t2999 -> " in str(error.value) and " -> 2,989 more -> " in str(error.value)
    assert " -> t1 -> t0. Each is made of the one before it" in str(error.value)
