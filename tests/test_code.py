"""Code by meaning: which edits of the user's code change a recipe's key, and which don't."""

import json

import pytest

R = "@step('out.jsonl')\ndef r():\n    yield {'x': EXPR}\n"


def recipe(expression, before=""):
    return {"Ddfile": f"{before}\n{R.replace('EXPR', expression)}"}


COUNTS = {  # name: (files, file to edit, old, new)
    "one of several constants that are equal": (recipe("(A, B, C)", "A = True; B = False; C = False"), "Ddfile", "C = False", "C = True"),
    "one of several equal numbers": (recipe("(A, B, C)", "A = 5; B = 7; C = 7"), "Ddfile", "C = 7", "C = 5"),
    "which of two functions a name stands for": (
        recipe("A() + B() + C()", "def f(): return 1\ndef g(): return 2\nA = f; B = g; C = g"), "Ddfile", "C = g", "C = f"),
    "body under contextmanager": (
        recipe("use()", "import contextlib\n@contextlib.contextmanager\ndef c():\n    yield 1\ndef use():\n    with c() as x: return x"),
        "Ddfile", "yield 1", "yield 2"),
    "implementation of a singledispatch": (
        recipe("f(1)", "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 1"),
        "Ddfile", "return 1", "return 2"),
    "wrapper under lru_cache": (
        recipe("f()", "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def w(): return g() * 2\n    return w\n"
               "@functools.lru_cache\n@twice\ndef f(): return 1"), "Ddfile", "g() * 2", "g() * 3"),
    "pattern behind a bound method": (recipe("clean('', 'aab')", "import re\nclean = re.compile('a+').sub"), "Ddfile", "a+", "b+"),
    "dict behind a bound method": (recipe("get('a')", "get = {'a': 1}.get"), "Ddfile", "1}", "2}"),
    "class as an argument": (
        {"Ddfile": "class S:\n    def f(self): return 1\n@step('out.jsonl', s=S)\ndef r(*, s):\n    yield {'x': s().f()}\n"},
        "Ddfile", "return 1", "return 2"),
    "method of an argument's class": (
        {"Ddfile": "class S:\n    def f(self): return 1\n@step('out.jsonl', s=S())\ndef r(*, s):\n    yield {'x': s.f()}\n"},
        "Ddfile", "return 1", "return 2"),
    "method of a list's subclass": (recipe("V.f()", "class L(list):\n    def f(self): return 1\nV = L()"), "Ddfile", "return 1", "return 2"),
    "method of an enum's member": (
        recipe("G.f()", "import enum\nclass M(enum.Enum):\n    A = 1\n    def f(self): return 1\nG = M.A"), "Ddfile", "return 1", "return 2"),
    "factory of a defaultdict": (recipe("D['x']", "import collections\nD = collections.defaultdict(lambda: 1)"), "Ddfile", ": 1)", ": 2)"),
    "attribute of a class set later": (recipe("K.LIMIT", "class K:\n    LIMIT = 0\nK.LIMIT = 1"), "Ddfile", "K.LIMIT = 1", "K.LIMIT = 2"),
    "attribute of a function": (recipe("h()", "def h(): return h.limit\nh.limit = 1"), "Ddfile", "h.limit = 1", "h.limit = 2"),
    "what a class made by a function closes over": (
        recipe("K().f()", "def make(n):\n    class K:\n        def f(self): return n\n    return K\nK = make(3)"), "Ddfile", "make(3)", "make(4)"),
    "base class's method": (
        recipe("B().f()", "class A:\n    def f(self): return 1\nclass B(A): pass"), "Ddfile", "return 1", "return 2"),
    "second of two classes by one name": (
        recipe("K().f()", "class K:\n    def f(self): return 0\nclass K:\n    def f(self): return 1"), "Ddfile", "return 1", "return 2"),
    "second of two lambdas on a line": (recipe("F[1]()", "F = [lambda: 1, lambda: 2]"), "Ddfile", "lambda: 2", "lambda: 3"),
    "closure": (recipe("f()", "def make(n):\n    return lambda: n\nf = make(3)"), "Ddfile", "make(3)", "make(4)"),
    "default": (recipe("f()", "def f(n=3): return n"), "Ddfile", "n=3", "n=4"),
    "attribute of an object": (
        recipe("O.f()", "class K:\n    def __init__(self): self.n = 1\n    def f(self): return self.n\nO = K()"), "Ddfile", "self.n = 1", "self.n = 2"),
    "view's lambda": (
        {"Ddfile": "T = 1\n@step('a')\ndef a():\n    yield {'x': 1}\n@step('out.jsonl', a.filter(lambda row: row['x'] > T))\ndef r(rows):\n    return rows\n"},
        "Ddfile", "T = 1", "T = 0"),
    "constant behind a metric": (
        {"Ddfile": "T = 1\ndef m(x): return x > T\n@step('out.jsonl', metrics=['a', m])\ndef r(*, metrics):\n    yield {'x': 1}\n"},
        "Ddfile", "T = 1", "T = 0"),
    "two files deep, by dotted name": (
        {**recipe("pkg.helpers.f()", "import pkg.helpers"), "pkg/__init__.py": "", "pkg/helpers.py": "from pkg.other import inner\ndef f(): return inner()\n",
         "pkg/other.py": "def inner(): return 1\n"}, "pkg/other.py", "1", "2"),
    "by getattr": ({**recipe("getattr(hh, NAME)()", "import hh\nNAME = 'f'"), "hh.py": "from oo import inner\ndef f(): return inner()\n",
                    "oo.py": "def inner(): return 1\n"}, "oo.py", "1", "2"),
    "imported in the body": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    from hh import f\n    yield {'x': f()}\n", "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "imported in the body by a dotted name": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    import pkg.hh\n    yield {'x': pkg.hh.f()}\n", "pkg/__init__.py": "",
         "pkg/hh.py": "def f(): return 1\n"}, "pkg/hh.py", "1", "2"),
    "imported in the body by a relative name": (
        {**recipe("f()", "from pkg.hh import f"), "pkg/__init__.py": "", "pkg/hh.py": "def f():\n    from .oo import g\n    return g()\n",
         "pkg/oo.py": "def g(): return 1\n"}, "pkg/oo.py", "1", "2"),
    "imported by importlib": (
        {"Ddfile": "import importlib\n@step('out.jsonl')\ndef r():\n    yield {'x': importlib.import_module('hh').f()}\n",
         "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "module named like a builtin": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    from format import f\n    yield {'x': f()}\n", "format.py": "def f(): return 1\n"}, "format.py", "1", "2"),
    "local variable that hides a builtin in one scope only": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    def g():\n        max = 1\n        return max\n    yield {'x': max(1, 2) + g()}\n"},
        "Ddfile", "max", "min"),
    "hint of a dataclass's field": (
        recipe("K(1).x", "import dataclasses\n@dataclasses.dataclass\nclass K:\n    x: int"), "Ddfile", "x: int", "y: int"),
    "order of a dict": (recipe("list(D)", "D = {'a': 1, 'b': 2}"), "Ddfile", "'a': 1, 'b': 2", "'b': 2, 'a': 1"),
    "docstring that is read": (recipe("f.__doc__", "def f():\n    'one'"), "Ddfile", "'one'", "'two'"),
}

COUNTS_FOR_NOTHING = {
    "two names for one value": (recipe("(A, B)", "A = 300; B = 300"), "Ddfile", "B = 300", "B = int('300')"),
    "local annotation": ({"Ddfile": "@step('out.jsonl')\ndef r():\n    n: int = 1\n    yield {'x': n}\n"}, "Ddfile", "n: int = 1", "n: float = 1"),
    "local annotation taken away": ({"Ddfile": "@step('out.jsonl')\ndef r():\n    n: int = 1\n    yield {'x': n}\n"}, "Ddfile", "n: int = 1", "n = 1"),
    "variable of a comprehension": (recipe("[i for i in (1, 2)]"), "Ddfile", "i for i in", "j for j in"),
    "variable of with, except and walrus": (
        recipe("f()", "def f():\n    try:\n        return (abc := 1) + abc\n    except Exception as abd:\n        return abd"), "Ddfile", "ab", "xy"),
    "docstring of a class": (recipe("K().f()", "class K:\n    'one'\n    def f(self): return 1"), "Ddfile", "'one'", "'two'"),
    "comment in a class": (recipe("K().f()", "class K:\n    # one\n    def f(self): return 1"), "Ddfile", "# one", "# two"),
    "hint in a method": (recipe("K().f(1)", "class K:\n    def f(self, x: int): return 1"), "Ddfile", "x: int", "x: str"),
    "lines shifted": (recipe("f()", "# here\ndef f(): return 1"), "Ddfile", "# here", "# here\n\n\n"),
    "attribute of a module that isn't read": (
        {**recipe("hh.f()", "import hh"), "hh.py": "def f(): return 1\ndef g(): return 2\n"}, "hh.py", "return 2", "return 3"),
}


def keys(project, files, path, old, new):
    """Return the key of the last rule before and after an edit; what comes before it is made first."""
    for name, text in files.items():
        project.ddfile(text) if name == "Ddfile" else project.write(name, text)
    if "@step('a')" in files["Ddfile"]:
        project.make("a")
    before = key(project)
    text = (project.root / path).read_text()
    assert old in text
    (project.root / path).write_text(text.replace(old, new))
    return before, key(project)


def key(project):
    found = json.loads(project.make("-n", "--json").output)["rules"][-1]["key"]
    assert found
    return found


@pytest.mark.parametrize("name", COUNTS)
def test_counts(project, name):
    before, after = keys(project, *COUNTS[name])
    assert before != after


@pytest.mark.parametrize("name", COUNTS_FOR_NOTHING)
def test_counts_for_nothing(project, name):
    before, after = keys(project, *COUNTS_FOR_NOTHING[name])
    assert before == after


@pytest.mark.parametrize("value", [
    "import logging\nV = logging.getLogger('x')", "V = object()", "import typing\nV = typing.TypeVar('V')",
    "import types\nV = types.SimpleNamespace(a=1)", "import numpy\nV = numpy.arange(3)", "V = config(n=1)",
    "from pathlib import Path\nV = Path('x')", "import datetime\nV = datetime.timezone.utc", "import json\nV = json.dumps",
    "import collections\nV = collections.Counter('aab')", "import re\nV = re.compile('x')", "from typing import Literal\nV = Literal[1, 2]",
    "from pydantic import BaseModel\nclass V(BaseModel):\n    x: int = 1", "from collections import namedtuple\nV = namedtuple('V', 'a b')",
    "import functools\nV = functools.partial(print, 1)", "import math\nV = math.nan",
])
def test_values_that_can_be_hashed(project, value):
    project.ddfile(f"{value}\n@step('out.jsonl')\ndef r():\n    yield {{'x': repr(V)}}\n").make("-n")


def test_a_value_that_holds_itself_is_named(project):
    result = project.ddfile("V = []\nV.append(V)\n@step('a')\ndef r():\n    yield {'x': V}\n").run("-n")
    assert result.output == "Ddfile:5: a: V[0] can't be hashed: it holds itself.\n"


def test_what_runs_is_what_was_hashed_whatever_the_time_stamps(project):
    """An edit that leaves a module's size and time stamp as they were must not run the old bytecode."""
    import os

    project.ddfile("from hh import f\n@step('out.jsonl')\ndef r():\n    yield {'x': f()}\n")
    file = project.write("hh.py", "def f(): return 1\n")
    old = file.stat()

    def make():
        process = project.command(PYTHONDONTWRITEBYTECODE="")
        assert process.wait() == 0, process.stdout.read()
        return project.lines("out.jsonl")

    assert make() == [{"x": 1}]
    file.write_text("def f(): return 2\n")
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert make() == [{"x": 2}]
