"""Which targets a name stands for, where they lie, and which knobs they are made with."""

import json
import unicodedata

import pytest

from ddmake import load

RULES = """
    cfg = config(n=2, tags=["a"], seed=None, options={"x": 1}, fast=False)

    @step
    def rows(*, n=cfg.n):
        for i in range(n):
            yield {"i": i}

    a = rows("data/a")
    b = rows("data/b.jsonl")
    c = rows("data/deep/c")
    d = rows("my data/très [d]")
    rows("data/never", manual=True)
    alias("some", a, "data/deep")
    alias("files", "data/*.jsonl")
"""
ALL = {"data/a", "data/b.jsonl", "data/deep/c", "my data/très [d]"}

NAMES = {
    "nothing": ([], ALL),
    "all": (["all"], ALL),
    "a path": (["data/a"], {"data/a"}),
    "a path with a detour": (["./data//a"], {"data/a"}),
    "a manual one": (["data/never"], {"data/never"}),
    "two": (["data/a", "data/deep/c"], {"data/a", "data/deep/c"}),
    "a folder, without what is manual": (["data"], {"data/a", "data/b.jsonl", "data/deep/c"}),
    "a folder with a slash": (["data/deep/"], {"data/deep/c"}),
    "a star stays in its folder": (["data/*"], {"data/a", "data/b.jsonl"}),
    "two stars don't": (["data/**"], {"data/a", "data/b.jsonl", "data/deep/c"}),
    "two stars between": (["data/**/c"], {"data/deep/c"}),
    "a suffix": (["**/*.jsonl"], {"data/b.jsonl"}),
    "one character": (["data/?"], {"data/a"}),
    "one of some": (["data/[b-d]*"], {"data/b.jsonl"}),
    "none of some": (["data/[!b-d]*"], {"data/a"}),
    "only what is manual": (["data/n*"], {"data/never"}),
    "brackets that are a name's": (["my data/très [d]"], {"my data/très [d]"}),
    "a folder with a space": (["my data"], {"my data/très [d]"}),
    "decomposed letters": ([unicodedata.normalize("NFD", "my data/très [d]")], {"my data/très [d]"}),
    "decomposed letters in a glob": ([unicodedata.normalize("NFD", "my data/très*")], {"my data/très [d]"}),
    "an alias": (["some"], {"data/a", "data/deep/c"}),
    "an alias of a glob": (["files"], {"data/b.jsonl"}),
}


@pytest.mark.parametrize("case", NAMES)
def test_names(project, case):
    names, expected = NAMES[case]
    assert asked_for(project.ddfile(RULES), *names) == expected


def asked_for(project, *args):
    """Return the targets that would be made, without those that are listed as made only when named."""
    return {target for target, word in project.make("-n", *args).verdicts().items() if word != "manual"}


def test_names_under_another_folder(project):
    project.ddfile(RULES)
    for names in (["data/a"], ["trial/data/a"], ["trial/data/?"], ["data/?"]):
        assert asked_for(project, "--into", "trial/", *names) == {"trial/data/a"}
    assert asked_for(project, "--into", "trial") == {f"trial/{path}" for path in ALL}
    assert asked_for(project, "--into", "trial", "some") == {"trial/data/a", "trial/data/deep/c"}


WRONG = {
    "no such target": (["data/aa"], "No rule in Ddfile makes 'data/aa'. Did you mean 'data/a'?"),
    "a glob of nothing": (["dta/*.jsonl"], "No rule in Ddfile makes 'dta/*.jsonl'. Did you mean 'data/b.jsonl'?"),
    "into the folder above": (["--into", "../x"], "--into ../x: name a folder inside of the Ddfile's, such as trial/."),
    "into ddmake's own folder": (["--into", ".ddmake/x"], "--into .ddmake/x: name a folder inside"),
    "no config": (["--config", "nonesuch.yaml"], "--config nonesuch.yaml: No such file or directory."),
    "a broken config": (["--config", "broken.yaml"], "--config broken.yaml: while parsing"),
    "a config of no knobs": (["--config", "list.yaml"], "--config list.yaml: it holds a list; write a knob a line, as in n: 10."),
    "an unknown knob in a config": (["--config", "unknown.yaml"], "Ddfile has no knob 'm'. It has: n, tags, seed, options, fast."),
    "a wrong knob in a config": (["--config", "wrong.yaml"], "The knob n takes a whole number (its default is 2), not [1]."),
    "the last knobs, before any": (["--last"], "--last: Ddfile hasn't been run here yet, so there are no knobs to use again."),
    "an option as a knob": (["into=trial"], "There is no knob 'into'; the option is --into."),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(project, case):
    args, expected = WRONG[case]
    for name, text in {"broken": "n: [", "list": "- 1", "unknown": "m: 1", "wrong": "n: [1]"}.items():
        project.write(f"{name}.yaml", text)
    told = project.ddfile(RULES).run("-n", *args)
    assert expected in told.output
    assert (told.code, len(told.output.splitlines())) == (2, 1)


KNOBS = {
    "defaults": ([], "n=2 tags=a seed=None"),
    "typed": (["n=3", "tags=b,c"], "n=3 tags=b,c seed=None"),
    "a config": (["--config", "knobs.yaml"], "n=5 tags=x,y seed=7"),
    "typed before a config": (["--config", "knobs.yaml", "n=3"], "n=3 tags=x,y seed=7"),
    "the last": (["--last"], "n=1 tags=z seed=None"),
    "typed before the last": (["--last", "n=3"], "n=3 tags=z seed=None"),
    "a config before the last": (["--last", "--config", "knobs.yaml"], "n=5 tags=x,y seed=7"),
}


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    from conftest import Project

    project = Project(tmp_path_factory.mktemp("run"))
    project.ddfile("cfg = config(n=2, tags=['a'], gone=1)\n@step('a')\ndef a():\n    yield {'x': 1}\n").make("n=1", "tags=z", "gone=2")
    project.write("knobs.yaml", "n: 5\ntags: [x, y]\nseed: 7\n")
    return project.ddfile(RULES)


@pytest.mark.parametrize("case", KNOBS)
def test_knobs(run_once, case):
    args, expected = KNOBS[case]
    assert run_once.make("-n", *args).output.startswith(f"knobs: {expected} ")


WORDS = {
    "none": ({}, []),
    "plain": ({"n": "3", "tags": "x,y", "fast": True}, ["n=3", "tags=x,y", "fast=True"]),
    "of Python's types": ({"n": 3, "tags": ("x", "y"), "seed": "7"}, ["n=3", "tags=x,y", "seed=7"]),
    "what can't be typed": ({"n": 3, "tags": ["x,y"], "seed": 7, "options": {"x": 2}},
                            ["n=3", "--config", '{"tags": ["x,y"], "seed": 7, "options": {"x": 2}}']),
    "an earlier run's": ({"last": {"n": 9, "unknown": 1}}, ["n=9"]),
    "a folder": ({"into": "trial", "n": 3}, ["n=3", "--into", "trial/"]),
}


@pytest.mark.parametrize("case", WORDS)
def test_the_words_that_load_a_workflow_again(project, case):
    given, words = WORDS[case]
    flow = load(project.ddfile(RULES).root / "Ddfile", **given)
    assert flow.words() == words
    again = json.loads(project.make("-n", "--json", *words).output)
    assert again["knobs"] == flow.knobs
    assert [rule["targets"][0] for rule in again["rules"] if rule["verdict"] == "make"] == [r.label for r in flow.select([])]


def test_a_trial_lies_apart_and_takes_over_what_was_made(project):
    project.write("in.jsonl", '{"x": 1}\n')
    project.ddfile("""
    rows = jsonl("data/rows", "in.jsonl")

    @step("data/more", "data/rows")
    def more(rows):
        yield from ({"x": row["x"] + 1} for row in rows)
    """)
    project.make()
    assert set(project.make("-n", "--into", "trial/").verdicts().values()) == {"restore"}
    project.make("--into", "trial/")
    assert project.rows("trial/data/more") == [{"x": 2}]
    project.write("in.jsonl", '{"x": 5}\n')
    project.make("--into", "trial/")
    assert (project.rows("trial/data/more"), project.rows("data/more")) == ([{"x": 6}], [{"x": 2}])


def test_a_shared_list_is_bound_once_and_its_later_changes_count(project):
    project.ddfile("""
    @step
    def first():
        yield {}

    @step
    def sums(parts):
        yield {}

    layer = [first(f"first/{i}") for i in range(10)]
    one, two = sums("one", layer), sums("two", list(layer))
    layer.append(two)
    sums("three", layer)
    sums("four", [f"first/{i}" for i in range(10)])
    sums("five", [f"first/{i}" for i in range(10)])
    """)
    flow = load(project.root / "Ddfile")
    one, two, three, four, five = (flow[name].rule for name in ("one", "two", "three", "four", "five"))
    assert one.reads[0] is two.reads[0] and one.inputs["parts"] is two.inputs["parts"]
    assert four.reads[0] is five.reads[0]
    assert [len(rule.reads[0]) for rule in (one, two, three, four)] == [10, 10, 11, 10]
    assert [source.target.rule for source in four.reads[0]] == [source.target.rule for source in one.reads[0]]


def test_strings_are_settled_when_all_rules_are_known(project):
    project.ddfile("""
    evaluate("scores", {"later": "models/later", "toy": "tiny-base", "hub": "google/t5", "own": "./folder"}, "data/rows", prompt="x", reference="x")
    transform("asked", "data/rows", llm=llm("models/later", adapter="models/adapter"), prompt="x")
    jsonl("data/rows", "in.jsonl")

    @train
    def model(rows, *, output):
        pass

    model("models/later", "data/rows")
    model("models/adapter", "./data/rows")
    """)
    flow = load(project.root / "Ddfile")
    read = {rule.label: {source.path: source.target and source.target.rule.label for source in flow.sources(rule)} for rule in flow.rules}
    rows = {"data/rows": "data/rows"}
    assert read == {
        "scores": {"models/later": "models/later", "folder": None, **rows},
        "asked": {"models/later": "models/later", "models/adapter": "models/adapter", **rows},
        "data/rows": {"in.jsonl": None}, "models/later": rows, "models/adapter": rows,
    }
    assert [type(value).__name__ for value in flow["scores"].rule.inputs["models"].values()] == ["Source", "ModelName", "ModelName", "Source"]
