"""Rules in shards: the same dataset as in one piece, made by jobs over ranges of rows. Without a cluster: see the executor."""

import re
import signal
import sqlite3
import time
from contextlib import closing, suppress
from importlib import metadata
from types import SimpleNamespace

import psutil
import pytest
from conftest import Project
from test_workers import wait_for

from ddmake.executors.base import Ended, Needs, Task, Told
from ddmake.executors.local import Local
from ddmake.executors.machine import this_machine
from ddmake.store import failed, open_store


class Elsewhere:
    """An Executor that is away as far as the engine knows, and keeps the tasks that it was given."""

    away = True

    def __init__(self) -> None:
        self.local = Local(2, this_machine())
        self.tasks: list[Task] = []

    def fits(self, needs: Needs) -> bool:
        return self.local.fits(needs)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self.local.submit(task)

    def poll(self, seconds: float) -> list[Told | Ended]:
        return self.local.poll(seconds)

    def cancel(self, tasks: list[Task]) -> None:
        self.local.cancel(tasks)

    def close(self, at_once: bool = True) -> None:
        self.local.close()


@pytest.fixture
def elsewhere(monkeypatch) -> list[Elsewhere]:
    """Have runs with --executor elsewhere use one, and give those that did."""
    made: list[Elsewhere] = []

    def opened(site):
        made.append(Elsewhere())
        return made[-1]

    known, point = metadata.entry_points, SimpleNamespace(name="elsewhere", load=lambda: opened)
    monkeypatch.setattr(metadata, "entry_points",
                        lambda **which: [point] if which.get("group") == "ddmake.executors" else known(**which))
    return made


AWAY = ("--executor", "elsewhere")

# What each is there for is said behind it. Rows 0-3, 4-6 and 7-9 are a shard each; `word` comes five times over.
ALIKE = """
    given = rows("data/in", values=[{"n": i, "word": "ab"[i % 2], "tags": ["t"] * (i % 3)} for i in range(10)])
    echo = llm("echo")

    def number(text, row):
        if row["n"] in (2, 5, 9):
            raise ValueError("odd")
        return {"twice": row["n"] * 2} if row["n"] < 8 else {"twice": 0.5, "half": True}

    def failing_first(text, row):
        if row["n"] < 4:
            raise ValueError("odd")
        return {"twice": row["n"]}

    transform("out/equal", "data/in", llm=echo, prompt="{{ word }}", column="said", samples=2, shards=3)  # samples count up
    transform("out/parsed", "data/in", llm=echo, prompt="parsed {{ n }}", parse=number, shards=3)  # failed rows, types that grow
    transform("out/vain", "data/in", llm=echo, prompt="vain {{ n }}", parse=failing_first, shards=3)  # nothing usable in a shard
    transform("out/rows.jsonl", "data/in", llm=echo, prompt="file {{ word }}", shards=3)  # a file
    keep_if("out/kept", "data/in", llm=echo, prompt="{{ 'yes' if n > 6 else 'no' }}", shards=3)  # two shards without rows
    judge("out/judged", given.filter(lambda row: row["n"] != 1).rename(word="answer"), llm=echo.using(temperature=0),
          rubric="any", question=None, reason=False, prompt='{"verdict": "{{ "pass" if n > 2 else "fail" }}"}', shards=3)  # a view, and a judge

    @step("out/own", given.explode("tags"), shards=3)  # rows that come to nothing, and some without a value
    def own(rows):
        for row in rows:
            if row["n"] > 4:
                yield {"n": row["n"], "found": None if row["n"] < 7 else {"at": row["n"]}}

    @step("out/dataset", "data/in", shards=3)
    def dataset(rows):
        return rows.map(lambda row: {"more": row["word"] * 2})
"""


def results(project, path: str) -> tuple[dict, list, dict]:
    """Return what a result means, which rows failed, and what was asked for it."""
    with closing(open_store(project.root)) as store:
        trace, output = store.traces.at(path)
        lost = list(failed.of(store.traces.db, trace.id))
        return trace.outputs[output]["digest"], lost, trace.record


def asked(project) -> set[tuple]:
    """Return all calls, but for what tells when they were made."""
    with closing(sqlite3.connect(project.root / ".ddmake" / "calls.db")) as db:
        return set(db.execute("SELECT key, answer, request, rule FROM calls"))


@pytest.mark.slow
def test_rules_in_shards_make_what_they_make_in_one_piece(project, elsewhere, tmp_path_factory):
    whole = Project(tmp_path_factory.mktemp("whole"))
    for one in (whole, project):
        one.ddfile(ALIKE)
    whole.make()
    told = project.make(*AWAY)
    assert len(elsewhere[0].tasks) == 1 + 8 * 4
    for path in ("out/equal", "out/parsed", "out/vain", "out/rows.jsonl", "out/kept", "out/judged", "out/own", "out/dataset"):
        (digest, lost, record), (digest_whole, lost_whole, record_whole) = results(project, path), results(whole, path)
        assert (digest, lost) == (digest_whole, lost_whole), path
        assert record["shards"] == 3
        used, used_whole = record["usage"], record_whole["usage"]
        assert used == used_whole, path
        assert record.get("of_rows") == record_whole.get("of_rows") and record.get("rows") == record_whole.get("rows"), path
    assert asked(project) == asked(whole)
    assert re.search(r"out/parsed +10 rows; 10 sent; 3 failed.*; 3 shards;", told.output)
    assert not list((project.root / ".ddmake" / "scratch").iterdir())
    assert project.make().output.startswith("9 fresh")


FAILING = """
    import os
    from pathlib import Path

    rows("data/in", values=[{"n": i} for i in range(8)])

    @step("data/said", "data/in", llm=llm("echo", temperature=0), shards=4RETRIES)
    def said(rows, *, llm):
        if not Path("mended").exists() and any(row["n"] in BAD for row in rows):
            ACT
        for row, answer in zip(rows, llm.complete([f"say {row['n']}" for row in rows])):
            with open("ran", "a") as ran:
                ran.write(f"{row['n']} ")
            yield {"said": str(answer)}
"""


def failing(bad: tuple[int, ...], act: str, retries: int = 0) -> str:
    """Return a Ddfile of four shards with two rows each; those with a bad one do something else first."""
    return FAILING.replace("BAD", repr(bad)).replace("ACT", act).replace("RETRIES", f", retries={retries}" if retries else "")


@pytest.mark.slow
def test_a_shard_that_fails_fails_the_rule_once_the_others_have_ended_and_is_all_that_is_made_again(project, elsewhere):
    project.ddfile(failing((3, 7), "raise ValueError('odd')"))
    told = project.run("-k", *AWAY)
    assert told.code == 1
    assert ("data/said: shard 2 of 4 (rows 2 to 3 of data/in): recipe said failed (Ddfile:12): ValueError: odd (2 of 4 shards failed)"
            in told.output)
    assert re.search(r"log: .ddmake/logs/data/said/\S+-1-of-4.log", told.output)
    assert sorted((project.root / "ran").read_text().split()) == ["0", "1", "4", "5"]
    assert len(asked(project)) == 4  # paid for, and kept
    project.write("mended", "")
    project.make(*AWAY)
    assert [one.name.partition("-")[2] for one in elsewhere[1].tasks] == ["1-of-4", "3-of-4", "joins-4"]
    assert [row["said"] for row in project.rows("data/said")] == [f"say {n}" for n in range(8)]
    assert sorted((project.root / "ran").read_text().split()) == list("01234567")


@pytest.mark.slow
def test_force_makes_all_shards_again(project, elsewhere):
    project.ddfile(failing((3,), "raise ValueError('odd')"))
    project.run("-k", *AWAY)
    project.write("mended", "")
    project.make("--force", "data/said", *AWAY)
    assert len([one for one in elsewhere[1].tasks if "-of-" in one.name]) == 4


@pytest.mark.slow
def test_a_shard_is_tried_again_by_itself(project, elsewhere):
    act = "Path('mended').touch() or os.kill(os.getpid(), 9)"
    project.ddfile(failing((3,), act, retries=1))
    told = project.make(*AWAY)
    assert "trying again data/said" in told.output
    assert [one.name.partition("-")[2] for one in elsewhere[0].tasks[1:]] == ["0-of-4", "1-of-4", "2-of-4", "3-of-4", "1-of-4", "joins-4"]
    tries = [one.apart for one in elsewhere[0].tasks if one.name.endswith("-1-of-4")]
    assert tries[0] != tries[1], "a lost try may still write to its own folder"
    assert len(project.rows("data/said")) == 8


def test_where_no_row_of_any_shard_has_a_usable_answer_the_rule_fails(project, elsewhere):
    project.ddfile('''
        rows("data/in", values=[{"n": i} for i in range(4)])
        transform("data/out", "data/in", llm=llm("echo"), prompt="{{ n }}", parse=lambda text, row: int("x"), shards=2)
    ''')
    told = project.run(*AWAY)
    assert told.code == 1
    assert "recipe transform failed (Ddfile:5): 4 of 4 rows have no usable answer; the first, row 0: parse raised" in told.output


def test_a_failure_names_the_row_of_the_whole_input(project, elsewhere):
    project.ddfile('''
        rows("data/in", values=[{"n": i} for i in range(6)])
        transform("data/out", "data/in", llm=llm("echo"), prompt="{{ n }}", shards=2, on_error="raise", samples=2,
                  parse=lambda text, row: int(text) if row["n"] != 4 else int("x"))
    ''')
    told = project.run(*AWAY)
    assert "shard 2 of 2 (rows 3 to 5 of data/in): recipe transform failed (Ddfile:5): 2 of 6 rows have no usable answer; " \
           "the first, row 4: parse raised" in told.output


def test_shards_count_for_nothing_beside_the_head(project, elsewhere):
    text = '''
        rows("data/in", values=[{"n": i} for i in range(4)])
        transform("data/out", "data/in", llm=llm("echo"), prompt="{{ n }}", local=LOCAL, shards=SHARDS)
    '''
    project.ddfile(text.replace("LOCAL", "True").replace("SHARDS", "4"))
    assert "shards" not in project.run("-n", *AWAY).output
    assert "shards" not in project.make(*AWAY).output
    assert [one.apart for one in elsewhere[0].tasks[1:]] == [""]
    project.ddfile(text.replace("LOCAL", "False").replace("SHARDS", "2"))
    assert project.make(*AWAY).output.startswith("2 fresh")
    assert "shards" not in project.run("-n", "--force").output
    assert project.run("-n", "--force", *AWAY).why("data/out") == "behind data/in; 2 shards"


def test_there_are_no_more_shards_than_rows(project, elsewhere):
    project.ddfile('''
        rows("data/in", values=[{"n": i} for i in range(3)])
        transform("data/out", "data/in", llm=llm("echo"), prompt="{{ n }}", shards=16)
    ''')
    assert "3 shards" in project.make(*AWAY).output
    assert len(project.rows("data/out")) == 3


MISTAKES = [
    ('transform("out", "in", llm=gpt, prompt="{{ n }}", shards=0)', "shards=0: it is a number of jobs, at least 1."),
    ('dedupe("out", "in", shards=2)', "dedupe can't be made in shards=2: what it makes of a row may depend on other rows. "
                                      "Leave shards= out."),
    ('split("out", "in", shards=2)', "split can't be made in shards=2: rows of one dataset can be put together again, and it makes "
                                     "something else. Leave shards= out."),
    ('finetune("out", "in", base="tiny", prompt="{{ n }}", shards=2)', "finetune can't be made in shards=2: rows of one dataset"),
    ('step("out", "in", "in", shards=2)(lambda a, b: a)', "one dataset is cut, and it has several inputs (a, b). Say which by "
                                                           "@step(…, by_row=), or leave shards= out."),
    ('step("out", "in", "in", by_row="c", shards=2)(lambda a, b: a)', "by_row='c' names no dataset among its inputs."),
    ('step("out", shards=2)(lambda: [{}])', "one dataset is cut, and it has no input of rows."),
    ('step("out", "in", shards=2, llm=gpt)(lambda rows, *, llm: rows)', "it doesn't tell what it asks (asks=). State temperature=0 on "
                                                                     "llm('echo'), or leave shards= out."),
    ('step("out", "in", by_row=2)(lambda rows: rows)', "@step's by_row is the name of an input, not 2."),
]


@pytest.mark.parametrize("rule, told", MISTAKES)
def test_mistakes_are_told_before_anything_runs(project, rule, told):
    project.ddfile(f'''
        rows("in", values=[{{"n": 1}}])
        gpt = llm("echo")
        {rule}
    ''')
    result = project.run("-n")
    assert result.code == 2
    assert "Ddfile:6: " in result.output and told in result.output


ON_NODES = """
    import os, time
    from pathlib import Path

    rows("data/in", values=[{"n": i} for i in range(8)])

    @step("data/out", "data/in", llm=llm("echo", temperature=0), shards=4)
    def out(rows, *, llm):
        first = next(iter(rows))["n"]
        with open(f"ran-{first}", "a") as ran:
            ran.write(os.environ["SLURMD_NODENAME"] + " ")
        answers = llm.complete([f"say {row['n']}" for row in rows])
        while not Path("go").exists() and first in (2, 6):
            time.sleep(0.05)
        for row, answer in zip(rows, answers):
            yield {"n": row["n"], "said": str(answer)}
"""


def ran(project) -> dict[str, list[str]]:
    """Return on which nodes shards began, by their first row."""
    return {file.name[4:]: file.read_text().split() for file in project.root.glob("ran-*")}


@pytest.fixture
def head(project, cluster):
    """Give a head whose four shards have all begun, of which two wait for a file."""
    with project.ddfile(ON_NODES).command("--executor", "slurm") as found:
        for first in "0246":
            wait_for(project.root / f"ran-{first}", 60)
        yield found
        found.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["killed", "Ctrl-C"])
def test_shards_of_a_head_that_has_gone_are_taken_up_by_the_next(project, head, stop, code):
    """Those that had ended, those that run on, and a joining that is still to come."""
    head.send_signal(stop)
    output = head.communicate(timeout=60)[0]
    assert head.returncode == code and "Traceback" not in output and ("2 jobs go on" in output) == (stop == signal.SIGINT), output
    project.write("go", "")
    told = project.make("--executor", "slurm")
    assert "data/out  8 rows; 8 sent; 4 shards" in told.output
    assert {first: len(nodes) for first, nodes in ran(project).items()} == dict.fromkeys("0246", 1)
    assert [row["said"] for row in project.rows("data/out")] == [f"say {n}" for n in range(8)]
    assert not list((project.root / ".ddmake/slurm").iterdir()) and not list((project.root / ".ddmake/scratch").iterdir())
    assert project.make().output.startswith("2 fresh")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_shards_and_keeps_what_they_have(project, head):
    parts = project.root / ".ddmake" / "scratch"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*/shards/*/part.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(2):
        head.send_signal(signal.SIGINT)
        time.sleep(0.5)
    output = head.communicate(timeout=60)[0]
    assert head.returncode == 130 and "go on" not in output, output
    project.write("go", "")
    told = project.make("--executor", "slurm")
    assert [row["said"] for row in project.rows("data/out")] == [f"say {n}" for n in range(8)]
    assert {first: len(nodes) for first, nodes in ran(project).items()} == {"0": 1, "2": 2, "4": 1, "6": 2}, told.output
    assert not list((project.root / ".ddmake/slurm").iterdir())


@pytest.mark.slow
def test_a_shard_whose_node_is_lost_is_made_on_another(project, cluster):
    project.ddfile(ON_NODES)
    with project.command("--executor", "slurm") as head:
        for first in "0246":
            wait_for(project.root / f"ran-{first}", 60)
        node = (project.root / "ran-2").read_text().split()[0]
        cluster.lose(node)
        for process in psutil.process_iter():  # what runs there goes with it
            with suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == node and process.cwd() == str(project.root):
                    process.kill()
        project.write("go", "")
        assert head.wait(300) == 0, head.stdout.read()
    cluster.bring_back(node)
    assert len(ran(project)["2"]) > 1
    assert [row["said"] for row in project.rows("data/out")] == [f"say {n}" for n in range(8)]
