"""The rows of the truth table that need more than an edit of A -> B -> C: prompts, samples, effects, edits by hand."""

import json
import os
import shutil

import pytest
from conftest import Project

from ddmake.store import open_store

ASKING = '''
@step("rows", "in.jsonl")
def rows(file):
    import json
    yield from map(json.loads, file.read_text().splitlines())

def shorten(text):
    return text[:20]

said = transform("said", rows, llm=llm("openai/toy", base_url="{url}"{llm}), column="said", prompt=template("say.j2"){more})

@step("short", said)
def short(rows):
    for row in rows:
        yield {{"short": shorten(row["said"])}}
'''
LINES = [json.dumps({"x": f"word {i}", "n": i}) for i in range(12)]


def asking(project, service, llm="", more=""):
    project.write("templates/say.j2", "{% include 'word.j2' %}!")
    project.write("templates/word.j2", "Say {{ x }}")
    project.write("in.jsonl", "\n".join(LINES) + "\n")
    return project.ddfile(ASKING.format(url=service.url, llm=llm, more=more))


def sent(project, service, *args):
    """Run ddmake, and return how many requests it sent."""
    before = service.counts()["requests"]
    project.make(*args)
    return service.counts()["requests"] - before


def test_a_template_counts_with_those_it_includes_and_only_changed_prompts_are_sent(project, service):
    assert sent(asking(project, service), service) == 12
    project.write("templates/word.j2", "{% if n < 3 %}Shout{% else %}Say{% endif %} {{ x }}")
    assert project.run("-n").why("said") == "template word.j2 changed"
    assert sent(project, service) == 3


def test_a_template_that_renders_the_same_sends_nothing(project, service):
    asking(project, service).make()
    project.write("templates/say.j2", "{# politely #}{% include 'word.j2' %}!")
    assert sent(project, service) == 0


ASKED = {  # what is said of the llm: (before, after, the reason)
    "temperature": (", temperature=0.5", ", temperature=0.7", "llm: temperature 0.5 -> 0.7"),
    "seed": (", seed=1", ", seed=2", "llm: seed 1 -> 2"),
    "max_tokens": ("", ", max_tokens=9", "llm: max_tokens unset -> 9"),
    "stop": (", stop='.'", ", stop='!'", "llm: stop . -> !"),
    "extra": ("", ", extra={'logprobs': True}", "llm: extra changed"),
    "sample": ("", ", sample=1", "llm: sample unset -> 1"),
    "top_k": (", top_k=5", ", top_k=6", "llm: top_k 5 -> 6"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_counts(project, service, name):
    before, after, why = ASKED[name]
    asking(project, service, before).make()
    asking(project, service, after)
    result = project.run("-n")
    assert result.verdicts() == {"said": "make", "short": "maybe"} and why in result.why("said")
    assert sent(project, service) == 12


@pytest.mark.parametrize("before, after, sends", [
    ("llm('openai/toy', base_url=URL)", "llm('openai/toy2', base_url=URL)", 12),
    ("llm('openai/toy', base_url=URL, identity='lab')", "llm('openai/toy', base_url=URL.replace('127.0.0.1', 'localhost'), identity='lab')", 0),
])
def test_the_endpoint_counts_by_its_identity(project, service, before, after, sends):
    asking(project, service)
    text = (project.root / "Ddfile").read_text()
    whole = f'llm("openai/toy", base_url="{service.url}")'
    assert whole in text
    (project.root / "Ddfile").write_text(text.replace(whole, before.replace("URL", repr(service.url))))
    project.make()
    (project.root / "Ddfile").write_text(text.replace(whole, after.replace("URL", repr(service.url))))
    assert project.run("-n", "-v").verdicts()["said"] == ("make" if sends else "fresh")
    assert sent(project, service) == sends


def test_a_system_prompt_counts(project, service):
    asking(project, service).make()
    asking(project, service, more=", system='Be brief.'")
    assert project.run("-n").why("said").startswith("system ")
    assert sent(project, service) == 12


@pytest.mark.parametrize("free", ["concurrency=3", "timeout=9.0", "retries=1", "api_key_env='OTHER'", "license='mit'", "batch_size=2"])
def test_how_it_is_asked_does_not_count(project, service, free, monkeypatch):
    monkeypatch.setenv("OTHER", "secret")
    asking(project, service).make()
    asking(project, service, f", {free}")
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


@pytest.mark.parametrize("option", ["about='Say it.'", "retries=2", "time='1h'", "cpus=1", "mem='1GB'", "keep=3"])
def test_how_a_rule_is_run_does_not_count(project, service, option, monkeypatch):
    asking(project, service).make()
    monkeypatch.setenv("OPENAI_API_KEY", "rotated")
    asking(project, service, more=f", {option}")
    assert set(project.run("-n", "-v", "-j", "1").verdicts().values()) == {"fresh"}


def test_what_is_done_with_answers_counts_and_sends_nothing(project, service):
    asking(project, service).make()
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace("text[:20]", "text[:4]"))
    assert project.run("-n", "-v").verdicts() == {"rows": "fresh", "said": "fresh", "short": "make"}
    assert sent(project, service) == 0
    assert project.rows("short")[0] == {"short": "SAY "}


@pytest.mark.slow
def test_one_row_edited_or_added_is_one_request(project, service):
    asking(project, service).make()
    project.write("in.jsonl", "\n".join([LINES[0].replace("word 0", "another"), *LINES[1:]]) + "\n")
    assert sent(project, service) == 1
    project.write("in.jsonl", "\n".join([json.dumps({"x": "first", "n": 0}), *LINES]) + "\n")
    assert sent(project, service) == 1, "the row that was edited is itself again, and one is new"


def test_more_samples_send_only_the_new_ones(project, service):
    project.ddfile(f"cfg = config(n=10)\ngenerate('g', llm=llm('openai/toy', base_url='{service.url}'), prompt='Say', n=cfg.n)\n")
    assert sent(project, service) == 10
    assert project.run("-n", "n=14").why("g") == "n 10 -> 14"
    assert sent(project, service, "n=14") == 4


@pytest.mark.slow
def test_resample_draws_again_each_time_and_the_log_has_all(project, service):
    asking(project, service).make()
    for epoch in (1, 2):
        assert project.run("-n", "--resample", "said").why("said") == f"sample epoch {epoch - 1} -> {epoch}"
        assert sent(project, service, "--resample", "said") == 12
        assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}, "what is behind it was made, too"
    shutil.rmtree(project.root / "said")
    assert sent(project, service) == 0, "the newest sample is the result, and is restored"
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace('"said", rows', '"moved", rows'))
    assert project.run("-n").verdicts()["moved"] == "restore"
    assert sent(project, service) == 0


def test_a_dry_resample_changes_nothing(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    project.run("-n", "--resample")
    assert project.run("-n", "-v").verdicts() == {"a": "fresh"}


RESAMPLED = """
import itertools, os

@step("b")
def b():
    with open("draws.txt", "a") as file:
        file.write("x")
    yield {"x": os.path.getsize("draws.txt")}

@step("c", b)
def c(rows):
    return rows
"""


@pytest.mark.slow
def test_resample_makes_what_is_behind(project):
    project.ddfile(RESAMPLED).make()
    for draws in (2, 3):
        project.make("--resample", "b")
        assert project.rows("b") == project.rows("c") == [{"x": draws}]


@pytest.mark.slow
def test_force_makes_again_what_is_named(project):
    project.ddfile(RESAMPLED).make()
    assert project.run("-n", "--force", "b").why("b") == "forced"
    assert "made 1" in project.make("--force", "b").output
    assert project.rows("b") == [{"x": 2}]
    assert "made 1" in project.make().output, "c is behind another result"
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


EFFECT = """
cfg = config(text="one")

@step("data.txt", text=cfg.text)
def data(output, *, text):
    output.write_text(text)

@step("published.txt", data, effect=True)
def publish(file, output):
    with open("world.txt", "a") as world:
        world.write(file.read_text() + " ")
    output.write_text("done")
"""


def test_an_effect_is_never_restored(project):
    project.ddfile(EFFECT).make()
    project.make("text=two")
    project.make("text=two")
    assert project.run("-n", "data.txt").verdicts() == {"data.txt": "restore"}
    project.make("data.txt")
    assert "made before; it does something outside, and isn't restored" in project.run("-n").why("published.txt")
    project.make()
    assert (project.root / "world.txt").read_text() == "one two one "
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_what_an_effect_left_behind_is_put_right_and_the_effect_not_done_again(project):
    project.ddfile(EFFECT).make()
    (project.root / "published.txt").write_text("mine")
    assert project.run("-n", "--restore").verdicts()["published.txt"] == "restore"
    project.make("--restore")
    assert (project.root / "published.txt").read_text() == "done" and (project.root / "world.txt").read_text() == "one "


BY_HAND = """
@step("a.txt")
def a(output):
    output.write_text("one")

@step("b.txt", a)
def b(file, output):
    output.write_text(file.read_text() + "!")

@step("c.txt")
def c(output):
    output.write_text("apart")
"""


@pytest.fixture
def edited(project):
    project.ddfile(BY_HAND).make()
    (project.root / "a.txt").write_text("mine")
    (project.root / "c.txt").unlink()
    return project


def test_an_edit_by_hand_stops_what_is_behind_it(edited):
    result = edited.run()
    assert result.code == 1 and "take it back with --restore, or keep it with --adopt" in result.output
    assert (edited.root / "a.txt").read_text() == "mine" and (edited.root / "b.txt").read_text() == "one!"
    assert (edited.root / "c.txt").read_text() == "apart", "the rest is made"


def test_an_edit_by_hand_is_taken_back(edited):
    assert "put aside as .bak" in edited.run("-n", "--restore").why("a.txt")
    edited.make("--restore")
    assert (edited.root / "a.txt").read_text() == "one" and (edited.root / "a.txt.bak").read_text() == "mine"
    assert set(edited.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_an_edit_by_hand_is_adopted(edited):
    assert edited.run("-n", "--adopt").verdicts()["a.txt"] == "adopt"
    edited.make("--adopt")
    assert (edited.root / "a.txt").read_text() == "mine" and (edited.root / "b.txt").read_text() == "mine!"
    assert set(edited.run("-n", "-v").verdicts().values()) == {"fresh"}
    (edited.root / "a.txt").unlink()
    edited.make()
    assert (edited.root / "a.txt").read_text() == "mine", "what was adopted is the result"


def test_an_edit_of_a_stale_output_is_put_aside_and_not_lost(edited):
    (edited.root / "Ddfile").write_text((edited.root / "Ddfile").read_text().replace('"one"', '"two"'))
    assert edited.run().code == 1
    edited.make("--restore")
    assert (edited.root / "a.txt").read_text() == "two" and (edited.root / "a.txt.bak").read_text() == "mine"


def test_an_edit_while_its_job_runs_is_not_lost(project):
    project.ddfile(BY_HAND).make()
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace('output.write_text("one")', '''output.write_text("two")
    open("a.txt", "w").write("mine")'''))
    project.make()
    assert (project.root / "a.txt").read_text() == "two" and (project.root / "a.txt.bak").read_text() == "mine"


def test_an_input_edited_while_the_run_goes_on_is_not_taken_for_what_was_made(project):
    project.ddfile(BY_HAND.replace('@step("b.txt", a)', '@step("b.txt", [a, "go.txt"])').replace("def b(file, output)", "def b(files, output)")
                   .replace("file.read_text()", "files[0].read_text()") + """
@step("d.txt")
def d(output):
    open("a.txt", "w").write("mine")
    output.write_text("d")

@step("e.txt", [d, a])
def e(files, output):
    output.write_text(files[1].read_text())
""")
    project.write("go.txt", "")
    project.make("a.txt")
    result = project.run("-j", "1", "e.txt")
    assert result.code != 0 and not (project.root / "e.txt").exists()


def test_an_undeclared_package_does_not_count_and_is_told(project):
    from importlib.metadata import version

    from ddmake.store import traces as stored

    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    store = open_store(project.root)
    trace = store.traces.at("a")[0]
    text = json.dumps({**trace.record, "packages": {**trace.record["packages"], "jinja2": "1.0"}}, ensure_ascii=False)
    store.traces.db.execute("UPDATE records SET record = ?, checksum = ?", (text, stored._checksum(trace.id, text)))
    store.close()
    assert project.run("-n", "-v").verdicts() == {"a": "fresh"}
    assert f"jinja2 1.0 -> {version('jinja2')}, not declared: does not count" in project.run("why", "a").output


def test_a_declared_package_counts(project, monkeypatch):
    import importlib.metadata

    project.ddfile("@step('a', packages=['jinja2'])\ndef a():\n    yield {'x': 1}\n").make()
    real = importlib.metadata.version
    monkeypatch.setattr("ddmake.engine.ingredients.version", lambda name: "99.0" if name == "jinja2" else real(name))
    assert project.run("-n").why("a") == f"package jinja2 {real('jinja2')} -> 99.0"


def test_an_input_that_is_only_observed_does_not_count(project):
    project.write("watch.txt", "one")
    project.ddfile("""
        @step("a", "watch.txt", observes=["watched"])
        def a(watched):
            yield {"x": len(watched.read_text())}

        @step("b", "watch.txt")
        def b(file):
            yield {"x": len(file.read_text())}
    """).make()
    project.write("watch.txt", "three")
    assert project.run("-n", "-v").verdicts() == {"a": "fresh", "b": "make"}


def test_the_same_rows_by_another_way_leave_consumers_fresh(project):
    text = """
        @step("a")
        def a():
            yield from ({"x": i, "s": str(i)} for i in range(2500))

        @step("b", a)
        def b(rows):
            yield {"n": len(rows)}
    """
    project.ddfile(text).make()
    project.ddfile(text.replace('yield from ({"x": i, "s": str(i)} for i in range(2500))',
                                'import datasets\n            return datasets.Dataset.from_dict({"x": list(range(2500)), "s": [str(i) for i in range(2500)]})'))
    assert "made 1, fresh 1" in project.make().output


def test_only_makes_the_named_on_what_lies_there(project):
    project.ddfile(BY_HAND).make()
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace('"one"', '"two"').replace('"!"', '"?"'))
    assert project.run("-n", "--only", "b.txt").verdicts() == {"b.txt": "make"}
    project.make("--only", "b.txt")
    assert (project.root / "b.txt").read_text() == "one?"
    shutil.rmtree(project.root / ".ddmake")
    result = project.run("--only", "b.txt")
    assert result.code == 2 and "b.txt needs a.txt, which isn't there as it was made" in result.output


def test_until_makes_a_target_and_what_it_needs(project):
    project.ddfile(BY_HAND)
    assert project.run("-n", "--until", "a.txt").verdicts() == {"a.txt": "make"}
    project.make("--until", "a.txt")
    assert not (project.root / "b.txt").exists() and not (project.root / "c.txt").exists()


def test_the_question_is_answered_by_the_exit_code(project):
    project.ddfile(BY_HAND)
    result = project.run("-q")
    assert (result.code, result.output) == (1, "")
    project.make()
    result = project.run("-q")
    assert (result.code, result.output) == (0, "")


def test_manual_rules_are_listed_and_run_when_named(project):
    project.ddfile("@step('a.txt', manual=True)\ndef a(output):\n    output.write_text('x')\n")
    assert project.run("-n").why("a.txt") == "runs when named"
    project.make()
    assert not (project.root / "a.txt").exists()
    project.make("a.txt")
    assert (project.root / "a.txt").exists()


def test_a_flipped_byte_in_a_trace_is_never_taken_for_a_result(project):
    project.ddfile(BY_HAND).make()
    store = open_store(project.root)
    number, outputs = store.traces.db.execute("SELECT id, outputs FROM traces WHERE outputs LIKE '%a.txt%'").fetchone()
    at = outputs.index('"sha": "') + 10
    flipped = outputs[:at] + ("0" if outputs[at] != "0" else "1") + outputs[at + 1:]
    store.traces.db.execute("UPDATE traces SET outputs = ? WHERE id = ?", (flipped, number))
    store.close()
    result = project.run()
    assert "1 damaged record left out" in result.output and "made 1" in result.output
    assert (project.root / "a.txt").read_text() == "one"


def test_a_flipped_byte_in_a_call_is_asked_again(project, service):
    import sqlite3

    asking(project, service).make()
    db = sqlite3.connect(project.root / ".ddmake" / "calls.db")
    db.execute("UPDATE calls SET answer = 'SAY WORD 9' WHERE answer = 'SAY WORD 3!'")
    db.commit()
    db.close()
    shutil.rmtree(project.root / ".ddmake" / "objects")
    shutil.rmtree(project.root / "said")
    assert sent(project, service) == 1
    assert [row["said"] for row in project.rows("said")] == [f"SAY WORD {i}!" for i in range(12)]


def test_a_project_moved_with_its_store_is_fresh_and_paths_are_not_in_keys(project, tmp_path_factory):
    project.ddfile(BY_HAND).make()
    elsewhere = Project(shutil.copytree(project.root, tmp_path_factory.mktemp("else") / "ünïcode and space"))
    for path in elsewhere.root.glob("*.txt"):
        os.utime(path)
    assert set(elsewhere.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_a_secret_is_handed_on_and_counts_for_nothing(project, monkeypatch):
    project.ddfile("@step('a', env=['HF_TOKEN', 'MOOD'])\ndef a():\n    import os\n    yield {'n': len(os.environ['HF_TOKEN'])}\n")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    project.make()
    monkeypatch.setenv("HF_TOKEN", "hf_rotated")
    assert project.run("-n", "-v").verdicts() == {"a": "fresh"}
    kept = b"".join(path.read_bytes() for path in (project.root / ".ddmake").rglob("*") if path.is_file())
    assert b"hf_s3cret" not in kept
    monkeypatch.setenv("MOOD", "wild")
    assert project.run("-n").why("a") == "environment variable MOOD unset -> wild"


def test_a_models_notes_are_its_users(project):
    """Row 35: what lies beside a model's weights, tokenizer and configs doesn't count, made again or edited by hand."""
    project.ddfile("""
        NOTE = "one"

        @train("model")
        def model(output):
            (output / "config.json").write_text('{"hidden_size": 8}')
            (output / "model.safetensors").write_bytes(b"weights")
            (output / "training_args.bin").write_text(NOTE)
            (output / "README.md").write_text(NOTE)

        @step("use.jsonl", model)
        def use(folder):
            yield {"n": len((folder / "model.safetensors").read_bytes())}
    """).make()
    (project.root / "model" / "README.md").write_text("mine")
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
    text = (project.root / "Ddfile").read_text()
    (project.root / "Ddfile").write_text(text.replace('"one"', '"two"'))
    assert "made 1, fresh 1" in project.make().output
    assert (project.root / "model.bak" / "README.md").read_text() == "mine", "what somebody wrote is put aside, not lost"
    (project.root / "model" / "model.safetensors").write_bytes(b"other weights")
    assert project.run("-n").why("model").startswith("model/model.safetensors isn't what was made")


def test_a_source_that_is_nearly_there_is_named(project):
    project.write("data/labels.csv", "x")
    project.ddfile("@step('a', 'data/labels.cvs')\ndef a(file):\n    yield {'x': 1}\n")
    assert project.run("-n").why("a") == "for data/labels.cvs. Did you mean 'data/labels.csv'?"
    result = project.run("a")
    assert result.code == 2 and "a needs data/labels.cvs, which isn't there and which no rule makes. Did you mean 'data/labels.csv'?" in result.output
