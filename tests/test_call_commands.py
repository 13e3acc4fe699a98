"""`ddmake calls` and `ddmake preview`; what is looked at before anything is paid; rules that ask the same."""

import json
import sqlite3
import time

import pytest
from conftest import Project

TALK = """
    @step("rows")
    def rows():
        yield from ({{"x": f"word {{i}}"}} for i in range({n}))

    transform("said", rows, llm=llm("{name}"{more}), column="said", prompt="{prompt}")
    transform("more/told", rows.take(1), llm=llm("{name}"{more}), column="said", prompt="Tell 100% of {{{{ x }}}}")
"""
SAY = "{% system %}Be brief.{% endsystem %}{% user %}Say {{ x }}{% enduser %}"


def talk(project, service=None, n=3, prompt=SAY, **llm):
    more = "".join(f", {name}={value!r}" for name, value in ({"base_url": service.url} | llm if service else llm).items())
    return project.ddfile(TALK.format(n=n, prompt=prompt, name="openai/toy" if service else "echo", more=more))


def asked(project, *args):
    """Return what was asked, newest first, by the search that is given."""
    lines = project.make("calls", "--json", *args).output.splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("said"))
    talk(project).make("said")
    talk(project).make("more/told")
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        db.execute("UPDATE calls SET made = made - 7200 WHERE request LIKE '%word 2%'")
        db.execute("UPDATE calls SET finish_reason = 'length' WHERE request LIKE '%word 1%'")
        db.execute("UPDATE calls SET error = 'refused', answer = '', cost = 0.00012, model = 'other-1' WHERE request LIKE '%word 2%'")
    return project


@pytest.mark.parametrize("words, found", [
    ([], ["Tell 100% of word 0", "Say word 2", "Say word 1", "Say word 0"]),
    (["SAY word"], ["Say word 2", "Say word 1", "Say word 0"]),
    (["word", "0"], ["Tell 100% of word 0", "Say word 0"]),
    (["100%"], ["Tell 100% of word 0"]),
    (["1%0"], []),
    (["wor_"], []),
    (["brief"], ["Say word 2", "Say word 1", "Say word 0"]),
    (["--rule", "said"], ["Say word 2", "Say word 1", "Say word 0"]),
    (["--rule", "more"], ["Tell 100% of word 0"]),
    (["--rule", "sai"], []),
    (["--model", "OTHER"], ["Say word 2"]),
    (["--model", "echo", "-n", "2"], ["Tell 100% of word 0", "Say word 2"]),
    (["--since", "1h"], ["Tell 100% of word 0", "Say word 1", "Say word 0"]),
    (["--failed"], ["Say word 2", "Say word 1"]),
    (["--failed", "word", "--rule", "said", "--since", "1h"], ["Say word 1"]),
])
def test_calls_are_searched(said, words, found):
    assert asked(said, *words) == found


def test_calls_as_a_table_whole_and_exported(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    output = said.make("calls", "-n", "3").output
    assert [line.split()[0] for line in output.splitlines()] == ["id", "4", "3", "2", "…"]
    assert max(map(len, output.splitlines()[:4])) <= 70
    whole = said.make("calls", "--id", "3").output
    assert all(told in whole for told in ("said", "other-1", "refused", "$0.00012", "system\n  Be brief.", "user\n  Say word 2"))
    assert said.run("calls", "--id", "9").output == "There is no call 9. What there is: ddmake calls\n"
    assert said.make("calls", "--export", "all.jsonl", "--rule", "said").output == "3 calls written to all.jsonl.\n"
    assert [line["id"] for line in said.lines("all.jsonl")] == [3, 2, 1]
    assert not list(said.root.glob(".all*")), "no part of a file is left"
    assert said.run("calls", "--since", "soon").output == "--since is 'soon'. Write it like 12h or 30d.\n"
    assert said.make("calls", "nobody said this").output == "No such call was made here.\n"


def test_calls_need_no_ddfile_and_make_no_store(project):
    assert project.make("calls").output == "No such call was made here.\n"
    assert project.make("calls", "--json").output == ""
    assert not (project.root / ".ddmake").exists()


def test_what_was_said_can_not_steer_the_terminal(project):
    project.ddfile(r"""
        @step("rows")
        def rows():
            yield {"x": "\x1b[2J red \u202e"}
        transform("said", rows, llm=llm("echo"), column="said", prompt="Say {{ x }}")
    """).make()
    for words in (["calls"], ["calls", "--id", "1"], ["preview", "said"], ["show", "said"]):
        output = project.make(*words).output
        assert "\\x1b[2J" in output and "\x1b[2J" not in output and "\u202e" not in output


def test_preview_asks_the_first_prompts_and_the_run_asks_them_no_more(project, service):
    talk(project, service, n=10).make("rows")
    output = project.make("preview", "said", "-n", "2").output
    assert "prompt 0, openai/toy" in output and "prompt 1" in output and "prompt 2" not in output
    assert "system\n    Be brief." in output and "user\n    Say word 1" in output and "SAY WORD 1" in output
    assert "2 sent, 0 cached" in output
    assert service.counts()["requests"] == 2
    assert project.run("-n", "said").verdicts() == {"said": "make"}, "nothing is made by it"
    project.make("said")
    assert service.counts()["requests"] == 10
    assert "0 sent, 3 cached" in project.make("preview", "said").output


def test_preview_says_what_can_not_be_used(project, service):
    service.fail(0.0, finish="length")
    talk(project, service).make("rows")
    one, = json.loads(project.make("preview", "said", "-n", "1", "--json").output)["shown"]
    assert (one["messages"][-1]["content"], one["answer"], one["wrong"]) == ("Say word 0", "SAY WORD 0", "cut at max_tokens")


def test_preview_shows_the_fields_of_a_schema(project):
    project.ddfile("""
        generate("g", llm=llm("echo"), n=5, schema={"a": int, "b": str}, prompt='{"a": 3, "b": "x y"}')
        generate("h", llm=llm("echo"), n=5, schema={"a": int}, prompt='{"a": "three"}')
    """)
    assert "a: 3\n    b: x y" in project.make("preview", "g", "-n", "1").output
    assert "unusable: " in project.make("preview", "h", "-n", "1").output


@pytest.mark.parametrize("words, told", [
    (["said"], "Ddfile:8: said needs rows, which isn't made yet. Do: ddmake rows"),
    (["rows"], "Ddfile:4: rows: its recipe rows doesn't tell what it asks (asks=), so there is nothing to preview."),
    ([], "ddmake preview takes one target, and none is named."),
    (["said", "rows"], "ddmake preview takes one target, and said rows stands for rows, said."),
])
def test_previews_that_can_not_be(project, words, told):
    result = talk(project).run("preview", *words)
    assert (result.code, result.output) == (2, told + "\n")


@pytest.mark.parametrize("rows, prompt, told", [
    ('{"x": {"y": 1}}', "Say {{ x.z }}", "the prompt: 'dict object' has no attribute 'z'."),
    ('{"x": None}', "Say {{ x.split() }}", "has no attribute 'split'"),
])
def test_prompts_are_tried_before_anything_is_sent(project, service, rows, prompt, told):
    project.ddfile(f"""
        @step("rows")
        def rows():
            return [{rows}]
        good = transform("good", rows, llm=llm("openai/toy", base_url="{service.url}"), prompt="Fine")
        transform("bad", rows, llm=llm("openai/toy", base_url="{service.url}"), prompt="{prompt}")
    """).make("rows")
    result = project.run("-k")
    assert result.code == 2 and result.output.startswith("Ddfile:8: ") and told in result.output
    assert service.counts()["requests"] == 0


def test_a_missing_key_is_told_before_anything_is_sent_but_only_if_something_will_be(project, service, monkeypatch):
    monkeypatch.setenv("MY_KEY", "k")
    talk(project, service, api_key_env="MY_KEY").make()
    monkeypatch.delenv("MY_KEY")
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace('column="said"', 'column="answer"'))
    assert "0 sent, 3 cached" in project.make().output
    (project.root / "Ddfile").write_text(text.replace("Tell", "Shout"))
    result = project.run()
    assert result.code == 2 and result.output.startswith("Ddfile:9: more/told: openai/toy needs an API key: set MY_KEY")
    assert service.counts()["requests"] == 4


ALIKE = """
    @step("rows")
    def rows():
        yield from ({"x": f"word {i}"} for i in range(5))

    a = transform("a", rows, llm=llm("echo"), prompt="Say {{ x }}")
    transform("same", rows, llm=llm("echo", timeout=5), prompt="Say {{ x }}", column="c", on_error="drop")
    transform("same in a view", rows.take(4), llm=llm("echo"), prompt=template("say.j2"))
    transform("same behind", rows.filter(lambda row: True), llm=llm("echo"), prompt="Say {{ x }}")
    transform("sample", rows, llm=llm("echo", sample=1), prompt="Say {{ x }}")
    transform("sample again", rows, llm=llm("echo", sample=1), prompt="Say {{ x }}", column="d")
    transform("warmer", rows, llm=llm("echo", temperature=1.0), prompt="Say {{ x }}")
    transform("schema", rows, llm=llm("echo"), prompt="Say {{ x }}", schema={"a": int})
    transform("system", rows, llm=llm("echo"), prompt="Say {{ x }}", system="Be brief.")
    transform("others", rows.skip(1), llm=llm("echo"), prompt="Say {{ x }}")
"""


@pytest.mark.slow
def test_lint_names_rules_that_ask_the_same(project):
    """By their first prompts; as long as inputs aren't there, by what is declared, since nobody knows what a view will hold."""
    project.write("templates/say.j2", "Say {{ x }}")
    project.ddfile(ALIKE)
    for alike in (["same"], ["same", "same in a view", "same behind"]):
        found = [one for one in json.loads(project.run("lint", "--json").output) if one["kind"] == "same requests"]
        assert [one["what"] for one in found] == [f"{name} asks the very same as a, and gets its answers" for name in alike]
        project.make("rows")


def test_a_long_search_stays_quick(project):
    """A hundred thousand calls are searched in about a second, and shown a few at a time at once."""
    talk(project).make("said")
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        row = db.execute("SELECT answer, model, request, made FROM calls LIMIT 1").fetchone()
        db.executemany("INSERT INTO calls (key, answer, model, request, made) VALUES (?, ?, ?, ?, ?)",
                       ((f"{i:016}".encode(), *row) for i in range(100_000)))
    started = time.process_time()
    assert "No such call" in project.make("calls", "never said").output
    assert time.process_time() - started < 5
