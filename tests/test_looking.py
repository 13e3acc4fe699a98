"""What looks at results runs nothing of the Ddfile, whoever wrote it: promise 4 of the design."""

import json
import shutil

import pytest
from conftest import Project
from test_commands import complete

DDFILE = """
from ddmake import alias, config, facts, llm, step
from ddmake.rules import jsonl, transform

cfg = config(n=2)
rows = jsonl("{lang}/rows", "{lang}.jsonl")
more = transform("{lang}/more", rows, llm=llm("echo"), prompt="{{ a }}", column="b", about="In some language.")
facts("fr.jsonl", license="mit")
alias("french", "fr/more")

@step({"short": "parts/short", "long": "parts/long"}, more.bind(lang="fr"))
def parts(rows):
    print("parted")
    return {"short": rows, "long": rows}
"""
LOOKS = ("cards", "cards --json fr/more", "cards fr", "cards trial/fr/more", "cards --into trial fr/more", "show fr/more",
         "show --into trial/ fr/more", "show fr/more --failed", "log", "log fr/more", "log parts/long", "cost", "calls")
MARKS = "from pathlib import Path\nPath('ran').touch()\nprint('noise')\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a pattern and a folder of trials, and how each look at it ended and what that printed."""
    project = Project(tmp_path_factory.mktemp("looked")).ddfile(DDFILE, "")
    project.write("fr.jsonl", '{"a": 1}\n')
    project.make("parts/long")
    project.make("fr/more", "--into", "trial/")
    return project, {look: project.run(*look.split()) for look in LOOKS}


@pytest.fixture
def foreign(made, tmp_path):
    """A copy of the project, whose Ddfile would leave a file: it wasn't run there."""
    project = Project(shutil.copytree(made[0].root, tmp_path / "foreign"))
    project.ddfile(MARKS + DDFILE, "")
    return project


@pytest.mark.parametrize("text", [None, MARKS, "1 / 0\n", "def (", "\0", "import os\nos._exit(3)\n"],
                         ids=["gone", "leaves a file", "raises", "broken", "nul", "exits"])
def test_looking_at_results_runs_nothing(made, text):
    project, before = made
    (project.root / "Ddfile").unlink(missing_ok=True)
    if text is not None:
        project.ddfile(text, "")
    after = {look: project.run(*look.split()) for look in LOOKS}
    assert after == before and {result.code for result in after.values()} == {0}
    assert not (project.root / "ran").exists()


def test_traces_tell_all_that_there_is_to_tell(made):
    told = {look: result.output for look, result in made[1].items()}
    listed = {look: [line.split()[0] for line in told[look].splitlines()] for look in LOOKS if look.startswith("cards")}
    assert listed["cards"] == ["fr/more", "fr/rows", "parts/long", "parts/short", "trial/fr/more", "trial/fr/rows"]
    assert listed["cards fr"] == ["fr/more", "fr/rows"] and listed["cards --into trial fr/more"] == ["trial/fr/more"]
    card = json.loads(told["cards --json fr/more"])
    assert card["licenses"] == {"fr.jsonl": "mit", "echo": "apache-2.0"}
    assert card["data_card"]["fr/more"]["about"] == "In some language."
    assert told["show fr/more"].startswith("fr/more: 1 row;") and told["show --into trial/ fr/more"].startswith("trial/fr/more: 1 row;")
    assert told["log parts/long"].endswith("parted\n"), "a rule's logs lie at its first output"


def test_verdicts_are_told_once_the_ddfile_was_run_here(foreign):
    said = "Ddfile wasn't run here by you before, and isn't run for this: read it first, then say --verdicts."
    for command in ("report", "verify"):
        assert said in foreign.make(command).output and not (foreign.root / "ran").exists()
        assert said not in foreign.make(command, "--no-verdicts").output and not (foreign.root / "ran").exists()
        assert said not in foreign.make(command, "--verdicts").output and (foreign.root / "ran").exists()
        (foreign.root / "ran").unlink()
    foreign.run("-q")
    (foreign.root / "ran").unlink()
    for command in ("report", "verify"):
        assert said not in foreign.make(command).output and (foreign.root / "ran").exists()
        (foreign.root / "ran").unlink()
        foreign.make(command, "--no-verdicts")
        assert not (foreign.root / "ran").exists()


def test_what_is_verified_of_a_ddfile_that_isnt_run_is_what_is_recorded(foreign):
    assert "read 6 outputs, " in foreign.make("verify").output
    assert "read 2 outputs in" in foreign.make("verify", "parts").output
    shutil.rmtree(foreign.root / "fr/more")
    told = foreign.run("verify", "fr/more")
    assert told.code == 1 and "fr/more is gone. Take it back: ddmake fr/more" in told.output
    told = foreign.run("verify", "fr/mor")
    assert told.code == 2 and told.output.startswith("Nothing is made at 'fr/mor'. Did you mean 'fr/more'?")


def test_the_touch_of_a_key_runs_no_strangers_ddfile(foreign):
    assert complete(foreign, "ddmake why pa") == ["parts/long", "parts/short"] and not (foreign.root / "ran").exists()
    foreign.run("-q")
    (foreign.root / "ran").unlink()
    assert "french" in complete(foreign, "ddmake why fr") and (foreign.root / "ran").exists()


def test_what_is_unpacked_is_a_strangers_also_in_a_project_of_ones_own(made, tmp_path):
    project = Project(tmp_path / "mine")
    project.root.mkdir()
    project.ddfile(DDFILE, "").write("fr.jsonl", '{"a": 1}\n')
    project.make("parts/long")
    project.make("pack", "-o", "../all.tar")
    there = Project(tmp_path / "there")
    there.root.mkdir()
    told = there.make("unpack", "../all.tar").output
    assert "cards, show, report, verify, log, cost, calls and diff run nothing of it" in told
    assert json.loads(there.make("cards", "--json", "fr/more").output)["licenses"] == {"fr.jsonl": "mit", "echo": "apache-2.0"}
    assert "wasn't run here by you" in there.make("verify").output
    there.make("-n")
    assert "wasn't run here by you" not in there.make("verify").output
    there.make("unpack", "../all.tar")
    assert "wasn't run here by you" in there.make("verify").output


def test_a_module_in_the_folder_is_not_taken_for_one_of_pythons(foreign):
    for name in ("yaml", "pyarrow", "jinja2", "sqlite3", "numpy"):
        foreign.write(f"{name}.py", MARKS)
    for words in (["cards"], ["report"], ["verify"], ["show", "fr/more"]):
        process = foreign.command(*words)
        assert process.wait() == 0, process.stdout.read()
    assert not (foreign.root / "ran").exists()
