"""`few_shot`: examples before each row, as many as the llm has room for, or those nearest to it."""

import pytest
from test_embedding import letters  # noqa: F401

EXAMPLES = [{"text": f"text {number}", "answer": f"answer {number}"} for number in range(6)]
SHOWN = '{% for one in examples %}{{ one["text"] }}>{{ one["answer"] }} {% endfor %}| {{ text }}'
LONG = [{"text": f"We present a parser, number {number}. " * 3, "answer": "A parser."} for number in range(40)]


def ddfile(project, rows, examples, rule):
    """Write a Ddfile whose rule reads the two, and make these."""
    project.ddfile(f"""
        rows_ = rows("rows", values={rows!r})
        examples = rows("examples", values={examples!r})
        out = few_shot("out", rows_, examples, {rule})
    """).make("rows", "examples")
    return project


def answers(project, rows, examples, rule):
    ddfile(project, rows, examples, rule).make()
    return [row["answer"] for row in project.rows("out")]


def test_examples_are_worded_by_the_packaged_prompt(project):
    examples = [{"text": "red", "answer": "RED"}, {"text": "lost", "answer": None}, {"text": "ü", "answer": "Ü"}]
    said = answers(project, [{"text": "blue", "n": 1}, {"text": None, "n": 2}], examples, 'llm=llm("echo"), instruction="Shout."')
    assert said == ["Shout.\n\nInput: red\nOutput: RED\n\nInput: ü\nOutput: Ü\n\nInput: blue\nOutput:",
                    "Shout.\n\nInput: red\nOutput: RED\n\nInput: ü\nOutput: Ü\n\nInput: \nOutput:"]
    assert [list(row) for row in project.rows("out")] == [["text", "n", "answer"]] * 2


def test_several_inputs_are_named(project):
    examples = [{"title": "a", "body": "b", "label": "c"}]
    said = answers(project, [{"title": "x", "body": "y"}], examples, 'llm=llm("echo"), inputs=["title", "body"], answer="label"')
    assert said == ["title: a\nbody: b\nOutput: c\n\ntitle: x\nbody: y\nOutput:"]


@pytest.mark.parametrize("more, shown", [
    ("", "012345"), (", k=2", "01"), (", k=99", "012345"), (", min_examples=0", "012345"),
    (", context=1", "0"), (", context=1, min_examples=3", "012"), (", context=1, min_examples=0", ""), (", context=100_000", "012345"),
])
def test_as_many_are_shown_as_there_is_room_for(project, more, shown):
    (said,) = answers(project, [{"text": "x"}], EXAMPLES, f'llm=llm("echo"), prompt={SHOWN!r}{more}')
    assert said == "".join(f"text {n}>answer {n} " for n in shown) + "| x"


@pytest.mark.slow
def test_rows_of_unlike_lengths_are_fitted_each_by_itself(project):
    """A long row has room for fewer examples, whatever came before it."""
    rows = [{"text": "word " * count} for count in (1, 300, 1, 150, 450, 1)]
    said = answers(project, rows, LONG, f'llm=llm("echo", max_tokens=100), context=1200, prompt={SHOWN!r}')
    counts = [one.count(">A parser.") for one in said]
    assert counts[0] == counts[2] == counts[5] > counts[3] > counts[1] > counts[4] >= 1 and counts[0] < 40
    assert said[1:2] == answers(project, rows[1:2], LONG, f'llm=llm("echo", max_tokens=100), context=1200, prompt={SHOWN!r}')


@pytest.mark.slow
def test_a_local_model_counts_by_its_own_tokenizer(project):
    """A row that has no room for the fewest examples is refused by the model, and named."""
    model = 'llm("tiny", max_tokens=60, temperature=0)'
    rule = f'llm={model}, prompt={SHOWN!r}, meta=True, accept="length"'
    rows = [{"text": "A tagger."}, {"text": "A tagger. " * 60}]
    ddfile(project, rows, LONG, rule)
    assert " ".join(project.run("-n").output.split()).count("make out 2 0") == 1
    project.make()
    for row in project.rows("out"):
        tokens = row["answer_meta"]["tokens_in"]
        assert 1024 - 60 - 110 - 90 < tokens < 1024 - 60 - 100  # what is left free, and an example
    ddfile(project, [*rows, {"text": "A tagger. " * 999}], LONG, rule)
    told = project.make().output
    assert "1 sent, 2 cached; 1 failed, the first: prompt has " in told and "the model takes 1024" in told
    assert [row["answer"] is None for row in project.rows("out")] == [False, False, True]


def test_shuffled_examples_are_drawn_for_each_row(project):
    rows = [{"text": "one"}, {"text": "two"}, {"text": "one"}]
    rule = f'llm=llm("echo"), prompt={SHOWN!r}, k=3, shuffle=True'
    said = answers(project, rows, EXAMPLES, rule)
    assert said[0].split("|")[0] == said[2].split("|")[0] != said[1].split("|")[0]
    assert answers(project, rows[::-1], EXAMPLES, rule) == said[::-1]
    assert answers(project, rows, EXAMPLES, rule + ", seed=1") != said


@pytest.mark.slow
def test_the_nearest_examples_are_shown_the_nearest_last(project, letters):  # noqa: F811
    examples = [{"text": text, "answer": text.upper()} for text in ("aaa", "bbb", "aab", "ccc")] + [{"text": "aa", "answer": None}]
    rows = [{"text": "aa"}, {"text": "cb"}, {"text": None}, {"text": " "}]
    rule = f'llm=llm("echo"), embedder=embedder("openai/letters", base_url={letters.url!r}, price=1.0), prompt={SHOWN!r}'
    ddfile(project, rows, examples, rule + ", k=2")
    assert " ".join(project.run("-n").output.split()).count("make out ? ? ") == 1 and letters.counts()["requests"] == 0
    assert "which examples are nearest isn't known before it runs. Make it of a few rows to see some: give it a view of them, .take(3)." in project.run("preview", "out").output
    project.make()
    assert [row["answer"] for row in project.rows("out")] == [
        "aab>AAB aaa>AAA | aa", "ccc>CCC bbb>BBB | cb", "aaa>AAA bbb>BBB | None", "aaa>AAA bbb>BBB |  "]
    sent = letters.counts()["texts"]
    assert sorted(sent) == ["aa", "aaa", "aab", "bbb", "cb", "ccc"]
    said = answers(project, rows[:1], examples, rule + ", k=3, context=1")
    assert said == ["aaa>AAA | aa"] and letters.counts()["texts"] == sent  # the nearest is kept


def test_no_rows_have_the_columns_of_some(project):
    rule = 'llm=llm("echo"), schema={"kind": str}'
    project.ddfile(f"""
        rows_ = rows("rows", values=[{{"text": "a", "n": 1}}])
        few_shot("out", rows_.skip(1), rows_.rename(n="answer"), {rule})
    """).make()
    assert project.rows("out") == []
    from datasets import load_from_disk
    assert load_from_disk(str(project.root / "out")).column_names == ["text", "n", "kind"]


def test_too_few_examples_stop_the_rule(project):
    ddfile(project, [{"text": "a"}], [{"text": "a", "answer": None}], 'llm=llm("echo")')
    assert "min_examples=1, and 0 of 1 examples have text, answer. Give more examples" in " ".join(project.run().output.split())


@pytest.mark.parametrize("more, told", [
    ('inputs="txt"', "there is no column 'txt' to show. There are: text. Did you mean 'text'?"),
    ('answer="answr"', "there is no column 'answr' of answers in the examples. There are: text, answer. Did you mean 'answer'?"),
    ("k=0", "k is a number of at least 1, not 0"),
    ("min_examples=3, k=2", "min_examples is a number from 0 to k, not 3"),
    ('prompt="{{ exampls }}"', "Did you mean 'examples'?"),
    ('shuffle=True, embedder=embedder("openai/x", base_url="http://localhost:1")', "leave out shuffle="),
])
def test_mistakes_are_told_when_it_is_planned(project, more, told):
    ddfile(project, [{"text": "a"}], EXAMPLES, f'llm=llm("echo"), {more}')
    result = project.run("-n")
    assert result.code and told in " ".join(result.output.split()) and "Traceback" not in result.output


def test_a_template_beside_the_ddfile_takes_the_place_of_a_packaged_one(project):
    """So it does for a recipe of one's own, whose default names a file."""
    own = """
        from ddmake.ddfile.inputs import Prompt
        @step
        def greeted(*, prompt: Prompt = "few_shot.j2"):
            yield {"text": prompt.render(text="a", examples=[], instruction="", inputs=[], output="", row={})}
        greeted("greeted")
        few_shot("out", rows("rows", values=[{"text": "a"}]), rows("examples", values=[{"text": "b", "answer": "B"}]), llm=llm("echo"))
    """
    project.ddfile(own).make()
    assert project.run("-n").verdicts() == {} and project.rows("greeted") == [{"text": "Output:"}]
    for text in ("Mine: {{ text }}", "Mine, again: {{ text }}"):
        project.write("templates/few_shot.j2", text)
        result = project.run("-n")
        assert result.verdicts() == {"greeted": "make", "out": "make"}
        assert result.why("out") == result.why("greeted") == "template few_shot.j2 changed"
        project.make()
        assert [project.rows(name)[0][column] for name, column in (("out", "answer"), ("greeted", "text"))] == [
            text.replace("{{ text }}", "a")] * 2
    (project.root / "templates" / "few_shot.j2").unlink()
    assert project.run("-n").verdicts() == {"greeted": "restore", "out": "restore"}
