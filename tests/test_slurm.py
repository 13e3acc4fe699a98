"""Jobs on a real Slurm of four nodes: what is asked of it, what is made there, and what is lost on the way and made all the same."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import Project
from slurm_cluster import LONGEST, slurm
from test_workers import wait_for

from ddmake.executors.slurm import commands

SLURM = ("--executor", "slurm")
HERE = """
import os, time
from pathlib import Path

def here(name, wait=""):
    with open(f"runs-{name}", "a") as file:
        file.write("x")
    while wait and not Path(wait).exists():
        time.sleep(0.05)
    return {"name": name, "node": os.environ.get("SLURMD_NODENAME"), "task": os.environ.get("SLURM_ARRAY_TASK_ID")}
"""


def many(n, more="", wait="", then="pass"):
    """Return a Ddfile with so many rules, which wait for a file."""
    return HERE + f"""
for i in range({n}):
    @step(f"data/{{i}}.jsonl", i=i{more})
    def rule(*, i):
        yield here(str(i), {wait!r})
        {then}
"""


ORPHAN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from slurm_cluster import Cluster
print(Cluster().folder, flush=True)
os.kill(os.getpid(), 9)
"""


def test_no_daemon_outlives_its_tests(cluster):
    told = subprocess.run([sys.executable, "-c", ORPHAN, str(Path(__file__).parent)], capture_output=True, text=True).stdout
    until(lambda: not Path(told.strip()).exists())
    assert not slurm("pgrep", "-f", told.strip())


def meanwhile(act):
    """Do something while a head runs in this thread."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def runs(project) -> dict[str, int]:
    """Return how often each recipe was run."""
    return {file.name.removeprefix("runs-"): len(file.read_text()) for file in project.root.glob("runs-*")}


def files(project, under="data") -> dict[str, bytes]:
    """Return the bytes of what was made."""
    return {str(file.relative_to(project.root)): file.read_bytes()
            for file in sorted((project.root / under).rglob("*")) if file.is_file()}


def queue() -> list[str]:
    return slurm("squeue", "-h", "--array", "-o", "%i %T").splitlines()


def until(holds, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"never came; the queue: {queue()}"
        time.sleep(0.05)


FLOW = HERE + """
cfg = config(url="", n=6)

@step("data/seeds", n=cfg.n)
def seeds(*, n):
    here("seeds")
    yield from ({"x": f"word {i}"} for i in range(n))

tweets = transform("data/tweets", seeds, llm=llm("echo"), prompt="A tweet on {{ x }}", column="tweet")
transform("data/said", seeds, llm=llm("openai/toy", base_url=cfg.url), prompt="Say {{ x }}", column="said")

@step("where/{place}.json", tweets)
def where(rows, output, *, place):
    output.write_text(str(here(place)["node"]))

where.bind(place="there")

@step("where/here.json", tweets, local=True)
def beside(rows, output):
    output.write_text(str(here("beside")["node"]))

@step("where/gpu.json", tweets, gpus=1, cpus=2, mem="500MB", slurm={"partition": "high"})
def gpu(rows, output):
    told = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "SLURM_JOB_PARTITION")]
    output.write_text(" ".join([here("gpu")["node"], *told]))
"""


@pytest.mark.slow
def test_a_workflow_is_made_on_nodes_as_it_is_here(project, cluster, service, tmp_path_factory):
    targets = ("all", "where/there.json", f"url={service.url}")
    local = Project(tmp_path_factory.mktemp("local")).ddfile(FLOW)
    local.make("data/tweets", "data/said", f"url={service.url}")
    assert "made 6, fresh 0 in" in project.ddfile(FLOW).make(*SLURM, *targets).output
    assert files(project) == files(local), "byte for byte"
    told = {name: (project.root / f"where/{name}.json").read_text() for name in ("there", "here", "gpu")}
    assert told["here"] == "None" and re.fullmatch(r"n\d", told["there"]) and re.fullmatch(r"n\d [01] 2 477 high", told["gpu"])
    assert service.counts()["requests"] == 12, "six for each project"
    assert project.run("-q", *targets).code == 0, "fresh without a cluster, too"
    assert not list((project.root / ".ddmake/slurm").iterdir()) and not list((project.root / ".ddmake/scratch").iterdir())
    forced = project.make("--force", "--only", "data/tweets", f"url={service.url}").output
    assert "0 sent, 6 cached" in forced, "the node's answers are the project's"


PROJECT, RULE, PROFILE = '[tool.ddmake.slurm]\npartition = "a"\nnice = 1\n', 'slurm={"partition": "b"}', 'partition = "c"\n'
PRECEDENCE = [  # pyproject.toml, the profile, the rule's options, flags; what sbatch is asked, of several that it could be
    (PROJECT, None, "", (), ["--partition=a", "--nice=1"]),
    (PROJECT, PROFILE, "", (), ["--partition=c", "--nice=1"]),
    (PROJECT, PROFILE, RULE, (), ["--partition=b", "--nice=1"]),
    (PROJECT, PROFILE, RULE, ("--slurm", "partition=d", "--slurm", "nice=2"), ["--partition=d", "--nice=2"]),
    ("", None, 'slurm={"cpus_per_gpu": 2, "exclusive": True, "overcommit": False}', (), ["--cpus-per-gpu=2", "--exclusive"]),
    ("", None, "", ("--slurm", "exclusive"), ["--exclusive"]),
    ("", None, 'cpus=3, gpus=2, mem="1GB", time="90s"', (), ["--cpus-per-task=3", "--gres=gpu:2", "--mem=954M", "--time=0:01:30"]),
    ("", None, 'time="1d 2h"', (), ["--time=26:00:00"]),
    ("", None, "", (), ["--no-requeue", "--kill-on-invalid-dep=yes", "--array=0-0%64"]),
    ("", None, "", ("-j", "3"), ["--array=0-0%3"]),
    ("[tool.ddmake.slurm]\njobs = 5\n", None, "", (), ["--array=0-0%5"]),
]


@pytest.mark.parametrize("pyproject, profile, options, flags, asked", PRECEDENCE)
def test_what_sbatch_is_asked(project, spy, pyproject, profile, options, flags, asked):
    sbatch = spy("sbatch")
    sbatch.does("echo no >&2; exit 1")
    project.write("pyproject.toml", pyproject)
    if profile is not None:
        flags = (*flags, "--profile", str(project.write("there.toml", profile)))
    project.ddfile(many(1, more=f", {options}")).run(*SLURM, *flags)
    (call,) = sbatch.calls
    words = call.split()
    assert set(asked) <= set(words)
    names = [word.partition("=")[0] for word in words]
    assert len(set(names)) == len(names), "nothing is asked twice"


MISTAKES = [  # the rule's options, flags, pyproject.toml; the sentence
    ("", ("--slurm", "mem=4GB"), "", "--slurm: mem is set by ddmake itself. Say mem=… of the rule."),
    ('slurm={"output": "x"}', (), "", "data/0.jsonl: output is set by ddmake itself."),
    ('slurm={"nice": 1.5}', (), "", "data/0.jsonl: nice=1.5 is no option of Slurm's"),
    ("", (), "[tool.ddmake.slurm]\npack = 'maybe'\n", "[tool.ddmake.slurm]: pack='maybe'; it is true or false."),
    ("", (), "[tool.ddmake.slurm]\njobs = 0\n", "[tool.ddmake.slurm]: jobs=0; it is a number from 1 on."),
    ("", (), "[tool.ddmake.slurm\n", "pyproject.toml"),
    ("", ("--profile", "gone.toml"), "", "gone.toml isn't there"),
]
REFUSED = [
    ("partition=nowhere", "data/0.jsonl: Slurm refuses its job: invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified\n"),
    ("flavour=main", "data/0.jsonl: Slurm refuses its job: unrecognized option '--flavour=main'\n"),
]


@pytest.mark.parametrize("options, flags, pyproject, told", MISTAKES)
def test_a_mistake_is_one_sentence(project, cluster, options, flags, pyproject, told):
    project.write("pyproject.toml", pyproject)
    result = project.ddfile(many(1, more=f", {options}")).run(*SLURM, *flags)
    assert result.code == 2 and told in result.output and len(result.output.splitlines()) == 1, result.output
    assert not runs(project)


@pytest.mark.parametrize("flag, told", REFUSED)
def test_what_slurm_refuses_fails_as_a_job_does(project, cluster, flag, told):
    result = project.ddfile(many(1)).run(*SLURM, "--slurm", flag)
    assert result.code == 1 and told in result.output, result.output
    assert not list((project.root / ".ddmake/slurm").iterdir())


OUTSIDE = [  # what is asked without Slurm's commands, or without the executor
    (SLURM, "sbatch isn't here, so there is no Slurm to run jobs. Run ddmake where jobs are submitted, or leave out --executor slurm."),
    (("--executor", "slrm"), "--executor slrm: there is none of that name. Did you mean 'slurm'?"),
    (("--slurm", "partition=main"), "--slurm and --profile say how jobs run on a cluster: use them with --executor slurm."),
]


@pytest.mark.parametrize("flags, told", OUTSIDE)
def test_without_slurm_it_says_so(project, monkeypatch, tmp_path_factory, flags, told):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    result = project.ddfile(many(1)).run(*flags)
    assert result.code == 2 and told in result.output and len(result.output.splitlines()) == 1, result.output


def test_small_jobs_share_tasks(project, spy):
    sbatch = spy("sbatch")
    project.ddfile(many(9)).make(*SLURM, "-j", "3")
    assert "--array=0-2%3" in sbatch.calls[0] and len(sbatch.calls) == 1
    tasks = {row["task"] for i in range(9) for row in project.lines(f"data/{i}.jsonl")}
    assert tasks <= {"0", "1", "2"} and runs(project) == {str(i): 1 for i in range(9)}
    until(lambda: not queue())
    mine = [line for line in slurm("scontrol", "-o", "show", "job").splitlines() if f"WorkDir={project.root} " in line]
    assert [re.search(r"JobState=(\w+)", line)[1] for line in mine] == ["COMPLETED"] * 3


@pytest.mark.parametrize("pyproject, n, arrays", [
    ("[tool.ddmake.slurm]\npack = false\n", LONGEST + 2, [f"0-{LONGEST - 1}", "0-1"]),
    ("", LONGEST + 2, [f"0-{LONGEST - 1}"]),
])
def test_arrays_are_as_long_as_slurm_allows(project, spy, pyproject, n, arrays):
    sbatch = spy("sbatch")
    sbatch.does("echo no >&2; exit 1")
    project.write("pyproject.toml", pyproject)
    project.ddfile(many(n)).run(*SLURM, "-k")
    assert [re.search(r"--array=(\S+)%", call)[1] for call in sbatch.calls] == arrays


def test_jobs_that_ask_for_different_things_are_submitted_apart(project, spy):
    sbatch = spy("sbatch")
    project.ddfile(many(2, more=", cpus=i + 1")).make(*SLURM)
    assert sorted(re.search("--cpus-per-task=.", call)[0][-1] for call in sbatch.calls) == ["1", "2"]


def test_what_slurm_told_an_outer_job_reaches_no_inner_one(project, spy, monkeypatch):
    sbatch = spy("sbatch")
    sbatch.does(f'env | grep ^SLURM_ > {sbatch.notes}.env; exec {sbatch.real} "$@"')
    for name, value in {"SLURM_JOB_ID": "999", "SLURM_MEM_PER_CPU": "1", "SLURM_ARRAY_TASK_ID": "77", "SLURM_NTASKS": "9"}.items():
        monkeypatch.setenv(name, value)
    project.ddfile(many(1)).make(*SLURM)
    assert Path(f"{sbatch.notes}.env").read_text() == f"SLURM_CONF={os.environ['SLURM_CONF']}\n"
    assert project.lines("data/0.jsonl")[0]["task"] == "0"


FAILING = HERE + """
@step("data/bad")
def bad():
    here("bad")
    print("so far so good")
    return [{"x": {}["rating"]}]

@step("data/behind", "data/bad")
def behind(rows):
    return rows

@step("data/good")
def good():
    yield here("good")
"""


def plain(output: str) -> str:
    return re.sub(r"\d+(\.\d+)? m?s|\d{8}-\d{6}", "…", output)


def test_a_failing_job_is_told_as_it_is_here(project, cluster, tmp_path_factory):
    local = Project(tmp_path_factory.mktemp("local")).ddfile(FAILING).run("-k", "-j", "1")
    result = project.ddfile(FAILING).run(*SLURM, "-k")
    assert result.code == local.code == 1
    summary = [plain(output).partition("made 1")[2] for output in (local.output, result.output)]
    assert summary[0] == summary[1] and "KeyError" in summary[0]
    assert "so far so good" in project.run("log", "data/bad").output


@pytest.mark.parametrize("n", [1, 9])
def test_what_a_node_says_of_a_job_that_could_not_begin_is_kept(project, spy, quick, n):
    sbatch = spy("sbatch")
    sbatch.does(f'sed "s,^exec .*,exec /nowhere/python," | {sbatch.real} "$@"')
    result = project.ddfile(many(n)).run(*SLURM, "-j", "2", "-k")
    told = "its process ended without a result (Slurm says FAILED, exit code 127:0; perhaps its node doesn't have the Python"
    assert result.code == 1 and result.output.count(told) == n and len(sbatch.calls) == 1, result.output
    assert "/nowhere/python: not found" in project.run("log", "data/0.jsonl").output


def test_retries(project, cluster):
    project.ddfile(HERE + """
@step("data/a.jsonl", retries=2)
def a():
    found = here("a")
    if len(Path("runs-a").read_text()) < 3:
        raise ValueError("not yet")
    yield found
""")
    assert project.make(*SLURM).output.count("trying again data/a.jsonl") == 2 and runs(project) == {"a": 3}


@pytest.mark.parametrize("how", ["echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
                                 "echo 'slurm_load_jobs error: Unspecified error' >&2; exit 1", "exit 0"])
def test_a_queue_that_tells_nothing_is_no_end_of_a_job(project, spy, quick, monkeypatch, how):
    squeue = spy("squeue")
    squeue.does(how)
    meanwhile(lambda: (until(lambda: len(squeue.calls) > 4), (project.root / "go").touch()))
    project.ddfile(many(1, wait="go")).make(*SLURM)
    assert runs(project) == {"0": 1}


@pytest.mark.slow
@pytest.mark.parametrize("after", ["sleep 30", "kill -9 $$", "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"])
def test_a_job_that_was_submitted_though_sbatch_did_not_say_so_is_found(project, spy, quick, monkeypatch, after):
    sbatch = spy("sbatch")
    sbatch.does(f'{sbatch.real} "$@" > /dev/null; {after}')
    monkeypatch.setattr(commands, "PATIENCE", 3.0)
    project.ddfile(many(3, wait="go"))
    meanwhile(lambda: (until(lambda: len(runs(project)) == 3), time.sleep(3), (project.root / "go").touch()))
    result = project.make(*SLURM)
    assert runs(project) == {"0": 1, "1": 1, "2": 1} and len(sbatch.calls) == 1, result.output


def test_a_job_that_was_not_submitted_is_submitted_again(project, spy, quick):
    sbatch = spy("sbatch")
    sbatch.does("echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    meanwhile(lambda: (until(lambda: len(sbatch.calls) > 1), sbatch.passes()))
    output = project.ddfile(many(1)).make(*SLURM).output
    assert "data/0.jsonl: sbatch: Unable to contact slurm controller (connect failure); trying on" in output
    assert runs(project) == {"0": 1} and len(sbatch.calls) == 3


@pytest.mark.slow
def test_a_head_that_is_killed_is_followed_by_one_that_listens_on(project, spy):
    sbatch = spy("sbatch")
    project.ddfile(many(3, wait="go"))
    first = project.command(*SLURM)
    wait_for(project.root / "runs-0")
    first.kill()
    first.wait()
    meanwhile(lambda: (time.sleep(2), (project.root / "go").touch()))
    project.make(*SLURM)
    assert len(sbatch.calls) == 1 and runs(project) == {"0": 1, "1": 1, "2": 1}


def test_what_ended_while_nobody_listened_is_heard_of(project, spy):
    """Be it good news or not, and all of it, though one is asked for before the others."""
    sbatch = spy("sbatch")
    project.ddfile(many(3, wait="go", then="assert i < 2"))
    first = project.command(*SLURM)
    wait_for(project.root / "runs-0")
    first.kill()
    first.wait()
    (project.root / "go").touch()
    until(lambda: not queue())
    project.make(*SLURM, "data/1.jsonl")
    result = project.run(*SLURM, "-k")
    assert "made 1, fresh 1, failed 1 in" in result.output
    assert "AssertionError" in (project.root / re.search(r"log: (\S+)", result.output)[1]).read_text()
    assert len(sbatch.calls) == 1 and runs(project) == {"0": 1, "1": 1, "2": 1}
    assert not list((project.root / ".ddmake/slurm").iterdir())


@pytest.mark.slow
def test_ctrl_c_leaves_jobs_to_a_later_head(project, spy):
    sbatch = spy("sbatch")
    project.ddfile(many(3, wait="go"))
    first = project.command(*SLURM)
    wait_for(project.root / "runs-0")
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=30)[0]
    assert first.returncode == 130 and "What runs on the cluster goes on, for a later ddmake to take up; Ctrl-C again within 5 s cancels it." in output, output
    assert "On the cluster 3 jobs go on: ddmake --executor slurm takes that up, ddmake cancel ends it." in output and queue()
    (project.root / "go").touch()
    project.make(*SLURM)
    assert len(sbatch.calls) == 1 and runs(project) == {"0": 1, "1": 1, "2": 1}


def test_a_second_ctrl_c_cancels(project, cluster):
    project.ddfile(many(3, wait="go"))
    head = project.command(*SLURM)
    wait_for(project.root / "runs-0")
    head.send_signal(signal.SIGINT)
    assert any("Ctrl-C again" in line for line in head.stdout)
    head.send_signal(signal.SIGINT)
    output = head.communicate(timeout=30)[0]
    assert head.returncode == 130 and output.endswith("What ran on the cluster was cancelled.\n"), output
    until(lambda: not queue())
    assert not list((project.root / ".ddmake/slurm").iterdir()) and not (project.root / "data").exists()


DISTURBED = many(8, more=", cpus=1 + i // 4", wait="go")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("undisturbed")).ddfile(DISTURBED.replace('os.environ.get', '{}.get'))
    (found.root / "go").touch()
    found.make()
    return files(found)


def tasks_of(project) -> list[int]:
    """Return the processes of a project's tasks on the nodes that this machine plays: those of batch scripts, and their copies."""
    return [int(pid) for pid in slurm("pgrep", "-f", f"ddmake.executors.slurm {project.root}").split()]


def worker_of(project) -> int:
    """Return the process that does a job of a project: a copy of the one that a batch script has started."""
    tasks = tasks_of(project)
    return next(pid for pid in tasks if parent(pid) in tasks)


def parent(pid: int) -> int:
    """Return a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_a_task(project, cluster):
    """Kill what does a job, as a machine does that runs out of memory."""
    os.kill(worker_of(project), signal.SIGKILL)


def kill_a_batch_script(project, cluster):
    os.kill(parent(worker_of(project)), signal.SIGKILL)


def lose_a_node(project, cluster):
    node = slurm("squeue", "-h", "-t", "R", "-o", "%N").split()[0]
    cluster.lose(node)
    cluster.bring_back(node)


def preempt(project, cluster):
    slurm("sbatch", "-p", "high", "-N", "4", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    until(lambda: not slurm("squeue", "-h", "-p", "high"))


def restart(project, cluster):
    cluster.stop_controller()
    time.sleep(2)
    cluster.start_controller()


@pytest.mark.slow
@pytest.mark.parametrize("disturb, again", [(kill_a_task, 1), (kill_a_batch_script, 1), (lose_a_node, 8), (preempt, 8), (restart, 0)])
def test_what_is_lost_is_made_again_and_nothing_else(project, cluster, quick, undisturbed, disturb, again):
    """Whatever goes wrong: each result is there, once, as if nothing had."""
    def act():
        for i in range(8):
            wait_for(project.root / f"runs-{i}", 60)
        disturb(project, cluster)
        (project.root / "go").touch()

    acting = meanwhile(act)
    result = project.ddfile(DISTURBED.replace('os.environ.get', '{}.get')).make(*SLURM)
    acting.join()
    assert files(project) == undisturbed
    assert 8 + (again > 0) <= sum(runs(project).values()) <= 8 + again, result.output
    assert "made 8, fresh 0 in" in result.output


@pytest.mark.slow
def test_a_node_that_has_lost_two_jobs_gets_no_more(project, cluster, spy, quick):
    """But where a job may run nowhere else, it is given another chance."""
    sbatch = spy("sbatch")

    def act():
        for i in range(4):
            wait_for(project.root / f"runs-{i}", 60)
        cluster.lose("n1")
        cluster.bring_back("n1")
        (project.root / "go").touch()

    acting = meanwhile(act)
    project.ddfile(many(4, more=", cpus=2, slurm={'nodelist': 'n1'} if i < 2 else {'exclude': 'n1'}", wait="go")).make(*SLURM)
    acting.join()
    assert ["--exclude=n1" in call and "--nodelist=n1" in call for call in sbatch.calls] == [False, False, True, False], sbatch.calls


@pytest.mark.slow
def test_heads_that_are_killed_one_after_another_lose_nothing(project, spy, undisturbed):
    sbatch = spy("sbatch")
    project.ddfile(DISTURBED.replace('os.environ.get', '{}.get'))
    for seconds in (0.6, 1.0, 1.5, 2.0, 3.0):
        head = project.command(*SLURM)
        time.sleep(seconds)
        head.kill()
        head.wait()
    (project.root / "go").touch()
    project.make(*SLURM)
    assert files(project) == undisturbed and set(runs(project).values()) == {1}
    assert len(sbatch.calls) == 2, "one for each kind of job"


ASKING = HERE + """
@step("seeds")
def seeds():
    yield from ({"x": f"word {i}"} for i in range(40))

def slow(text, row):
    here("rows")
    time.sleep(0.1)
    return text

transform("said", seeds, llm=llm("tiny", batch_size=4), column="said", prompt="Say {{ x }}", parse=slow)
"""


@pytest.mark.slow
def test_a_job_that_was_killed_asks_for_the_rest_only(project, quick):
    """Answers of a job that is killed are kept: in its own database, for its next try, and then in the project's."""
    def act():
        wait_for(project.root / "runs-rows", 60)
        until(lambda: runs(project)["rows"] > 12)
        os.kill(worker_of(project), signal.SIGKILL)

    acting = meanwhile(act)
    result = project.ddfile(ASKING).make(*SLURM)
    acting.join()
    sent, cached = map(int, re.search(r"(\d+) sent, (\d+) cached", result.output).groups())
    assert sent + cached == 40 and cached >= 8, result.output
    assert "0 sent, 40 cached" in project.make("--force", "--only", "said").output


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_given_twice_the_time(project, spy, quick):
    sbatch = spy("sbatch")
    project.ddfile(many(1, more=', time="1m", retries=1', wait="go"))
    meanwhile(lambda: (until(lambda: len(sbatch.calls) == 2, 200), (project.root / "go").touch()))
    result = project.make(*SLURM)
    assert "trying again data/0.jsonl: it ran longer than its time='1m' and was stopped; raise `time` if it needs more" in result.output
    assert [re.search(r"--time=(\S+)", call)[1] for call in sbatch.calls] == ["0:01:00", "0:02:00"] and runs(project) == {"0": 2}


GREEDY = HERE + """
@step("data/a.jsonl", mem="300MB", retries={retries})
def a():
    found = here("a")
    held = bytearray(350_000_000)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(4)
    yield found
"""


@pytest.mark.slow
def test_a_job_that_takes_too_much_memory_is_given_twice_as_much(project, spy, quick):
    sbatch = spy("sbatch")
    result = project.ddfile(GREEDY.replace("{retries}", "1")).make(*SLURM)
    assert "trying again data/a.jsonl: it took more memory than mem='300MB'; raise `mem`" in result.output
    assert [re.search(r"--mem=(\S+)", call)[1] for call in sbatch.calls] == ["287M", "573M"] and runs(project) == {"a": 2}


@pytest.mark.slow
def test_what_is_too_little_is_named_with_what_was_given(project, cluster, quick):
    result = project.ddfile(GREEDY.replace("350_000_000", "700_000_000").replace("{retries}", "1")).run(*SLURM)
    told = "data/a.jsonl: it took more memory than 2 × mem='300MB'; raise `mem` (tried 2 times)"
    assert result.code == 1 and told in result.output and runs(project) == {"a": 2}, result.output


@pytest.mark.slow
def test_what_kills_itself_each_time_fails(project, cluster, quick):
    result = project.ddfile(HERE + """
@step("data/a.jsonl")
def a():
    here("a")
    os.kill(os.getpid(), 9)
""").run(*SLURM)
    told = "data/a.jsonl: it was killed by SIGKILL twice, most likely since it took more memory than it was given; raise `mem`"
    assert result.code == 1 and told in result.output and runs(project) == {"a": 2}, result.output


@pytest.mark.slow
def test_a_cluster_that_is_away_is_waited_for(project, cluster, quick):
    cluster.stop_controller()
    meanwhile(lambda: (time.sleep(3), cluster.start_controller()))
    project.ddfile(many(2)).make(*SLURM)
    assert runs(project) == {"0": 1, "1": 1}
