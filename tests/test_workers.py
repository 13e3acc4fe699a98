"""Warm workers: one job after another in one process, as if each had its own."""

import os
import signal
import time

import psutil
import pytest


def wait_for(path, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def workers(root):
    found = [p for p in psutil.process_iter(["cmdline", "cwd"]) if "worker" in (p.info["cmdline"] or [])]
    return [p for p in found if str(root) in (p.info["cwd"] or "") and p.status() != psutil.STATUS_ZOMBIE]


def test_jobs_share_a_process_and_each_has_its_log(project):
    project.ddfile("""
        import os
        for name in "abc":
            @step(f"{name}.jsonl", name=name)
            def rule(*, name):
                print("this is", name)
                yield {"pid": os.getpid()}
    """).make("-j", "1")
    assert len({project.lines(f"{name}.jsonl")[0]["pid"] for name in "abc"}) == 1
    logs = {name: next(project.root.glob(f".ddmake/logs/{name}.jsonl/*.log")).read_text() for name in "abc"}
    assert logs == {name: f"this is {name}\n" for name in "abc"}


LEAVES = {
    "a changed folder": "os.chdir('/')",
    "a changed environment": "os.environ['NEW'] = '1'; os.environ.pop('HOME')",
    "closed streams": "sys.stdout.close(); sys.stderr.close(); os.close(1)",
    "lost streams": "os.closerange(0, 3); sys.stdout = sys.stderr = None",
    "closed numbers": "os.close(0); os.close(1); os.close(2)",
    "limits": "sys.setrecursionlimit(900); resource.setrlimit(resource.RLIMIT_NOFILE, (80, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    "a signal handler": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); signal.alarm(3600)",
    "a path of modules": "sys.path.insert(0, '/nowhere')",
    "a mask": "os.umask(0o777)",
    "a seed": "random.seed(1); numpy.random.seed(1)",
}


@pytest.mark.parametrize("left", LEAVES)
def test_what_a_job_changes_of_its_process_is_put_back(project, left):
    project.ddfile(f"""
        import os, random, resource, signal, sys, json, time

        def state():
            import numpy
            handlers = str([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGALRM)])
            draws = [random.random(), numpy.random.rand()]
            seeded = draws[0] == random.Random(1).random() or draws[1] == numpy.random.RandomState(1).rand()
            umask = os.umask(0)
            os.umask(umask)
            return dict(cwd=os.getcwd(), env=json.dumps(dict(os.environ)), path=sys.path[:3], handlers=handlers, alarm=signal.alarm(0), mask=umask, seeded=seeded,
                        limits=[sys.getrecursionlimit(), *resource.getrlimit(resource.RLIMIT_NOFILE)])

        @step("a.jsonl")
        def a():
            import numpy
            yield state()
            {LEAVES[left]}

        @step("b.jsonl", a)
        def b(file):
            print("heard")
            yield state()
    """).make("-j", "1")
    assert project.lines("a.jsonl") == project.lines("b.jsonl")
    assert "heard" in project.logs()


def test_what_a_job_changes_in_memory_reaches_no_other(project):
    """The changed global is part of the second rule's key, which then isn't the planned one: the Ddfile is loaded anew."""
    project.write("words.py", "SEEN = []\n")
    project.ddfile("""
        import os, words
        COUNT = {"n": 0}

        @step("a.jsonl")
        def a():
            COUNT["n"] = 7
            words.SEEN.append("a")
            yield {"pid": os.getpid()}

        @step("b.jsonl", a)
        def b(file):
            yield {"n": COUNT["n"], "seen": len(words.SEEN), "pid": os.getpid()}
    """).make("-j", "1")
    [b] = project.lines("b.jsonl")
    assert (b["n"], b["seen"]) == (0, 0)
    assert b["pid"] == project.lines("a.jsonl")[0]["pid"]
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_an_edit_during_the_run_is_seen_by_the_next_job(project):
    project.write("number.py", "N = 1\n")
    project.ddfile("""
        import number

        @step("a.jsonl")
        def a():
            open("number.py", "w").write("N = 2\\n")
            yield {"x": 1}

        @step("b.jsonl", a)
        def b(file):
            yield {"x": number.N}
    """)
    result = project.run("-j", "1")
    assert result.code == 3 and "b.jsonl: the Ddfile, a template or a source changed during the run" in result.output
    project.make()
    assert project.lines("b.jsonl") == [{"x": 2}]


def test_a_killed_worker_fails_its_job_alone(project):
    project.ddfile("""
        import os, signal, subprocess, sys

        @step("a.jsonl")
        def a():
            yield {"pid": os.getpid()}

        @step("killed.jsonl", a)
        def killed(file):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            if not os.fork():
                while True:
                    signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)

        @step("b.jsonl", a)
        def b(file):
            yield {"pid": os.getpid()}
    """)
    started = time.monotonic()
    result = project.run("-k", "-j", "1")
    assert result.code == 1 and time.monotonic() - started < 20
    assert "killed.jsonl: its process ended without a result (killed by SIGKILL)" in result.output
    assert project.lines("a.jsonl") != project.lines("b.jsonl")
    assert not workers(project.root)


@pytest.mark.parametrize("closed", ["0, 3", "1, 3", "2, 3", "0, 1"])
def test_a_job_that_fails_with_its_streams_closed_harms_no_other(project, closed):
    project.ddfile(f"""
        import os, subprocess
        @step("a.jsonl")
        def a():
            os.closerange({closed})
            raise ValueError("boo")

        @step("b.jsonl")
        def b():
            print("printed", flush=True)
            subprocess.run("echo heard; echo seen >&2", shell=True)
            yield {{"read": os.read(0, 5).decode()}}
    """)
    assert "recipe a failed (Ddfile:8): ValueError: boo" in project.run("-k", "-j", "1").output
    assert project.lines("b.jsonl") == [{"read": ""}]
    assert next(project.root.glob(".ddmake/logs/b.jsonl/*.log")).read_text() == "printed\nheard\nseen\n"


def test_a_process_that_can_not_be_put_back_takes_no_further_job(project):
    project.ddfile("""
        import os, signal
        @step("a.jsonl")
        def a():
            os.umask = None
            yield {"pid": os.getpid()}

        @step("b.jsonl", a)
        def b(file):
            yield {"pid": os.getpid()}
    """).make("-j", "1")
    assert project.lines("a.jsonl") != project.lines("b.jsonl")


def test_a_fork_that_comes_back_does_nothing(project):
    project.ddfile("""
        import os
        @step("a.jsonl")
        def a():
            if not os.fork():
                raise ValueError("in the child")
            os.wait()
            return [{"x": 1}]

        @step("b.jsonl", a)
        def b(file):
            yield {"x": 2}
    """).make("-j", "1")
    assert project.lines("b.jsonl") == [{"x": 2}]


@pytest.mark.slow
def test_a_local_model_is_loaded_once_and_drawn_from_by_each_llm(project):
    project.ddfile("""
        import os

        @step
        def ask(model, *, wait=None):
            from ddmake.backends.local import _kept
            answer = model.complete(["Title: x"])[0]
            yield {"pid": os.getpid(), "models": [id(kept.model) for kept in _kept.values()], "tokens": answer.tokens_out, "answer": answer}

        one = ask("one.jsonl", llm("tiny", temperature=0, max_tokens=8))
        aside = step("aside.jsonl", one)(lambda file: [{"pid": os.getpid()}])
        two = ask("two.jsonl", llm("tiny", max_tokens=4), wait=aside)
        ask("three.jsonl", llm("tiny", temperature=0, max_tokens=7), wait=two)
    """).make("-j", "2")
    one, two, three = (project.lines(f"{name}.jsonl")[0] for name in ("one", "two", "three"))
    assert one["pid"] == two["pid"] == three["pid"], "they go to the worker that has it loaded"
    assert one["models"] == two["models"] == three["models"] and len(one["models"]) == 1, "it is loaded once"
    assert (one["tokens"], two["tokens"], three["tokens"]) == (8, 4, 7)
    assert one["answer"].startswith(three["answer"]) and not one["answer"].startswith(two["answer"])


def test_a_training_has_a_process_of_its_own(project):
    project.ddfile("""
        import os
        def pid(output, name):
            (output / "config.json").write_text("{}")
            (output / "x.safetensors").write_text(str(os.getpid()))

        @step("before.jsonl")
        def before():
            yield {"pid": os.getpid()}

        @train("model", before)
        def model(file, output):
            pid(output, "x")

        @step("after.jsonl", model)
        def after(file):
            yield {"pid": os.getpid()}
    """).make("-j", "1")
    pids = [project.lines("before.jsonl")[0]["pid"], int((project.root / "model/x.safetensors").read_text()),
            project.lines("after.jsonl")[0]["pid"]]
    assert len(set(pids)) == 3


def test_workers_die_with_their_head(project):
    project.ddfile("""
        import time
        @step("slow")
        def slow():
            open("begun", "w").close()
            time.sleep(60)
            yield {"x": 1}
    """)
    head = project.command("-j", "2")
    wait_for(project.root / "begun")
    assert workers(project.root)
    os.kill(head.pid, signal.SIGKILL)
    head.wait()
    deadline = time.monotonic() + 10
    while workers(project.root):
        assert time.monotonic() < deadline, "a worker outlived its head"
        time.sleep(0.05)
    file = project.root / "Ddfile"
    file.write_text(file.read_text().replace("60", "0"))
    assert "made 1" in project.make().output


def test_nobody_is_left_when_a_run_has_ended(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    assert not workers(project.root)


def test_what_one_job_has_cached_is_no_answer_for_the_next(project):
    project.write("n.txt", "1")
    project.ddfile("""
        from functools import cache
        from pathlib import Path

        @cache
        def number():
            return int(Path("n.txt").read_text())

        class Box:
            @staticmethod
            @cache
            def number():
                return int(Path("n.txt").read_text())

        @step("a.jsonl")
        def a():
            n = number() + Box.number()
            Path("n.txt").write_text("2")
            yield {"n": n}

        @step("b.jsonl", a)
        def b(file):
            yield {"n": number() + Box.number()}
    """).make("-j", "1")
    assert project.lines("a.jsonl") == [{"n": 2}] and project.lines("b.jsonl") == [{"n": 4}]


@pytest.fixture
def started(monkeypatch):
    """Return a list that gets an entry for each worker that is started."""
    from ddmake.executors import local

    found, worker = [], local.Worker
    monkeypatch.setattr(local, "Worker", lambda *given: found.append(given) or worker(*given))
    return found


TWO_TRAININGS = """
data = jsonl("data", "in.jsonl")
first = dpo("models/first", data.take(8), base="tiny", peft=lora(r=2, dropout=0.1), chosen="completion", rejected="other", dtype="bfloat16",
            learning_rate=5e-3, batch_size=8, max_length=32)
second = finetune("models/second", data.take(17), base="tiny-base", peft=lora(r=4, dropout=0.1), learning_rate=5e-3, epochs=1,
                  max_length=32)

@step("left.jsonl", first, second)
def left(first, second):
    import gc, os, sys, torch, warnings
    yield {"warm": "trl" in sys.modules, "weights": sum(isinstance(thing, torch.nn.Parameter) for thing in gc.get_objects()),
           "dtype": str(torch.get_default_dtype()), "threads": torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]),
           "graph": torch.is_grad_enabled(), "ignored": sum("trl" in str(known[3]) for known in warnings.filters)}

choose("models/none", {"data": data}, jsonl("scores", "scores.jsonl"), metric="score")
"""


@pytest.mark.slow
def test_a_second_training_finds_a_warm_process_and_makes_the_same_model(project, tmp_path, started):
    """The first is another technique in another precision, and of what it held nothing is left."""
    from conftest import Project

    from ddmake.backends.models import files_sha

    alone = Project(tmp_path / "alone")
    for each in (project, alone):
        each.write("in.jsonl", "".join(f'{{"prompt": "p{n}", "completion": "good {n}", "other": "bad {n}"}}\n' for n in range(24)))
        each.write("scores.jsonl", '{"model": "data", "score": 1}\n')
        each.ddfile(TWO_TRAININGS)
    project.make("-j", "1", "left.jsonl")
    assert len(started) == 1 and project.lines("left.jsonl") == [
        {"warm": True, "weights": 0, "dtype": "torch.float32", "threads": True, "graph": True, "ignored": 0}]
    alone.make("-j", "1", "models/second")
    assert files_sha(alone.root / "models/second") == files_sha(project.root / "models/second")


@pytest.mark.slow
def test_a_training_that_failed_ends_its_process(project, started):
    project.write("in.jsonl", '{"x": 1}\n')
    project.write("scores.jsonl", '{"model": "data", "score": 1}\n')
    project.ddfile(TWO_TRAININGS.partition("first =")[0] + TWO_TRAININGS[TWO_TRAININGS.index("choose("):] + """
behind = table("behind", [table("again", [data])])
""")
    result = project.run("-k", "-j", "1")
    assert "'data' is no model folder that could be copied" in result.output
    assert len(started) == 2
