"""Judges: which of two answers is better, how good one is, whether it passes; and pairs for preference training."""

import re

import pytest

from ddmake.rules.winners import winner

HEAD = """
@step("rows")
def rows():
    yield from {rows!r}

{rest}
"""
PAIRS = [{"question": f"q{n}", "a": f"one {n}", "b": f"other {n}", "n": n} for n in range(40)]
CHOICE = "{{ 'A' if A.startswith('one') else 'B' }}"  # a judge that always finds column a better, whichever comes first


def judge(project, rows, rest):
    return project.ddfile(HEAD.format(rows=rows, rest=rest))


WRITTEN = {  # what a judge writes: whom it means
    "A": "A", "B.": "B", " **A**": "A", "(b)": "B", '"tie"': "tie", "[[B]]": "B", "[[C]]": "tie", "C": "tie", "Tie": "tie",
    "It's a tie.": "tie", "A tie": "tie", "Both are equally good": "tie", "Neither is better.": "tie", "Both A and B": "tie",
    "Answer A": "A", "answer a is better": "A", "Assistant B is better": "B", "A is better because it is shorter": "A",
    "A wins": "A", "A, because": "A", "B\nIt tells more.": "B", "A - it is right": "A", "Assistant A's answer is better.": "A",
    "Response B is more accurate.": "B", "Answer: B": "B", "Winner: **A**": "A", '{"winner": "B"}': "B", "Final verdict: tie": "tie",
    "The better answer is B.": "B", "I prefer answer B.": "B", "Answer A is short. My verdict: [[B]]": "B",
    "Answer A gives a good overview. However, B is clearly better.": "B", "Both answers are good, but B is better.": "B",
    "Answer A names it. The winner is answer A.": "A",
    "A and B are equal": "tie", "A and B are equally good.": "tie", "Final answer: **B**": "B", "So: \\boxed{A}": "A",
    "<answer>B</answer>": "B", "Conclusion: A": "A", "The winner is A and B is worse.": "A", "I prefer A, B is too long.": "A",
    "Winner: A and B": None, "Winner: A or B?": None, "I choose A/B.": None, "The winner is A and B are far behind": None,
    "A good answer would name both.": None, "A better answer needs a source.": None, "Answer A is worse than B": None,
    "A and B are fine": None, "A: 7/10, B: 8/10": None, "Which is better, A or B?": None, "": None, "I can't decide.": None,
    "Answer A is better at brevity, but answer B is better overall.": None,
}
CUT = {"Answer A is better than": "A", "A": "A", "[[A": "A", "A because": "A", "Both answers are": "tie", "The winner is B, since": "B",
       "The better answer is": None, "I think that": None, "A good": None, "Answer A and": None, "Let me see. The winner is A": None}


@pytest.mark.parametrize("text", WRITTEN)
def test_what_a_judge_writes(text):
    assert winner(text) == WRITTEN[text]


@pytest.mark.parametrize("text", CUT)
def test_an_answer_that_was_cut_has_to_begin_with_the_verdict(text):
    assert winner(text, cut=True) == CUT[text]


def test_the_order_is_drawn_by_the_seed_and_undone(project):
    """A judge that sees through the order finds a better, and one that always says A finds a better about as often as b."""
    judge(project, PAIRS, f"""
fair = judge_pairs("fair", rows, llm=llm("echo"), prompt={CHOICE!r})
biased = judge_pairs("biased", rows, llm=llm("echo"), prompt="A")
other = judge_pairs("other", rows, llm=llm("echo"), prompt="A", seed=1)
later = judge_pairs("later", rows.skip(10), llm=llm("echo"), prompt="A")
both = judge_pairs("both", rows, llm=llm("echo"), prompt="A", both=True)
sure = judge_pairs("sure", rows, llm=llm("echo"), prompt={CHOICE!r}, both=True)
""").make()
    won = {name: [row["winner"] for row in project.rows(name)] for name in ("fair", "biased", "other", "later", "both", "sure")}
    assert set(won["fair"]) == {"a"} == set(won["sure"]) and set(won["both"]) == {"tie"}
    assert 10 < won["biased"].count("a") < 30 and won["other"] != won["biased"]
    assert won["later"] == won["biased"][10:]  # rows that come or go move no other
    assert [list(row) for row in project.rows("fair")[:1]] == [["question", "a", "b", "n", "winner"]]


ODD = [
    {"question": "q", "a": "same", "b": "same", "id": "tie"}, {"question": "q", "a": None, "b": "x", "id": None},
    {"question": None, "a": "x", "b": "y", "id": None}, {"question": "q", "a": "", "b": "grün 灯台", "id": "a"},
    {"question": "q", "a": None, "b": None, "id": None}, {"question": "q", "a": "can't say", "b": "y", "id": None},
]


@pytest.mark.parametrize("on_error", ["keep", "drop"])
def test_rows_without_something_to_compare_are_not_asked_about(project, service, on_error):
    """An empty answer is one; equal ones are a tie; a null has no winner, nor has a row of which the judge doesn't say."""
    prompt = "{{ 'I cannot decide.' if \"can't\" in A ~ B else 'B' if A else 'A' }}"
    made = judge(project, ODD, f"""
won = judge_pairs("won", rows, llm=llm("openai/m", base_url={service.url!r}), prompt={prompt!r}, meta=True, on_error={on_error!r})
""").make()
    found = project.rows("won")
    assert [row["winner"] for row in found] == [row["id"] for row in ODD if on_error == "keep" or row["id"]]
    assert service.counts()["requests"] == 2 and "1 failed, the first: no verdict in 'I CANNOT DECIDE.'" in made.output
    assert [row["winner_meta"] is None for row in found if row["winner"] == "tie"] == [True]
    assert "can't say" in project.make("show", "won", "--failed").output
    assert re.search(r"make +won +1 +1 ", project.run("-n", "--retry-failed").output)


def test_a_cut_answer_counts_where_it_begins_with_a_verdict(project, service):
    service.fail(0, finish="length", say="Answer A is better than")
    rules = f"""
won = judge_pairs("won", rows, llm=llm("openai/m", base_url={service.url!r}, max_tokens=5))
strict = judge_pairs("strict", rows, llm=llm("openai/m", base_url={service.url!r}, max_tokens=5), accept=())
"""
    result = judge(project, PAIRS[:4], rules).run("-k")
    assert {row["winner"] for row in project.rows("won")} <= {"a", "b"}
    assert result.code == 1 and "4 of 4 rows have no usable answer; the first, row 0: cut at max_tokens" in result.output


def test_a_reason_comes_by_a_schema_with_the_answer_it_calls_a(project, service):
    judge(project, PAIRS[:8], f"""
won = judge_pairs("won", rows, llm=llm("openai/m", base_url={service.url!r}), reason=True, ties=False)
both = judge_pairs("both", rows, llm=llm("openai/m", base_url={service.url!r}), reason=True, ties=False, both=True)
""").make()
    for row in project.rows("won"):
        assert row["winner"] == row["winner_first"]  # the service names the first choice: A
        assert row["winner_reason"].index(row[row["winner"]].upper()) < row["winner_reason"].index(row["b" if row["winner"] == "a" else "a"].upper())
    assert {row["winner"] for row in project.rows("both")} == {"tie"} and service.counts()["requests"] == 16
    body = service.counts()["bodies"][0]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["winner"]["enum"] == ["A", "B"]


def test_a_local_model_chooses_by_its_probabilities(project):
    rules = f"""won = judge_pairs("won", rows, llm=llm("echo"), prompt={CHOICE!r}, choose=True)"""
    judge(project, PAIRS, rules).make("rows")
    assert re.search(r"make +won +2 +38 ", project.run("-n").output)  # there are two prompts, asked once each
    project.make()
    assert {row["winner"] for row in project.rows("won")} == {"a"}
    rules = """won = judge_pairs("won", rows, llm=llm("openai/gpt-4o"), choose=True)"""
    result = judge(project, PAIRS, rules).run()
    assert result.code == 2 and "tells no log-probabilities of labels: only local models choose." in result.output


PROMPTED = {  # the packaged prompts, as they are worded
    'judge_pairs("out", rows, llm=llm("echo"), question="ask", choose=True)': ["Question:\nqü?", "Answer A:", "Answer B:", "or tie if neither"],
    'judge_pairs("out", rows, llm=llm("echo"), question=None, criteria="shorter", ties=False, choose=True)': ["better: shorter?", "one word: A or B."],
    'rate("out", rows, llm=llm("echo"), rubric="Short.", question="ask", answer="a")': ["from 1 (worst) to 5 (best)", "first why", "Short.", "Answer:\nx"],
    'rate("out", rows, llm=llm("echo"), aspects={"tone": "Kind?", "facts": "True?"}, question=None, answer="a", scale=(0, 9), reason=False)':
        ["from 0 (worst) to 9 (best)", "tone: Kind?", "facts: True?"],
    'judge("out", rows, llm=llm("echo"), rubric="Is it kind?", verdicts=("yes", "no", "unclear"), question="ask", answer="b")':
        ["yes, no, unclear", "Is it kind?", "Answer:\ny"],
    'rate_together("out", rows, llm=llm("echo"), rubric="Short.", answers=["a", "b"], question="ask")': ["2 texts, each written to the same", "Text 1:", "Text 2:"],
}


@pytest.mark.parametrize("rule", PROMPTED)
def test_packaged_prompts(project, rule):
    judge(project, [{"ask": "qü?", "a": "x", "b": "y"}], rule).make("rows")
    shown = project.run("preview", "out").output
    for words in PROMPTED[rule]:
        for line in words.splitlines():
            assert line in shown, shown
    assert ("qü?" in shown) == ("question=None" not in rule)


@pytest.mark.slow
def test_answers_are_rated_and_judged_by_a_schema(project, service):
    """The service gives the lowest score and the first verdict, and its reason is the prompt in capitals."""
    llm = f'llm("openai/m", base_url={service.url!r})'
    judge(project, [{"question": "q", "answer": "x", "n": 1}, {"question": "q", "answer": None, "n": 2}], f"""
rate("one", rows, llm={llm}, rubric="Is it short?")
rate("many", rows, llm={llm}, aspects={{"tone": "Kind?", "facts": "True?"}}, scale=(3, 7), meta=True)
rate("bare", rows, llm={llm}, rubric="Short?", reason=False, column="points", prompt="{{{{ n }}}} {{{{ rubric }}}}")
judge("verdicts", rows, llm={llm}, rubric="Is it short?", verdicts=("fail", "pass"))
judge("dropped", rows, llm={llm}, rubric="Is it short?", reason=False, column="ok", on_error="drop")
""").make()
    first, second = project.rows("one")
    assert list(first) == ["question", "answer", "n", "score", "score_reason"] and first["score"] == 1 and "IS IT SHORT?" in first["score_reason"]
    assert (second["n"], second["score"], second["score_reason"]) == (2, None, None)
    many = project.rows("many")[0]
    assert [many["tone"], many["facts"]] == [3, 3] and "KIND?" in many["tone_reason"] and many["score_meta"]["model"] == "m"
    assert [row["points"] for row in project.rows("bare")] == [1, 1]  # its prompt reads no answer, so that none is missed
    assert [row["verdict"] for row in project.rows("verdicts")] == ["fail", None]
    assert [(row["n"], row["ok"]) for row in project.rows("dropped")] == [(1, "pass")]


@pytest.mark.slow
def test_preferences_are_the_rows_with_a_winner(project):
    rows = [{"question": "q", "a": "x", "b": "y", "winner": won, "n": n} for n, won in enumerate(["a", "b", "tie", None])]
    rows.append({"question": "q", "a": None, "b": "y", "winner": "b", "n": 9})
    judge(project, rows, """
preferences("out", rows)
preferences("none", rows.filter(lambda row: row["winner"] is None))
""").make()
    assert project.rows("out") == [{**rows[0], "chosen": "x", "rejected": "y"}, {**rows[1], "chosen": "y", "rejected": "x"}]
    from datasets import load_from_disk

    none = load_from_disk(str(project.root / "none"))
    assert none.column_names == [*rows[0], "chosen", "rejected"] and len(none) == 0


def test_winners_of_another_kind_are_named(project):
    result = judge(project, [{"a": "x", "b": "y", "winner": "A"}], 'preferences("out", rows)').run()
    assert result.code == 1 and "column 'winner' holds 'A'; a winner is \"a\", \"b\", \"tie\" or null" in result.output


EMPTY = """
none = rows.filter(lambda row: row["n"] < 0)
won = judge_pairs("a", none, llm=llm("echo"), reason=True, meta=True)
preferences("b", won)
rate("c", none, llm=llm("echo"), rubric="x", answer="a")
judge("d", none, llm=llm("echo"), rubric="x", answer="a")
rate_together("e", none, llm=llm("echo"), rubric="x", answers=["a", "b"])
"""


@pytest.mark.slow
def test_no_rows_are_no_rows(project):
    judge(project, PAIRS[:1], EMPTY).make()
    from datasets import load_from_disk

    added = {"a": ["winner", "winner_reason", "winner_first", "winner_meta"],
             "b": ["winner", "winner_reason", "winner_first", "winner_meta", "chosen", "rejected"],
             "c": ["score", "score_reason"], "d": ["verdict", "verdict_reason"],
             "e": ["a_score", "a_score_reason", "b_score", "b_score_reason"]}
    for name, columns in added.items():
        found = load_from_disk(str(project.root / name))
        assert found.column_names == ["question", "a", "b", "n", *columns] and len(found) == 0
    assert str(load_from_disk(str(project.root / "c")).features["score"].dtype) == "int64"


TOLD = {  # what is told of mistakes when a rule is planned
    "judge_pairs('out', rows, llm=llm('echo'), a='one')": "there is no column 'one' to compare. There are: question, a, b, n, winner.",
    "judge_pairs('out', rows, llm=llm('echo'), question='ask')": "there is no column 'ask' to judge by (question=None: there is none).",
    "judge_pairs('out', rows, llm=llm('echo'))": "judge_pairs adds a column 'winner', and there is one already",
    "judge_pairs('out', rows, llm=llm('echo'), column='w', prompt='{{ a }} or {{ b }}')": "reads 'a'. There are: question, n, winner, A, B, ",
    "judge_pairs('out', rows, llm=llm('echo'), column='w', reason=True, choose=True)": "gives no reason: leave out one.",
    "preferences('out', rows, winner='won')": "there is no column 'won' to take preferences from.",
    "rate('out', rows, llm=llm('echo'), rubric='x')": "there is no column 'answer' to rate.",
    "rate('out', rows, llm=llm('echo'), answer='a')": "rate takes a rubric=, or aspects={name: rubric}, to rate by.",
    "rate('out', rows, llm=llm('echo'), rubric='x', answer='a', scale=(5, 1))": "as in (1, 5), not (5, 1)",
    "judge('out', rows, llm=llm('echo'), rubric='x', answer='a', verdicts=['ok'])": "verdicts are two or more words, as in (\"pass\", \"fail\"), not ['ok'].",
    "judge('out', rows, llm=llm('echo'), rubric='x', answer='aa')": "there is no column 'aa' to judge. There are: question, a, b, n, winner. Did you mean 'a'?",
    "rate_together('out', rows, llm=llm('echo'), rubric='x', answers=['a'])": "answers names the columns of two or more answers, not ['a'].",
    "binarize('out', rows, answers=['a', 'b'])": "there is no column 'a_score' to tell how good 'a' is.",
}


@pytest.mark.parametrize("rule", TOLD)
def test_recipes_are_checked_when_planned(project, rule):
    rows = [{**PAIRS[0], "winner": "a"}]
    judge(project, rows, "").make()
    result = judge(project, rows, rule).run("-n")
    assert result.code == 2 and TOLD[rule] in result.output, result.output
