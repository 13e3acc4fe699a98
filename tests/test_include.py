"""include(): another Ddfile's rules under a prefix, with its own folder and knobs."""

import json

import pytest

OTHER = """\
from ddmake import *
from ddmake.rules import *
from helper import LENGTH

cfg = config(n=2, tags=["x"])
rows = jsonl("data/rows", "in.jsonl")

@step("data/short", rows)
def short(rows):
    for row in rows.select(range(cfg.n)):
        yield {"text": row["text"][:LENGTH]}

asked = transform("data/asked", "data/short", llm=llm("echo"), prompt=template("own.j2"))
alias("kept", rows, "data/a*")
"""


@pytest.fixture
def nested(project):
    project.write("other/Ddfile", OTHER)
    project.write("other/helper.py", "LENGTH = 3\n")
    project.write("other/templates/own.j2", "other: {{ text }}")
    project.write("other/in.jsonl", '{"text": "abcdef"}\n{"text": "ghijkl"}\n')
    project.write("helper.py", "NAME, LENGTH = 'mine', 1\n")
    return project


@pytest.mark.slow
def test_an_included_file_lies_beside_itself(nested):
    nested.ddfile("""
    import helper

    qa = include("other/Ddfile", prefix="qa/", n=1)

    @step("all_of_it", [qa["data/short"], "qa/data/asked"])
    def both(parts):
        yield {"name": helper.NAME, "rows": len(parts[0])}
    """)
    nested.make()
    assert nested.rows("qa/data/short") == [{"text": "abc"}]
    assert nested.rows("qa/data/asked")[0]["text"].strip() == "other: abc"
    assert nested.rows("all_of_it") == [{"name": "mine", "rows": 1}]
    assert nested.make("-n", "-v").output.startswith("knobs: qa.n=1 qa.tags=x\n")
    assert set(nested.make("-n", "-v").verdicts().values()) == {"fresh"}
    nested.write("helper.py", "NAME, LENGTH = 'mine', 2\n")
    assert nested.make("-n").output.endswith("Nothing to do.\n"), "its helper is another"
    nested.write("other/helper.py", "LENGTH = 2\n")
    assert nested.make("-n").verdicts()["qa/data/short"] == "make"


@pytest.mark.slow
def test_what_was_made_in_its_own_folder_is_the_same_when_it_is_included(nested):
    nested.ddfile('qa = include("other/Ddfile", prefix="qa/")\nalias("a", qa["data/short"])')
    (nested.root / "helper.py").unlink()
    keys = []
    for command in (["a"], ["-f", "other/Ddfile", "data/short"]):
        nested.make(*command)
        keys.append([rule["key"] for rule in json.loads(nested.make(*command, "-n", "--json").output)["rules"]])
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2 and None not in keys[0]


KNOBS = {
    "its defaults": ("", [], "qa.n=2 qa.tags=x"),
    "the including file's": (", n=5, tags=['a', 'b']", [], "qa.n=5 qa.tags=a,b"),
    "the command line's": (", n=5", ["qa.n=1", "qa.tags=c,d"], "qa.n=1 qa.tags=c,d"),
    "a config file's": (", n=5", ["--config", "knobs.yaml"], "qa.n=7 qa.tags=x"),
    "the command line's before a config file's": ("", ["--config", "knobs.yaml", "qa.n=1"], "qa.n=1 qa.tags=x"),
}


@pytest.mark.parametrize("case", KNOBS)
def test_knobs(nested, case):
    given, args, expected = KNOBS[case]
    nested.write("knobs.yaml", "qa:\n  n: 7\n")
    nested.ddfile(f'include("other/Ddfile", prefix="qa/"{given})')
    assert nested.make("-n", *args).output.startswith(f"knobs: {expected}\n")


def test_the_last_knobs_of_an_included_file(nested):
    nested.ddfile('include("other/Ddfile", prefix="qa/", n=1)')
    nested.make("qa.n=2", "qa/data/rows")
    assert nested.make("-n", "--last").output.startswith("knobs: qa.n=2 ")


def test_names_on_the_command_line(nested):
    nested.ddfile('include("other/Ddfile", prefix="a/")\ninclude("other/Ddfile", prefix="b/c/")')
    assert len(nested.make("-n").verdicts()) == 6, "all is every target of every file"
    assert set(nested.make("-n", "a/kept").verdicts()) == {"a/data/rows", "a/data/short", "a/data/asked"}
    assert set(nested.make("-n", "b/c/data/rows", "b.c.n=3").verdicts()) == {"b/c/data/rows"}


def test_patterns_and_includes_within_it(nested):
    nested.write("other/deep/Ddfile", 'from ddmake import *\nfrom ddmake.rules import *\ncfg = config(k=1)\n'
                                      'jsonl("{lang}/rows", "{lang}.jsonl")\n')
    nested.write("other/deep/fr.jsonl", '{"x": 1}\n')
    nested.write("other/Ddfile", 'from ddmake import *\nfrom ddmake.rules import *\n'
                                 'deep = include("deep/Ddfile", prefix="deep/")\njsonl("again", deep["fr/rows"])\n')
    nested.ddfile('qa = include("other/Ddfile", prefix="qa/")\n')
    told = nested.make("-n", "qa.deep.k=2")
    assert told.verdicts() == {"qa/deep/fr/rows": "make", "qa/again": "maybe"}
    assert told.output.startswith("knobs: qa.deep.k=2")


def test_a_file_in_a_folder_beside(nested):
    nested.write("sub/Ddfile", 'from ddmake import *\nqa = include("../other/Ddfile", prefix="qa/")\n')
    nested.make("-f", "sub/Ddfile", "qa/data/short")
    assert nested.rows("sub/qa/data/short") == [{"text": "abc"}, {"text": "ghi"}]


QA = "include('other/Ddfile', prefix='qa/')\n"
MISTAKES = {
    "no such file": ("include('othr/Ddfile', prefix='qa/')", "", "Ddfile:3: there is no othr/Ddfile beside Ddfile to include."),
    "a file of another name": ("include('other/Ddfil', prefix='qa/')", "", "to include. Did you mean 'Ddfile'?"),
    "prefix without a slash": ("include('other/Ddfile', prefix='qa')", "", "Ddfile:3: the prefix 'qa' isn't a folder of plain names that ends with a slash"),
    "prefix outside": ("include('other/Ddfile', prefix='../qa/')", "", "Ddfile:3: the prefix '../qa/' isn't a folder"),
    "prefix given twice": (QA + QA, "", "Ddfile:4: the prefix 'qa/' is taken by another include()"),
    "a circle": (QA, "include('../Ddfile', prefix='b/')", "other/Ddfile:3: a circle of includes: Ddfile -> other/Ddfile -> Ddfile."),
    "a circle of one": ("include('Ddfile', prefix='b/')", "", "Ddfile:3: a circle of includes: Ddfile -> Ddfile."),
    "unknown knob": ("include('other/Ddfile', prefix='qa/', m=1)", "config(n=1)", "Ddfile:3: other/Ddfile has no knob 'm'. It has: n."),
    "wrong knob": ("include('other/Ddfile', prefix='qa/', n='few')", "config(n=1)", "The knob qa.n takes a whole number (its default is 1), not 'few'."),
    "its rule's mistake": (QA, "generate('a', llm=llm('echo'), prompt='x', n='many')", "other/Ddfile:3: generate's n takes int"),
    "its syntax": (QA, "def (:", "other/Ddfile:3: invalid syntax: def (:"),
    "its exception": (QA, "1 / 0", "other/Ddfile:3: ZeroDivisionError: division by zero"),
    "its target isn't there": (QA + "\nqa = 1\ninclude('other/Ddfile', prefix='b/')['data/tweet']", "jsonl('data/tweets', 'x')",
                               "Ddfile:6: no rule in Ddfile makes 'data/tweet'. Did you mean 'b/data/tweets'?"),
    "its source isn't there": (QA + "alias('all', 'qa/a')", "jsonl('a', 'in.jsonl')", "other/Ddfile:3: qa/a needs other/in.jsonl, which isn't there"),
    "a path of both": ("jsonl('qa/a', 'x')\n" + QA, "jsonl('a', 'x')", "other/Ddfile:3: qa/a is made by the rule at Ddfile:3 already"),
    "a pattern's variable": (QA, "n = 1\njsonl('{n}/a', 'x')", "other/Ddfile:4: the output '{n}/a' has a brace in it, and n is a variable here"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(project, name):
    text, other, expected = MISTAKES[name]
    project.write("other/Ddfile", "from ddmake import *\nfrom ddmake.rules import *\n" + other + "\n")
    result = project.ddfile(text).run("all")
    assert expected in result.output
    assert (result.code, len(result.output.splitlines())) == (2, 1)
