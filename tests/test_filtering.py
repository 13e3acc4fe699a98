"""`keep_if` and `rank`: rows kept, or put in order, by what an llm says of them."""

import pytest

from ddmake.rules.filtering import begins_with_yes, first_number

ROWS = """
    @step("rows")
    def rows():
        yield from ({{"number": number, "text": text}} for number, text in enumerate({texts!r}))
    {rule}
"""


def texts(project, given, rule, target="out"):
    project.ddfile(ROWS.format(texts=given, rule=rule)).make()
    return [row["text"] for row in project.rows(target)]


SAYS = {"Yes": True, "Ｙｅｓ。": True, "1. Yes": True, "2) yes": True, "(1) yes": True, "Answer: yes": True, "**Answer:** Yes": True,
        "__Final answer__: yes": True, "A: yes": True, "<answer>Yes</answer>": True, "<b>1. Answer：yes": True, "<yes>": True,
        "__yes__": True, "yes_": True, "": False, "No": False, "1. No": False, "1.5 yes": False, "Answer: no, yes": False,
        "a yes": False, "yesterday": False, "<answer>no</answer>": False, "<>" * 5000 + "no": False, "is yes": False}


@pytest.mark.parametrize("answer", SAYS)
def test_what_begins_with_yes(answer):
    assert begins_with_yes(answer) == SAYS[answer]


KEPT = ["Yes.", "no", "YES, I'd say so", '"yes"', "**Yes**", "yesterday", "not yes", "", "Oui"]


@pytest.mark.parametrize("more, kept", [
    ("", ["Yes.", "YES, I'd say so", '"yes"', "**Yes**"]),
    (", when=lambda answer: answer == 'no'", ["no"]),
    (", when=lambda answer: answer.startswith('Oui') or None", ["Oui"]),
    (", when=lambda answer: False", []),
])
def test_rows_are_kept_by_their_answers(project, more, kept):
    rule = 'keep_if("out", "rows", llm=llm("echo"), prompt="{{ text }}"' + more + ")"
    assert texts(project, KEPT, rule) == kept
    assert all(set(row) == {"number", "text"} for row in project.rows("out"))
    assert project.run("-n").verdicts() == {}


def test_answers_are_kept_if_a_column_is_named(project):
    rule = 'keep_if("out", "rows", llm=llm("echo"), prompt="yes to {{ text }}", column="said", meta=True)'
    assert texts(project, ["ü", None], rule) == ["ü", None]
    assert [row["said"] for row in project.rows("out")] == ["yes to ü", "yes to None"]
    assert project.rows("out")[0]["said_meta"]["finish_reason"] == "stop"


def test_a_row_without_an_answer_is_left_out_and_counted(project):
    rule = 'keep_if("out", "rows", llm=llm("echo"), prompt="{{ text }}", when=lambda answer: 1 / len(answer))'
    project.ddfile(ROWS.format(texts=["yes", "", "no"], rule=rule))
    assert "1 failed, the first: parse raised ZeroDivisionError" in project.make().output
    assert [row["text"] for row in project.rows("out")] == ["yes", "no"]
    project.ddfile(ROWS.format(texts=["yes", "", "no"], rule=rule[:-1] + ', on_error="raise")'))
    assert "1 of 3 rows have no usable answer" in project.run().output


@pytest.mark.parametrize("rule", ['keep_if("out", "rows", llm=llm("echo"), prompt="{{ text }}", column="said")',
                                  'rank("out", "rows", llm=llm("echo"), prompt="{{ text }}")'])
def test_no_rows_and_one(project, rule):
    project.ddfile(ROWS.format(texts=["yes 1"], rule=rule)).make()
    columns = set(project.rows("out")[0])
    project.ddfile(ROWS.format(texts=["yes 1"], rule=rule.replace('"rows"', "rows.skip(1)"))).make()
    assert project.rows("out") == []
    from datasets import load_from_disk
    assert set(load_from_disk(str(project.root / "out")).column_names) == columns


NUMBERS = {"It is 7 of 10": 7, "about .5": 0.5, "-.5": -0.5, "1,000 points": 1000, "12,345.5": 12345.5, "0,125": 0, "3,4": 3, "1,0000": 1,
           "v2, so 3.": 3, "−2": -2, "2024-05-01": 2024}


@pytest.mark.parametrize("text", NUMBERS)
def test_the_first_number_is_read(text):
    assert first_number(text) == NUMBERS[text]


SCORED = ["7/10", "a 9.5", "-1", "9.5 too", None, "none", "v2 is 3"]


@pytest.mark.parametrize("more, order", [
    ("", [1, 3, 0, 6, 2, 4, 5]),
    (", descending=False", [2, 6, 0, 1, 3, 4, 5]),
    (", threshold=7", [1, 3, 0]),
    (", threshold=3, descending=False", [2, 6]),
    (', on_error="drop"', [1, 3, 0, 6, 2]),
    (", score=lambda answer: len(answer)", [3, 6, 1, 0, 4, 5, 2]),
])
def test_rows_are_put_in_order(project, more, order):
    texts(project, SCORED, 'rank("out", "rows", llm=llm("echo"), prompt="{{ text }}"' + more + ")")
    rows = project.rows("out")
    assert [row["number"] for row in rows] == order
    assert [row["text"] for row in rows] == [SCORED[number] for number in order]
    if not more:
        assert [row["score"] for row in rows] == [9.5, 9.5, 7, 3, -1, None, None]


def test_many_rows_are_ranked_through_a_view(project):
    """More than are gathered at once; a view that reorders rows is read by another road."""
    for view in ("rows", "rows.shuffle(seed=1)"):
        rule = f'rank("out", {view}, llm=llm("echo"), prompt="{{{{ number * 7919 % 2503 }}}}")'
        texts(project, ["a"] * 2503, rule)
        rows = project.rows("out")
        assert [row["score"] for row in rows] == list(range(2502, -1, -1))
        assert all(row["number"] * 7919 % 2503 == row["score"] for row in rows)


MISTAKES = [
    ('keep_if("out", rows, llm=llm("echo"), prompt="{{ txt }}")', "reads 'txt'. There are: number, text. Did you mean 'text'?"),
    ('keep_if("out", rows, llm=llm("echo"), prompt="{{ text }}", column="text")', "keep_if adds a column 'text', and there is one already"),
    ('keep_if("out", rows, llm=llm("echo"), prompt="{{ text }}", meta=True)', 'say column="answer", too'),
    ('rank("out", rows, llm=llm("echo"), prompt="{{ text }}", column="number")', "rank adds a column 'number', and there is one already"),
    ('rank("out", rows, llm=llm("echo"), prompt="{{ text }}", threshold=float("nan"))', "threshold is a number, not nan"),
    ('keep_if("out", rows, llm=llm("echo"), prompt="{{ text }}", keep=lambda a: True)', "keep"),
]


@pytest.mark.parametrize("rule, told", MISTAKES)
def test_mistakes_are_told_before_anything_is_asked(project, rule, told):
    project.ddfile(ROWS.format(texts=["a"], rule='print("")')).make()
    project.ddfile(ROWS.format(texts=["a"], rule=rule))
    result = project.run("-n")
    assert result.code and told in " ".join(result.output.split()) and "Traceback" not in result.output
