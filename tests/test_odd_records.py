"""Records that somebody else has written: whatever they hold, what reads them says a sentence, and never a traceback."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from conftest import Project

from ddmake.store.traces import _checksum

DDFILE = '''
    rows = jsonl("data/rows", "rows.jsonl")
    said = transform("data/said", rows.take(2), llm=llm("echo", temperature=0.5), column="y", prompt="Say {{ x }}.", parse=lambda text, row: text)
'''
COMMANDS = (("cards", "data/said"), ("cards", "--json", "data/said"), ("report", "--no-verdicts"), ("show", "data/said"), ("log", "data/said"),
            ("why", "data/said"), ("list",), ("cost",), ("verify", "--no-verdicts"), ("-n",), ("diff", "../made"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workflow, made once; tests work on copies."""
    project = Project(tmp_path_factory.mktemp("odd") / "made")
    project.root.mkdir()
    project.ddfile(DDFILE).write("rows.jsonl", '{"x": "a"}\n{"x": "b"}\n')
    project.make()
    return project


@pytest.fixture
def spoilt(made):
    """Give a copy, and what puts something else into its record of data/said, its checksum made anew."""
    project = Project(shutil.copytree(made.root, made.root.parent / "spoilt"))

    def spoil(part, value):
        with closing(sqlite3.connect(project.root / ".ddmake/traces.db")) as db:
            number, *told, record = db.execute("SELECT id, key, base, epoch, fingerprint, made, outputs, record FROM traces JOIN records "
                                               "ON trace = id ORDER BY id DESC").fetchone()
            outputs, record = json.loads(told[-1]), json.loads(record)
            within = {"record": record, "outputs": outputs}
            *path, last = part
            for name in path:
                within = within[name]
            within[last] = value
            told[-1], text = json.dumps(outputs), json.dumps(record)
            db.execute("UPDATE records SET record = ?, checksum = ? WHERE trace = ?", (text, _checksum(number, text), number))
            db.execute("UPDATE traces SET outputs = ?, checksum = ? WHERE id = ?", (told[-1], _checksum(*told), number))
            db.commit()
        return project

    yield spoil
    shutil.rmtree(project.root)


DEEP = json.loads("[" * 300 + "]" * 300)
SPOILT = [
    ("record", "recipe"), ("record", "recipe", "doc"), ("record", "usage"), ("record", "usage", "echo", "cut"), ("record", "usage", "echo", "example"),
    ("record", "inputs"), ("record", "inputs", 0, "digest"), ("record", "models"), ("record", "seconds"), ("record", "environment", "python"),
    ("record", "hardware"), ("record", "packages"), ("record", "ingredients"), ("record", "ingredients", "arguments"),
    ("record", "ingredients", "arguments", "llm"), ("record", "ingredients", "arguments", "llm", "llm"), ("record", "ingredients", "code"),
    ("record", "ingredients", "arguments", "prompt", "template"), ("record", "ingredients", "inputs", "rows", "view"), ("outputs", ""),
    ("outputs", "", "digest"), ("outputs", "", "manifest"), ("outputs", "", "digest", "columns"),
]


@pytest.mark.parametrize("part", SPOILT, ids=lambda part: ".".join(map(str, part)))
def test_whatever_a_record_holds_a_sentence_is_said(spoilt, part):
    """Commands may do without the part, or fail; an exception would end this test."""
    for number, value in enumerate((3, "x", {"a": 1}, [None], DEEP, "half \ud83d")):
        project = spoilt(part, value)
        for command in COMMANDS[number % 2::2]:
            result = project.run(*command)
            assert "Traceback" not in result.output and (result.code == 0 or result.output.strip())


def test_what_has_another_form_is_named(spoilt):
    project = spoilt(("record", "usage", "echo", "cut"), "many")
    result = project.run("cards", "data/said")
    assert result.code == 1 and "the record of data/said tells of it.usage.echo.cut in a form that ddmake doesn't know" in result.output
    assert "tells of it.usage.echo.cut" in project.make("report", "--no-verdicts").output + (project.root / "report.html").read_text()


def test_a_record_is_read_where_numbers_are_none(spoilt):
    """JSON has no nan, and no infinity."""
    project = spoilt(("record", "seconds"), float("nan"))
    assert project.run("cards", "data/said").code == 1
