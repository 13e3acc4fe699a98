"""`attributed`: a prompt asked for combinations of attributes, which become columns."""

import itertools

import pytest

from ddmake.rules.attributes import drawn

ASKED = 'attributed("out", llm=llm("echo"), prompt="{{{{ topic }}}} {{{{ tone }}}}", attributes={given}{more})'


def made(project, given, more=""):
    project.ddfile(ASKED.format(given=given, more=more)).make()
    return [tuple(row.values()) for row in project.rows("out")]


def test_every_combination_is_asked(project):
    given = {"topic": ["owls", "ü"], "tone": [1, 2, None]}
    assert made(project, given) == [(a, b, f"{a} {b}") for a, b in itertools.product(*given.values())]
    assert made(project, given, ", n=2") == [(a, b, f"{a} {b}") for a, b in itertools.product(*given.values()) for _ in range(2)]
    project.ddfile(ASKED.format(given={"topic": ["owls", "x"], "tone": [1, 2]}, more=", n=3"))
    assert "make out 12 8 4" not in project.run("-n").output
    assert " ".join(project.run("-n").output.split()).count("make out 8 4 ") == 1  # of 12 requests


def test_a_list_of_combinations(project):
    given = [{"topic": "a", "tone": 0.5}, {"tone": None, "topic": "b"}]
    assert made(project, given, ', column="said", meta=True')[1][:3] == ("b", None, "b None")


@pytest.mark.slow
def test_a_part_is_drawn_by_a_seed_and_keeps_its_order(project):
    given = {"topic": list(range(9)), "tone": list(range(8))}
    first = made(project, given, ", take=20")
    assert len(set(first)) == 20 and first == sorted(first)
    assert made(project, given, ", take=20, seed=1") != first == made(project, given, ", take=20")


def test_a_huge_product_is_never_built(project):
    given = {name: list(range(1000)) for name in ("topic", "tone", "a", "b", "c", "d", "e")}
    rows = made(project, given, ", take=1000, n=2")
    assert len(rows) == 2000 and len(set(rows)) == 1000
    assert all(len(set(column)) > 500 for column in list(zip(*rows))[:7])


@pytest.mark.parametrize("there, take", [(1, 1), (10, 10), (10, 9), (10, 5), (10, 1), (10**30, 100)])
def test_numbers_are_drawn_once(there, take):
    found = drawn(there, take, 3)
    assert len(set(found)) == take and found == sorted(found) and 0 <= found[0] and found[-1] < there
    assert {tuple(drawn(4, 2, seed)) for seed in range(99)} == set(itertools.combinations(range(4), 2))


def test_answers_become_columns(project):
    rows = made(project, {"topic": ["a"], "tone": ["b"]}, ', parse=lambda text, row: {"words": text.split(), "was": row["topic"]}')
    assert rows == [("a", "b", ["a", "b"], "a")]


@pytest.mark.parametrize("given, more, told", [
    ({}, "", "attributes is empty"),
    ({"topic": [], "tone": [1]}, "", "'topic' has [], and takes a list of one value or more"),
    ({"topic": "owls", "tone": [1]}, "", "'topic' has 'owls', and takes a list"),
    ([{"topic": 1, "tone": 2}, {"topic": 1, "tne": 2}], "", "number 1 is {'topic': 1, 'tne': 2}, and each is a dict with the names of "
                                                            "the first: topic, tone. Did you mean 'tone'?"),
    ({"topic": [1], "tne": [1]}, "", "reads 'tone'. There are: topic, tne. Did you mean 'tne'?"),
    ({"topic": [1], "tone": [1]}, ', column="tone"', "attributed adds a column 'tone', and there is one already"),
    ({"topic": [1], "tone": [1]}, ", take=2", "take=2, and there are 1 combinations"),
    ({"topic": [1], "tone": [1]}, ", n=0", "n is a number of at least 1, not 0"),
    ({"topic": list(range(4000)), "tone": list(range(4000))}, "", "there are 16,000,000 combinations of attributes: say take="),
    ({f"{name}": list(range(100)) for name in ("topic", "tone", *range(8))}, "", "there are 100,000,000,000,000,000,000 combinations"),
    ({"topic": [1, 2], "tone": [1]}, ", n=9_000_000", "there are 2 combinations of attributes: say take=, which draws so many of them. With n=9000000, 1 "),
    ({"topic": [1], "tone": [1]}, ", schema={'tone': str}", "attributed adds a column 'tone', and there is one already"),
])
def test_mistakes_are_told_when_it_is_planned(project, given, more, told):
    project.ddfile(ASKED.format(given=given, more=more))
    result = project.run("-n")
    assert result.code and told in " ".join(result.output.split()) and "Traceback" not in result.output
