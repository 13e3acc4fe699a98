"""`ddmake show`: what lies at a target, whatever its form, and the rows that failed."""

import json
from types import SimpleNamespace

import pytest

ROWS = """
    @step("{output}")
    def rows():
        yield from ({{"id": i, "text": f"word {{i}}, " + "long " * i, "score": i / 2}} for i in range(1500))
"""
FORMS = {"rows": "double", "rows.jsonl": "double", "rows.csv": "double", "rows.parquet": "double"}


@pytest.mark.parametrize("output", FORMS)
def test_rows_of_every_form(project, output):
    project.ddfile(ROWS.format(output=output)).make()
    lines = project.make("show", output, "-n", "2").output.splitlines()
    assert lines[0].startswith(f"{output}: 1,500 rows; made 20")
    assert [line.split() for line in lines[2:4]] == [["id", "text", "score"], ["int64", "string", FORMS[output]]]
    assert [line.split()[:4] for line in lines[4:6]] == [["0", "0", "word", "0,"], ["1", "1", "word", "1,"]]
    assert lines[6:] == ["… 1,498 more rows (-n)"]
    told = json.loads(project.make("show", output, "--row", "1400", "--json").output)
    assert (told["rows"], told["columns"], told["failed"]) == (1500, {"id": "int64", "text": "string", "score": "double"}, 0)
    row, = told["shown"]
    assert (row["number"], row["row"]["id"], row["row"]["score"]) == (1400, 1400, 700.0)


def test_a_row_is_shown_whole_and_the_first_ones_fit_the_screen(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    project.ddfile(ROWS.format(output="rows")).make()
    assert max(map(len, project.make("show", "rows").output.splitlines()[2:])) <= 40
    assert "word 300, " + ("long " * 300).strip() in project.make("show", "rows", "--row", "300").output


def test_columns_are_chosen_by_name(project):
    project.ddfile(ROWS.format(output="rows")).make()
    lines = project.make("show", "rows", "-n", "1", "--columns", "score,id").output.splitlines()
    assert [line.split() for line in lines[2:5]] == [["score", "id"], ["double", "int64"], ["0", "0.0", "0"]]
    assert project.make("show", "rows", "--row", "3", "--columns", "text").output.splitlines()[1:] == [
        "", "text (string)", "  word 3, long long long "]
    told = json.loads(project.make("show", "--columns", "id", "rows", "--row", "7", "--json").output)
    assert (told["columns"], told["shown"]) == ({"id": "int64"}, [{"number": 7, "row": {"id": 7}}])


@pytest.mark.parametrize("rows, expected", [
    ("{'x': None, 'y': [{'z': 'é'}], 'b': b'12345'}", ["null", '[{"z": "é"}]', "5 B, binary"]),
    ("{'x': '\\x1b[2J\\u202ered\\nnext', 'y': 1, 'b': 1}", ["\\x1b[2J\\u202ered next"]),
    ("{'x': float('nan'), 'y': True, 'b': ''}", ["nan", "True"]),
])
def test_values_as_they_are_shown(project, rows, expected):
    """What a terminal might obey is spelt out."""
    project.ddfile(f'@step("rows")\ndef rows():\n    return [{rows}]').make()
    output = project.make("show", "rows").output
    assert all(told in output for told in expected), output
    assert "\x1b[2J" not in output + project.make("show", "rows", "--row", "0").output
    json.loads(project.make("show", "rows", "--json").output, parse_constant=lambda word: pytest.fail(word))


def test_more_columns_than_the_screen_holds_are_counted(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    project.ddfile('@step("rows")\ndef rows():\n    return [{f"column{i}": "some words" for i in range(30)}]').make()
    output = project.make("show", "rows").output
    assert max(map(len, output.splitlines())) <= 50
    assert "column3" in output and "column4 " not in output
    assert "26 more columns (--row 0)" in output


def test_no_rows_have_columns_all_the_same(project):
    project.ddfile("""
        @step("some")
        def some():
            return [{"id": 1, "text": "x"}]
        @step("left", some.filter(lambda row: False))
        def left(some):
            return some
    """).make("left")
    assert [line.split() for line in project.make("show", "left").output.splitlines()[2:]] == [["id", "text"], ["int64", "string"]]
    assert json.loads(project.make("show", "left", "--json").output)["columns"] == {"id": "int64", "text": "string"}
    assert project.run("show", "left", "--row", "0").output == "left has no row 0; it has 0 rows.\n"


FILES = """
    @step("{output}")
    def made(output):
        output.write_{kind}({content})
"""


@pytest.mark.parametrize("output, kind, content, expected", [
    ("note.md", "text", r'"# Note\n\x1b[2J\nend"', "note.md: text, 15 B; made"),
    ("photo.png", "bytes", r'b"\x89PNG\0\0"', "photo.png: binary, 6 B; made"),
    ("odd.jsonl", "text", r'"no\njson\n"', "odd.jsonl: text, 8 B; made"),
    ("list.jsonl", "text", r'"[1]\n"', "list.jsonl: text, 4 B; made"),
])
def test_files(project, output, kind, content, expected):
    project.ddfile(FILES.format(output=output, kind=kind, content=content)).make()
    shown = project.make("show", output).output
    assert shown.startswith(expected) and "\x1b" not in shown
    assert json.loads(project.make("show", output, "--json").output)["kind"] == "file"


def test_a_folder_of_files_and_a_model(project):
    project.ddfile("""
        @step("folder")
        def folder(output):
            (output / "a.txt").write_text("a")
            (output / "b").mkdir()
            (output / "b" / "c.txt").write_text("ccc")

        @step("single")
        def single(output):
            (output / "said.json").write_text('{"url": 1}')

        @train("model")
        def model(output):
            (output / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
            (output / "model.safetensors").write_bytes(b"1234")
            (output / "metrics.json").write_text('{"train_loss": 1.25}')
    """).make()
    assert "folder: files, 2 files, 4 B; made" in (output := project.make("show", "folder").output) and "b/c.txt" in output
    output = project.make("show", "single").output
    assert output.startswith("single/said.json: text, 10 B; made") and output.endswith('\n{"url": 1}\n'), "there is nothing else to see"
    output = project.make("show", "model").output
    assert output.startswith("model: model, 3 files, ")
    assert all(told in output for told in ("LlamaForCausalLM", "train_loss", "1.25", "model.safetensors"))


def test_what_lies_there_counts_and_not_todays_knobs(project):
    text = """
        cfg = config(n=2)
        @step("rows", n=cfg.n)
        def rows(*, n):
            yield from ({"x": i} for i in range(n))
    """
    project.ddfile(text).make()
    told = project.make("show", "rows", "n=5").output.splitlines()
    assert told[0] == "Knobs count for nothing here: this speaks of what lies there, whatever they were."
    assert told[1].startswith("rows: 2 rows;")
    project.ddfile('@step("other")\ndef other():\n    return [{"x": 1}]')
    assert project.make("show", "rows").output.startswith("rows: 2 rows;"), "no rule makes it any more, and it lies there"
    next((project.root / "rows").glob("*.arrow")).touch()
    assert "edited" not in project.make("show", "rows").output
    (project.root / "rows" / "note").write_text("x")
    assert "; edited since" in project.make("show", "rows").output


@pytest.mark.parametrize("words, expected", [
    (["rows"], "rows isn't made yet. Do: ddmake rows"),
    (["rows", "--failed"], "rows isn't made yet. Do: ddmake rows"),
    (["mad"], "mad isn't made yet. Did you mean 'made'?"),
    ([], "ddmake show takes one target, not 0. What there is: ddmake list"),
    (["out"], "ddmake show takes one target, and out stands for 2: out/train, out/validation."),
    (["made", "--row", "3"], "made has no row 3; it has 3 rows, the first is 0."),
    (["note.md", "--row", "0"], "--row: note.md holds no rows."),
    (["note.md", "--columns", "x"], "--columns: note.md holds no rows."),
    (["made", "--columns", "x,zebra"], "--columns: made has no column 'zebra'. It has: x."),
    (["made", "--failed", "--row", "3"], None),
])
def test_mistakes(project, words, expected):
    project.ddfile("""
        @step("rows")
        def rows():
            return [{"x": 1}]
        @step("made")
        def made():
            return [{"x": 1}, {"x": 2}, {"x": 3}]
        @step("note.md")
        def note(output):
            output.write_text("x")
        split("out", made)
    """)
    project.make("made", "note.md", "out")
    result = project.run("show", *words)
    if expected is None:
        assert (result.code, result.output) == (0, "made: no row failed.\n")
    else:
        assert (result.code, result.output) == (2, expected + "\n")


ASKED = """
    @step("rows")
    def rows():
        yield from ({{"x": f"word {{i}}", "more": "m" * 20000}} for i in range({n}))

    @step("said", rows, llm=llm("echo"))
    def said(rows, *, llm):
        for number, (row, answer) in enumerate(zip(rows, llm.stream(row["x"] for row in rows))):
            if number % 10 == 7:
                llm.note_failed(number, "too\\x1b[2J odd", answer, row)
            yield {{"x": row["x"], "said": None if number % 10 == 7 else str(answer)}}
"""


def test_failed_rows_are_shown_with_reason_values_and_answer(project):
    project.ddfile(ASKED.format(n=30)).make()
    assert "; 3 failed (--failed)" in project.make("show", "said").output
    output = project.make("show", "said", "--failed", "-n", "2").output
    assert output.startswith("said: 3 rows failed. Send them again: ddmake --retry-failed said\n\nrow 7: too\\x1b[2J odd  (echo)\n")
    assert "word 7" in output and "word 17" in output and "word 27" not in output and "… 1 more (-n)" in output
    told = json.loads(project.make("show", "said", "--failed", "--row", "17", "--json").output)
    one, = told["shown"]
    assert (told["failed"], one["number"], one["reason"], one["answer"]) == (3, 17, "too\x1b[2J odd", "word 17")
    assert one["row"] == {"x": "word 17", "more": "m" * 10000}, "long values are cut"
    of_x = project.make("show", "said", "--failed", "--columns", "x").output
    assert "word 17" in of_x and "mmm" not in of_x
    assert "a failed row of said has no column 'y'. It has: x, more." in project.run("show", "said", "--failed", "--columns", "y").output
    assert "row 8 didn't fail" in project.run("show", "said", "--failed", "--row", "8").output


def test_failed_rows_go_with_their_result(project):
    """A result that is put back brings its own failed rows; another one has others."""
    project.ddfile(ASKED.format(n=30)).make()
    project.ddfile(ASKED.format(n=9)).make()
    assert "said: 1 row failed." in project.make("show", "said", "--failed").output
    assert "restored" in project.ddfile(ASKED.format(n=30)).make("said").output
    assert "said: 3 rows failed." in project.make("show", "said", "--failed").output


def test_a_file_of_an_earlier_try_is_not_taken_for_this_ones(tmp_path):
    from ddmake.store.failed import Failures, rows

    spool = tmp_path / "failed.jsonl"
    first = Failures(spool)
    first.add(1, "echo", "odd", "stop", "half a pair: \ud800", {"x": "\ud800", "y": {"z": b"12"}, "when": SimpleNamespace(a=1)})
    first.close()
    kept, = rows(spool)
    assert (kept.answer, kept.values["x"], kept.values["y"]) == ("half a pair: \\ud800", "\\ud800", {"z": "b'12'"})
    Failures(spool).close()
    assert list(rows(spool)) == []


def test_where_all_rows_failed_the_remedy_and_the_answers_are_named(project, service):
    service.fail(0.0, finish="length")
    project.ddfile(f'generate("said", llm=llm("openai/toy", base_url="{service.url}"), prompt="x", n=3)')
    told = project.run()
    assert told.code == 1 and "3 of 3 rows have no usable answer; the first, row 0: cut at max_tokens " \
        '(raise max_tokens, or accept="length"). What was answered: ddmake calls --failed --rule said' in told.output
    assert project.make("calls", "--failed", "--rule", "said").output.count("(cut) X") == 3
    assert project.run("show", "said", "--failed").output == \
        "said isn't made yet. Do: ddmake said. Answers to it that can't be used: ddmake calls --failed --rule said\n"


def test_a_preview_shows_tool_calls_and_names_images(project, service):
    service.fail(0.0, call=True)
    project.ddfile(f"""
        TOOL = {{"type": "function", "function": {{"name": "look", "parameters": {{"type": "object", "properties": {{"at": {{"type": "string"}}}}}}}}}}

        @step("rows")
        def rows():
            return [{{"x": "a", "photo": b"\\x89PNG" + b"." * 100}}]

        transform("said", rows, llm=llm("openai/toy", base_url="{service.url}"), prompt="see {{{{ x }}}}", images="photo", tools=[TOOL])
    """).make("rows")
    output = project.make("preview", "said").output
    assert "    (image: image/png, 104 bytes)" in output or "(image: image/png, 10" in output
    assert "calls look(" in output
    shown, = json.loads(project.make("preview", "said", "--json").output)["shown"]
    assert shown["tool_calls"][0]["function"]["name"] == "look"
    assert "(image: image/png" in project.make("calls").output


def test_nulls_that_stand_in_prompts_are_told(project):
    """But not where the template sees to them."""
    project.ddfile("""
        @step("rows")
        def rows():
            yield from ({"x": f"None of {i}", "y": None if i == 5 else "y", "z": None} for i in range(9))

        echo = llm("echo")
        transform("bare", rows, llm=echo, prompt="{{ x }} {{ y }}")
        transform("view", rows.skip(2), llm=echo, prompt="{{ x }} {{ y }}")
        transform("seen", rows, llm=echo, prompt="{{ x }} {{ y or 'nothing' }}{% if z %}{{ z }}{% endif %}")
    """).make("rows")
    note = "y is null in row 5 of rows, and stands in the prompt as 'None'. Give it a default, as in {{ y or 'unknown' }}"
    assert note in project.make("preview", "bare").output
    assert "is null" not in project.make("preview", "seen").output
    found = [one for one in json.loads(project.run("lint", "--json").output) if one["kind"] == "null in a prompt"]
    assert [one["what"].split(":")[0] for one in found] == ["bare", "view"]
    assert "row 3 of rows as it is read, and" in found[1]["what"]
