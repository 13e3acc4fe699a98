"""Win rates with their intervals, and how far judges agree: against published examples and other libraries."""

import math

import pytest

ROWS = """
@step("rows")
def rows():
    yield from {rows!r}

{rest}
"""


def compare(project, rows, rest):
    return project.ddfile(ROWS.format(rows=rows, rest=rest))


def votes(**counts):
    return [{"winner": None if won == "none" else won} for won, count in counts.items() for _ in range(count)]


def test_win_rates_by_what_was_varied(project):
    rows = [{"model": model, "lang": lang, **row} for model, lang, given in (
        ("m", "de", votes(a=7, b=2, tie=1, none=2)), ("m", None, votes(b=3)), ("k", "de", votes(none=1))) for row in given]
    compare(project, rows, """
win_rate("all", rows)
win_rate("each", rows, by=["model", "lang"])
win_rate("wide", rows, by="model", confidence=0.99)
win_rate("none", rows.filter(lambda row: row["model"] == "x"))
win_rate("nobody", rows.filter(lambda row: row["model"] == "x"), by="model")
""").make()
    assert [{name: row[name] for name in ("wins", "losses", "ties", "unjudged", "n")} for row in project.rows("all")] == [
        {"wins": 7, "losses": 5, "ties": 1, "unjudged": 3, "n": 13}]
    each = project.rows("each")
    assert [(row["model"], row["lang"], row["win_rate"]) for row in each] == [("m", "de", 0.75), ("m", None, 0.0), ("k", "de", None)]
    assert each[1]["low"] == 0 and each[2]["low"] is None and list(each[0]) == ["model", "lang", "wins", "losses", "ties", "unjudged", "n", "win_rate", "low", "high"]
    narrow, wide = project.rows("all")[0], project.rows("wide")[0]
    assert wide["low"] < narrow["low"] < narrow["win_rate"] < narrow["high"] < wide["high"]
    assert [(row["n"], row["win_rate"]) for row in project.rows("none")] == [(0, None)] and project.rows("nobody") == []


@pytest.mark.parametrize("wins, losses, confidence", [(7, 3, 0.95), (0, 9, 0.95), (30, 1, 0.99), (5, 5, 0.8)])
def test_the_interval_is_wilsons(wins, losses, confidence):
    from scipy.stats import binomtest

    from ddmake.rules.comparing import interval

    theirs = binomtest(wins, wins + losses).proportion_ci(confidence, method="wilson")
    assert interval(wins, wins + losses, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


_ = None
PUBLISHED = [  # four observers, twelve units: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _), (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _), (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
]


def test_alpha_is_that_of_the_published_example(project):
    rows = [dict(zip("abcd", unit)) for unit in zip(*PUBLISHED)]
    names = ["low", "lower", "mid", "high", "top"]
    words = [{f"{name}_word": value and names[value - 1] for name, value in row.items()} for row in rows]
    compare(project, [{**row, **word} for row, word in zip(rows, words)], f"""
for level in ("nominal", "ordinal", "interval"):
    agreement(level, rows, columns=["a", "b", "c", "d"], level=level)
agreement("words", rows, columns=["a_word", "b_word", "c_word", "d_word"], level="ordinal", order={names})
""").make()
    found = {level: project.rows(level)[0] for level in ("nominal", "ordinal", "interval", "words")}
    assert [round(found[level]["alpha"], 3) for level in ("nominal", "ordinal", "interval")] == [0.743, 0.815, 0.849]
    assert found["words"]["alpha"] == found["ordinal"]["alpha"]
    assert {name: found["nominal"][name] for name in ("judges", "n", "left_out", "kappa")} == {"judges": 4, "n": 11, "left_out": 1, "kappa": None}


@pytest.mark.parametrize("level, weights", [("nominal", None), ("ordinal", "linear"), ("interval", "quadratic")])
def test_kappa_is_that_of_scikit_learn(project, level, weights):
    from sklearn.metrics import cohen_kappa_score

    one, other = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5], [1, 3, 3, 4, 2, 4, 5, 1, 1, 5]
    rows = [{"one": a, "other": b} for a, b in zip([*one, None], [*other, 3])]
    compare(project, rows, f'agreement("out", rows, columns=["one", "other"], level={level!r})').make()
    found = project.rows("out")[0]
    assert found["kappa"] == pytest.approx(cohen_kappa_score(one, other, weights=weights))
    assert (found["n"], found["left_out"], found["agreement"]) == (10, 1, 0.6)


def test_what_cannot_be_told_is_null(project):
    """All verdicts the same, none, or none in common."""
    compare(project, [{"a": "yes", "b": "yes", "c": None}] * 3, """
agreement("same", rows, columns=["a", "b"])
agreement("alone", rows, columns=["a", "c"])
agreement("none", rows.filter(lambda row: row["a"] == "no"), columns=["a", "b"])
""").make()
    told = {name: tuple(project.rows(name)[0].values()) for name in ("same", "alone", "none")}
    assert told == {"same": (2, 3, 0, 1.0, None, None), "alone": (2, 0, 3, None, None, None), "none": (2, 0, 0, None, None, None)}


def test_judges_of_several_targets_are_joined(project):
    pairs = [{"question": f"q{n}", "a": f"x{n}", "b": f"y{n}"} for n in range(6)]
    compare(project, pairs, """
one = judge_pairs("one", rows, llm=llm("echo"), prompt="{{ 'A' if A < B else 'B' }}", column="one")
other = judge_pairs("other", rows, llm=llm("echo"), prompt="{{ 'B' if A < B else 'A' }}", column="other")
agreement("out", zipped("both", [one, other.select("other")]), columns=["one", "other"])
""").make()
    found = project.rows("out")[0]
    assert found["agreement"] == 0 and math.isclose(found["alpha"], 1 - 11 / 6) and found["kappa"] == 0


TOLD = {  # what is told of mistakes, when a rule is planned or when it runs
    "win_rate('out', rows, winner='won')": (2, "there is no column 'won' that holds winners."),
    "win_rate('out', rows, winner='score')": (1, "column 'score' holds 3; a winner is \"a\", \"b\", \"tie\" or null"),
    "win_rate('out', rows, by='wins')": (2, "there is no column 'wins' to count by."),
    "win_rate('out', rows.rename(score='n'), by='n')": (2, "win_rate adds a column 'n', and there is one already: .rename() it."),
    "win_rate('out', rows, confidence=95)": (2, "confidence is a share between 0 and 1, as 0.95, not 95."),
    "win_rate('out', rows, by='list')": (1, "column 'list' holds list<item: int64>, and texts or numbers are needed."),
    "agreement('out', rows, columns=['winner'])": (2, "columns names the columns of two or more judges, not ['winner']."),
    "agreement('out', rows, columns=['winner', 'scores'])": (2, "there is no column 'scores' of a judge. There are: winner, score, list. Did you mean 'score'?"),
    "agreement('out', rows, columns=['winner', 'score'], level='ordinal')": (1, "column 'winner' holds 'a'; level='ordinal' takes numbers, or order=, the verdicts from the lowest to the highest."),
    "agreement('out', rows, columns=['winner', 'score'], level='interval')": (1, "column 'winner' holds 'a'; level='interval' takes numbers."),
}


@pytest.mark.parametrize("rule", TOLD)
def test_mistakes_are_told(project, rule):
    compare(project, [{"winner": "a", "score": 3, "list": [1]}], "").make()
    code, words = TOLD[rule]
    result = compare(project, [{"winner": "a", "score": 3, "list": [1]}], rule).run()
    assert result.code == code and words in result.output, result.output
