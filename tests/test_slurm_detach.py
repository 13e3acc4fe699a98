"""Heads that are jobs themselves; what `status`, `cancel` and `clean` say and do of what is on a cluster, and is no more."""

import os
import re
import signal
import subprocess

import pytest
from slurm_cluster import slurm
from test_slurm import SLURM, until

from ddmake.executors.slurm.commands import State
from ddmake.executors.slurm.fates import fate

FLOW = """
import os, time
from pathlib import Path

cfg = config(go="", n=2)

for i in range(cfg.n):
    @step(f"data/{i}.jsonl", i=i)
    def rule(*, i):
        with open(f"runs-{i}", "a") as file:
            file.write("x")
        while not Path("go").exists():
            time.sleep(0.05)
        yield {"i": i, "node": os.environ["SLURMD_NODENAME"]}
"""


@pytest.fixture(autouse=True)
def nothing_left(request):
    """See that a test leaves no job behind."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").empty()


def said(project, *words, code=0, folder=None):
    """Return what ddmake prints, as a process of its own: a head that is detached runs its command line again."""
    flow = ("-f", os.path.relpath(project.root / "Ddfile", folder)) if folder else ()
    process = project.command(*words, *flow) if folder is None else subprocess.Popen(
        [*project.command("-h").args[:3], *words, *flow], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    return output


def begun(project, n=2):
    """Wait until so many recipes run."""
    until(lambda: len(list(project.root.glob("runs-*"))) == n)


def left(project):
    """Return what lies in the folder of waves."""
    return sorted(file.name for file in (project.root / ".ddmake").glob("slurm/*"))


@pytest.mark.slow
def test_a_detached_head_makes_all_and_is_told_of(project, cluster, tmp_path):
    project.ddfile(FLOW)
    project.write("profile.toml", 'head = {time = "10", mem = "500M"}\n')
    told = said(project, *SLURM, "--detach", "--profile", os.path.relpath(project.root / "profile.toml", tmp_path), folder=tmp_path)
    job = re.match(r"Job (\d+) makes it. See: ddmake status · tail -f (\S+) · ddmake cancel\n$", told)
    assert job and (tmp_path / job[2]).parent.resolve() == project.root / ".ddmake/slurm"
    assert slurm("squeue", "-h", "-j", job[1], "-o", "%l %m").split() == ["10:00", "500M"]
    begun(project)
    running = said(project, "status")
    assert re.match(rf"head {job[1]}: running on n\d; log: \.ddmake/slurm/head-{job[1]}\.log\n"
                    r"job \d+: 0 of 2 done; 2 tasks running on n\d(, n\d)?\n  data/0\.jsonl, data/1\.jsonl\n$", running), running
    assert f"Job {job[1]} makes this already" in said(project, *SLURM, "--detach", "--profile", os.path.relpath(
        project.root / "profile.toml", tmp_path), folder=tmp_path, code=1)
    (project.root / "go").touch()
    until(lambda: job[1] not in slurm("squeue", "-h", "-o", "%A"))
    assert said(project, "status").startswith(f"head {job[1]}: has ended; log: .ddmake/slurm/head-{job[1]}.log\n  made 2, fresh 0 in ")
    assert project.run("-q").code == 0 and [len(file.read_text()) for file in project.root.glob("runs-*")] == [1, 1]
    assert said(project, "clean", "--yes").endswith("Removed 2.\n") and not left(project)
    assert said(project, "status") == "Nothing of this project is on a cluster.\n"


@pytest.mark.slow
def test_cancel_ends_a_detached_head_and_its_jobs(project, cluster):
    job = re.match(r"Job (\d+)", said(project.ddfile(FLOW), *SLURM, "--detach"))[1]
    begun(project)
    assert re.match(rf"cancelled 2 jobs \({job}, \d+\)\n$", said(project, "cancel"))
    until(lambda: not slurm("squeue", "-h"))
    assert left(project) == [f"head-{job}.log"]
    assert said(project, "cancel") == said(project, "status") == "Nothing of this project is on a cluster.\n"


@pytest.mark.slow
def test_two_detached_heads_make_each_target_once(project, cluster):
    project.ddfile(FLOW)
    first = re.match(r"Job (\d+)", said(project, *SLURM, "--detach", "data/0.jsonl"))[1]
    told = said(project, *SLURM, "--detach")
    assert told.endswith(f"\nBeside it there is {first}: what several are to make is made once.\n")
    begun(project)
    (project.root / "go").touch()
    until(lambda: not slurm("squeue", "-h"))
    assert project.run("-q").code == 0 and [len(file.read_text()) for file in project.root.glob("runs-*")] == [1, 1]


def test_a_head_whose_node_has_not_the_folder_is_told_of(project, cluster):
    project.ddfile(FLOW)
    folder = project.root / ".ddmake/slurm"
    folder.mkdir(parents=True)
    job = slurm("sbatch", "--parsable", f"--chdir={project.root}", f"--output={project.root}/gone/head-%j.log", "--wrap", "true").strip()
    (folder / f"head-{job}").write_text("")
    until(lambda: not slurm("squeue", "-h"))
    assert said(project, "status") == (
        f"head {job}: it isn't in the queue any more, and left no log; perhaps its node doesn't see the project's folder, which has "
        "to lie on a file system that all nodes share.\nNothing of this project is on a cluster.\n")


@pytest.fixture
def abandoned(project, cluster):
    """Give a project whose head was killed while its jobs run."""
    process = project.ddfile(FLOW).command(*SLURM)
    begun(project)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return project


def test_jobs_whose_head_was_killed_stay_until_they_are_over_and_unwanted(abandoned):
    """By what is planned, what lies on the cluster, and what clean may take: never what a run would take up."""
    project = abandoned
    planned = said(project, "-n")
    assert "Make 2." in planned and planned.endswith("On the cluster 2 jobs go on: ddmake --executor slurm takes that up, ddmake cancel ends it.\n")
    assert "may be made on the cluster at this moment" in said(project, code=2)
    stays = said(project, "clean")
    assert "may go" not in stays and "its jobs are on the cluster; ddmake cancel ends them" in stays, stays
    assert stays.count("jobs on a cluster may need it") == 3, "the folders that its jobs work in, and the run's"
    (project.root / "go").touch()
    until(lambda: not slurm("squeue", "-h"))
    stays = said(project, "clean")
    assert "may go" not in stays and "jobs that a run takes up" in stays, "what they have made lies in the scratch folders"
    project.ddfile(FLOW.replace('{"i": i,', '{"i": i + 1,'))
    assert "left by a run that was killed" in said(project, "clean", "--dry-run")
    assert "Removed 4.\n" in said(project, "clean", "--yes") and not left(project)
    assert "There is nothing to remove." in said(project, "clean")


def test_without_slurm_what_lies_there_is_told_and_nothing_goes(abandoned, monkeypatch, tmp_path):
    project, path = abandoned, os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    told = said(project, "status")
    assert re.match(r"job \d+: 0 of 2 done\n  data/0\.jsonl, data/1\.jsonl\nWhat runs and what waits isn't known: squeue isn't here, so there is no Slurm", told), told
    assert "Nothing was cancelled: squeue isn't here" in said(project, "cancel", code=1)
    assert "Slurm doesn't tell whether its jobs are over" in said(project, "clean") and len(left(project)) == 1
    monkeypatch.setenv("PATH", path)
    assert said(project, "cancel").startswith("cancelled 1 job (") and not left(project)


PYPROJECT = [  # pyproject.toml, flags; the sentence, also under -n and where there is nothing to make
    ('[tool.ddmake.slurm]\npartion = "main"\n', (), "[tool.ddmake.slurm]: sbatch has no option 'partion'. Did you mean 'partition'?"),
    ("[tool.ddmake.slurm]\njob = 3\n", (), "[tool.ddmake.slurm]: sbatch has no option 'job'. Did you mean 'jobs'?"),
    ("[tool.ddmake.slurm]\njobs = true\n", (), "[tool.ddmake.slurm]: jobs=True; it is a number from 1 on."),
    ("[tool.ddmake]\nslurm = 3\n", (), "pyproject.toml: [tool.ddmake.slurm] is a table."),
    ("tool = 3\n", (), "pyproject.toml: [tool] is a table."),
    ('[tool.ddmake.slurm.head]\npartition = ["a"]\n', (), "[tool.ddmake.slurm] head: partition=['a'] is no option of Slurm's."),
    ('[tool.ddmake.slurm.head]\noutput = "a"\n', (), "[tool.ddmake.slurm] head: output is set by ddmake itself."),
    ("", ("--slurm", "p=main"), "--slurm: 'p' is no option of sbatch's by its whole name, such as partition=gpu."),
    ("", ("--slurm", ""), "--slurm: '' is no option of sbatch's by its whole name"),
    ("", ("--slurm", "help"), "--slurm: help is set by ddmake itself."),
    ("", ("--slurm", "parti=main"), "--slurm: sbatch has no option 'parti'. Did you mean 'partition'?"),
    ("", ("--profile", "gone.toml"), "gone.toml isn't there."),
    ("", ("--profile", "."), "is a folder, and no TOML file."),
    ("", ("--executor", "slrm"), "--executor slrm: there is none of that name. Did you mean 'slurm'?"),
    ("", ("--executor", "local", "--detach"), "--detach runs the head itself as a job: use it with --executor slurm."),
]


def test_a_mistake_is_told_though_nothing_is_to_be_made(project):
    project.ddfile("rows('data/a', values=[{'x': 1}])\n").make()
    for pyproject, flags, told in PYPROJECT:
        project.write("pyproject.toml", pyproject)
        for more in ("-n", "-q", "-v"):
            result = project.run(*SLURM, *flags, more)
            assert result.code == 2 and told in result.output and len(result.output.splitlines()) == 1, result.output


def test_an_option_that_only_this_cluster_has_is_taken(project, monkeypatch, tmp_path):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho '      --gpumps=number      of a plugin'\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    project.ddfile("rows('data/a', values=[{'x': 1}])\n")
    assert project.run(*SLURM, "--slurm", "gpumps=2", "-n").code == 0
    assert "Did you mean 'gpus'?" in project.run(*SLURM, "--slurm", "gpum=2", "-n").output


FATES = [  # state, exit code, the node, times before; what is told of it
    ("FAILED", "0:53", "Slurm says FAILED, exit code 0:53; perhaps its node doesn't see the project's folder, which has to lie on"),
    ("FAILED", "127:0", "Slurm says FAILED, exit code 127:0; perhaps its node doesn't have the Python that runs ddmake, at the same"),
    ("FAILED", "126:0", "exit code 126:0; perhaps its node doesn't have the Python"),
    ("FAILED", "1:0", "Slurm says FAILED, exit code 1:0"),
    ("CANCELLED", "0:15", "it was cancelled, exit code 0:15"),
]


@pytest.mark.parametrize("word, code, told", FATES)
def test_what_is_told_of_a_job_that_left_no_result(word, code, told):
    found = fate(State(word, code=code), "n1", 0, 0)
    assert told in found.how and not found.again and ("perhaps" in found.how) == ("perhaps" in told)


@pytest.mark.slow
def test_the_log_of_a_rule_in_shards_is_that_of_all(project, cluster):
    result = project.ddfile("""
        seeds = rows("data/seeds", values=[{"i": i} for i in range(4)], local=True)

        @step("data/cut", seeds, by_row="rows", shards=4)
        def cut(rows):
            for row in rows:
                if row["i"] == 1:
                    print("one comes")
                    raise ValueError("not this one")
                yield row
        """).run(*SLURM)
    assert result.code == 1 and "data/cut: shard 2 of 4" in result.output, result.output
    told = said(project, "log", "data/cut")
    assert "one comes" in told and "-1-of-4.log:" in told and "it printed nothing" not in told


@pytest.mark.slow
def test_a_job_that_no_node_has_room_for_is_told_of(project, cluster):
    process = project.ddfile(FLOW.replace("i=i)", "i=i, cpus=99)", 1)).command(*SLURM, "data/0.jsonl")
    for line in process.stdout:
        if "waits" in line:
            break
    assert line == "data/0.jsonl: waits in the queue (PartitionConfig: no node of its partition has what it asks for)\n"
    assert "1 task waiting (PartitionConfig: no node of its partition has what it asks for)" in said(project, "status")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert said(project, "cancel").startswith("cancelled 1 job (")
