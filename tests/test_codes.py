"""The walk over code: what it refuses, that it goes once over each function, and in no order that matters."""

import importlib.util
import sys

import pytest

from ddmake import load
from ddmake.ddfile.modules import forget
from ddmake.fingerprint.code import Codes

REFUSED = {  # what a recipe reads from outside: the beginning of what is said
    "F = open(__file__)": "F can't be hashed soundly: it is a _io.TextIOWrapper.",
    "import threading\nF = threading.Lock()": "F can't be hashed soundly: it is a _thread.lock.",
    "import random\nF = random.Random(1)": "F can't be hashed soundly: it is a random.Random.",
    "import random\nclass R(random.Random): pass\nF = R(1)": "F can't be hashed soundly: it is a Ddfile.R.",
    "import numpy\nF = numpy.random.default_rng(1)": "F can't be hashed soundly: it is a numpy.random._generator.Generator.",
    "F = (x for x in [1])": "F can't be hashed soundly: it is a builtins.generator.",
    "import itertools\nF = itertools.count()": "F can't be hashed soundly: it is a itertools.count.",
    "import threading\nclass K:\n    def __init__(self): self.lock = threading.Lock()\nF = K()": "F.lock can't be hashed soundly",
    "import threading\nclass F:\n    lock = threading.Lock()": "F.lock can't be hashed soundly",
    "import threading\nF = {'a': [threading.Lock()]}": "F['a'][0] can't be hashed soundly",
    "exec('def F(): return 1')": "F can't be hashed: its text isn't in <string>. Define it in a file.",
    "F = eval('lambda: 1')": "F can't be hashed: its text isn't in <string>. Define it in a file.",
    "def F(x): return " + " + ".join(["x"] * 1500): "recipe can't be hashed: it is nested too deeply. Cut it into parts.",
}


@pytest.mark.parametrize("value", REFUSED)
def test_what_has_no_sound_hash_is_named(project, value):
    result = project.ddfile(f"{value}\n@step('out.jsonl')\ndef r():\n    yield {{'x': F}}\n").run("-n")
    assert result.code == 2 and REFUSED[value] in result.output and "Traceback" not in result.output


def test_a_module_that_fails_when_imported_is_named(project):
    project.write("hh.py", "import nonesuch\n")
    result = project.ddfile("@step('out.jsonl')\ndef r():\n    import hh\n    yield {'x': hh.f()}\n").run("-n")
    assert result.code == 2 and "the module hh" in result.output and "No module named 'nonesuch'" in result.output


@pytest.fixture
def loaded(project):
    """Load a Ddfile here and return its names; its modules are forgotten afterwards."""
    def names(text):
        load(project.ddfile(text).root / "Ddfile")
        return vars(sys.modules["Ddfile"])

    yield names
    forget(project.root)


THREE = ("def shared(x): return x  # as it is\ndef a(): return shared(1)\ndef b(): return shared(2)\n"
         "def make(): return lambda: shared(3)\nc = make()\n")


def codes():
    return Codes(lambda value: NotImplemented)


def test_code_is_told_the_same_in_whatever_order_it_is_asked_for(loaded):
    names, there, back = loaded(THREE), codes(), codes()
    assert {n: there.of(names[n], n) for n in "abc"} == {n: back.of(names[n], n) for n in "cba"}
    assert set(there.of(names["c"], "c")[1]) == {"function in make", "shared"}


def test_a_recipe_that_code_reads_is_told_the_same_before_and_after_it_is_used(project):
    project.ddfile("@step('data/a')\ndef a():\n    return [{'x': str(json)}]\n")
    first = project.run("list", "--json", "--fingerprints").output
    from ddmake.rules import json as recipe
    assert recipe.signature.parameters and recipe.shape  # both remember themselves in the recipe
    assert project.run("list", "--json", "--fingerprints").output == first


def test_a_function_is_walked_once(loaded):
    a, one = loaded(THREE)["a"], codes()
    assert one.of(a, "a")[1] is one.of(a, "a")[1]


def test_texts_are_as_they_stand_in_the_file(loaded):
    one = codes()
    found = one.of(loaded(THREE)["a"], "a")[1]
    assert one.texts(found) == {found["a"]["text"]: "def a(): return shared(1)\n",
                                found["shared"]["text"]: "def shared(x): return x  # as it is\n"}


def test_a_module_handed_around_whole_has_its_text(loaded, project):
    project.write("hh.py", "N = 1  # one\n")
    one = codes()
    found = one.of(loaded("import hh\ndef f(): return vars(hh)\n")["f"], "f")[1]
    assert one.texts(found)[found["hh"]["text"]] == "N = 1  # one\n"


GOLDEN = '''
import functools
from dataclasses import dataclass, field

LIMIT = 3

@dataclass
class Box:
    n: int = 1
    items: list = field(default_factory=list)

    @property
    def twice(self):
        return self.n * 2

def helper(x, *rest, key=None, **more):
    with open(x) as a, open(x) as b:
        try:
            yield from (f"{y!r:>{LIMIT}} {{}}" for y in a if y and (z := len(y)) > 1)
        except* OSError as error:
            raise ValueError from error
        finally:
            pass
    match rest:
        case [first, *others] if first:
            return others
        case {"a": 1, **kw} | Box(n=kw):
            return kw

@functools.lru_cache(maxsize=None)
def deep(n):
    return lambda m, /, o=1.5: {**{n: m}, "s": [not n, -m, n if m else ...], b"x": 1j, **{}}

async def waiting(rows):
    async for row in rows:
        await row
    return [r async for r in rows]

def recipe(rows):
    """Doc."""
    global LIMIT
    del rows[0]
    assert rows, "none"
    total: int = 0
    for i, row in enumerate(rows):
        while total < LIMIT:
            total += Box(i).twice @ 1 if row[1:2, ::3] else deep(i)(total)
            break
        else:
            continue
    return helper, waiting, total
'''


def test_the_text_of_code_is_the_same_in_every_release_of_python(tmp_path):
    """Python 3.11, 3.12 and 3.13 gave this hash; another one that doesn't would make everything again."""
    file = tmp_path / "golden.py"
    file.write_text(GOLDEN)
    spec = importlib.util.spec_from_file_location("golden", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    try:
        found = Codes(lambda value: NotImplemented).of(module.recipe, "recipe")[1]
    finally:
        del sys.modules["golden"]
    assert {label: piece["text"] for label, piece in found.items()} == {
        "golden.Box": "81be5baf18bf0c72", "golden.Box.twice": "2db535aca766344f", "golden.deep": "909a10aad7e9e22c",
        "golden.helper": "85f07903179c5721", "golden.waiting": "09679d5c482b0aa0", "recipe": "111df8033aad110e",
    }
