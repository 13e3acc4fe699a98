"""What jobs ask of a machine: cores, memory, GPUs, time; and what is tried again."""

import re

import pytest

from ddmake.executors.machine import this_machine

NOTED = """
import json, os, time
def noted(seconds=0.0):
    began = time.time()
    time.sleep(seconds)
    yield {"began": began, "ended": time.time(), "pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
           "threads": int(os.environ["OMP_NUM_THREADS"])}
"""


@pytest.mark.parametrize("asked, told", [
    ("cpus=4096", "a asks for cpus=4096, and this machine has"),
    ("cpus=0", "a asks for cpus=0; a job takes at least 1"),
    ("mem='900TB'", "a asks for mem='900TB', and this machine has"),
    ("mem='16 gigs'", "a has mem='16 gigs'. Write it like \"500MB\", \"16GB\" or \"1.5TB\""),
    ("mem='16'", "a has mem='16'. Write it like"),
    ("time='soon'", "a has time='soon'. Write it like \"90s\", \"30m\", \"2h\" or \"1d 12h\""),
    ("time='90'", "a has time='90'. Write it like"),
    ("time='0s'", "a has time='0s'. Write it like"),
    ("gpus=3", "a asks for gpus=3, and ddmake sees 2 here"),
    ("gpus=-1", "a has gpus=-1; it can't be less than 0"),
    ("retries=-1", "a has retries=-1; it can't be less than 0"),
])
def test_what_is_not_to_be_had_is_told_when_planned(project, monkeypatch, asked, told):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    project.ddfile(f"@step('a', {asked})\ndef a():\n    yield {{'x': 1}}\n")
    for dry in (["-n"], []):
        result = project.run(*dry)
        assert result.code == 2 and "Ddfile:3: " in result.output and told in result.output, result.output


def test_what_is_fresh_needs_no_machine(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    project.ddfile("@step('a', gpus=1)\ndef a():\n    yield {'x': 1}\n").make()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    project.make()
    (project.root / "a" / "state.json").parent.rename(project.root / "gone")
    assert project.run("-n").verdicts() == {"a": "restore"}
    project.make()


def test_each_job_has_its_gpus(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    project.ddfile(NOTED + """
for name in "abcd":
    step(f"one/{name}.jsonl", gpus=1, name=name)(lambda *, name: noted(0.2))
step("two.jsonl", gpus=2, name="two")(lambda *, name: noted())
step("none.jsonl", gpus=0, name="none")(lambda *, name: noted())
step("all.jsonl", name="all")(lambda *, name: noted())
""").make("-j", "8")
    ones = [project.lines(f"one/{name}.jsonl")[0] for name in "abcd"]
    assert {row["gpus"] for row in ones} == {"4", "7"}
    for a in ones:
        assert not [b for b in ones if b is not a and b["gpus"] == a["gpus"] and a["began"] < b["began"] < a["ended"]]
    told = [project.lines(f"{name}.jsonl")[0]["gpus"] for name in ("two", "none", "all")]
    assert told == ["4,7", "", "4,7"]


def test_cores_are_shared_out_and_threads_with_them(project):
    cores = this_machine().cores
    project.ddfile(NOTED + f"""
for name in "ab":
    step(f"whole/{{name}}.jsonl", cpus={cores}, name=name)(lambda *, name: noted(0.2))
step("part.jsonl")(lambda: noted())
""").make("-j", "3")
    a, b = (project.lines(f"whole/{name}.jsonl")[0] for name in "ab")
    assert a["ended"] <= b["began"] or b["ended"] <= a["began"]
    assert a["threads"] == cores
    assert project.lines("part.jsonl")[0]["threads"] == max(1, cores // 3)


def test_memory_is_shared_out(project):
    most = this_machine().memory * 6 // 10
    project.ddfile(NOTED + f"""
for name in "ab":
    step(f"{{name}}.jsonl", mem="{most // 10**6}MB", name=name)(lambda *, name: noted(0.2))
""").make("-j", "2")
    a, b = (project.lines(f"{name}.jsonl")[0] for name in "ab")
    assert a["ended"] <= b["began"] or b["ended"] <= a["began"]


def test_a_big_job_is_overtaken_but_not_for_ever(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    project.ddfile(NOTED + """
first = step("first.jsonl", gpus=1)(lambda: noted(0.3))
step("big.jsonl", first, gpus=2)(lambda file: noted())
for i in range(120):
    step(f"small/{i}.jsonl", gpus=1, i=i)(lambda *, i: noted(0.02))
""")
    started = re.findall(r"^making (\w+)", project.make("-j", "4").output, re.MULTILINE)
    place = started.index("big")
    assert started[-1] == "small" and 2 < place < 110, "some may overtake it, and the last ones don't"


def test_resources_are_no_ingredients(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    project.ddfile("@step('a', cpus=1, mem='10MB', time='1h', retries=2, gpus=0)\ndef a():\n    yield {'x': 1}\n")
    assert project.run("-n", "-v").verdicts() == {"a": "fresh"}


def test_a_job_is_stopped_after_its_time(project):
    project.ddfile("""
        import time
        @step("slow", time="1s")
        def slow():
            time.sleep(60)
            yield {"x": 1}
        @step("quick", time="1h")
        def quick():
            yield {"x": 1}
    """)
    result = project.run("-k")
    assert result.code == 1 and "made 1" in result.output
    assert "slow: it ran longer than its time='1s' and was stopped; raise `time` if it needs more" in result.output


FLAKY = """
import os, signal, time
@step("flaky", retries={retries}{more})
def flaky():
    with open("tries.txt", "a") as file:
        file.write("x")
    if len(open("tries.txt").read()) < 3:
        {how}
    yield {{"x": 1}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("how, more", [
    ("raise OSError('no luck')", ""),
    ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ("time.sleep(60)", ", time='5s'"),  # a busy machine may take two seconds to get there
], ids=["failed", "killed", "too slow"])
def test_what_fails_is_tried_again(project, how, more):
    result = project.ddfile(FLAKY.format(retries=2, how=how, more=more)).make()
    assert result.output.count("trying again flaky") == 2
    assert (project.root / "tries.txt").read_text() == "xxx"


def test_no_more_often_than_said(project):
    result = project.ddfile(FLAKY.format(retries=1, how="raise OSError('no luck')", more="")).run()
    assert result.code == 1 and "no luck (tried 2 times)" in result.output
    assert (project.root / "tries.txt").read_text() == "xx"


def test_what_no_further_try_can_mend_is_not_tried_again(project, service):
    service.fail(1.0, "401")
    project.ddfile(f'generate("g", llm=llm("openai/toy", base_url="{service.url}"), prompt="x", n=1, retries=5)')
    result = project.run()
    assert result.code == 1 and "trying again" not in result.output and "answered 401" in result.output
    assert service.counts()["requests"] == 1
