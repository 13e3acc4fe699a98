"""What is stale, and why: each row is a workflow that is up to date, an edit, and the verdicts that follow.

The workflow is A -> B -> C, A reading in.jsonl; it is told by the command line, and by nothing else.
"""

import os
import shutil

import pytest
from conftest import Project

DDFILE = '''\
import helper
LIMIT = 3
UNREAD = 1


def clean(text):
    return text.strip().lower()


@step("a", "in.jsonl", marks=["!"])
def a(file, *, marks):
    """Read the rows."""
    import json
    for entry in file.read_text().splitlines():
        row = json.loads(entry)
        yield {"x": clean(row["x"])[:LIMIT] + marks[0], "n": row["n"]}


@step("b", a)
def b(rows):
    for row in rows:
        yield {"x": helper.shout(row["x"])}


@step("c", b)
def c(rows):
    for row in rows:
        yield {"x": row["x"] + "?"}
'''
HELPER = "from deeper import up\n\n\ndef shout(text):\n    return up(text)\n\n\ndef unread():\n    return 1\n"
DEEPER = "def up(text):\n    return text.upper()\n"
FRESH = {"a": "fresh", "b": "fresh", "c": "fresh"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workflow, made once; tests work on copies, which are as fresh as what they were copied from."""
    project = Project(tmp_path_factory.mktemp("abc"))
    project.ddfile(DDFILE)
    project.write("helper.py", HELPER)
    project.write("deeper.py", DEEPER)
    project.write("in.jsonl", '{"x": " One", "n": 1}\n{"x": "Two ", "n": 2}\n')
    project.make()
    return project


@pytest.fixture
def abc(made, tmp_path):
    return Project(shutil.copytree(made.root, tmp_path / "abc"))


def edit(project, path, old, new):
    text = (project.root / path).read_text()
    assert old in text
    (project.root / path).write_text(text.replace(old, new))


ROWS = {  # name: (file, old, new, verdicts unlike fresh, part of the first one's reason)
    "comment": ("Ddfile", "LIMIT = 3", "LIMIT = 3  # characters", {}, ""),
    "white space and quotes": ("Ddfile", 'row["x"] + "?"', "row['x']  +  '?'", {}, ""),
    "docstring": ("Ddfile", '"""Read the rows."""', '"""Read all the rows."""', {}, ""),
    "type hint": ("Ddfile", "def clean(text):", "def clean(text: str) -> str:", {}, ""),
    "local variable renamed": ("Ddfile", "entry", "one", {}, ""),
    "constant that nothing reads": ("Ddfile", "UNREAD = 1", "UNREAD = 2", {}, ""),
    "function that nothing calls": ("helper.py", "return 1", "return 2", {}, ""),
    "helper in the Ddfile": ("Ddfile", ".lower()", ".upper()", {"a": "make", "b": "maybe", "c": "maybe"}, "code of clean changed"),
    "constant that the recipe reads": ("Ddfile", "LIMIT = 3", "LIMIT = 2", {"a": "make", "b": "maybe", "c": "maybe"}, "LIMIT 3 -> 2"),
    "argument": ("Ddfile", '["!"]', '["."]', {"a": "make", "b": "maybe", "c": "maybe"}, "marks[0] ! -> ."),
    "helper in another file": ("helper.py", "up(text)", "up(text) * 2", {"b": "make", "c": "maybe"}, "code of helper.shout changed"),
    "helper two levels deep": ("deeper.py", ".upper()", ".title()", {"b": "make", "c": "maybe"}, "code of deeper.up changed"),
    "recipe": ("Ddfile", '+ "?"', '+ "??"', {"c": "make"}, "code of recipe changed"),
    "source": ("in.jsonl", "One", "Uno", {"a": "make", "b": "maybe", "c": "maybe"}, "input file changed"),
    "rule renamed": ("Ddfile", "def c(rows)", "def third(rows)", {}, ""),
    "another rule": ("Ddfile", '@step("b", a)', '@step("d", a)\ndef d(rows):\n    yield {}\n\n\n@step("b", a)', {"d": "make"}, "never made"),
}


@pytest.mark.parametrize("name", ROWS)
def test_edit(abc, name):
    path, old, new, stale, reason = ROWS[name]
    edit(abc, path, old, new)
    result = abc.run("-n", "-v")
    assert result.verdicts() == {**FRESH, **stale}
    if reason:
        assert reason in result.why(next(iter(stale)))


def test_nothing_to_do_says_so(abc):
    assert abc.make().output == "3 fresh (-v). Nothing to do.\n"


def test_a_touched_source_is_fresh(abc):
    os.utime(abc.root / "in.jsonl")
    assert abc.run("-n", "-v").verdicts() == FRESH


def test_an_edit_under_the_old_time_stamp_and_size_is_seen(abc):
    file = abc.root / "in.jsonl"
    before = file.stat()
    edit(abc, "in.jsonl", "One", "Uno")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert abc.run("-n").verdicts()["a"] == "make"


def test_early_cutoff(abc):
    """A runs again and yields the same rows: what is behind it stays fresh."""
    edit(abc, "Ddfile", "text.strip().lower()", "text.lower().strip()")
    result = abc.make()
    assert "made 1, fresh 2" in result.output


def test_a_view_that_selects_other_columns_does_not_see_an_edit(abc):
    edit(abc, "Ddfile", '@step("b", a)', '@step("b", a.select("x"))')
    abc.make()
    edit(abc, "in.jsonl", '"n": 2', '"n": 7')
    assert "made 1, fresh 2" in abc.make().output


def test_a_deleted_output_is_restored_and_nothing_runs(abc):
    before = abc.rows("b")
    shutil.rmtree(abc.root / "b")
    assert abc.run("-n", "-v").verdicts() == {**FRESH, "b": "restore"}
    assert "made 0, restored 1, fresh 2" in abc.make().output
    assert abc.rows("b") == before
    assert abc.run("-n", "-v").verdicts() == FRESH


def test_an_edit_that_is_taken_back_is_restored(abc):
    edit(abc, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    abc.make()
    edit(abc, "Ddfile", "LIMIT = 2", "LIMIT = 3")
    result = abc.make()
    assert "made 0, restored 3" in result.output
    assert abc.rows("c") == [{"x": "ONE!?"}, {"x": "TWO!?"}]


def test_an_output_that_moved_is_restored_at_its_new_path(abc):
    edit(abc, "Ddfile", '@step("c", b)', '@step("later/c", b)')
    assert abc.run("-n").verdicts() == {"later/c": "restore"}


def test_output_and_object_gone(abc):
    """What can't be restored is made again, and alone, since the rows come out the same."""
    shutil.rmtree(abc.root / "b")
    shutil.rmtree(abc.root / ".ddmake" / "objects")
    assert abc.run("-n").why("b") == "deleted, and gone from the store"
    assert "made 1, fresh 2" in abc.make().output


def test_an_edited_output_is_told_and_nothing_is_built_on_it(abc):
    file = abc.root / "b" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes() + b"\0")
    edit(abc, "Ddfile", '"?"', '"??"')
    result = abc.run()
    assert result.code == 1
    assert "b/data-00000-of-00001.arrow isn't what was made" in result.output
    assert abc.run("-n", "-v").verdicts() == {"a": "fresh", "b": "edited", "c": "waiting"}


def test_a_moved_project_is_fresh(abc, tmp_path):
    abc.root.rename(tmp_path / "moved")
    assert Project(tmp_path / "moved").run("-n", "-v").verdicts() == FRESH


def test_a_missing_source_holds_up_only_what_is_behind_it(abc):
    edit(abc, "Ddfile", '@step("c", b)', '@step("c", [b, "labels.csv"])')
    edit(abc, "Ddfile", "LIMIT = 3", "LIMIT = 2")
    result = abc.run()
    assert result.code == 0
    assert "for labels.csv" in result.output
    assert abc.rows("b") == [{"x": "ON!"}, {"x": "TW!"}]


def test_declared_environment_and_packages_count(project, monkeypatch):
    project.ddfile("@step('a', env=['MOOD'])\ndef a():\n    import os\n    yield {'mood': os.environ['MOOD']}\n")
    monkeypatch.setenv("MOOD", "calm")
    project.make()
    monkeypatch.setenv("MOOD", "wild")
    assert project.run("-n").why("a") == "environment variable MOOD calm -> wild"
    project.make()
    assert project.rows("a") == [{"mood": "wild"}]


def test_the_dry_run_names_knobs_that_differ_from_the_last_runs(project):
    project.ddfile("cfg = config(n=1, tag='x')\n@step('a', n=cfg.n)\ndef a(*, n):\n    yield from ({'i': i} for i in range(n))\n")
    project.make("n=3")
    result = project.run("-n")
    assert result.output.splitlines()[0] == "knobs: n=1 tag=x        last run had n=3 (--last)"
    assert result.why("a") == "n 3 -> 1"


def test_a_rule_of_a_helper_that_reads_a_knob(project):
    """Of the knobs only the one that is read counts."""
    project.ddfile("cfg = config(n=1, other=1)\n@step('a')\ndef a():\n    yield {'n': cfg.n}\n")
    project.make("n=2")
    assert project.run("-n", "-v", "n=2", "other=5").verdicts() == {"a": "fresh"}
    assert project.run("-n", "n=3").why("a") == "cfg.n 2 -> 3"


def test_the_ddfile_edited_while_a_job_runs_commits_nothing(project):
    project.ddfile(
        "from pathlib import Path\nLIMIT = 1\n@step('a')\ndef a():\n"
        "    Path('Ddfile').write_text(Path('Ddfile').read_text().replace('LIMIT = 1', 'LIMIT = 2'))\n    yield {'x': LIMIT}\n")
    result = project.run()
    assert result.code == 3
    assert "changed while it was made; nothing was committed" in result.output
    assert not (project.root / "a").exists()


def test_a_damaged_object_is_never_restored(abc):
    """What is kept isn't what it was: the target is made again, and nothing is built on the damage."""
    before = abc.rows("b")
    for file in (abc.root / ".ddmake" / "objects").glob("*/*"):
        file.write_bytes(file.read_bytes()[:-1])
    shutil.rmtree(abc.root / "b")
    result = abc.make()
    assert "made 1, fresh 2" in result.output
    assert abc.rows("b") == before
    shutil.rmtree(abc.root / "b")
    assert "restored 1" in abc.make().output, "the good object has taken the damaged one's place"


def test_what_lies_there_and_is_not_ours_is_put_aside(abc):
    abc.write("d", "mine")
    edit(abc, "Ddfile", '@step("c", b)', '@step("d", b)')
    assert abc.run("-n").why("d") == "made before; what lies at d isn't ddmake's and will be put aside as d.bak"
    abc.make()
    assert (abc.root / "d.bak").read_text() == "mine" and abc.rows("d") == abc.rows("c")


def test_the_same_rule_at_several_paths_runs_once(project):
    project.ddfile("""
        import time
        @step
        def draw():
            with open("runs.txt", "a") as file:
                file.write("x")
            time.sleep(0.5)
            yield {"x": 1}

        for i in range(3):
            draw(f"s{i}.jsonl")
    """)
    result = project.make("-j", "3")
    assert (project.root / "runs.txt").read_text() == "x"
    assert all(f"s{i}.jsonl" in result.output.split("made 1")[1] for i in range(3))
    assert project.lines("s2.jsonl") == [{"x": 1}]


def test_a_source_inside_of_a_target_is_refused(abc):
    edit(abc, "Ddfile", '@step("c", b)', '@step("c", "b/state.json")')
    assert "b/state.json lies inside b, which a rule makes. Give b as the input." in abc.run("-n").output


def test_a_folder_with_a_config_and_no_weights_is_files(project):
    project.ddfile("""
        N = 1
        @step("res")
        def res(output):
            (output / "config.json").write_text("{}")
            (output / "metrics.json").write_text(str(N))

        @step("c.jsonl", res)
        def c(folder):
            yield {"n": (folder / "metrics.json").read_text()}
    """).make()
    (project.root / "Ddfile").write_text((project.root / "Ddfile").read_text().replace("N = 1", "N = 2"))
    assert "made 2" in project.make().output
    assert project.lines("c.jsonl") == [{"n": "2"}]


def test_an_edit_that_breaks_the_ddfile_while_a_job_runs(project):
    project.ddfile("from pathlib import Path\n@step('a')\ndef a():\n    Path('Ddfile').write_text('def (')\n    yield {'x': 1}\n")
    result = project.run()
    assert result.code == 3 and "changed while it was made" in result.output


def test_a_kill_between_the_swap_and_its_record_is_no_edit(abc):
    """What lies there is the new result, and the store still says the old one: it is put right, not refused."""
    from ddmake.store import open_store

    old = open_store(abc.root).traces.at("c")[0]
    edit(abc, "Ddfile", '"?"', '"??"')
    abc.make()
    new = open_store(abc.root).traces.at("c")[0]
    traces = open_store(abc.root).traces
    traces.place(old, {"": "c"})
    traces.intend(new, {"": "c"})
    assert abc.run("-n", "-v").verdicts() == {**FRESH, "c": "restore"}
    abc.make()
    assert abc.run("-n", "-v").verdicts() == FRESH
    assert abc.rows("c")[0] == {"x": "ONE!??"} and not (abc.root / "c.bak").exists()


def test_a_kill_between_the_first_swap_and_its_record_puts_nothing_aside(abc):
    from ddmake.store import open_store

    traces = open_store(abc.root).traces
    trace = traces.at("c")[0]
    traces.db.execute("DELETE FROM placed WHERE path = 'c'")
    traces.intend(trace, {"": "c"})
    abc.make()
    assert abc.run("-n", "-v").verdicts() == FRESH and not (abc.root / "c.bak").exists()
