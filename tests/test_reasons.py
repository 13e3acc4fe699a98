"""The reason that a verdict gives names what changed; what doesn't matter leaves the target fresh."""

import json
import shutil

import pytest
from conftest import Project

from ddmake.engine.reasons import reason

KITCHEN = '''\
import dataclasses
import enum
import functools
import os
import re
from collections import defaultdict
from pathlib import Path

import tools
from tools.texts import shout as loud

LIMIT = 3
TABLE = {"a": 1, "b": [1, 2]}
PATTERN = re.compile("o+")
HERE = Path(__file__).parent / "notes"
MOOD = os.environ.get("KITCHEN_MOOD", "calm")
COUNTS = defaultdict(lambda: 5)
WORDS = frozenset({"one", "two"})


class Config:
    WIDTH = 7
    UNREAD = 8


class Colour(enum.Enum):
    RED = "red"


class Base:
    def size(self):
        return 1


class Box(Base):
    def __init__(self):
        self.weight = 2

    @property
    def label(self):
        return "box"

    @label.setter
    def label(self, value):
        self.weight = len(value)

    def __call__(self, x):
        return x + self.weight


@dataclasses.dataclass
class Point:
    x: int = 4


def times(n):
    def of(function):
        @functools.wraps(function)
        def wrapper(*given):
            return function(*given) * n
        return wrapper
    return of


@times(2)
def doubled(x, more=6):
    return x + more


@functools.singledispatch
def told(x):
    return "thing"


@told.register
def _(x: int):
    return "number"


async def later():
    return 9


BOX = Box()
STEPS = {"first": doubled, "second": functools.partial(pow, 2)}
pick = lambda row: row["x"]


@step("out.jsonl", marks=["!", "?"], options={"deep": {"er": 1}}, key=lambda row: row["x"])
def r(*, marks, options, key):
    """Use it all."""
    from tools import inside
    rows = [LIMIT, TABLE["a"], PATTERN.pattern, MOOD, COUNTS["x"], len(WORDS), Config.WIDTH, Colour.RED.value, Point().x]
    box = BOX
    box.label = "abc"
    rows += [box(1), box.size(), STEPS["first"](1), told(1), tools.trim(" a "), loud("a"), inside.deep(), tools.VERSION]
    yield {"x": [str(row) for row in rows], "here": HERE.name, "later": later.__class__.__module__, "p": pick({"x": 1})}
'''
TOOLS = {"tools/__init__.py": "from tools.texts import trim\nVERSION = '1'\nUNREAD = 1\n",
         "tools/texts.py": "from tools import marks as m\n\n\ndef trim(text):\n    return text.strip()\n\n\ndef shout(text):\n    return text + m.MARK\n",
         "tools/marks.py": "MARK = '!'\n", "tools/inside.py": "def deep():\n    return 1\n"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe that reads a bit of everything, made once; tests edit copies."""
    project = Project(tmp_path_factory.mktemp("kitchen"))
    for path, text in TOOLS.items():
        project.write(path, text)
    project.ddfile(KITCHEN).make()
    return project


@pytest.fixture
def kitchen(made, tmp_path):
    return Project(shutil.copytree(made.root, tmp_path / "elsewhere"))


STALE = {  # name: (file, old, new, the reason)
    "constant": ("Ddfile", "LIMIT = 3", "LIMIT = 4", "LIMIT 3 -> 4"),
    "kind of a constant": ("Ddfile", "LIMIT = 3", "LIMIT = 3.0", "LIMIT 3 -> 3.0"),
    "item of a dict": ("Ddfile", '"a": 1', '"a": 2', "TABLE['a'] 1 -> 2"),
    "item of a list in a dict": ("Ddfile", "[1, 2]", "[1, 3]", "TABLE['b'][1] 2 -> 3"),
    "order of a dict": ("Ddfile", '"a": 1, "b": [1, 2]', '"b": [1, 2], "a": 1', "order of TABLE changed"),
    "pattern": ("Ddfile", '"o+"', '"a+"', "PATTERN o+ -> a+"),
    "path": ("Ddfile", '"notes"', '"files"', "HERE /notes -> /files"),
    "constant from the environment": ("Ddfile", '"calm"', '"wild"', "MOOD calm -> wild"),
    "factory": ("Ddfile", "lambda: 5", "lambda: 6", "code of COUNTS changed"),
    "set": ("Ddfile", '{"one", "two"}', '{"one", "three"}', "WORDS changed"),
    "attribute of a class": ("Ddfile", "WIDTH = 7", "WIDTH = 8", "Config.WIDTH 7 -> 8"),
    "member of an enum": ("Ddfile", 'RED = "red"', 'RED = "rot"', "code of Colour changed, Colour.RED red -> rot"),
    "method of a base": ("Ddfile", "return 1\n\n\nclass Box", "return 2\n\n\nclass Box", "code of Base.size changed"),
    "attribute of an object": ("Ddfile", "self.weight = 2", "self.weight = 3", "code of Box.__init__ changed, BOX.weight 2 -> 3"),
    "setter": ("Ddfile", "len(value)", "len(value) + 1", "code of Box.label#2 changed"),
    "__call__": ("Ddfile", "return x + self", "return x - self", "code of Box.__call__ changed"),
    "default of a dataclass": ("Ddfile", "x: int = 4", "x: int = 5", "code of Point changed, Point.x 4 -> 5"),
    "decorator's argument": ("Ddfile", "@times(2)", "@times(3)", "n 2 -> 3"),
    "decorator's wrapper": ("Ddfile", "* n\n", "+ n\n", "code of function in times changed"),
    "decorated function": ("Ddfile", "return x + more", "return x - more", "code of doubled changed"),
    "default of a parameter": ("Ddfile", "more=6", "more=7", "default of more 6 -> 7"),
    "implementation for a type": ("Ddfile", '"number"', '"int"', "code of _ changed"),
    "partial": ("Ddfile", "pow, 2", "pow, 3", "STEPS['second'][0] 2 -> 3"),
    "async function": ("Ddfile", "return 9", "return 8", "code of later changed"),
    "lambda": ("Ddfile", 'pick = lambda row: row["x"]', 'pick = lambda row: row["y"]', "code of pick changed"),
    "item of an argument": ("Ddfile", '["!", "?"]', '["!", "."]', "marks[1] ? -> ."),
    "argument of another length": ("Ddfile", '["!", "?"]', '["!"]', "marks 2 -> 1 items"),
    "nested argument": ("Ddfile", '{"er": 1}', '{"er": 2}', "options['deep']['er'] 1 -> 2"),
    "lambda as an argument": ("Ddfile", 'key=lambda row: row["x"]', 'key=lambda row: row["y"]', "code of key changed"),
    "recipe": ("Ddfile", '"abc"', '"abcd"', "code of recipe changed"),
    "helper handed on by a package": ("tools/texts.py", "text.strip()", "text.rstrip()", "code of tools.texts.trim changed"),
    "constant two files deep": ("tools/marks.py", "'!'", "'?'", "tools.marks.MARK ! -> ?"),
    "helper imported in the body": ("tools/inside.py", "return 1", "return 2", "code of tools.inside.deep changed"),
    "constant of a package": ("tools/__init__.py", "'1'", "'2'", "tools.VERSION 1 -> 2"),
}
FRESH = {
    "constant that nothing reads": ("tools/__init__.py", "UNREAD = 1", "UNREAD = 2"),
    "class's constant that nothing reads": ("Ddfile", "UNREAD = 8", "UNREAD = 9"),
    "import under another name": ("Ddfile", "loud", "cry"),
    "module under another name": ("tools/texts.py", "as m\n", "as other\n", "m.MARK", "other.MARK"),
    "local variables": ("Ddfile", "rows", "found"),
    "wrapper": ("Ddfile", "wrapper", "inner"),
    "docstring": ("Ddfile", "Use it all.", "Use all of it."),
    "comment": ("tools/texts.py", "def shout", "# loud\ndef shout"),
    "hint": ("tools/texts.py", "def shout(text):", "def shout(text: str) -> str:"),
}


def edit(project, path, *words):
    file = project.root / path
    text = file.read_text()
    for old, new in zip(words[::2], words[1::2]):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


@pytest.mark.parametrize("name", STALE)
def test_the_reason_names_what_changed(kitchen, name):
    path, old, new, why = STALE[name]
    edit(kitchen, path, old, new)
    result = kitchen.run("-n")
    assert result.verdicts() == {"out.jsonl": "make"} and result.why("out.jsonl") == why


@pytest.mark.parametrize("name", FRESH)
def test_what_means_nothing_leaves_it_fresh(kitchen, name):
    edit(kitchen, *FRESH[name])
    assert kitchen.run("-n", "-v").verdicts() == {"out.jsonl": "fresh"}


def test_another_folder_and_another_environment_leave_it_fresh(kitchen):
    """A path made from `__file__` counts by its place in the project."""
    assert kitchen.run("-n", "-v").verdicts() == {"out.jsonl": "fresh"}


def test_a_constant_from_the_environment_counts(kitchen, monkeypatch):
    monkeypatch.setenv("KITCHEN_MOOD", "wild")
    assert kitchen.run("-n").why("out.jsonl") == "MOOD calm -> wild"


def table(rows, **columns):
    return {"kind": "dataset", "rows": rows, "columns": columns}


IN_A_LINE = [  # before, now, the reason
    ({"inputs": {"rows": {"of": table(9), "view": [["take", [10]]]}}}, {"inputs": {"rows": {"of": table(9), "view": [["take", [20]]]}}},
     "view of rows: take 10 -> 20"),
    ({"inputs": {"rows": {"of": table(9), "view": [["skip", [1]]]}}}, {"inputs": {"rows": table(9)}}, "view of rows: skip -> none"),
    ({"inputs": {"rows": table(9, a="1")}}, {"inputs": {"rows": table(9, a="2")}}, "input rows: column a changed"),
    ({"inputs": {"rows": table(9)}}, {"inputs": {"rows": table(1200)}}, "input rows: 9 -> 1,200 rows"),
    ({"inputs": {"files": [{"sha": "a"}, {"sha": "b"}]}}, {"inputs": {"files": [{"sha": "a"}, {"sha": "c"}]}}, "input files[1] changed"),
    ({}, {"epoch": 1}, "sample epoch 0 -> 1"),
    ({"wildcards": {"lang": "fr"}}, {"wildcards": {"lang": "de"}}, "wildcard lang fr -> de"),
    ({"packages": {"trl": "1.0"}}, {"packages": {"trl": "1.1"}}, "package trl 1.0 -> 1.1"),
    ({"arguments": {"n": 1}}, {"arguments": {"n": True}}, "n 1 -> True"),
    ({"arguments": {"n": "1"}}, {"arguments": {"n": 1}}, 'n "1" -> 1'),
    ({"code": {"version": "1"}}, {"code": {"version": "2"}}, "version 1 -> 2"),
    ({"arguments": {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}}, {"arguments": {"a": 2, "b": 2, "c": 2, "d": 2, "e": 2}},
     "a 1 -> 2, b 1 -> 2, c 1 -> 2 and 2 more"),
]


@pytest.mark.parametrize("before, now, why", IN_A_LINE, ids=[why for _, _, why in IN_A_LINE])
def test_in_a_line(before, now, why):
    assert reason(json.loads(json.dumps(before)), now) == why


def test_a_recipe_that_went_up_is_told_by_its_changelog(monkeypatch):
    from ddmake.engine import reasons

    told = {"transform": {"2": "Answers are stripped.", "3": "Nulls stay.", "4": "Later."}}
    monkeypatch.setattr(reasons, "_changelog", lambda: told)
    before, now = ({"code": {"ddmake.rules.prompting.transform": version}} for version in ("1", "3"))
    assert reason(before, now) == "recipe transform 1 -> 3: Answers are stripped. Nulls stay."
