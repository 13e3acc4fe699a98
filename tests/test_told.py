"""What is told of rows on their way: how many were left out, and what of them stands in columns without values."""

import json

import pytest

ROWS = """
@step("rows")
def rows():
    yield from ({"x": n, "text": "t"} for n in range(24))
"""
FEWER = {  # rules of 24 rows, and what the summary says of them
    '@step("out", rows)\ndef out(rows):\n    yield from (row for row in rows if row["x"] % 2)': "out  12 of 24 rows; ",
    '@step("out", rows.take(10))\ndef out(rows):\n    yield from (row for row in rows if row["x"] % 2)': "out  5 of 10 rows; ",
    '@step("out", rows)\ndef out(rows):\n    yield from rows': "out  24 rows; ",
    '@step("out", rows)\ndef out(rows):\n    yield {"count": len(rows)}': "out  1 row; ",
    '@step("out", rows, rows.take(3))\ndef out(rows, others):\n    yield from others': "out  3 rows; ",
    'train = split("out", rows, validation=4).train': "out/train  20 rows; ",
}


@pytest.mark.parametrize("rule", FEWER)
def test_rows_that_are_left_out_are_told(project, rule):
    output = project.ddfile(ROWS + rule).make().output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert any(line.startswith(" ".join(FEWER[rule].split())) for line in lines), output


def test_a_result_that_comes_back_tells_it_again(project):
    first, second = list(FEWER)[:2]
    project.ddfile(ROWS + first).make()
    project.ddfile(ROWS + second).make()
    assert "12 of 24 rows; restored" in project.ddfile(ROWS + first).make().output


def test_views_leave_no_progress_bars(project):
    text = ROWS + '\ntransform("out", rows.filter(lambda row: row["x"] > 20).map(lambda row: {"y": 1}), llm=llm("echo"), prompt="{{ x }}")'
    project.ddfile(text).make("rows")
    for words in (["preview", "out"], ["out"]):
        assert "%|" not in "".join(map(str, project.command(*words).communicate()))
    assert "%|" not in project.logs()


@pytest.mark.slow
def test_numbers_of_none_are_numbers(project):
    project.ddfile('''
@step("runs")
def runs():
    yield {"base": "a", "score": 1.5, "lost": None}
table("one", [runs], by="base", mean=["score", "lost"])
evaluate("nothing", {"echo": llm("echo")}, runs.filter(lambda row: False), prompt="x", reference="base", interval=0.9)
''').make()
    types = [json.loads(project.make("show", path, "--json").output)["columns"] for path in ("one", "nothing")]
    assert types == [{"base": "string", "score": "double", "score_sd": "double", "lost": "double", "lost_sd": "double", "n": "int64"},
                     {"model": "string", "rouge_l": "double", "rouge_l_low": "double", "rouge_l_high": "double", "rows": "int64"}]


def test_columns_of_a_rule_on_the_spot_are_known_before_it_is_made(project):
    text = ROWS + '\n@step("out", rows, columns=lambda inputs, arguments: ["y"])\ndef out(rows):\n    yield {"y": 1}\n'
    result = project.ddfile(text + 'transform("told", out, llm=llm("echo"), prompt="{{ x }}")').run("-n")
    assert result.code == 2 and "reads 'x'. There are: y." in result.output
    own = '@step("own", rows, columns=["x"])\ndef own(rows, *, columns):\n    yield from ({name: row[name] for name in columns} for row in rows)'
    project.ddfile(ROWS + own).make()
    assert project.rows("own")[3] == {"x": 3}, "what the function takes itself is its own"
