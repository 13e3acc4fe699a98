"""Trainings on a real Slurm of four nodes: longer than a job may take, after a node is lost, and on several nodes at once."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project
from slurm_cluster import slurm

from ddmake.backends.models import files_sha
from ddmake.executors.base import Needs, Task
from ddmake.executors.slurm.options import arguments, settings

SLURM = ("--executor", "slurm")
TRAINS = """
cfg = config(epochs=150, processes=1)

@step("data/rows")
def rows():
    return [{"prompt": f"say {n}", "completion": f"{n} and {n * n}"} for n in range(16)]

finetune("models/tuned", "data/rows", base="tiny-base", prompt="{{ prompt }}", completion="completion", batch_size=8,
         micro_batch=2, epochs=cfg.epochs, processes=cfg.processes, OPTIONS)
"""
SLOW = """
import os, time

@step("data/rows")
def rows():
    return [{"prompt": f"say {n}"} for n in range(8)]

def vowels(answer, row):
    time.sleep(0.25 if os.environ.get("SLURM_JOB_ID") else 0)
    return sum(letter in "aeiou" for letter in answer)

rloo("models/tuned", "data/rows", base="tiny", prompt="{{ prompt }}", reward=vowels, samples=2, batch_size=8, micro_batch=8,
     max_tokens=2, epochs=25, time="2m", cpus=1)
"""
OVER = "models/tuned: its time is over at step"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a model that was trained in one go, without a cluster."""
    project = Project(tmp_path_factory.mktemp("whole")).ddfile(TRAINS.replace("OPTIONS", "cpus=1"))
    project.make()
    return project.root / "models/tuned"


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it never came; {slurm('squeue', '-h')}"
        time.sleep(0.05)


def running(project: Project) -> dict[str, str]:
    """Return the training's task, as far as a node has taken it up: its job and its node, and how far it is."""
    for folder in (project.root / ".ddmake/slurm").glob("*"):
        try:
            trains = json.loads((folder / "wave.json").read_text())["jobs"][0]["trains"]
            found = {"job": (folder / "job").read_text(), **json.loads((folder / "taken/0").read_text())}
        except (FileNotFoundError, ValueError):  # it comes, or goes
            continue
        progress = folder / "progress/0"
        if trains and not (folder / "results/0").exists():
            return {**found, "told": json.loads(progress.read_text())["note"] if progress.exists() else ""}
    return {"job": "", "node": "", "told": ""}


def under_way(project: Project, run: subprocess.Popen, but: str = "") -> dict[str, str]:
    """Wait until a training learns, in another job than one that is known, and return its task."""
    def learns() -> bool:
        assert run.poll() is None, run.stdout.read()
        found.append(running(project))
        return found[-1]["job"] not in ("", but) and found[-1]["told"].startswith("loss")

    found: list[dict[str, str]] = []
    until(learns)
    return found[-1]


def warn(job: str) -> None:
    """Do as Slurm does before a job's time is over."""
    slurm("scancel", "--signal=USR1", "--batch", job)


ASKED = [  # the rule's time in seconds, what pyproject.toml says; when Slurm is to warn, in seconds before the end
    (None, "", 120),
    (3600, "", 120),
    (120, "", 60),
    (1, "", 30),
    (3600, "[tool.ddmake.slurm]\nwarning = 300\n", 300),
    (None, "[tool.ddmake.slurm]\nwarning = 5\n", 5),
]


@pytest.mark.parametrize("seconds, pyproject, lead", ASKED)
def test_a_training_is_warned_before_its_time_is_over(project, seconds, pyproject, lead):
    project.write("pyproject.toml", pyproject)
    for trains in (True, False):
        task = Task("", (), project.root, Path(), Path(), Needs(seconds=seconds), {}, trains=trains)
        told = [word for word in arguments(task, settings(project.root, None, (), None)) if word.startswith("--signal")]
        assert told == ([f"--signal=B:USR1@{lead}"] if trains else [])


MISTAKES = [  # the Ddfile, pyproject.toml; the sentence
    ('@step("a.jsonl", slurm={"nodes": 2})\ndef a():\n    yield {"x": 1}', "",
     "a.jsonl: nodes=2 is for ddmake's own trainings, which alone run on several nodes."),
    ('@train("m", slurm={"nodes": 2})\ndef m(output):\n    (output / "x").write_text("x")', "",
     "m: nodes=2 is for ddmake's own trainings, which alone run on several nodes."),
    ('@step("a.jsonl")\ndef a():\n    yield {"x": 1}', "[tool.ddmake.slurm]\nwarning = '2m'\n",
     "[tool.ddmake.slurm]: warning='2m'; it is a number of seconds from 1 on."),
]


@pytest.mark.slow
@pytest.mark.parametrize("ddfile, pyproject, told", MISTAKES)
def test_a_mistake_is_one_sentence(project, cluster, ddfile, pyproject, told):
    project.write("pyproject.toml", pyproject)
    result = project.ddfile(ddfile).run(*SLURM)
    assert result.code == 2 and result.output.splitlines()[-1] == told, result.output


@pytest.mark.slow
def test_a_training_goes_on_in_other_jobs_on_other_nodes(project, cluster, whole):
    """Its time is over on one node; the next is lost; on the third it goes on from what the first has kept."""
    run = project.ddfile(TRAINS.replace("OPTIONS", 'cpus=1, time="10m", retries=0')).command(*SLURM)
    first = under_way(project, run)
    slurm("scontrol", "update", f"NodeName={first['node']}", "State=DRAIN", "Reason=test")
    warn(first["job"])
    second = under_way(project, run, first["job"])
    cluster.lose(second["node"])
    third = under_way(project, run, second["job"])
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0, output
    slurm("scontrol", "update", f"NodeName={first['node']}", "State=RESUME")
    cluster.bring_back(second["node"])
    assert len({first["node"], second["node"], third["node"]}) == 3
    assert output.count(OVER) == 1 and "goes on in the next job" in output and "submitted again" in output
    assert "failed" not in output and "tried" not in output
    assert files_sha(project.root / "models/tuned") == files_sha(whole)
    assert not list((project.root / ".ddmake/scratch").iterdir())


@pytest.mark.slow
def test_a_training_that_has_no_time_for_a_step_asks_for_more(project, cluster, quick):
    run = project.ddfile(TRAINS.replace("OPTIONS", 'cpus=1, time="10m"')).command(*SLURM)
    until(lambda: running(project)["node"] != "")
    time.sleep(1)  # it listens from then on, and loads what it needs for seconds
    warn(running(project)["job"])
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "models/tuned: it ran longer than its time='10m' and was stopped; raise `time` if it needs more" in output


@pytest.mark.slow
def test_a_training_is_longer_than_its_time(project, cluster, tmp_path_factory):
    """Nobody helps Slurm here: it warns, and stops what doesn't heed it."""
    local = Project(tmp_path_factory.mktemp("local")).ddfile(SLOW)
    local.make()
    output = project.ddfile(SLOW).make(*SLURM).output
    assert output.count(OVER) >= 1 and "TIMEOUT" not in output
    assert files_sha(project.root / "models/tuned") == files_sha(local.root / "models/tuned")


@pytest.mark.slow
def test_two_nodes_train_what_one_does(project, cluster, tmp_path_factory):
    knobs = ("processes=4", "epochs=50")
    one = Project(tmp_path_factory.mktemp("one")).ddfile(TRAINS.replace("OPTIONS", "cpus=4"))
    one.make(*SLURM, *knobs)
    run = project.ddfile(TRAINS.replace("OPTIONS", 'cpus=2, slurm={"nodes": 2}')).command(*SLURM, *knobs)
    task = under_way(project, run)
    assert slurm("squeue", "-h", "-j", task["job"], "-o", "%D").strip() == "2"
    warn(task["job"])
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0 and output.count(OVER) == 1, output
    assert files_sha(project.root / "models/tuned") == files_sha(one.root / "models/tuned")
    assert project.run("-q", *knobs).code == 0, "fresh without a cluster, too"


@pytest.mark.slow
def test_a_training_on_two_nodes_fails_with_either(project, cluster):
    run = project.ddfile(TRAINS.replace("OPTIONS", 'cpus=2, slurm={"nodes": 2}')).command(*SLURM, "processes=4")
    task = under_way(project, run)
    os.kill(others(project, task["node"])[-1], signal.SIGKILL)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and "failed (Ddfile:10): process 3 of 4 was killed by SIGKILL." in output, output


@pytest.mark.slow
def test_processes_are_spread_evenly_over_nodes(project, cluster):
    result = project.ddfile(TRAINS.replace("OPTIONS", 'slurm={"nodes": 2}')).run(*SLURM, "processes=3")
    assert result.code == 1 and "processes=3 can't be spread evenly over 2 nodes." in result.output


def others(project: Project, first: str) -> list[int]:
    """Return the processes of a training on its other nodes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if str(project.root).encode() in command and b"\0job\0" in command and f"SLURMD_NODENAME={first}\0".encode() not in environ:
            found.append(int(process.name))
    return sorted(found)
