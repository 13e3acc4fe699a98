"""Personas of texts and of personas, and rows drawn by chance."""

from collections import Counter

import pytest

ROWS = """
texts = rows("texts", values={rows!r})

{rest}
"""


def ask(project, texts, rest):
    return project.ddfile(ROWS.format(rows=[{"words": text, "n": number} for number, text in enumerate(texts)], rest=rest))


def test_a_persona_stands_beside_each_text(project):
    ask(project, ["Ebbe und Flut", None, " ", "潮汐"], "personas('out', texts, llm=llm('echo'), text='words', prompt='{{ text }} reader {{ n }}')").make("texts")
    assert " 2 " in project.run("-n").output
    project.make()
    assert project.rows("out") == [{"words": "Ebbe und Flut", "n": 0, "persona": "Ebbe und Flut reader 0"}, {"words": "潮汐", "n": 3, "persona": "潮汐 reader 3"}]


def test_samples_are_rows(project):
    ask(project, ["a", "b"], "personas('out', texts, llm=llm('echo'), text='words', samples=2, meta=True, persona='who', prompt='{{ words }}')").make()
    assert [(row["words"], row["sample"], row["who"], row["who_meta"]["model"]) for row in project.rows("out")] == [
        ("a", 0, "a", "echo"), ("a", 1, "a", "echo"), ("b", 0, "b", "echo"), ("b", 1, "b", "echo")]


def test_relations_go_on_for_some_rounds(project):
    rest = "related_personas('out', texts, llm=llm('echo'), persona='words', rounds=2, samples=2, prompt='friend {{ n }} of {{ persona }}')"
    ask(project, ["eine Ärztin", None, "潮"], rest).make()
    rows = project.rows("out")
    assert [(row["n"], row["round"]) for row in rows] == [(0, 0), *[(0, 1)] * 2, *[(0, 2)] * 4, (1, 0), (2, 0), *[(2, 1)] * 2, *[(2, 2)] * 4]
    assert rows[0] == {"words": "eine Ärztin", "n": 0, "origin": None, "round": 0}
    assert all(row["words"] == f"friend {row['n']} of {row['origin']}" for row in rows if row["round"])
    assert rows[7] == {"words": None, "n": 1, "origin": None, "round": 0}
    assert {row["origin"] for row in rows if row["round"] == 2} == {row["words"] for row in rows if row["round"] == 1}


def test_who_has_no_answer_has_no_relations(project, service):
    service.fail(0, prompts={"b": "filter"})
    ask(project, ["a", "b"], f"related_personas('out', texts, llm=llm('openai/toy', base_url='{service.url}'), persona='words', prompt='{{{{ persona }}}}')").make()
    assert [(row["words"], row["round"]) for row in project.rows("out")] == [("a", 0), ("A", 1), ("b", 0)]


PACKAGED = {
    "personas('out', texts, llm=llm('echo'), text='words')": ["Who is likely to read or write", "Ebbe"],
    "related_personas('out', texts, llm=llm('echo'), persona='words')": ["Who is close to this person", "Ebbe"],
}


@pytest.mark.parametrize("recipe", PACKAGED)
def test_packaged_prompts_see_what_they_are_told(project, recipe):
    ask(project, ["Ebbe"], recipe).make()
    asked = project.run("calls", "--json").output
    assert all(words in asked for words in PACKAGED[recipe]), asked


EMPTY = """
none = texts.filter(lambda row: False)
personas("a", none, llm=llm("echo"), text="words")
related_personas("b", none, llm=llm("echo"), persona="words")
"""


def test_no_rows_are_no_rows(project):
    ask(project, ["a"], EMPTY).make()
    from datasets import load_from_disk

    found = {name: load_from_disk(str(project.root / name)) for name in "ab"}
    assert {name: rows.column_names for name, rows in found.items()} == {"a": ["words", "n", "persona"], "b": ["words", "n", "origin", "round"]}
    assert all(len(rows) == 0 and rows.features["n"].dtype == "int64" for rows in found.values())


DRAWN = """
sampled("out", columns={columns}, n={n}, seed={seed})
"""
COLUMNS = '{"topic": ["tides", "蜜蜂", None], "tone": {"warm": 0.7, "cold": 0.3, "never": 0}, "age": (18, 20), "share": (0.0, 1.0)}'


def drawn(project, columns=COLUMNS, n=300, seed=0):
    project.ddfile(DRAWN.format(columns=columns, n=n, seed=seed)).make()
    return project.rows("out")


def test_values_are_drawn_by_their_weights(project):
    rows = drawn(project, n=3000)
    counts = {name: Counter(row[name] for row in rows) for name in ("topic", "tone", "age")}
    assert set(counts["topic"]) == {"tides", "蜜蜂", None} and set(counts["tone"]) == {"warm", "cold"} and set(counts["age"]) == {18, 19, 20}
    assert abs(counts["tone"]["warm"] / 3000 - 0.7) < 0.04 and all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts["age"].values())
    shares = [row["share"] for row in rows]
    assert all(0 <= share < 1 for share in shares) and abs(sum(shares) / 3000 - 0.5) < 0.03


def test_a_column_does_not_bear_on_the_others_nor_n_on_the_first_rows(project):
    rows = drawn(project)
    assert drawn(project, n=301)[:300] == rows and drawn(project) == rows
    more = drawn(project, columns='{"x": [1, 2], ' + COLUMNS[1:])
    assert [{name: row[name] for name in rows[0]} for row in more] == rows
    assert drawn(project, seed=1) != rows
    pairs = Counter((row["x"], row["tone"]) for row in drawn(project, columns='{"x": ["warm", "cold"], "tone": ["warm", "cold"]}'))
    assert len(pairs) == 4, "two columns of the same values are drawn apart"


def test_a_list_of_two_numbers_is_no_range_and_both_count(project):
    assert {row["x"] for row in drawn(project, columns='{"x": [1, 9]}')} == {1, 9}
    project.ddfile(DRAWN.format(columns='{"x": (1, 9)}', n=300, seed=0))
    assert project.run("-n").verdicts() == {"out": "make"}
    assert {row["x"] for row in drawn(project, columns='{"x": (1, 9)}')} == set(range(1, 10))


def test_draws_feed_a_prompt(project):
    project.ddfile('drawn = sampled("drawn", columns={"topic": ["tides"], "age": (7, 7)}, n=1)\n'
                   'transform("out", drawn, llm=llm("echo"), prompt="Explain {{ topic }} to who is {{ age }}.")').make()
    assert project.rows("out") == [{"topic": "tides", "age": 7, "text": "Explain tides to who is 7."}]


MISTAKES = {
    "sampled('out', columns={}, n=1)": "columns names nothing to draw.",
    "sampled('out', columns={'a': [1]}, n=0)": "n is the number of rows, at least 1, not 0.",
    "sampled('out', columns={'a': []}, n=1)": "columns: 'a' is empty. A column is a list of values,",
    "sampled('out', columns={'a': 'abc'}, n=1)": "columns: 'a' is 'abc'.",
    "sampled('out', columns={'a': (2, 1)}, n=1)": "columns: 'a' is (2, 1), which is no range",
    "sampled('out', columns={'a': (0, 10**19)}, n=1)": "or too wide a one",
    "sampled('out', columns={'a': (0.0, float('inf'))}, n=1)": "or too wide a one",
    "sampled('out', columns={'a': (-1.7e308, 1.7e308)}, n=1)": "or too wide a one",
    "sampled('out', columns={'a': {'x': float('inf'), 'y': 1}}, n=1)": "has weights",
    "sampled('out', columns={'a': {'x': 1e308, 'y': 1e308}}, n=1)": "has weights",
    "sampled('out', columns={'a': ('x', 'y')}, n=1)": "which is no range",
    "sampled('out', columns={'a': {'x': 0}}, n=1)": "columns: 'a' has weights that are no numbers of 0 or more",
    "sampled('out', columns={'a': {'x': -1, 'y': 2}}, n=1)": "has weights",
    "personas('out', texts, llm=llm('echo'))": "there is no column 'text' to tell a persona from. There are: words, n.",
    "personas('out', texts, llm=llm('echo'), text='words', persona='n')": "personas adds a column 'n', and there is one already",
    "related_personas('out', texts, llm=llm('echo'))": "there is no column 'persona' to find relations of.",
    "related_personas('out', texts, llm=llm('echo'), persona='words', rounds=0)": "rounds is a number of at least 1, not 0.",
    "related_personas('out', texts.rename(n='origin'), llm=llm('echo'), persona='words')": "related_personas adds a column 'origin'",
}


@pytest.mark.parametrize("recipe", MISTAKES)
def test_recipes_are_checked_when_planned(project, recipe):
    ask(project, ["a"], "").make()
    result = ask(project, ["a"], recipe).run("-n")
    assert result.code == 2 and MISTAKES[recipe] in result.output, result.output
