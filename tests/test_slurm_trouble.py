"""What goes wrong on a cluster, on purpose: heads killed at every step, a Slurm that answers nonsense, files that can't be read."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from slurm_cluster import slurm
from test_slurm import HERE, SLURM, many, meanwhile, queue, runs, until
from test_workers import wait_for

from ddmake.executors.slurm import commands, head, listening, waves
from ddmake.executors.slurm.commands import State
from ddmake.executors.slurm.fates import ANEW, fate

STORE = ".ddmake/slurm"


def left(project) -> list[str]:
    """Return what is left of waves."""
    return [str(file) for file in (project.root / STORE).glob("*")]


SCRIPT = {"hear": "script=$(cat)", "say": 'printf "%s" "$script"'}  # which is on its way when sbatch begins
KILLS = {  # what a head does at last, and how often sbatch is called in all
    "before sbatch": ("kill -9 $PPID", 2),
    "after sbatch": ('{real} "$@"; kill -9 $PPID', 1),
    "during sbatch, which goes on": ('{hear}; kill -9 $PPID; {say} | {real} "$@"', 1),
    "during sbatch, which goes on for long": ('{hear}; kill -9 $PPID; sleep 6; {say} | {real} "$@"', 2),
}


def submitted(token: str) -> bool:
    return f"ddmake {token}" in slurm("squeue", "-h", "--states=all", "-o", "%k")


@pytest.mark.slow
@pytest.mark.parametrize("when", KILLS)
def test_a_head_that_is_killed_while_it_submits_submits_nothing_twice(project, spy, when):
    sbatch, (does, calls) = spy("sbatch"), KILLS[when]
    sbatch.does(does.format(real=sbatch.real, **SCRIPT))
    project.ddfile(many(3))
    with project.command(*SLURM) as first:
        first.wait()
    token = Path(*left(project)).name
    until(lambda: calls == 2 or submitted(token))
    sbatch.passes()
    project.make(*SLURM)
    until(lambda: when == "before sbatch" or submitted(token) and not queue())
    assert runs(project) == {"0": 1, "1": 1, "2": 1} and len(sbatch.calls) == calls and not left(project)


def test_what_a_head_had_begun_to_write_down_is_cleared_away(project, cluster):
    (project.root / STORE / "0123456789abcdef" / "results").mkdir(parents=True)
    project.ddfile(many(1)).make(*SLURM)
    assert not left(project)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["trace committed", "placed"])
def test_a_head_that_is_killed_while_it_commits_leaves_nothing(project, cluster, point):
    killing = f"""
import os
from ddmake.engine import commit
commit.reached = lambda point: point == {point!r} and not os.environ.get("SLURM_JOB_ID") and os.kill(os.getpid(), 9)
"""
    project.ddfile(killing + many(2))
    with project.command(*SLURM) as first:
        assert first.wait() == -9
    project.ddfile(many(2))
    project.make(*SLURM)
    assert runs(project) == {"0": 1, "1": 1} and not left(project)


def fill(project, **files: str) -> Path:
    """Write a wave that nobody has submitted, with other files than it should have."""
    folder = project.root / STORE / "0123456789abcdef"
    for part in waves.PARTS:
        (folder / part).mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", "/").replace("_json", ".json")).write_text(text)
    return folder


@pytest.mark.parametrize("text", ["", "{", "[]", '{"form": 99}', '{"form": 1, "jobs": [{"name": 3}]}'])
def test_a_wave_that_cannot_be_read_is_named_with_what_to_do(project, cluster, text):
    folder = fill(project, wave_json=text, job="77")
    for args in (SLURM, ()):
        result = project.ddfile(many(1)).run(*args)
        assert result.code != 0 and f"{folder}/wave.json can't be read" in result.output, result.output
        assert f"scancel 77, and rm -r {folder}" in result.output.replace("\n", " ") and not runs(project)


GARBAGE = ["", "{", "nul", "null", "[1]", "7", "\0\0\0", '{"word": 7}']


@pytest.mark.parametrize("text", GARBAGE)
def test_files_that_cannot_be_read_tell_nothing(tmp_path, text):
    wave, lock = waves.new(tmp_path, [], 1, False, [])
    os.close(lock)
    for name in ("taken/0", "progress/0", "results/0", "settled"):
        (wave.folder / name).write_bytes(text.encode() + b"\xff")
        (wave.folder / name).write_text(text)
    assert wave.told(0) is None and wave.settled() == set() and not {"task", "node"} & wave.taken()[0].keys()
    assert wave.result(0)["word"] == "failed" and "results/0" in wave.result(0)["told"]


def test_a_folder_that_somebody_removes_under_a_head_ends_its_jobs(project, cluster):
    project.ddfile(many(2, wait="go"))
    with project.command(*SLURM) as first:
        wait_for(project.root / "runs-0")
        until(lambda: [(file / "job").exists() for file in (project.root / STORE).glob("*")] == [True])
        slurm("rm", "-r", *left(project))
        output = first.communicate(timeout=60)[0]
    assert first.returncode == 1 and "was removed while it ran" in output and "Traceback" not in output, output


ANSWERS = {  # what sbatch prints around an id
    "warnings": 'echo "sbatch: warning: 77 of them"; {real} "$@"; printf "caf\\351 \\377\\n"',
    "a cluster": 'echo "$({real} "$@");federated"',
    "nothing": '{real} "$@" > /dev/null',
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_id_is_found_whatever_sbatch_prints(project, spy, quick, answer):
    sbatch = spy("sbatch")
    sbatch.does(ANSWERS[answer].format(real=sbatch.real))
    project.ddfile(many(2, wait="go"))
    meanwhile(lambda: (until(lambda: len(runs(project)) == 2), time.sleep(1), (project.root / "go").touch()))
    project.make(*SLURM)
    assert len(sbatch.calls) == 1 and runs(project) == {"0": 1, "1": 1} and not left(project)


SILENCES = {  # of squeue and scontrol, that say nothing of a job which runs
    "nonsense": ('head -c 200 /dev/urandom; echo "||||"; echo "1_2|RUNN"', 'head -c 200 /dev/urandom; echo JobState=FAILED'),
    "nothing": ("exit 0", "exit 0"),
    "a refusal": ("exit 0", 'echo "slurm_load_jobs error: Unspecified error" >&2; exit 1'),
    "another state": ('{squeue} "$@" | sed s/RUNNING/PONDERING/', '{scontrol} "$@" | sed s/RUNNING/PONDERING/'),
    "a slow end": ('{squeue} "$@" | sed s/RUNNING/COMPLETING/', '{scontrol} "$@" | sed s/RUNNING/COMPLETING/'),
}


@pytest.mark.slow
@pytest.mark.parametrize("silence", SILENCES)
def test_what_runs_is_not_submitted_again_whatever_slurm_says_of_it(project, spy, quick, silence):
    squeue, scontrol, sbatch = (spy(name) for name in ("squeue", "scontrol", "sbatch"))
    for one, does in zip((squeue, scontrol), SILENCES[silence]):
        one.does(does.format(squeue=squeue.real, scontrol=scontrol.real))
    meanwhile(lambda: (until(lambda: len(squeue.calls) > 6), (project.root / "go").touch()))
    output = project.ddfile(many(2, more=", cpus=1 + i", wait="go")).make(*SLURM).output
    assert runs(project) == {"0": 1, "1": 1} and len(sbatch.calls) == 2, output


def test_a_queue_that_is_silent_for_long_is_told(project, spy, quick, monkeypatch):
    """And Ctrl-C is heard all the same."""
    monkeypatch.setattr(head, "SILENT", 1.0)
    monkeypatch.setattr(commands, "PATIENCE", 1.0)
    squeue = spy("squeue")
    squeue.does("sleep 100")
    meanwhile(lambda: (until(lambda: len(squeue.calls) > 2), (project.root / "go").touch()))
    output = project.ddfile(many(1, wait="go")).make(*SLURM).output
    assert "data/0.jsonl: Slurm doesn't answer (squeue didn't answer in 1 s); what runs goes on" in output, output


@pytest.mark.slow
def test_a_silent_queue_holds_nobody_up(project, spy):
    spy("squeue").does("sleep 100")
    project.ddfile(many(1, wait="go"))
    with project.command(*SLURM) as first:
        wait_for(project.root / "runs-0")
        time.sleep(12)  # it is asked by then
        first.send_signal(signal.SIGINT)
        since = time.monotonic()
        assert any("Ctrl-C again" in line for line in first.stdout) and time.monotonic() - since < 3
        first.send_signal(signal.SIGINT)
        first.wait(20)


QOS = """\
case "$*" in *--array=0-0%*) ;; *) echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)" >&2
exit 1;; esac
"""


@pytest.mark.parametrize("ddfile", [many(5), many(5, more=', time="1h"')])
def test_arrays_get_shorter_where_the_queue_has_less_room(project, spy, ddfile):
    sbatch = spy("sbatch")
    sbatch.does(f'{QOS}exec {sbatch.real} "$@"')
    project.ddfile(ddfile).make(*SLURM)
    assert runs(project) == {str(i): 1 for i in range(5)} and not left(project)


def test_a_full_queue_is_waited_for(project, spy, quick, monkeypatch):
    monkeypatch.setattr(head, "FULL", 0.5)
    sbatch = spy("sbatch")
    sbatch.does("echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    meanwhile(lambda: (until(lambda: len(sbatch.calls) > 3), sbatch.passes()))
    output = project.ddfile(many(3)).make(*SLURM).output
    assert output.count("data/2.jsonl: waits for room in the queue (AssocMaxSubmitJobLimit)") == 1, output
    assert runs(project) == {"0": 1, "1": 1, "2": 1} and not left(project)


def test_an_array_that_slurm_finds_too_long_is_cut(project, spy):
    sbatch = spy("sbatch")
    bad = 'echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2; exit 1'
    sbatch.does(f'case "$*" in *--array=0-0%*) exec {sbatch.real} "$@";; esac; {bad}')
    project.ddfile(many(3, more=', time="1h"')).make(*SLURM)
    sbatch.does(bad)
    result = project.ddfile(many(4)).run(*SLURM)
    assert result.code == 1 and "Slurm refuses its job: Batch job submission failed: Invalid job array" in result.output


@pytest.mark.slow
def test_as_many_run_as_j_says_over_all_waves(project, cluster, quick):
    """And what one wave needs no more goes to the others."""
    project.ddfile(HERE + """
def busy(name, seconds):
    for _ in range(int(seconds * 20)):
        time.sleep(0.05)
        Path(f"busy-{name}").write_text(f"{time.time()}")
    Path(f"busy-{name}").unlink()

for i in range(4):
    @step(f"data/{i}.jsonl", i=i, time="1h")
    def long(*, i):
        busy(str(i), 1.5 if i < 3 else 12)
        yield here(str(i))

for i in range(4, 10):
    @step(f"data/{i}.jsonl", i=i, cpus=2, time="1h")
    def wide(*, i):
        busy(str(i), 1.5)
        yield here(str(i))
""")
    most, seen = 0, 0
    with project.command(*SLURM, "-j", "3", DDMAKE_TEST="1") as run:
        while run.poll() is None:
            now = len(list(project.root.glob("busy-*")))
            most, seen = max(most, now), seen + (now == 3)
            time.sleep(0.05)
        assert run.returncode == 0, run.stdout.read()
    assert most == 3 and len(runs(project)) == 10


@pytest.mark.slow
def test_a_job_that_is_requeued_by_hand_is_made_all_the_same(project, cluster, quick, monkeypatch):
    monkeypatch.setattr(listening, "LATE", 2.0)

    def act():
        wait_for(project.root / "runs-0")
        job = queue()[0].partition("_")[0]
        slurm("scontrol", "update", f"JobId={job}", "Requeue=1")
        slurm("scontrol", "requeue", job)
        slurm("scontrol", "release", job)
        (project.root / "go").touch()

    meanwhile(act)
    project.ddfile(many(1, wait="go")).make(*SLURM)
    assert runs(project)["0"] == 2 and not left(project)


@pytest.mark.slow
def test_a_head_that_waited_for_another_takes_up_what_that_one_has_submitted(project, spy):
    sbatch = spy("sbatch")
    project.ddfile(many(2, wait="go"))
    with project.command(*SLURM, "data/0.jsonl") as one:
        wait_for(project.root / "runs-0")
        with project.command(*SLURM) as other:
            wait_for(project.root / "runs-1")
            one.kill()
            time.sleep(1)
            (project.root / "go").touch()
            assert other.wait(60) == 0, other.stdout.read()
    assert runs(project) == {"0": 1, "1": 1} and len(sbatch.calls) == 2 and not left(project)


@pytest.mark.slow
def test_who_only_looks_has_nothing_submitted_twice(project, spy):
    """`ddmake status` has a wave's lock for a moment."""
    sbatch = spy("sbatch")
    project.ddfile(many(1, wait="go"))
    with project.command(*SLURM) as first:
        wait_for(project.root / "runs-0")
        first.kill()
    (file,) = (project.root / STORE).glob("*")
    wave = waves.read(file)
    lock = wave.own()
    with project.command(*SLURM) as second:
        until(lambda: "making" in second.stdout.readline())
        time.sleep(0.3)
        os.close(lock)
        (project.root / "go").touch()
        assert second.wait(60) == 0
    assert runs(project)["0"] == 1 and len(sbatch.calls) == 1


@pytest.mark.slow
def test_a_second_ctrl_c_cancels_what_sbatch_has_not_told_of_yet(project, spy):
    sbatch = spy("sbatch")
    sbatch.does(f'{sbatch.real} "$@" > /dev/null; echo "Socket timed out" >&2; exit 1')
    project.ddfile(many(2, wait="go"))
    with project.command(*SLURM) as run:
        wait_for(project.root / "runs-0")
        for _ in range(2):
            run.send_signal(signal.SIGINT)
            time.sleep(0.5)
        output = run.communicate(timeout=60)[0]
    assert run.returncode == 130 and "Traceback" not in output, output
    until(lambda: not queue())
    assert not left(project)


def test_a_training_that_would_need_a_hundred_jobs_has_too_little_time(tmp_path):
    executor = head.Slurm.__new__(head.Slurm)
    executor._gathered, executor._leave = [], None
    task = waves._read({"name": "t", "command": ["--apart", "a", "--result", "r"], "folder": "", "log": "", "result": "", "needs": {},
                        "env": {}, "models": [], "asks": [], "apart": "a"})
    told = {"word": "again", "told": "its time is over at step 3", "gained": 3}
    for gained, total, short in [(0, 0, "time"), (3, 0, ""), (3, 303, ""), (3, 304, "time"), (1, 90, "")]:
        heard = executor._goes_on(task, {**told, "gained": gained}, (3, total, "loss 1"))
        assert getattr(heard, "short", "") == short, (gained, total)


@pytest.mark.slow
def test_a_database_of_a_job_that_cannot_be_read_ends_only_its_rule(project, cluster, quick):
    project.ddfile(HERE + """
rows("seeds", values=[{"x": 1}])

@step("data/bad", "seeds", llm=llm("tiny"))
def bad(rows, *, llm):
    list(llm.complete(["one"]))
    (file,) = Path(".ddmake/scratch").glob("*/calls.db")
    for old in file.parent.glob("calls.db*"):
        old.unlink()
    file.write_text("no database at all, but longer than nothing" * 100)
    os.kill(os.getpid(), 9)
""" + many(2).replace(HERE, ""))
    result = project.run(*SLURM, "-k")
    assert result.code == 1 and "made 3, fresh 0, failed 1" in result.output, result.output
    assert re.search(r"data/bad: .*calls.db: file is not a database", result.output), result.output


FATES = [  # how Slurm says that it ended, how often it was submitted again and killed, whether it was begun, and in a task that others share
    (State("NODE_FAIL"), 0, 0, True, True, "again"),
    (State("NODE_FAIL"), ANEW, 0, True, True, "fails"),
    (State("COMPLETED"), 0, 0, True, False, "again"),  # it was requeued, and found itself begun
    (State("COMPLETED"), 0, 0, False, True, "again"),
    (State("TIMEOUT"), 0, 0, True, False, "time"),
    (State("TIMEOUT"), 0, 0, True, True, "again alone"),  # others took it
    (State("TIMEOUT"), ANEW, 0, False, True, "again uncounted"),
    (State("OUT_OF_MEMORY"), 0, 0, True, True, "memory"),
    (State("OUT_OF_MEMORY"), 0, 0, False, True, "again uncounted"),
    (State("FAILED", code="137:0"), 0, 0, True, True, "again"),
    (State("FAILED", code="137:0"), 3, 0, True, True, "again"),
    (State("FAILED", code="137:0"), 1, 1, True, True, "memory"),
    (State("FAILED", code="137:0"), 1, 1, False, True, "again uncounted"),  # the memory was another's
    (State("FAILED", code="127:0"), 0, 0, False, True, "fails"),
    (State("CANCELLED by 0"), 0, 0, True, False, "fails"),
]


@pytest.mark.parametrize("state, times, kills, begun, shared, word", FATES)
def test_what_becomes_of_a_job_without_a_result(state, times, kills, begun, shared, word):
    found = fate(state, "n1", times, kills, begun, shared)
    told = found.short or ("again" if found.again else "fails")
    assert " ".join([told, *["alone"] * found.alone, *["uncounted"] * (not found.counts)]) == word


@pytest.mark.slow
def test_what_shares_a_task_does_not_fail_for_what_the_others_took(project, spy, quick):
    """One job is killed each time, the others of its task are made all the same."""
    project.ddfile(HERE + """
for i in range(4):
    @step(f"data/{i}.jsonl", i=i)
    def rule(*, i):
        yield here(str(i))
        if i == 0:
            os.kill(os.getpid(), 9)
""")
    result = project.run(*SLURM, "-j", "1", "-k")
    assert result.code == 1 and "made 3, fresh 0, failed 1" in result.output, result.output
    assert runs(project) == {"0": 2, "1": 1, "2": 1, "3": 1}


@pytest.mark.slow
def test_a_task_whose_time_is_over_leaves_its_jobs_to_others(project, spy, quick):
    sbatch, scontrol = spy("sbatch"), spy("scontrol")
    scontrol.does(f'{scontrol.real} "$@" | sed s/JobState=CANCELLED/JobState=TIMEOUT/')
    meanwhile(lambda: (wait_for(project.root / "runs-0"), slurm("scancel", queue()[0].split()[0]), (project.root / "go").touch()))
    project.ddfile(many(3, wait="go")).make(*SLURM, "-j", "1")
    assert runs(project) == {"0": 2, "1": 1, "2": 1} and len(sbatch.calls) == 3, "one alone, two together"


@pytest.mark.parametrize("pack", ["true", "false"])
def test_what_waits_is_submitted_anew_with_the_options_of_now(project, cluster, pack):
    (project.root / "pyproject.toml").write_text(f"[tool.ddmake.slurm]\npack = {pack}\n")
    project.ddfile(many(2))
    with project.command(*SLURM, "--slurm", "hold") as first:
        until(lambda: len(queue()) == 2)
        first.kill()
    project.make(*SLURM)
    assert runs(project) == {"0": 1, "1": 1} and not left(project)
    until(lambda: not queue())


def test_what_has_begun_goes_on_with_the_options_that_it_had(project, cluster):
    project.ddfile(many(1, wait="go"))
    with project.command(*SLURM) as first:
        wait_for(project.root / "runs-0")
        first.kill()
    with project.command(*SLURM, "--slurm", "nice=5") as second:
        until(lambda: "as it was submitted before, with other options" in second.stdout.readline())
        (project.root / "go").touch()
        assert second.wait(60) == 0
    assert runs(project) == {"0": 1} and not left(project)


@pytest.mark.slow
def test_what_many_jobs_wait_for_is_told_of_a_few(project, cluster):
    project.ddfile(many(20))
    with project.command(*SLURM, "--slurm", "hold") as head:
        lines = list(iter(head.stdout.readline, "others, too: waits in the queue (JobHeldUser: it is held: scontrol release)\n"))
        head.kill()
    project.command("cancel").wait()
    assert sum("waits in the queue" in line for line in lines) == 4 and len(lines) == 20 + 4, lines
