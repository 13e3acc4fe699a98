"""A SIGKILL at each named moment of a commit: the next run continues, and ends where an undisturbed one does."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import Project

from ddmake.store import open_store
from ddmake.store.points import POINTS

DDFILE = """
LIMIT = 4

def count(name):
    with open(f"runs-{name}.txt", "a") as file:
        file.write("x")

@step("a")
def a():
    count("a")
    yield from ({"x": i} for i in range(LIMIT))

@step({"odd": "parts/odd", "even": "parts/even.jsonl"}, a)
def parts(rows):
    count("parts")
    return {"odd": [row for row in rows if row["x"] % 2], "even": [row for row in rows if not row["x"] % 2]}

@step("sum.txt", [parts.odd, a])
def total(both, output):
    count("total")
    output.write_text(str(sum(row["x"] for rows in both for row in rows)))
"""

KILLER = '''
import os, signal
from pathlib import Path
from ddmake.store import points

def reached(point, plain=points.reached):
    plain(point)
    note = Path(os.environ["KILL_NOTE"])
    if point == os.environ["KILL_AT"] and len(note.read_text()) < int(os.environ["KILL_TIMES"]):
        with note.open("a") as file:
            file.write("x")
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

points.reached = reached
'''


def digests(project):
    store = open_store(project.root)
    found = {path: trace.outputs[name]["digest"]["sha"] for path, (trace, name) in store.traces.all_placed().items()}
    store.close()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workflow made with LIMIT 4, and the digests of it made with 4 and with 6, by nobody's disturbance."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.ddfile(DDFILE).make()
    copy = Project(shutil.copytree(project.root, tmp_path_factory.mktemp("more") / "copy"))
    copy.ddfile(DDFILE.replace("LIMIT = 4", "LIMIT = 6")).make()
    return project, digests(project), digests(copy)


def kill_at(project, point, times, tmp_path):
    """Run ddmake with a SIGKILL at a moment of the first commits, and return how often it fell."""
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    note = tmp_path / "kills"
    note.write_text("")
    for _ in range(times + 1):
        process = project.command("-j", "1", PYTHONPATH=str(tmp_path), KILL_AT=point, KILL_NOTE=str(note), KILL_TIMES=str(times))
        output = process.communicate()[0]
        if process.returncode == 0:
            break
        assert "SIGKILL" in output and "Traceback" not in output, output
    return len(note.read_text())


def settled(project, expected):
    """Assert that everything is as if nothing had happened."""
    project.make()
    project.make("clean", "--yes")
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
    assert digests(project) == expected
    assert not list(project.root.glob("**/*.bak*"))
    left = [path for folder in ("scratch", "trash") for path in (project.root / ".ddmake" / folder).glob("**/*") if path.is_file()]
    assert not left, left


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in POINTS if point != "old one moved away"])
def test_killed_while_it_is_made_first(project, undisturbed, tmp_path_factory, point):
    project.ddfile(DDFILE)
    assert kill_at(project, point, 3, tmp_path_factory.mktemp("kill")) == 3
    settled(project, undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_while_it_is_made_again(tmp_path, undisturbed, tmp_path_factory, point):
    project = Project(shutil.copytree(undisturbed[0].root, tmp_path / "copy"))
    project.ddfile(DDFILE.replace("LIMIT = 4", "LIMIT = 6"))
    assert kill_at(project, point, 3, tmp_path_factory.mktemp("kill")) == 3
    settled(project, undisturbed[2])


@pytest.mark.parametrize("point", ["new one in place", "placed"])
def test_killed_while_it_is_restored(tmp_path, undisturbed, tmp_path_factory, point):
    project = Project(shutil.copytree(undisturbed[0].root, tmp_path / "copy"))
    for path in ("a", "parts", "sum.txt"):
        stale = project.root / path
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    runs = sorted(Path(project.root).glob("runs-*.txt"))
    before = [path.read_text() for path in runs]
    assert kill_at(project, point, 3, tmp_path_factory.mktemp("kill")) == 3
    settled(project, undisturbed[1])
    assert [path.read_text() for path in runs] == before, "what is kept is put back, and no recipe runs"


def test_a_finished_job_is_not_done_again(project, tmp_path_factory):
    """Killed after its trace was committed, a job is restored: its recipe runs once."""
    project.ddfile(DDFILE)
    assert kill_at(project, "trace committed", 1, tmp_path_factory.mktemp("kill")) == 1
    project.make()
    assert (project.root / "runs-a.txt").read_text() == "x"
    assert sorted(os.listdir(project.root / "parts")) == ["even.jsonl", "odd"]
