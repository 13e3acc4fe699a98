"""What was found by attacking the calls: odd answers, rules that ask the same at once, bills of what failed later, dead callers."""

import fcntl
import signal
import sqlite3
import subprocess
import time

import psutil
import pytest

from ddmake.calls.cache import Calls
from ddmake.calls.claims import Claims

ROWS = """
@step("rows")
def rows():
    yield from ({{"x": i}} for i in range({n}))

gpt = llm("openai/toy", base_url="{url}"{more})
"""


def asking(project, service, rules, n=20, more=""):
    """Write a workflow of n rows, and rules over them."""
    return project.ddfile(ROWS.format(n=n, url=service.url, more=more) + rules)


def kept(project):
    """Return how many calls are kept, and what they cost."""
    with sqlite3.connect(project.root / ".ddmake" / "calls.db") as db:
        return db.execute("SELECT count(*), sum(cost) FROM calls").fetchone()


SAY = 'transform("said", rows, llm=gpt, prompt="Say {{ x }}", meta=True)\n'


def test_half_a_surrogate_pair_in_an_answer_loses_nothing(project, service):
    service.fail(0, say="half \ud800 of it")
    asking(project, service, SAY).make()
    assert {row["text"] for row in project.rows("said")} == {"half ? of it"}
    assert kept(project)[0] == 20


@pytest.mark.parametrize("usage", [
    {"prompt_tokens": "10", "completion_tokens": "5"}, {"prompt_tokens": 10**20, "completion_tokens": 1}, {"prompt_tokens": -1},
    {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": "x"}},
])
def test_answers_with_odd_counts_of_tokens_are_kept(project, service, usage):
    service.fail(0, usage=usage)
    asking(project, service, SAY, more=", price=(1, 1)").make()
    assert kept(project)[0] == 20


SLOW_CLAIMS = """
import time
from ddmake.calls.claims import Claims

def late(self, *given, plain=Claims.take):
    time.sleep(2)
    return plain(self, *given)

Claims.take = late
"""


def test_rules_that_ask_the_same_at_once_pay_once(project, service, monkeypatch, tmp_path_factory):
    """Also those that ask while the same calls are being claimed for another."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "sitecustomize.py").write_text(SLOW_CLAIMS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    rules = "\n".join(f'transform("t{i}", rows, llm=gpt, prompt="Say {{{{ x }}}}", column="c{i}")' for i in range(4))
    asking(project, service, rules, n=60).make("-j", "4")
    assert service.counts()["requests"] == 60


def test_an_answer_whose_mending_is_refused_stays_on_the_bill(project, service):
    service.fail(0, prompts={"Rate": "misfit", "That isn't": "400"})
    rule = 'transform("rated", rows, llm=gpt, prompt="Rate {{ x }}", schema={"score": int})'
    asking(project, service, rule, n=4, more=", price=(1000, 1000)").run()
    count, cost = kept(project)
    assert count == 4 and cost > 0


@pytest.mark.slow
@pytest.mark.parametrize("service", [0.3], indirect=True)
@pytest.mark.parametrize("limit", [[], ["--max-cost", "9"]])
def test_rules_behind_a_caller_that_was_killed_do_not_wait_for_it(project, service, limit):
    rules = "\n".join(f'transform("t{i}", rows, llm=gpt, prompt="{i} {{{{ x }}}}")' for i in range(2))
    asking(project, service, rules, n=12, more=", concurrency=4, price=(1, 1), max_tokens=9")
    head = project.command("-j", "1", "-k", *limit)
    while not service.counts()["requests"]:
        assert head.poll() is None, head.stdout.read()
        time.sleep(0.05)
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    (caller,) = [line.split()[0] for line in found if line.split()[1] == str(head.pid) and "ddmake.calls" in line]
    subprocess.run(["kill", "-9", caller], check=True)
    output = head.communicate(timeout=30)[0]
    assert head.returncode == 1 and "Traceback" not in output, output
    assert output.count("the run's caller process has ended") == (2 if limit else 1), "one that may spend so much isn't replaced"
    project.make()
    assert service.counts()["answered_again"] <= 2 * 4


def test_one_ctrl_c_does_not_wait_for_all_that_is_to_be_parsed(project, service):
    rule = """
import time
def slow(text, row):
    open("parsing", "w").close()
    time.sleep(1)
    return text
transform("said", rows, llm=gpt, prompt="Say {{ x }}", parse=slow)
"""
    head = asking(project, service, rule, n=60).command()
    while not (project.root / "parsing").exists():
        assert head.poll() is None, head.stdout.read()
        time.sleep(0.05)
    started = time.monotonic()
    head.send_signal(signal.SIGINT)
    assert head.wait(timeout=30) == 130 and time.monotonic() - started < 10


def test_who_is_swept_before_it_is_locked_signs_on_again(tmp_path, monkeypatch):
    other, plain, swept = Claims(Calls(tmp_path)), fcntl.flock, []

    def late(lock, how):
        if how == fcntl.LOCK_EX and not swept:
            swept.append(True)
            other._sweep()
        plain(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    claims = Claims(Calls(tmp_path))
    assert swept and other._alive(claims.owner)


@pytest.mark.slow
@pytest.mark.parametrize("service", [6.0], indirect=True)
def test_who_waits_for_anothers_requests_sends_them_when_that_one_dies(project, service):
    """Two heads ask the same; the first is killed with its caller while its requests are in flight."""
    project.ddfile(f"""
        cfg = config(column="said")

        @step("rows")
        def rows():
            yield from ({{"x": f"word {{i}}"}} for i in range(6))

        transform("said", rows, llm=llm("openai/toy", base_url="{service.url}"), column=cfg.column, prompt="Say {{{{ x }}}}")
    """)
    first = project.command("--into", "a")
    while service.counts()["requests"] < 6:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.02)
    second = project.command("--into", "b", "column=told")
    while len(list((project.root / ".ddmake/callers").iterdir())) < 2:
        assert second.poll() is None, second.stdout.read()
        time.sleep(0.02)
    time.sleep(0.5)
    assert service.counts()["requests"] == 6, "the second waits"
    for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
        process.kill()
    first.wait()
    output = second.communicate(timeout=30)[0]
    assert second.returncode == 0, output
    assert [row["told"] for row in project.rows("b/said")] == [f"SAY WORD {i}" for i in range(6)]
    assert service.counts()["requests"] == 12, "what was in flight at the kill, once more"
