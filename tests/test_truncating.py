"""Prompts that are too long for a local model: their rows fail, are left out, or are asked with their end cut off."""

import pytest

ROWS = """
    @step("rows")
    def rows():
        for end in ("one", "two"):
            yield {"text": "a study of parsing " * 2000 + end}
        yield {"text": "short"}
    transform("o", rows, llm=llm("tiny", temperature=0, max_tokens=8%s), prompt="Read this: {{ text }}", column="said",
              accept="length", on_error=%r)
"""


@pytest.mark.slow
def test_a_prompt_that_is_too_long_fails_its_row_and_is_named(project):
    result = project.ddfile(ROWS % ("", "keep")).make()
    assert "2 failed" in result.output and "the model takes 1024" in result.output
    assert [row["said"] is None for row in project.rows("o")] == [True, True, False]
    failed = project.run("show", "o", "--failed").output
    assert "prompt has" in failed


@pytest.mark.slow
def test_or_is_left_out(project):
    project.ddfile(ROWS % ("", "drop")).make()
    assert [row["text"] for row in project.rows("o")] == ["short"]


@pytest.mark.slow
def test_or_its_end_is_cut_and_the_log_says_so(project):
    project.ddfile(ROWS % ("", "keep")).make()
    short = project.rows("o")[2]["said"]
    result = project.ddfile(ROWS % (", truncate=True", "raise")).make()
    assert "failed" not in result.output.split("made 1")[1]
    one, two, three = (row["said"] for row in project.rows("o"))
    assert one and one == two and three == short  # what came after the cut bears on nothing
    assert project.logs().count("was cut to 1016") == 2 and "a prompt of" in project.logs()


@pytest.mark.parametrize("name", ["openai/gpt-4o", "server/vllm:org/model"])
def test_it_is_of_models_in_process(project, name):
    result = project.ddfile(f"generate('o', llm=llm({name!r}, truncate=True), prompt='x', n=1)").run("-n")
    assert result.code == 2 and "truncate=" in result.output, result.output
