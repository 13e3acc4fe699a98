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
    "docstring that another function reads": (
        recipe("doc(f)", "def doc(g): return g.__doc__\ndef f():\n    'one'"), "Ddfile", "'one'", "'two'"),
    "name that another function reads": (
        recipe("name(f)", "def name(g): return g.__name__\ndef outer():\n    def one(): pass\n    return one\nf = outer()"), "Ddfile", "one", "two"),
    "name of a function as an argument": (
        {"Ddfile": "def one(x): return 1\n@step('out.jsonl', metrics=[one])\ndef r(*, metrics):\n    yield {'x': 1}\n"}, "Ddfile", "one", "two"),
    "which package a name stands for": (recipe("m.sqrt(4)", "import math as m"), "Ddfile", "import math as m", "import cmath as m"),
    "which of a package's functions a name stands for": (recipe("f(4)", "from math import sqrt as f"), "Ddfile", "sqrt", "exp"),
    "package behind a fallback": (
        recipe("m.sqrt(4)", "try:\n    import math as m\nexcept ImportError:\n    import cmath as m"), "Ddfile", "import math as m", "import nonesuch as m"),
    "package that the user's module hands on": (
        {**recipe("m.sqrt(4)", "from hh import m"), "hh.py": "import math as m\n"}, "hh.py", "import math", "import cmath"),
    "conditional import of one's own": (
        {**recipe("f()", "BIG = False\nif BIG:\n    from hh import f\nelse:\n    from hh import g as f"), "hh.py": "def f(): return 1\ndef g(): return 2\n"},
        "Ddfile", "BIG = False", "BIG = True"),
    "star import": ({**recipe("f()", "from hh import *"), "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "reexport by a package": (
        {**recipe("f()", "from pkg import f"), "pkg/__init__.py": "from pkg.hh import g as f\n", "pkg/hh.py": "def g(): return 1\n"},
        "pkg/hh.py", "return 1", "return 2"),
    "package without an __init__": (
        {**recipe("space.hh.f()", "import space.hh"), "space/hh.py": "def f(): return 1\n"}, "space/hh.py", "1", "2"),
    "module's __getattr__": (
        {**recipe("hh.anything", "import hh"), "hh.py": "def __getattr__(name): return 1\n"}, "hh.py", "return 1", "return 2"),
    "module's __dict__": ({**recipe("hh.__dict__['N']", "import hh"), "hh.py": "N = 1\n"}, "hh.py", "N = 1", "N = 2"),
    "module imported by a name in a constant": (
        {**recipe("importlib.import_module(NAME).f()", "import importlib\nNAME = 'hh'"), "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "module imported in a method": (
        {**recipe("K().f()", "class K:\n    def f(self):\n        import hh\n        return hh.f()"), "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "module imported by a relative name": (
        {**recipe("f()", "from pkg.hh import f"), "pkg/__init__.py": "", "pkg/hh.py": "import importlib\ndef f():\n    return importlib.import_module('.oo', __package__).g()\n",
         "pkg/oo.py": "def g(): return 1\n"}, "pkg/oo.py", "1", "2"),
    "hint of a model that can't be hashed": (
        recipe("M(x=1).x", "from typing import Annotated\nfrom pydantic import BaseModel, Field\nLOW = 0\nPos = Annotated[int, Field(gt=LOW)]\nclass M(BaseModel):\n    x: Pos"),
        "Ddfile", "LOW = 0", "LOW = -1"),
    "decorator of a package": (
        recipe("f", "import contextlib\n@contextlib.contextmanager\ndef f(): yield 1"), "Ddfile", "contextlib.contextmanager", "contextlib.asynccontextmanager"),
    "exception made outside": (recipe("str(E)", "class Own(Exception): pass\nE = Own('a')"), "Ddfile", "'a'", "'b'"),
    "module imported for what it does": (
        {"Ddfile": "TABLE = {}\n@step('out.jsonl')\ndef r():\n    import hh\n    yield {'x': 1}\n", "hh.py": "N = 1\n"}, "hh.py", "1", "2"),
    "two imports of one package in the body": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    import pkg.a\n    import pkg.b\n    yield {'x': pkg.b.f()}\n", "pkg/__init__.py": "",
         "pkg/a.py": "", "pkg/b.py": "def f(): return 1\n"}, "pkg/b.py", "1", "2"),
    "import in the body, bound twice": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    try:\n        from hh import f\n    except ImportError:\n        from oo import f\n    yield {'x': f()}\n",
         "hh.py": "def f(): return 1\n", "oo.py": "def f(): return 3\n"}, "hh.py", "1", "2"),
    "globals()": (recipe("globals()['N']", "N = 1"), "Ddfile", "N = 1", "N = 2"),
    "eval": (recipe("eval('N')", "N = 1"), "Ddfile", "N = 1", "N = 2"),
    "dict of functions": (recipe("D['f']()", "def f(): return 1\nD = {'f': f}"), "Ddfile", "return 1", "return 2"),
    "partial": (recipe("p()", "import functools\ndef f(n): return n\np = functools.partial(f, 1)"), "Ddfile", "f, 1", "f, 2"),
    "function in a partial": (recipe("p()", "import functools\ndef f(n): return n + 1\np = functools.partial(f, 1)"), "Ddfile", "n + 1", "n + 2"),
    "method of a global object": (recipe("m()", "class K:\n    def f(self): return 1\nm = K().f"), "Ddfile", "return 1", "return 2"),
    "__call__ of an object": (recipe("O()", "class K:\n    def __call__(self): return 1\nO = K()"), "Ddfile", "return 1", "return 2"),
    "slots of an object": (recipe("O.n", "class K:\n    __slots__ = ('n',)\nO = K()\nO.n = 1"), "Ddfile", "O.n = 1", "O.n = 2"),
    "default of a dataclass": (
        recipe("K().x", "import dataclasses\n@dataclasses.dataclass\nclass K:\n    x: int = 1"), "Ddfile", "= 1", "= 2"),
    "factory of a dataclass's default": (
        recipe("K().x", "import dataclasses\ndef f(): return 1\n@dataclasses.dataclass\nclass K:\n    x: int = dataclasses.field(default_factory=lambda: f())"),
        "Ddfile", "return 1", "return 2"),
    "argument of a class's decorator": (
        recipe("K(1)", "import dataclasses\n@dataclasses.dataclass(order=True)\nclass K:\n    x: int"), "Ddfile", "order", "frozen"),
    "member of an enum": (recipe("M.A.value", "import enum\nclass M(enum.Enum):\n    A = 1"), "Ddfile", "A = 1", "A = 2"),
    "member of an enum, computed": (recipe("G.value", "import enum\nN = 1\nclass M(enum.Enum):\n    A = N\nG = M.A"), "Ddfile", "N = 1", "N = 2"),
    "flag": (recipe("int(G)", "import enum\nclass M(enum.IntFlag):\n    A = 1\n    B = 2\nG = M.A | M.B"), "Ddfile", "M.A | M.B", "M.A"),
    "class attribute through inheritance": (recipe("B.N", "class A:\n    N = 1\nclass B(A): pass"), "Ddfile", "N = 1", "N = 2"),
    "class attribute through super": (
        recipe("f(B())", "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return super().f()\nf = B.f"), "Ddfile", "return 1", "return 2"),
    "metaclass": (
        recipe("K.x", "class M(type):\n    @property\n    def x(cls): return 1\nclass K(metaclass=M): pass"), "Ddfile", "return 1", "return 2"),
    "setter of a property": (
        recipe("f()", "class K:\n    @property\n    def p(self): return self.n\n    @p.setter\n    def p(self, v): self.n = v + 1\n"
               "def f():\n    k = K()\n    k.p = 1\n    return k.p"), "Ddfile", "v + 1", "v + 2"),
    "cached property": (
        recipe("K().p", "import functools\nclass K:\n    @functools.cached_property\n    def p(self): return 1"), "Ddfile", "return 1", "return 2"),
    "class and static methods": (
        recipe("K.f() + K.g()", "class K:\n    @classmethod\n    def f(cls): return 1\n    @staticmethod\n    def g(): return 3"), "Ddfile", "return 3", "return 2"),
    "private name in a class": (
        recipe("K().f()", "_K__n = 1\nclass K:\n    def f(self): return __n"), "Ddfile", "_K__n = 1", "_K__n = 2"),
    "argument of one's own decorator": (
        recipe("f()", "def times(n):\n    def of(g):\n        def w(): return g() * n\n        return w\n    return of\n@times(2)\ndef f(): return 1"),
        "Ddfile", "@times(2)", "@times(3)"),
    "argument of a package's decorator": (
        recipe("f()", "import functools\nimport click\ndef d(g): return g\n@click.decorators.pass_meta_key('one')\ndef f(*a): return 1"), "Ddfile", "'one'", "'two'"),
    "type of a singledispatch": (
        recipe("f(1)", "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 1"),
        "Ddfile", "x: int", "x: str"),
    "closures over a loop": (
        recipe("[f() for f in F]", "def make(n): return lambda: n\nF = [make(n) for n in (1, 2)]"), "Ddfile", "(1, 2)", "(1, 3)"),
    "default of a lambda in a loop": (recipe("F[0]()", "F = [lambda n=n: n for n in (1, 2)]"), "Ddfile", "(1, 2)", "(1, 3)"),
    "default that is an object": (recipe("f()", "def f(n=[1]): return n"), "Ddfile", "[1]", "[2]"),
    "default of a keyword": (recipe("f()", "def f(*, n=1): return n"), "Ddfile", "n=1", "n=2"),
    "lambda under another name": (recipe("g()", "f = lambda: 1\ng = f"), "Ddfile", ": 1", ": 2"),
    "async function": (recipe("asyncio.run(f())", "import asyncio\nasync def f(): return 1"), "Ddfile", "return 1", "return 2"),
    "async or not": (recipe("g(f)", "def g(x): return 1\nasync def f(): return 1"), "Ddfile", "async def", "def"),
    "generator": (recipe("list(f())", "def f():\n    yield 1"), "Ddfile", "yield 1", "yield 2"),
    "pattern's flags": (recipe("P.sub('', 'aA')", "import re\nP = re.compile('a', re.I)"), "Ddfile", ", re.I", ""),
    "bytes": (recipe("len(B)", "B = b'a'"), "Ddfile", "b'a'", "b'b'"),
    "bytes in the text": (recipe("b'a'"), "Ddfile", "b'a'", "b'b'"),
    "frozen set in the text": (recipe("'a' in {'a', 'b'}"), "Ddfile", "{'a', 'b'}", "{'a', 'c'}"),
    "type of a number": (recipe("N", "N = 1"), "Ddfile", "N = 1", "N = 1.0"),
    "truth for a number": (recipe("N", "N = 1"), "Ddfile", "N = 1", "N = True"),
    "number of thousands of digits": (recipe("N % 7", "N = 10 ** 5000"), "Ddfile", "5000", "5001"),
    "array": (recipe("float(A[0])", "import numpy\nA = numpy.array([1.0, 2.0])"), "Ddfile", "2.0", "3.0"),
    "type of an array": (recipe("float(A[0])", "import numpy\nA = numpy.array([1, 2], 'int32')"), "Ddfile", "int32", "int64"),
    "key of a sort": (recipe("sorted(R, key=K)", "import operator\nR = []\nK = operator.itemgetter('a')"), "Ddfile", "'a'", "'b'"),
    "chained comparison": (recipe("1 < 2 < 3"), "Ddfile", "2 < 3", "2 <= 3"),
    "format in an f-string": (recipe("f'{1.5:.1f}'"), "Ddfile", ".1f", ".2f"),
    "conversion in an f-string": (recipe("f'{1!r}'"), "Ddfile", "!r", "!s"),
    "stars in a call": (recipe("f(*A)", "A = (1, 2)\ndef f(*a): return a"), "Ddfile", "f(*A)", "f(A)"),
    "variable in an f-string with =": (
        recipe("f()", "def f():\n    one = 1\n    return f'{one=}'"), "Ddfile", "one", "two"),
    "variable that locals() shows": (recipe("f()", "def f():\n    one = 1\n    return locals()"), "Ddfile", "one", "two"),
    "which of two variables": (recipe("f()", "def f():\n    a, b = 1, 2\n    return a"), "Ddfile", "return a", "return b"),
    "which of two captures": (
        recipe("f((1, 2))", "def f(x):\n    match x:\n        case (a, b):\n            return a"), "Ddfile", "return a", "return b"),
    "local variable or global": (
        recipe("f()", "a = 1\ndef f():\n    global a\n    a = 2\n    return a"), "Ddfile", "    global a\n", ""),
    "nonlocal": (
        recipe("f()", "def f():\n    a = 1\n    def g():\n        nonlocal a\n        a = 2\n    g()\n    return a"), "Ddfile", "        nonlocal a\n", ""),
    "name that a class binds after it has read the module's": (
        recipe("K().n", "n = 1\nclass K:\n    n = n"), "Ddfile", "n = 1", "n = 2"),
    "what a walrus in a comprehension leaves": (
        recipe("f()", "y = 5\ndef f():\n    [y := x for x in (1, 2)]\n    return y"), "Ddfile", "return y", "return 5"),
    "constant of the class alone": (recipe("Config.LIMIT", "class Config:\n    LIMIT = 3"), "Ddfile", "LIMIT = 3", "LIMIT = 4"),
    "constant of a class's object": (recipe("C.LIMIT", "class Config:\n    LIMIT = 3\nC = Config()"), "Ddfile", "LIMIT = 3", "LIMIT = 4"),
    "hint of a class that a model is made of": (
        recipe("M(x='1').x", "from pydantic import BaseModel\nNumber = int\nclass M(BaseModel):\n    x: Number"), "Ddfile", "Number = int", "Number = float"),
    "module imported by a name that is computed": (
        {**recipe("importlib.import_module(f'plug.{K}').f()", "import importlib\nK = 'one'"), "plug/__init__.py": "",
         "plug/one.py": "def f(): return 1\n"}, "plug/one.py", "1", "2"),
    "module imported by an argument's name": (
        {"Ddfile": "@step('out.jsonl', m='hh')\ndef r(*, m):\n    import importlib\n    yield {'x': importlib.import_module(m).f()}\n",
         "hh.py": "def f(): return 1\n"}, "hh.py", "1", "2"),
    "module that is run": ({**recipe("runpy.run_path('hh.py')['N']", "import runpy"), "hh.py": "N = 1\n"}, "hh.py", "N = 1", "N = 2"),
    "function put in the place of a package's": (
        recipe("colorsys.rgb_to_hsv()", "import colorsys\ndef mine(): return 1\ncolorsys.rgb_to_hsv = mine"), "Ddfile", "return 1", "return 2"),
    "hint that a package's decorator reads": (
        recipe("f('1')", "from pydantic import validate_call\n@validate_call\ndef f(x: int): return x"), "Ddfile", "x: int", "x: str"),
    "hints that are read": (recipe("inspect.signature(f)", "import inspect\ndef f(x: int): pass"), "Ddfile", "x: int", "x: str"),
    "docstring by inspect": (recipe("getdoc(f)", "from inspect import getdoc\ndef f():\n    'one'"), "Ddfile", "'one'", "'two'"),
    "text by inspect": (recipe("inspect.getsource(f)", "import inspect\ndef f(): return 1  # one"), "Ddfile", "# one", "# two"),
    "docstring of a pydantic model": (
        recipe("S.model_json_schema()", "from pydantic import BaseModel\nclass S(BaseModel):\n    'one'\n    x: int"), "Ddfile", "'one'", "'two'"),
    "class that a model's hint names in quotes": (
        recipe("S", "from pydantic import BaseModel\nclass T(BaseModel):\n    y: int\nclass S(BaseModel):\n    x: 'T'"), "Ddfile", "y: int", "y: str"),
    "class method by a name of its own": (
        recipe("make()", "class K:\n    N = 1\n    @classmethod\n    def make(cls): return cls.N\nmake = K.make"), "Ddfile", "N = 1", "N = 2"),
    "static method by itself": (recipe("f()", "f = staticmethod(lambda: 1)"), "Ddfile", ": 1", ": 2"),
    "function behind a class's object that passes for it": (
        recipe("f()", "import functools\nclass memo:\n    def __init__(self, f):\n        self.f = f\n        functools.update_wrapper(self, f)\n"
               "    def __call__(self): return self.f()\n@memo\ndef f(): return 1"), "Ddfile", "return 1", "return 2"),
    "text of a template string in a container": (recipe("T['a'].format(1)", "T = {'a': 'one {}'}"), "Ddfile", "one", "two"),
}

COUNTS_FOR_NOTHING = {
    "module under another name": (
        {**recipe("h.f()", "import hh as h"), "hh.py": "def f(): return 1\n"}, "Ddfile", ("import hh as h", "h.f()"), ("import hh as other", "other.f()")),
    "function under another name": (
        {**recipe("f()", "from hh import f"), "hh.py": "def f(): return 1\n"}, "Ddfile", ("import f", "f()"), ("import f as g", "g()")),
    "constant under another name": (
        {**recipe("N", "from hh import N"), "hh.py": "N = 1\n"}, "Ddfile", ("import N", "'x': N"), ("import N as M", "'x': M")),
    "function taken of its module": (
        {**recipe("hh.f()", "import hh"), "hh.py": "def f(): return 1\n"}, "Ddfile", ("import hh", "hh.f()"), ("from hh import f", "f()")),
    "package under another name": (recipe("m.sqrt(4)", "import math as m"), "Ddfile", ("as m", "m.sqrt"), ("as maths", "maths.sqrt")),
    "imports in another helper's module": (
        {**recipe("f()", "from hh import f"), "hh.py": "from oo import up\ndef f(): return up()\n", "oo.py": "def up(): return 1\n"},
        "hh.py", ("import up", "return up"), ("import up as u", "return u")),
    "import in the body under another name": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    from hh import f\n    import math as m\n    yield {'x': f(), 'y': m.pi}\n", "hh.py": "def f(): return 1\n"},
        "Ddfile", ("import f", "f()", "as m", "m.pi"), ("import f as g", "g()", "as mm", "mm.pi")),
    "what isn't read of a module imported in the body": (
        {"Ddfile": "@step('out.jsonl')\ndef r():\n    import hh\n    yield {'x': hh.f()}\n", "hh.py": "def f(): return 1\nN = 1\n"},
        "hh.py", "N = 1", "N = 2"),
    "what isn't read of a module imported in a method": (
        {**recipe("K().f()", "class K:\n    def f(self):\n        import hh\n        return hh.f()"), "hh.py": "def f(): return 1\nN = 1\n"}, "hh.py", "N = 1", "N = 2"),
    "relative import made absolute": (
        {**recipe("f()", "from pkg.hh import f"), "pkg/__init__.py": "", "pkg/hh.py": "from .oo import g\ndef f(): return g()\n", "pkg/oo.py": "def g(): return 1\n"},
        "pkg/hh.py", "from .oo", "from pkg.oo"),
    "nested function renamed": (recipe("f()", "def f():\n    def one(): return 1\n    return one()"), "Ddfile", "one", "two"),
    "variable of a nested function": (
        recipe("f()", "def f():\n    def g():\n        one = 1\n        return one\n    return g()"), "Ddfile", "one", "two"),
    "variable that a nested function closes over": (
        recipe("f()", "def f():\n    one = 1\n    def g():\n        nonlocal one\n        one += 1\n        return one\n    return g()"), "Ddfile", "one", "two"),
    "nested class renamed": (recipe("f()", "def f():\n    class One: n = 1\n    return One.n"), "Ddfile", "One", "Two"),
    "decorator's wrapper renamed": (
        recipe("f()", "def twice(g):\n    def one(): return g() * 2\n    return one\n@twice\ndef f(): return 1"), "Ddfile", "one", "two"),
    "captures of a match": (
        recipe("f({})", "def f(x):\n    match x:\n        case {'a': one, **rest}:\n            return one, rest\n        case [head, *tail]:\n"
               "            return head, tail\n        case str() as text:\n            return text"),
        "Ddfile", ("one", "rest", "head", "tail", "text"), ("uno", "r", "h", "t", "s")),
    "targets of for and with": (
        recipe("f()", "import contextlib\ndef f():\n    with contextlib.nullcontext(1) as one:\n        for two, (three, *four) in []:\n"
               "            del two\n            return three, four\n    return one"),
        "Ddfile", ("one", "two", "three", "four"), ("a", "b", "c", "d")),
    "walrus in a comprehension": (
        recipe("f()", "def f():\n    return [one for x in (1, 2) if (one := x)]"), "Ddfile", "one", "two"),
    "star arguments renamed": (recipe("f(1, a=2)", "def f(*args, **kw): return args, kw"), "Ddfile", ("args", "kw"), ("xs", "named")),
    "alias of a type": (
        recipe("f([])", "Rows = list[int]\ndef f(x: Rows) -> Rows:\n    y: Rows = x\n    return y"), "Ddfile", "list[int]", "list[str]"),
    "hints of a nested function": (
        recipe("f()", "T = int\ndef f():\n    def g(x: T = 1) -> T: return x\n    return g()"), "Ddfile", "T = int", "T = str"),
    "constant of a class that isn't read": (
        recipe("Config.LIMIT", "class Config:\n    LIMIT = 3\n    OTHER = 4"), "Ddfile", "OTHER = 4", "OTHER = 5"),
    "member of a module that __getattr__ would not be asked for": (
        {**recipe("hh.N", "import hh"), "hh.py": "N = 1\ndef __getattr__(name): return 1\n"}, "hh.py", "return 1", "return 2"),
    "pass and a bare string": (recipe("f()", "def f():\n    return 1"), "Ddfile", "    return 1", "    pass\n    'note'\n    return 1"),
    "parentheses, quotes and the parts of a text": (
        recipe("f(('a' 'b'))", "def f(x): return x"), "Ddfile", "(('a' 'b'))", "(\"ab\",)"),
    "order in a set": (recipe("len(S)", "S = {'a', 'b'}"), "Ddfile", "'a', 'b'", "'b', 'a'"),
    "another number written": (recipe("1000 + N", "N = 10"), "Ddfile", ("1000", "N = 10"), ("1_000", "N = 0xA")),
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
    for was, now in zip(*((old, new) if isinstance(old, tuple) else ((old,), (new,)))):
        assert was in text
        text = text.replace(was, now)
    (project.root / path).write_text(text)
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
    "V = [str.lower, 'x'.join]", "import numpy\nV = numpy.log", "V = 10 ** 5000",
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
