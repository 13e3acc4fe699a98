"""Jobs: in processes of their own, under locks, told clearly when they fail, harmless when killed."""

import signal
import time

import pytest

SLOW = """
import time, os
@step("slow")
def slow():
    print("begun", flush=True)
    with open("runs.txt", "a") as file:
        file.write("x")
    time.sleep({seconds})
    yield {{"pid": os.getpid()}}
"""


def wait_for(path, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def test_a_secret_in_an_error_is_told_by_its_variables_name(project, monkeypatch):
    monkeypatch.setenv("SHOP_API_KEY", "hunter2-hunter2")
    project.ddfile("""
        @step("asked", env=["SHOP_API_KEY"])
        def asked(*, environment):
            raise ValueError(f"401 for {environment['SHOP_API_KEY']}")
    """)
    result = project.run()
    assert result.code == 1 and "401 for [the value of SHOP_API_KEY]" in result.output
    assert "[the value of SHOP_API_KEY]" in project.logs() and "hunter2" not in result.output + project.logs()


def test_a_failing_recipe_is_told_with_its_place_and_columns(project):
    project.ddfile("""
        @step("pairs")
        def pairs():
            yield {"prompt": "p", "ratings": 1}

        @step("bad", pairs)
        def bad(rows):
            for row in rows:
                yield {"x": row["rating"]}

        @step("behind", bad)
        def behind(rows):
            return rows
    """)
    result = project.run()
    assert result.code == 1
    assert "bad: recipe bad failed (Ddfile:11): KeyError: 'rating'. Columns: prompt, ratings. Did you mean 'ratings'?" in result.output
    assert "not run: behind" in result.output
    assert "Traceback" not in result.output
    log = project.logs()
    assert "Traceback" in log and "Ddfile" in log and "ddmake/engine" not in log, "the log shows the user's own frames"
    assert project.run("-n").verdicts() == {"bad": "make", "behind": "maybe"}


def test_keep_going_makes_what_does_not_depend_on_a_failure(project):
    project.ddfile("""
        @step("a")
        def a():
            raise ValueError("no")

        @step("b", a)
        def b(rows):
            return rows

        @step("c")
        def c():
            yield {"x": 1}

        @step("d", c)
        def d(rows):
            return rows
    """)
    result = project.run("-k", "-j", "1")
    assert result.code == 1
    assert "made 2, fresh 0, failed 1, not run 1" in result.output
    assert project.rows("d") == [{"x": 1}]


@pytest.mark.parametrize("body, told", [
    ("return 3", "it returned a int; return or yield rows (dicts), return a Dataset, or take `output` and fill it"),
    ("pass", "it returned nothing"),
    ("yield 3", "row 0 is of type int; a row is a dict of columns"),
    ("yield from [{'x': 1}, {'x': 'one'}]", "column 'x' from row 0 on can't be stored"),
    ("return [{'n': [{'m': 1}]}, {'n': [{'m': 2**63}]}]", "column 'n' of row 1 holds a whole number beyond 64 bits. Make it a text, or a float"),
    ("return []", "it made no rows"),
    ("return [{}]", "row 0 is empty; a row is a dict of columns"),
    ("return [{1: 1}]", "row 0 has a column named 1, a int; a column's name is text"),
    ("import sys; sys.exit(3)", "recipe a failed (Ddfile:5): it called exit(3)"),
    ("import sys; return [{'x': sys.stdin.read() + str(1 / 0)}]", "ZeroDivisionError"),
    ("import datetime as d; return [{'x': d.date(2026, 1, 2)}, {'x': d.datetime(2026, 1, 2)}]", "mixes dates with dates and times"),
    ("raise KeyboardInterrupt", "recipe a failed (Ddfile:5): KeyboardInterrupt"),
    ("raise ValueError('m' * 5000)", "m … (the log has the rest)"),
    ("import os; os.closerange(0, 3); return 1 / 0", "ZeroDivisionError"),
    ("import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('x'); return 1 / 0", "ZeroDivisionError"),
    ("import sys; sys.stdout.close(); return 1 / 0", "ZeroDivisionError"),
    ("import os; os._exit(9)", "its process ended without a result (exit code 9)"),
])
def test_what_a_recipe_must_not_give(project, body, told):
    result = project.ddfile(f"@step('a')\ndef a():\n    {body}\n").run()
    assert result.code == 1
    assert told in result.output
    assert not (project.root / "a").exists()
    if "_exit" not in body:
        assert not list(project.root.glob(".ddmake/scratch/*")), "what it has half written may be what fills the disk"


@pytest.mark.parametrize("path, body, told", [
    ("a.jsonl", "return [{'n': 1, 'x': float('nan')}]", "column 'x' can't be written as JSON"),
    ("a.jsonl", "return [{'n': 1, 'x': b'ab'}]", "column 'x' can't be written as JSON: a value of type bytes has no form in it. Make it a text"),
    ("a.json", "from decimal import Decimal; return [{'n': 1, 'x': [Decimal('1.5')]}]", "column 'x' can't be written as JSON: a value of type Decimal"),
    ("a.csv", "return [{'n': 1, 'x': [1, 2]}]", "column 'x' holds list<item: int64>, which has no form in CSV. Make it a text, or write .jsonl"),
    ("a.csv", "return [{'n': 1, 'x': b'ab'}]", "column 'x' holds binary, which has no form in CSV"),
])
def test_what_a_file_can_not_hold(project, path, body, told):
    result = project.ddfile(f"@step('{path}')\ndef a():\n    {body}\n").run()
    assert result.code == 1 and told in result.output and "Traceback" not in result.output
    assert not (project.root / path).exists()


def test_mapping_over_an_input_leaves_it_as_it_was(project):
    project.ddfile("""
        @step("a")
        def a():
            yield {"x": "one"}

        @step("b", a)
        def b(rows):
            return rows.map(lambda row: {"x": row["x"].upper()}).filter(lambda row: True)
    """).make()
    assert project.run("-n", "-v").verdicts() == {"a": "fresh", "b": "fresh"}
    from datasets import load_from_disk

    load_from_disk(str(project.root / "a")).map(lambda row: {"y": 1})  # in a notebook, say
    assert project.run("-n", "-v").verdicts() == {"a": "fresh", "b": "fresh"}


def test_a_dot_and_a_digit_make_no_suffix(project):
    project.ddfile("@step('data/v1.2')\ndef a():\n    yield {'x': 1}\n").make()
    assert project.rows("data/v1.2") == [{"x": 1}]


def test_a_damaged_store_is_told_without_a_traceback(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    file = project.root / ".ddmake" / "traces.db"
    for rest in project.root.glob(".ddmake/traces.db-*"):
        rest.unlink()
    file.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    result = project.run()
    assert result.code == 1 and "Traceback" not in result.output
    assert "traces.db" in result.output and "move the file away" in result.output


def test_a_store_that_is_a_file(project):
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").write(".ddmake", "")
    result = project.run()
    assert result.code == 1 and ".ddmake is a file, and ddmake keeps a folder of that name. Move it away." in result.output


def test_a_store_that_can_not_be_written_is_still_read(project):
    """As on a full disk, or in somebody else's project: SQLite can't make its files beside the database."""
    project.ddfile("@step('a')\ndef a():\n    yield {'x': 1}\n").make()
    (project.root / ".ddmake" / "traces.db-shm").mkdir()
    assert project.make("-n", "-v").verdicts() == {"a": "fresh"}
    assert "a is fresh" in project.make("why", "a").output
    (project.root / "a" / "state.json").unlink()
    result = project.run("--restore")
    assert result.code == 1 and "What it holds is kept. Its disk is full, or ddmake isn't allowed to write there." in result.output


def test_logs_that_can_not_be_written_stop_no_job(project):
    project.write(".ddmake/logs", "no folder")
    project.ddfile("@step('a')\ndef a():\n    print('x')\n    yield {'x': 1}\n").make()
    assert project.rows("a") == [{"x": 1}]


def test_damaged_calls_are_told_with_the_remedy(project):
    project.ddfile('generate("g", llm=llm("echo"), prompt="x", n=50)').make()
    file = project.root / ".ddmake" / "calls.db"
    head = file.read_bytes()[:16384]
    file.write_bytes(head + b"x" * 60000)
    for rest in project.root.glob(".ddmake/calls.db-*"):
        rest.unlink()
    result = project.run("--force")
    assert result.code == 1 and "Traceback" not in result.output
    assert "calls.db: database disk image is malformed. It is damaged: move the file away" in result.output
    file.unlink()
    project.make("--force")


def test_a_run_goes_on_though_nobody_reads_what_it_prints(project):
    project.ddfile("for i in range(5):\n    step(f'a{i}', i=i)(lambda *, i: [{'i': i}])\n")
    head = project.command("-j", "1")
    head.stdout.close()
    head.wait(60)
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}


def test_independent_jobs_run_side_by_side(project):
    project.ddfile("""
        import os, time
        def meet(me, other):
            open(me, "w").close()
            deadline = time.monotonic() + 30
            while not os.path.exists(other):
                assert time.monotonic() < deadline, "the other never came"
                time.sleep(0.02)
            yield {"pid": os.getpid()}

        @step("a")
        def a():
            yield from meet("one", "two")

        @step("b")
        def b():
            yield from meet("two", "one")
    """)
    project.make("-j", "2")
    assert project.rows("a") != project.rows("b"), "each has a process of its own"


def test_two_heads_do_a_job_once(project):
    project.ddfile(SLOW.format(seconds=2))
    heads = [project.command() for _ in range(2)]
    outputs = [head.communicate()[0] for head in heads]
    assert [head.returncode for head in heads] == [0, 0], outputs
    assert (project.root / "runs.txt").read_text() == "x"


def test_ctrl_c_stops_and_says_what_is_kept(project):
    project.ddfile("@step('quick')\ndef quick():\n    yield {'x': 1}\n" + SLOW.format(seconds=60).replace('@step("slow")\ndef slow()', '@step("slow", quick)\ndef slow(rows)'))
    head = project.command()
    wait_for(project.root / "runs.txt")
    head.send_signal(signal.SIGINT)
    output = head.communicate(timeout=30)[0]
    assert head.returncode == 130
    assert "stopped: made 1, fresh 0" in output and "What was made is kept" in output
    assert project.run("-n").verdicts() == {"slow": "make"}


def test_half_an_output_is_never_seen(project):
    project.ddfile("""
        @step("a")
        def a():
            yield from ({"x": i} for i in range(2500))
            raise RuntimeError("late")
    """)
    assert project.run().code == 1
    assert not (project.root / "a").exists()


def test_outputs_of_every_kind(project):
    project.write("people.jsonl", '{"name": "Ada", "age": 36}\n\n{"name": "Alan", "age": null}\n')
    project.ddfile("""
        people = jsonl("people", "people.jsonl")

        @step("people.csv", people)
        def as_csv(rows):
            return rows

        @step({"old": "parts/old.jsonl", "young": "parts/young"}, people)
        def by_age(rows):
            return {"old": [r for r in rows if r["age"]], "young": rows.filter(lambda r: not r["age"])}

        @step("names.md", people.select("name"))
        def names(rows, output):
            output.write_text("\\n".join(rows["name"]))

        @step("folder", [people, by_age.old])
        def folder(both, output):
            rows, file = both
            (output / "count.txt").write_text(f"{len(rows)} {file}")
    """).make()
    assert (project.root / "people.csv").read_text() == '"name","age"\n"Ada",36\n"Alan",\n'
    assert project.lines("parts/old.jsonl") == [{"name": "Ada", "age": 36}]
    assert project.rows("parts/young") == [{"name": "Alan", "age": None}]
    assert (project.root / "names.md").read_text() == "Ada\nAlan"
    assert (project.root / "folder" / "count.txt").read_text() == "2 parts/old.jsonl"


def test_views(project):
    project.ddfile("""
        @step("n")
        def numbers():
            yield from ({"x": i, "tags": ["a"] * (i % 3)} for i in range(10))

        @step("v", {
            "take": numbers.take(2).select("x"), "skip": numbers.skip(8).select("x"),
            "shard": numbers.shard(1, of=5).select("x"), "shuffle": numbers.select("x").shuffle(3),
            "rename": numbers.take(1).rename(x="y").select("y"), "filter": numbers.filter(lambda r: r["x"] > 8).select("x"),
            "map": numbers.take(2).map(lambda r: {"x": r["x"] * 10}).select("x"), "explode": numbers.take(3).explode("tags"),
        })
        def views(all):
            import json
            yield from ({"name": name, "rows": json.dumps(rows.to_list())} for name, rows in all.items())
    """).make()
    import json

    got = {row["name"]: [list(r.values())[0] for r in json.loads(row["rows"])] for row in project.rows("v")}
    assert sorted(got.pop("shuffle")) == list(range(10))
    assert got == {"take": [0, 1], "skip": [8, 9], "shard": [2, 3], "rename": [0], "filter": [9], "map": [0, 10],
                   "explode": [1, 2, 2]}


def test_load_from_python_is_typed(project):
    from ddmake import Workflow, load

    project.ddfile("cfg = config(n=2, tags=['a'])\n@step('a', n=cfg.n)\ndef a(*, n):\n    yield from ({'i': i} for i in range(n))\n")
    flow = load(project.root / "Ddfile", n="5", tags="x,y")
    assert isinstance(flow, Workflow)
    assert flow.knobs == {"n": 5, "tags": ["x", "y"]}
    assert flow["a"].path == "a" and flow["a"].rule.arguments == {"n": 5}


def test_a_project_that_holds_ddmakes_own_sources(project):
    """As a clone with an editable install does: ddmake's modules, loaded late, are no change of the Ddfile."""
    import shutil
    from pathlib import Path

    import ddmake

    shutil.copytree(Path(ddmake.__file__).parent, project.root / "ddmake", ignore=shutil.ignore_patterns("tiny*"))
    project.ddfile('transform("t", generate("g", llm=llm("echo"), prompt="x", n=3), llm=llm("echo"), prompt="{{ text }}", column="y")')
    process = project.command(PYTHONPATH=str(project.root))
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "made 2" in output


@pytest.mark.slow
def test_every_way_to_bind_inputs(project):
    """By keyword or position, one input a parameter: a target, its path, a list, a dict, a target with several outputs."""
    project.ddfile("""
        @step("sum.jsonl", "later", [a := jsonl("a", "n.jsonl"), a.take(1)], {"x": a, "y": a.skip(1)})
        def total(later, pair, named, *, factor=10):
            yield {"later": len(later), "pair": [len(rows) for rows in pair], "named": {k: len(v) for k, v in named.items()},
                   "factor": factor}

        @step(outputs="later", inputs=a)
        def later(rows):
            return rows.select([0, 1])

        parts = split("parts", a, validation=0.34)

        @step("both.jsonl", parts)
        def both(parts):
            yield {name: len(rows) for name, rows in parts.items()}

        @step
        def measure(rows, *, by, where):
            yield {"n": len(rows) * by, "there": len(where["rows"])}

        measure("measured.jsonl", a, by=2, where={"rows": parts["train"]})
        alias("small", both, "measured.jsonl")
    """)
    project.write("n.jsonl", '{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    project.make("small")
    assert not (project.root / "sum.jsonl").exists()
    project.make()
    assert project.lines("sum.jsonl") == [{"later": 2, "pair": [3, 1], "named": {"x": 3, "y": 2}, "factor": 10}]
    assert project.lines("both.jsonl") == [{"train": 2, "validation": 1}]
    assert project.lines("measured.jsonl") == [{"n": 6, "there": 2}]
