"""The commands that tidy, clean and gc, and what a run drops by itself. Nothing goes that anybody needs, or has edited."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import Project
from filelock import FileLock

DDFILE = '''
    cfg = config(text="one", keep=None)

    @step("a", text=cfg.text)
    def a(*, text):
        return [{"x": text}]

    @step("b", a)
    def b(rows):
        return [{"x": row["x"] + "!"} for row in rows]
'''
MOVED = DDFILE.replace('"b", a', '"c/d", a')


def kept(project):
    """Return how many files the store keeps."""
    return len(list((project.root / ".ddmake/objects").glob("*/*")))


def age(project, days):
    """Make all results that are recorded older."""
    import sqlite3

    db = sqlite3.connect(project.root / ".ddmake/traces.db")
    db.execute("UPDATE placed_before SET at = datetime(at, ?) || '+00:00'", (f"-{days} days",))
    db.commit()
    db.close()
    for file in (project.root / ".ddmake/objects").glob("*/*"):
        os.utime(file, (time.time() - days * 86400,) * 2)


# clean


def test_an_output_that_no_rule_makes_any_more_is_listed_and_removed_when_agreed(project):
    project.ddfile(DDFILE).make()
    project.ddfile(MOVED)
    assert re.search(r"^restore +c/d", project.make("-n").output, re.MULTILINE)  # row 21: the path changed, nothing else
    project.make()
    result = project.run("clean")
    assert result.code == 1 and re.search(r"may go:\n  b  made \d{4}-\d\d-\d\d; no rule makes it any more\n", result.output)
    assert "Say --yes." in result.output and (project.root / "b").is_dir()
    assert project.run("clean", "--dry-run").code == 0 and (project.root / "b").is_dir()
    assert project.make("clean", "--yes").output.endswith("Removed 1.\n") and not (project.root / "b").exists()
    assert project.make("clean").output == "There is nothing to remove.\n"
    assert (project.root / "a").is_dir() and (project.root / "c/d").is_dir()


def test_empty_folders_go_with_what_was_in_them(project):
    project.ddfile(MOVED).make()
    project.ddfile(DDFILE).make("clean", "--yes")
    assert not (project.root / "c").exists() and (project.root / "a").exists()


def test_a_path_that_lost_its_folder_leaves_the_old_one_behind(project):
    project.ddfile(DDFILE.replace('"b", a', '"old/b", a')).make()
    project.ddfile(DDFILE).make()
    assert "  old/b  made" in project.make("clean", "--yes").output and not (project.root / "old").exists()


def test_what_was_edited_stays_and_is_told(project):
    project.ddfile(DDFILE).make()
    (project.root / "b" / "note.txt").write_text("mine")
    output = project.ddfile(MOVED).make("clean", "--yes").output
    assert re.search(r"stays:\n  b  made .*but it was edited since\n", output) and (project.root / "b/note.txt").exists()


def test_what_ddmake_did_not_put_there_is_never_listed(project):
    project.write("mine/x.txt", "x")
    project.write("in.txt", "x")
    project.write("b.bak", "x")
    project.ddfile(DDFILE).make()
    assert project.make("clean", "--yes").output == "There is nothing to remove.\n"
    assert (project.root / "mine/x.txt").exists() and (project.root / "in.txt").exists()


def test_outputs_of_another_ddfile_of_into_and_of_patterns_stay(project):
    project.ddfile(DDFILE).make()
    (project.root / "Other").write_text((project.root / "Ddfile").read_text().replace('"a"', '"oa"').replace('"b"', '"ob"'))
    project.make("-f", "Other")
    project.make("--into", "trial/")
    project.ddfile(DDFILE + '''
    @step("{lang}/rows")
    def rows(*, lang):
        return [{"x": lang}]
    ''').make("fr/rows")
    assert project.make("clean").output == "There is nothing to remove.\n"
    (project.root / "Other").unlink()
    assert "oa" in project.make("clean", "--yes").output and not (project.root / "oa").exists()


def test_outputs_of_the_knobs_that_were_used_last_stay(project):
    project.ddfile(DDFILE.replace('@step("a"', '@step(f"a-{cfg.text}"'))
    project.make("text=two"), project.make("text=three")
    assert project.make("clean", "--yes").output.startswith("may go:\n  a-two  made ")
    assert (project.root / "a-three").exists() and not (project.root / "a-two").exists()


def test_bak_files_go_only_when_asked_for(project):
    project.write("b", "somebody's")
    project.ddfile(DDFILE).make()
    assert (project.root / "b.bak").exists()
    assert project.make("clean").output == "There is nothing to remove.\n"
    assert "b.bak  put aside by ddmake" in project.make("clean", "--bak", "--yes").output
    assert not (project.root / "b.bak").exists()


def test_leftovers_of_killed_runs_go_and_those_of_living_ones_stay(project):
    project.ddfile(DDFILE).make()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True).stdout.strip()
    project.write(".ddmake/runs/dead/head", ended)
    project.write(".ddmake/runs/alive/head", str(os.getpid()))
    project.write(".ddmake/trash/old/x", "x")
    project.write(".ddmake/scratch/0123/output/x", "x")
    output = project.make("clean", "--yes").output
    left = sorted(str(p.relative_to(project.root / ".ddmake")) for room in ("runs", "trash", "scratch")
                  for p in (project.root / ".ddmake" / room).glob("*"))
    assert left == ["runs/alive"] and ".ddmake/runs/alive  a run is under way" in output


CHECKPOINTS = '''
    from pathlib import Path
    cfg = config(stop=True, rate=1)

    @train("m", rate=cfg.rate, stop=1)
    def m(*, rate, stop, output, checkpoints):
        (checkpoints / "one").write_text("1")
        if not Path("go").exists():
            raise ValueError("stopped")
        output.mkdir()
        (output / "x").write_text("x")
'''


def test_checkpoints_that_a_run_goes_on_from_stay(project):
    project.ddfile(CHECKPOINTS)
    assert project.run().code == 1
    assert "checkpoints that a run goes on from" in project.make("clean", "--yes").output
    assert list((project.root / ".ddmake/scratch").glob("*/checkpoints/one"))
    project.make("clean", "--yes", "rate=2")  # today's recipe is another
    assert not list((project.root / ".ddmake/scratch").glob("*"))


# gc


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three results of each rule, `three` the present one; each is of a size of its own. Tests work on copies."""
    project = Project(tmp_path_factory.mktemp("thrice")).ddfile(DDFILE)
    for text in ("one" * 1000, "two" * 2000, "three" * 3000):
        project.make(f"text={text}")
    return project


@pytest.fixture
def thrice(made, tmp_path):
    return Project(shutil.copytree(made.root, tmp_path / "thrice"))


def restorable(project, text):
    return project.make("-n", f"text={text}").verdicts()["a"] == "restore"


def test_gc_drops_earlier_results_by_age_and_never_what_targets_need(thrice):
    age(thrice, 40)
    before = kept(thrice)
    assert "To be freed" in thrice.make("gc", "--older-than", "30d", "--dry-run").output and kept(thrice) == before
    assert thrice.run("gc", "--older-than", "30d").code == 1 and kept(thrice) == before
    assert re.search(r"Freed [\d.]+ kB;", thrice.make("gc", "--older-than", "30d", "--yes").output)
    assert not restorable(thrice, "one" * 1000) and not restorable(thrice, "two" * 2000)
    (thrice.root / "a").rename(thrice.root / "gone")
    assert restorable(thrice, "three" * 3000)
    assert "3 " in thrice.make("log", "a").output.splitlines()[1]  # records stay


def test_gc_drops_nothing_that_is_young_enough(thrice):
    before = kept(thrice)
    thrice.make("gc", "--older-than", "1d", "--yes")
    assert kept(thrice) == before


def test_gc_drops_the_oldest_until_the_rest_fits(thrice):
    sizes = sum(f.stat().st_size for f in (thrice.root / ".ddmake/objects").glob("*/*"))
    thrice.make("gc", "--max-size", f"{(sizes - 1000) / 1000:.3f}KB", "--yes")
    assert not restorable(thrice, "one" * 1000) and restorable(thrice, "two" * 2000)


def test_files_that_a_later_result_shares_stay(project):
    project.ddfile('''
        cfg = config(n=1)
        @step({"same": "same.txt", "other": "other.txt"}, n=cfg.n)
        def a(*, n, output):
            output["same"].write_text("same")
            output["other"].write_text(str(n))
    ''')
    project.make("n=1"), project.make("n=2"), project.make("n=1"), project.make("n=3")
    age(project, 40)
    project.make("gc", "--older-than", "30d", "--yes")
    (project.root / "same.txt").unlink()
    (project.root / "other.txt").unlink()
    assert "restored" in project.make("n=3").output and (project.root / "same.txt").read_text() == "same"


def test_half_copied_files_go_once_they_are_old(thrice):
    old, young = thrice.write(f".ddmake/objects/aa/{'b' * 62}.{'c' * 32}", "x"), thrice.write(f".ddmake/objects/aa/{'d' * 62}", "x")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert "of no result: 1 file" in thrice.make("gc", "--yes").output
    assert not old.exists() and young.exists()


@pytest.mark.slow
def test_nothing_goes_while_a_job_is_under_way(thrice):
    thrice.write(".ddmake/trash/old/x", "x")
    thrice.ddfile(DDFILE.replace("text=cfg.text)", "text=cfg.text, keep=0)"))
    with FileLock(thrice.root / ".ddmake/locks/some.lock"):
        result = thrice.run("gc", "--max-size", "1KB", "--yes")
        assert "stays:\n  .ddmake/trash/old  a job is under way\n" in thrice.make("clean", "--yes").output
        thrice.make("text=four")
    assert (result.code, result.output) == (1, "A job is under way here, and may count on what is kept. "
                                               "Run ddmake gc when it is done.\n")
    assert restorable(thrice, "one" * 1000)
    assert "keep: 4 earlier results dropped from the store" in thrice.make("text=five").output
    assert not restorable(thrice, "one" * 1000) and "Removed 1." in thrice.make("clean", "--yes").output


@pytest.mark.parametrize("option, told", [
    (("--max-size", "50 gigs"), '--max-size is \'50 gigs\'. Write it like "500MB", "50GB" or "1.5TB".\n'),
    (("--older-than", "soon"), "--older-than is 'soon'. Write it like 12h or 30d.\n"),
    (("a",), "ddmake gc takes no targets, but knobs: 'a' is neither.\n"),
])
def test_gc_tells_what_it_cannot_read(project, option, told):
    result = project.ddfile(DDFILE).run("gc", *option)
    assert (result.code, result.output) == (2, told)


# what a run drops by itself


@pytest.mark.parametrize("keep, verdicts", [("0", ["make", "make", "fresh"]), ("1", ["make", "restore", "fresh"]),
                                            ("2", ["restore", "restore", "fresh"])])
def test_a_rule_keeps_as_many_old_results_as_it_says(project, keep, verdicts):
    project.ddfile(DDFILE.replace("text=cfg.text)", f"text=cfg.text, keep={keep})"))
    for text in ("one", "two", "three"):
        project.make(f"text={text}", "a")
    assert [project.make("-n", "-v", f"text={text}", "a").verdicts()["a"] for text in ("one", "two", "three")] == verdicts


def test_rules_that_say_nothing_keep_all_though_they_share_results_with_one_that_does(project):
    text = DDFILE.replace("text=cfg.text)", "text=cfg.text, keep=0)")
    project.ddfile(text + '    @step("other", text=cfg.text)\n    def other(*, text):\n        return [{"x": text}]\n')
    for word in ("one", "two", "one"):
        output = project.make(f"text={word}").output
    assert project.make("-n", "text=two").verdicts()["other"] == "restore"
    assert "keep:" not in output


@pytest.mark.slow
def test_the_store_shrinks_to_its_size_after_a_run(project):
    project.write("pyproject.toml", '[tool.ddmake.store]\nmax_size = "40KB"\n')
    project.ddfile(DDFILE)
    project.make(f"text={'one' * 3000}")
    assert "max_size" not in project.make(f"text={'two' * 2000}").output
    assert re.search(r"max_size 40\.0 kB: \d+\.\d kB of earlier results dropped", project.make(f"text={'six' * 4000}").output)
    assert not restorable(project, "one" * 3000) and restorable(project, "two" * 2000)


@pytest.mark.parametrize("text, told", [
    ('[tool.ddmake.store]\nmax_size = "50"\n', 'pyproject.toml: max_size is \'50\'. Write it like "500MB", "50GB" or "1.5TB".\n'),
    ('[tool.ddmake.store]\nmaxsize = "50GB"\n', "pyproject.toml: [tool.ddmake.store] has no 'maxsize'. Did you mean 'max_size'?\n"),
    ("[tool.ddmake.store\n", "pyproject.toml can't be read: "),
])
def test_mistakes_in_pyproject_are_told_before_anything_runs(project, text, told):
    project.write("pyproject.toml", text)
    result = project.ddfile(DDFILE).run()
    assert result.code == 2 and result.output.startswith(told) and not (project.root / "a").exists()


@pytest.mark.slow
def test_a_run_warns_when_the_disk_is_nearly_full(project, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * 10**9, 98_800_000_000, 1_200_000_000))
    output = project.ddfile(DDFILE).make().output
    assert output.startswith(f"only 1.2 GB are free on the disk of {project.root}; make room before it is full.\n")
    assert re.search(r"; ddmake gc frees up to [\d.]+ k?B\.$", project.make("text=two").output.splitlines()[0]) is None
    assert re.search(r"; ddmake gc frees up to [\d.]+ k?B\.$", project.make("text=three").output.splitlines()[0])
