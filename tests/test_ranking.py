"""How good searches are, by figures that were worked out by hand."""

import json
from math import log2

import pytest

RETRIEVED = """
found = {name: jsonl(name, f"{name}.jsonl") for name in ("good", "bad")}
evaluate_retrieval("both", found, k=[1, 3], interval=0.5)
evaluate_retrieval("one", found["good"], k=[1, 9])
"""
# Järvelin and Kekäläinen 2002, section 2.2: the gains 3 2 3 0 0 1 2 2 3 0, here with the discount of rank + 1 that TREC takes
GAINS = dict(zip("abcdefghij", (3, 2, 3, 0, 0, 1, 2, 2, 3, 0)))


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def ranked(project, *rows, call='evaluate_retrieval("s", r, k=[1, 2, 3])'):
    project.write("in.jsonl", lines({"ids": ids, "relevant": relevant} for ids, relevant in rows))
    project.ddfile(f'r = jsonl("r", "in.jsonl")\n{call}').make()
    return project.rows("s")


def test_hand_worked_figures(project):
    """Two queries; that without relevant documents is left out, an id that is found again counts once."""
    (row,) = ranked(project, (["x", "a", "x", "b"], ["a", "b", "c", "d"]), (["e"], ["e"]), (["e"], []), (["e"], None), (None, ["f"]))
    assert (row["queries"], row["left_out"]) == (3, 2)
    assert [row[f"recall@{k}"] for k in (1, 2, 3)] == pytest.approx([100 * (0 + 1 + 0) / 3, 100 * (1 / 4 + 1) / 3, 100 * (2 / 4 + 1) / 3])
    assert [row[f"precision@{k}"] for k in (1, 2, 3)] == pytest.approx([100 / 3, 100 * (1 / 2 + 1 / 2) / 3, 100 * (2 / 3 + 1 / 3) / 3])
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert row["ndcg@3"] == pytest.approx(100 * ((1 / log2(3) + 1 / 2) / ideal + 1) / 3)
    assert row["mrr"] == pytest.approx(100 * (1 / 2 + 1) / 3)


@pytest.mark.parametrize("relevant", [GAINS, [{"id": name, "grade": grade} for name, grade in GAINS.items()]], ids=["by id", "listed"])
def test_grades_are_gains(project, relevant):
    (row,) = ranked(project, (list("abcdefghij"), relevant), call='evaluate_retrieval("s", r, k=[3, 10])')
    gained = [gain / log2(rank + 1) for rank, gain in enumerate(GAINS.values(), 1)]
    best = [gain / log2(rank + 1) for rank, gain in enumerate(sorted(GAINS.values(), reverse=True), 1)]
    assert row["ndcg@3"] == pytest.approx(100 * sum(gained[:3]) / sum(best[:3])) and row["ndcg@10"] == pytest.approx(100 * sum(gained) / sum(best))
    assert row["recall@10"] == 100 and row["precision@10"] == 70, "a grade of 0 is not relevant"


def test_numbers_are_found_by_their_texts_and_a_long_k_is_null(project):
    (row,) = ranked(project, ([3, 1], {"3": 1.0, "7": 2.0}), call='evaluate_retrieval("s", r, k=[2, 5])')
    assert row["recall@2"] == 50 and (row["recall@5"], row["ndcg@5"], row["mrr"]) == (None, None, 100)
    assert "evaluate_retrieval: no query has 5 ids, the longest has 2: @5 is null" in project.logs()


def test_several_searches_have_a_row_each(project):
    good = [{"ids": ["a", "b"], "relevant": ["a"]}, {"ids": ["b", "c", "d"], "relevant": ["b", "d"]}]
    project.write("good.jsonl", lines(good)).with_name("bad.jsonl").write_text(lines({**row, "ids": ["z", "a", "b"]} for row in good))
    project.ddfile(RETRIEVED).make()
    first, second = project.rows("both")
    assert (first["retriever"], second["retriever"]) == ("good", "bad") and first["mrr"] > second["mrr"]
    assert first["recall@3_low"] <= first["recall@3"] <= first["recall@3_high"] and "retriever" not in project.rows("one")[0]


MISTAKES = {
    'evaluate_retrieval("s", r, relevant="gold")': "there is no column 'gold' of the relevant ids. There are: ids, relevant, text.",
    'evaluate_retrieval("s", {"a": r, "b": r.remove("ids")})': "there is no column 'ids' of the ids that were found.",
    'evaluate_retrieval("s", r, k=[0])': "k holds different numbers of documents, each at least 1, not [0].",
    'evaluate_retrieval("s", r, ids="text")': "column 'text' holds 'x'; a list of ids is needed.",
    'evaluate_retrieval("s", r, relevant="text")': "column 'text' holds 'x'; ids are needed: a list, or grades by id.",
}


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes(project, call):
    project.write("in.jsonl", lines([{"ids": ["a"], "relevant": ["a"], "text": "x"}]))
    project.ddfile('r = jsonl("r", "in.jsonl")').make()
    result = project.ddfile(f'r = jsonl("r", "in.jsonl")\n{call}').run()
    assert result.code in (1, 2) and MISTAKES[call] in " ".join(result.output.split()), result.output
