"""Stopping a run: softly, at once, and together with another head."""

import os
import signal
import time

import pytest
from test_workers import wait_for, workers

SLOW = """
import time, os
@step("slow")
def slow():
    with open("runs.txt", "a") as file:
        file.write("x")
    {how}
    yield {{"pid": os.getpid()}}
"""
ASKING = """
@step("rows")
def rows():
    yield from ({{"x": f"word {{i}}"}} for i in range({n}))

transform("said", rows, llm=llm("openai/toy", base_url="{url}", concurrency=8), column="said", prompt="Say {{{{ x }}}}")
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_waits_for_no_answer_stops_soon(project, number, code):
    project.ddfile(SLOW.format(how="time.sleep(60)"))
    head = project.command()
    wait_for(project.root / "runs.txt")
    head.send_signal(number)
    started = time.monotonic()
    output = head.communicate(timeout=30)[0]
    assert head.returncode == code and time.monotonic() - started < 8
    assert "Finishing what is in flight; Ctrl-C again stops now." in output and "What was made is kept" in output
    assert "failed" not in output


@pytest.mark.parametrize("service", [0.5], indirect=True)
def test_requests_in_flight_are_answered_and_kept(project, service):
    project.ddfile(ASKING.format(n=40, url=service.url))
    head = project.command("said")
    while service.counts()["answered"] < 8:
        assert head.poll() is None, head.stdout.read()
        time.sleep(0.05)
    time.sleep(0.2)  # the next eight are under way
    head.send_signal(signal.SIGINT)
    output = head.communicate(timeout=30)[0]
    assert head.returncode == 130, output
    counts = service.counts()
    assert counts["answered"] == counts["requests"] <= 32, "what was sent was waited for, and nothing more was sent"
    project.make("said")
    assert service.counts()["requests"] == 40, "and nothing is sent twice"


@pytest.mark.parametrize("service", [30.0], indirect=True)
def test_a_second_ctrl_c_stops_at_once(project, service):
    project.ddfile(ASKING.format(n=8, url=service.url))
    head = project.command("said")
    while service.counts()["requests"] < 8:
        assert head.poll() is None, head.stdout.read()
        time.sleep(0.05)
    head.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert head.poll() is None, "it waits for the answers"
    head.send_signal(signal.SIGINT)
    started = time.monotonic()
    head.communicate(timeout=20)
    assert head.returncode == 130 and time.monotonic() - started < 5
    assert not workers(project.root)


def test_nothing_new_starts(project):
    project.ddfile(SLOW.format(how="time.sleep(60)") + """
@step("next", slow)
def after(rows):
    return rows
for i in range(20):
    step(f"more/{i}", i=i)(lambda *, i: [{"i": i}])
""")
    head = project.command("-j", "1")
    wait_for(project.root / "runs.txt")
    head.send_signal(signal.SIGINT)
    output = head.communicate(timeout=30)[0]
    assert "stopped: made 0, fresh 0, not run 22" in output


def test_a_second_head_names_the_one_that_it_waits_for(project):
    project.ddfile(SLOW.format(how="time.sleep(2.5)"))
    first = project.command()
    wait_for(project.root / "runs.txt")
    [worker] = workers(project.root)
    second = project.command()
    told = [head.communicate(timeout=60)[0] for head in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert f"slow: waiting for process {worker.pid}, which is making it" in told[1]
    assert "made 1, fresh 0" in told[0] and "made 0, fresh 1" in told[1]
    assert (project.root / "runs.txt").read_text() == "x"


def test_a_head_that_waits_takes_over_when_the_other_is_killed(project):
    project.ddfile(SLOW.format(how="time.sleep(60 if len(open('runs.txt').read()) == 1 else 0)"))
    first = project.command()
    wait_for(project.root / "runs.txt")
    second = project.command()
    time.sleep(1.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    told = second.communicate(timeout=30)[0]
    assert second.returncode == 0 and "made 1" in told
    assert (project.root / "runs.txt").read_text() == "xx"
