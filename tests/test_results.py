"""Which result a rule gets, keeps or gets back where more than one would do."""

import os
import shutil

import pytest
from conftest import Project

TWINS = """
@step
def draw():
    with open("log", "a") as log:
        log.write("x")
    yield {"x": len(open("log").read())}

draw("one.jsonl")
draw("two.jsonl")
"""


def test_of_two_rules_with_one_key_each_gets_its_own_result_back(project):
    project.ddfile(TWINS).make()
    project.make("--force", "one.jsonl")
    before = project.lines("one.jsonl"), project.lines("two.jsonl")
    assert before == ([{"x": 2}], [{"x": 1}])
    project.ddfile(TWINS.replace("yield {", "extra = 1; yield {")).make()
    assert "restored 2" in project.ddfile(TWINS).make().output
    assert (project.lines("one.jsonl"), project.lines("two.jsonl")) == before


SEVERAL = """
@step({"one": "one.txt", "two": "two.txt"})
def several(output):
    for name, path in output.items():
        path.write_text(name)
"""


@pytest.fixture
def half_edited(project):
    """One of two outputs is gone, the other edited by hand."""
    project.ddfile(SEVERAL).make()
    (project.root / "two.txt").write_text("mine")
    (project.root / "one.txt").unlink()
    return project


def test_what_is_gone_is_put_back_beside_what_is_adopted(half_edited):
    half_edited.make("--adopt")
    assert [(half_edited.root / f"{name}.txt").read_text() for name in ("one", "two")] == ["one", "mine"]
    assert set(half_edited.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_what_is_gone_for_good_stands_in_the_way_of_adopting(half_edited):
    shutil.rmtree(half_edited.root / ".ddmake" / "objects")
    result = half_edited.run("--adopt")
    assert result.code == 1 and "one.txt is gone for good; make all anew with --restore" in result.output
    half_edited.make("--restore")
    assert (half_edited.root / "two.txt").read_text() == "two" and (half_edited.root / "two.txt.bak").read_text() == "mine"


PLACES = """
import os
from pathlib import Path
PLACES = [os.getcwd(), str(Path(__file__).resolve().parent / "x"), f"file://{Path(__file__).parent}/x"]

@step("a.txt", path=str(Path(__file__).parent / "y"))
def a(output, *, path):
    output.write_text(path + str(PLACES))
"""


def test_where_the_project_lies_counts_for_nothing(project, tmp_path_factory, monkeypatch):
    project.ddfile(PLACES).make()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    os.symlink(project.root, elsewhere / "link")
    (elsewhere / "deeper").mkdir()
    linked = Project(elsewhere / "deeper").run("-f", str(elsewhere / "link" / "Ddfile"), "-n", "-v")
    assert linked.verdicts() == {"a.txt": "fresh"}
    moved = Project(project.root.rename(elsewhere / "moved"))
    assert moved.run("-n", "-v").verdicts() == {"a.txt": "fresh"}


def test_a_ddfile_is_loaded_in_its_folder(project, tmp_path_factory):
    """What it reads by a relative path is the same from everywhere."""
    project.write("text.txt", "one")
    project.ddfile("TEXT = open('text.txt').read()\n@step('a.txt')\ndef a(output):\n    output.write_text(TEXT)\n")
    Project(tmp_path_factory.mktemp("else")).make("-f", str(project.root / "Ddfile"))
    assert (project.root / "a.txt").read_text() == "one"


def test_an_input_that_is_new_or_gone_is_named(project):
    text = "@step('o.txt', {INPUTS})\ndef o(files, output):\n    output.write_text(' '.join(files))\n"
    project.write("a", "1")
    project.write("b", "2")
    project.ddfile(text.replace("INPUTS", "'x': 'a', 'y': 'b'")).make()
    project.ddfile(text.replace("INPUTS", "'y': 'b'"))
    assert project.run("-n").why("o.txt") == "input x is gone"


def test_what_is_observed_is_an_input(project):
    project.write("w.txt", "1")
    text = "@step('o.txt', 'w.txt'OBSERVES)\ndef o(watched, output):\n    output.write_text('')\n"
    project.ddfile(text.replace("OBSERVES", "")).make()
    project.ddfile(text.replace("OBSERVES", ", observes=['watched']"))
    assert project.run("-n").why("o.txt") == "input watched is gone"
    project.ddfile(text.replace("OBSERVES", ", observes=['watches']"))
    result = project.run("-n")
    assert result.code == 2 and "observes names 'watches', which is no input of o. Did you mean 'watched'?" in result.output


def test_a_variable_that_is_declared_anew_is_told_so(project, monkeypatch):
    monkeypatch.delenv("MOOD", raising=False)
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    project.ddfile("@step('a', env=['MOOD'])\ndef a():\n    yield {'x': 1}\n")
    assert project.run("-n").why("a") == "environment variable MOOD is new"


def test_a_result_that_was_moved_along_with_its_path_is_taken_for_what_it_is(project):
    text = "@step('one.txt')\ndef a(output):\n    output.write_text('1')\n"
    project.ddfile(text).make()
    os.rename(project.root / "one.txt", project.root / "two.txt")
    project.ddfile(text.replace("one.txt", "two.txt"))
    assert project.run("-n").why("two.txt") == "made before"
    project.make()
    assert not (project.root / "two.txt.bak").exists()


VIEWS = {  # name: (the view, whether it reads column y, which is edited)
    "other columns": ("rows.select('x')", False),
    "the column": ("rows.select('x', 'y')", True),
    "another, renamed": ("rows.rename(x='a').select('a')", False),
    "the column, renamed": ("rows.rename(y='a').select('a')", True),
    "names exchanged": ("rows.rename(x='y', y='x').select('x')", True),
    "names exchanged, the other": ("rows.rename(x='y', y='x').select('y')", False),
    "rows first": ("rows.shuffle(1).take(2).select('x')", False),
    "exploded by another": ("rows.explode('l').select('x')", False),
    "exploded by the column": ("rows.explode('y').select('x')", True),
    "filtered by a function": ("rows.filter(lambda row: row['x']).select('x')", True),
}


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("views"))
    project.write("in.jsonl", '{"x": 1, "y": [1], "l": [1]}\n{"x": 2, "y": [2], "l": [2]}\n')
    rules = "".join(f"copy({f'v{number}'!r}, {view})\n" for number, (view, _) in enumerate(VIEWS.values()))
    project.ddfile(f"rows = jsonl('rows', 'in.jsonl')\n@step\ndef copy(rows):\n    return rows\n{rules}").make()
    project.write("in.jsonl", '{"x": 1, "y": [1], "l": [1]}\n{"x": 2, "y": [3], "l": [2]}\n')
    project.make("rows")
    return project.run("-n", "-v").verdicts()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_depends_on_the_columns_that_it_reads(viewed, name):
    assert viewed[f"v{list(VIEWS).index(name)}"] == ("make" if VIEWS[name][1] else "fresh")
