"""What `ddmake lint` finds, a row each: a Ddfile with one likely mistake in it, and what is said of it."""

import json

import pytest

HELPER = '''
    from pathlib import Path
    HERE = Path("words")

    def words():
        return (HERE / "list.txt").read_text().split()

    def opened(path):
        return path.open().read()

    def unread():
        return open("nobody.txt").read()
'''
TOP = '''
    import datetime, json, os, random, time, uuid
    from pathlib import Path
    import helper
    topic, count = "birds", 3
'''

CLEAN = {  # what is no mistake
    "inputs that are opened": '''
        @step("a", "in.txt", lines=sorted(os.listdir("templates")))
        def a(file, *, lines):
            with open(file) as text, open("out.log", "w") as log:
                return [{"x": text.read() + helper.opened(file) + Path(file).read_text()}]
    ''',
    "a path made of an input": '''
        @step("a", "folder")
        def a(folder):
            part = folder / "part.txt"
            folder = folder / "inner"
            read = lambda row: open(row["path"]).read()
            return [{"x": part.read_text() + (folder / "y").read_text() + read(other)} for other in folder.glob("*")]
    ''',
    "a file that was written for the time being": '''
        @step("a")
        def a():
            import os, tempfile
            from tempfile import TemporaryDirectory
            with TemporaryDirectory() as folder:
                return [{"x": open(os.path.join(folder, "x")).read() + open(tempfile.mkdtemp() + "/x").read()}]
    ''',
    "a file that is read when the Ddfile loads": '''
        def names():
            return open("names.txt").read().split()
        @step("a", names=names())
        def a(*, names):
            return [{"x": name} for name in names]
    ''',
    "a heavy package in a recipe": '''
        @step("a")
        def a():
            import torch
            return [{"x": torch.__version__}]
    ''',
    "braces that stand for something": '''
        a = generate("a", llm=llm("echo"), n=1, prompt="{{ topic }} {other} " + f"{topic}" + '{"count": 1}', variables={"topic": 1})
        shell("b.txt", {"topic": a}, cmd="cat {topic} > {output}")
    ''',
    "a template and a recipe of a pattern": '''
        @step
        def one(*, lang):
            return [{"x": lang}]
        rows = one("{lang}/rows")
        transform("{lang}/b", rows, llm=llm("echo"), prompt=template("used.j2"), column="y")
    ''',
    "a manual rule that no alias needs": '''
        @step("a")
        def a():
            return [{"x": 1}]
        @step("b", manual=True)
        def b():
            return [{"x": 1}]
        alias("all", a)
    ''',
}

FINDINGS = {  # name: (Ddfile, (kind, place, what it is about))
    "a file by a literal path": ('''
        @step("a")
        def a():
            return json.load(open("block.json"))
    ''', ("hidden read", "Ddfile:12", "open() reads 'block.json'")),
    "a file by a module's constant": ('''
        BLOCK = "block" + ".json"
        @step("a")
        def a():
            return [{"x": open(BLOCK, encoding="utf-8").read()}]
    ''', ("hidden read", "Ddfile:13", "open() reads BLOCK")),
    "a file by a local variable": ('''
        @step("a")
        def a():
            for name in ("x.csv", "y.csv"):
                import pandas as pd
                yield from pd.read_csv(name).to_dict("records")
    ''', ("hidden read", "Ddfile:14", "pd.read_csv() reads name")),
    "a dataset by name": ('''
        @step("a")
        def a():
            from datasets import load_dataset
            return load_dataset("squad")
    ''', ("hidden read", "Ddfile:13", "load_dataset() reads 'squad'")),
    "a helper in another file": ('''
        @step("a")
        def a():
            return [{"x": word} for word in helper.words()]
    ''', ("hidden read", "helper.py:6", "reads HERE / 'list.txt'")),
    "a clock": ('@step("a", at=int(time.time()))\ndef a(*, at): return [{"x": at}]', ("unsettled", "Ddfile:10", "at 1")),
    "a date in a path": ('@step(f"a/{datetime.date.today()}")\ndef a(): return [{"x": 1}]', ("unsettled", "Ddfile:10", "the path a/2")),
    "a random number": ('@step("a", seed=random.random())\ndef a(*, seed): return [{"x": seed}]', ("unsettled", "Ddfile:10", "seed 0.")),
    "a uuid": ('RUN = str(uuid.uuid4())\n@step("a")\ndef a(): return [{"x": RUN}]', ("unsettled", "Ddfile:11", "RUN")),
    "an unsorted folder": ('@step("a", files=os.listdir("words"))\ndef a(*, files): return [{"x": f} for f in files]',
                           ("unsettled", "Ddfile:10", "files[0]")),
    "an unsorted glob": ('@step("a", [p.as_posix() for p in Path("words").glob("*")])\ndef a(files): return [{"x": 1}]',
                         ("unsettled", "Ddfile:10", "a isn't the same")),
    "an unsorted set": ('@step("a", names=list({"ab", "cd", "ef", "gh", "ij", "kl"}))\ndef a(*, names): return [{"x": 1}]',
                        ("unsettled", "Ddfile:10", "names[")),
    "a forgotten f in a prompt": ('generate("a", llm=llm("echo"), n=1, prompt="Name {count} birds.")',
                                  ("forgotten f", "Ddfile:10", "prompt of a holds {count}")),
    "a forgotten f in an argument": ('@step("a", text="about {topic}")\ndef a(*, text): return [{"x": text}]',
                                     ("forgotten f", "Ddfile:10", "text of a holds {topic}")),
    "a heavy package at the top": ("from transformers import AutoTokenizer", ("slow top level", "Ddfile:10", "transformers is imported")),
    "a template that nobody uses": ("", ("unused template", "templates/more/old.j2", "no rule uses it")),
    "a recipe that nobody uses": ('@step\ndef never(rows): return rows', ("unused recipe", "Ddfile:10", "no rule uses the recipe never")),
    "a rule that no alias needs": ('''
        @step("a")
        def a():
            return [{"x": 1}]
        @step("b")
        def b():
            return [{"x": 1}]
        alias("all", a)
    ''', ("unneeded rule", "Ddfile:13", "needs b")),
}


@pytest.fixture
def folder(project):
    project.write("helper.py", HELPER)
    project.write("templates/used.j2", "{{ x }}")
    project.write("names.txt", "ab cd")
    for name in ("b.txt", "a.txt", "c.txt"):
        project.write(f"words/{name}", "x")
    return project


def ddfile(project, text):
    """Write a Ddfile whose own text begins in line 10, and which uses the template."""
    from textwrap import dedent

    head = dedent(TOP).strip() + '\n\n\ntransform("t", "in", llm=llm("echo"), prompt=template("used.j2"), column="y")\n'
    return project.ddfile(head + dedent(text).strip() + "\n" * 2)


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in(folder, name):
    result = ddfile(folder, CLEAN[name]).run("lint")
    if name == "a manual rule that no alias needs":  # but the rule that every one of these has
        assert result.output.startswith("Ddfile:9: neither `all` nor another alias needs t.") and "1 finding." in result.output
    else:
        assert (result.code, result.output) == (0, "Nothing to find fault with.\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDINGS)
def test_is_found(folder, name):
    text, (kind, place, what) = FINDINGS[name]
    if kind == "unused template":
        folder.write("templates/more/old.j2", "x")
    result = ddfile(folder, text).run("lint", "--json")
    found = [one for one in json.loads(result.output) if one["place"] != "Ddfile:9"]
    assert result.code == 1
    assert [(one["kind"], one["place"]) for one in found] == [(kind, place)]
    assert what in found[0]["what"] and found[0]["remedy"].endswith(".")


def test_findings_are_sentences_with_place_and_remedy(folder):
    output = ddfile(folder, FINDINGS["a file by a literal path"][0]).run("lint").output
    assert output == ("Ddfile:12: open() reads 'block.json', and no key knows of it. Give the file to the rule as an input.\n"
                      "1 finding.\n")


def test_lint_knows_knobs_and_takes_no_targets(folder):
    ddfile(folder, 'cfg = config(n=1)\n@step("a", n=cfg.n)\ndef a(*, n): return [{"x": n}]')
    assert folder.run("lint", "n=5").code == 0
    assert folder.run("lint", "a").output == "ddmake lint takes no targets, but knobs: 'a' is neither.\n"
