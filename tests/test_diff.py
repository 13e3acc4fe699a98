"""`diff`: recipes and data are told apart, by target, ingredient and line; nothing of either side is run."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from conftest import Project

DDFILE = '''
    cfg = config(n=2)
    rows = jsonl("data/rows", "rows.jsonl")
    said = transform("data/said", rows, llm=llm("echo"), column="y", prompt=template("say.j2"))

    @step("data/long", said.take(cfg.n))
    def long(rows):
        """Make it long."""
        return [{"z": len(row["y"])} for row in rows]

    @step("drawn", rows)
    def drawn(rows):
        import os
        return [{"z": os.environ.get("DRAWN", "one")} for row in rows]
'''


@pytest.fixture
def sides(tmp_path):
    """Give two folders with the same workflow, both made."""
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name).ddfile(DDFILE)
        project.write("rows.jsonl", '{"x": "a"}\n{"x": "b"}\n')
        project.write("templates/say.j2", "Please say\n{{ x }}\nnow.")
        found.append(project)
    here, there = found
    here.make()
    shutil.copytree(here.root, there.root, dirs_exist_ok=True)
    there.make()
    return here, there


def told(here, *words):
    """Return what `diff` says of each target that differs: the word and the rest of its line."""
    result = here.run("diff", "../there", *words)
    lines = [line.split("  ", 1) for line in result.output.splitlines() if not line.startswith((" ", "- ../there"))]
    assert result.code == 1, result.output
    return {rest.split()[0]: (word, " ".join(rest.split()[1:])) for word, rest in (line for line in lines if len(line) == 2)}


def test_equal_ones_say_so(sides):
    here, _ = sides
    result = here.run("diff", "../there")
    assert result.code == 0 and "The same as ../there: 4 targets with equal fingerprints and equal data." in result.output


def test_what_was_edited_by_hand_is_told_as_that(sides):
    here, there = sides
    for project, text in ((there, "there"), (here, "here")):
        next((project.root / "drawn").glob("*.arrow")).unlink()
        (project.root / "drawn").rename(project.root / f"old {text}")
        project.write("drawn/note.txt", text)
        project.make("--adopt")
        assert told(here)["drawn"] == ("edited", f"by hand {'there' if text == 'there' else 'on both sides'}, and adopted")


CHANGES = {  # what is changed there -> what is told of each target
    "template": (("templates/say.j2", "now.", "soon."), {
        "data/said": ("recipe", "template say.j2"), "data/long": ("behind", "data/said")}),
    "code": (("Ddfile", 'len(row["y"])}', 'len(row["y"]) + 0}'), {"data/long": ("recipe", "code of recipe; the same result")}),
    "knob": (("Ddfile", "n=2", "n=1"), {"data/long": ("recipe", "view of rows")}),
    "llm": (("Ddfile", 'llm("echo")', 'llm("echo", temperature=0)'), {
        "data/said": ("recipe", "llm: temperature; the same result")}),
    "source": (("rows.jsonl", '"b"', '"c"'), {
        "data/rows": ("source", "rows.jsonl has other contents"), "data/said": ("behind", "data/rows"),
        "data/long": ("behind", "data/said; the same result"), "drawn": ("behind", "data/rows; the same result")}),
    "rule": (("Ddfile", '"drawn"', '"picked"'), {"drawn": ("only", "here"), "picked": ("only", "there")}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_differs_is_told_by_target_and_ingredient(sides, case):
    here, there = sides
    (file, old, new), expected = CHANGES[case]
    text = (there.root / file).read_text()
    assert old in text
    (there.root / file).write_text(text.replace(old, new))
    there.make()
    if case == "rule":
        there.make("clean", "--yes")
        assert {"only here": "drawn", "only there": "picked"} == {
            one["word"]: one["path"] for one in json.loads(here.run("diff", "../there", "--json").output)["targets"]
            if one["word"] != "same"}
    else:
        assert told(here) == expected


def test_a_template_is_shown_down_to_its_line(sides):
    here, there = sides
    there.write("templates/say.j2", "Please say\n{{ x }}\nsoon.")
    there.make()
    output = here.run("diff", "../there").output
    assert "- ../there  + here\n" in output and "\n    -soon.\n    +now.\n" in output and "\n     Please say\n" in output
    assert "2 of 4 targets are the same." in output


def test_the_same_recipe_with_other_data_is_told_as_that(sides, monkeypatch):
    here, there = sides
    monkeypatch.setenv("DRAWN", "two")
    there.make("--force", "drawn")
    assert told(here) == {"drawn": ("data", "same recipe")}
    output = here.run("diff", "../there").output
    assert "drawn: column z has other values" in output
    assert "3 of 4 targets are the same; 1 more has an equal fingerprint and other data." in output


def test_a_bundle_is_compared_as_its_folder_is(sides):
    here, there = sides
    there.write("templates/say.j2", "Please say\n{{ x }}\nsoon.")
    there.make()
    there.make("pack", "-o", "../there.tar")
    folder, bundle = here.run("diff", "../there"), here.run("diff", "../there.tar")
    assert bundle.output == folder.output.replace("../there", "../there.tar") and bundle.code == 1
    assert there.run("diff", "../there.tar").code == 0
    data = bytearray((here.root.parent / "there.tar").read_bytes())
    data[data.index(b'"fingerprint": "') + 20] ^= 1
    (here.root.parent / "there.tar").write_bytes(data)
    result = here.run("diff", "../there.tar")
    assert result.code == 1 and "records/traces.jsonl has the sha256" in result.output


def test_targets_may_be_named(sides):
    here, there = sides
    there.write("rows.jsonl", '{"x": "c"}\n')
    there.make()
    assert set(told(here, "data")) == {"data/rows", "data/said", "data/long"} and set(told(here, "./drawn")) == {"drawn"}
    result = here.run("diff", "../there", "data/row")
    assert result.code == 2 and "Neither side has a result at 'data/row'. Did you mean 'data/rows'?" in result.output


def test_nothing_of_either_side_is_run_or_written(sides):
    here, there = sides
    for side in sides:
        side.ddfile("from pathlib import Path\nPath('ran').touch()\n")
    before = {file: file.stat().st_mtime_ns for file in there.root.glob("**/*")}
    here.run("diff", "../there")
    assert not any((side.root / "ran").exists() for side in sides)
    after = {file: file.stat().st_mtime_ns for file in there.root.glob("**/*") if not file.name.endswith(("-wal", "-shm"))}
    assert {file for file in after if file.is_file() and after[file] != before.get(file)} == set()


WRONG = {  # what is done there -> what is said
    "no store": (lambda root: shutil.rmtree(root / ".ddmake"), "nothing was made there: it has no .ddmake"),
    "no database": (lambda root: garbled(root), "traces.db: file is not a database"),
    "newer": (lambda root: version(root, 99), "was written by a newer ddmake. Upgrade"),
    "older": (lambda root: version(root, 1), "was written by an older ddmake. Run ddmake -n there once."),
}


def garbled(root):
    for file in (root / ".ddmake").glob("traces.db-*"):
        file.unlink()
    (root / ".ddmake/traces.db").write_bytes(b"hello" * 1000)


def version(root, number):
    with closing(sqlite3.connect(root / ".ddmake/traces.db")) as db:
        db.execute(f"PRAGMA user_version={number}")


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_told(sides, case):
    here, there = sides
    spoil, said = WRONG[case]
    spoil(there.root)
    result = here.run("diff", "../there")
    assert result.code == 1 and said in result.output and "Traceback" not in result.output
    assert here.run("diff", "../nowhere").code == 2
