"""Hidden reads: files that a recipe or its helpers open by a path of their own, which count for nothing.

Found in the text of functions, so that nothing runs. A path that comes from a parameter is an input, or an argument, and
counts; one that is written there, or made of the module's own variables, is hidden. Beyond that nothing is guessed.
"""

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ddmake.fingerprint.source import DEFS, imported_by, module, statements

OPEN = {"open", "io.open", "gzip.open", "bz2.open", "lzma.open", "codecs.open"}
READERS = {
    "datasets.load_dataset", "datasets.load_from_disk", "numpy.fromfile", "numpy.genfromtxt", "numpy.load", "numpy.loadtxt",
    "pyarrow.csv.read_csv", "pyarrow.json.read_json", "pyarrow.parquet.read_table", "safetensors.torch.load_file", "torch.load",
}
FAMILIES = ("pandas.read_", "polars.read_", "polars.scan_", "datasets.Dataset.from_")
METHODS = {"read_text", "read_bytes", "open"}  # of a Path
PATHS = ("path", "file", "fp", "fname", "filepath_or_buffer", "io", "source", "data_files", "dataset_path")

Names = dict[str, list[ast.expr]]  # what is written for a name


@dataclass(frozen=True)
class Read:
    """A hidden read: the line, what is called, and the path as it is written."""

    line: int
    call: str
    path: str


@dataclass
class Scope:
    """What a function's names stand for: parameters are given from outside, the others are what is written for them."""

    modules: dict[str, str]  # what imported names stand for
    outside: Names  # the module's own variables
    given: set[str] = field(default_factory=set)
    local: Names = field(default_factory=dict)

    def within(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> "Scope":
        """Return the scope of a function's body."""
        inner = Scope(dict(self.modules), self.outside, set(self.given), dict(self.local))
        for node in ast.walk(function):
            if isinstance(node, ast.arg):  # of functions within, too
                inner.given.add(node.arg)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                inner.modules.update(_stands_for(node))
            for name, value in _bindings(node):
                inner.local.setdefault(name, []).append(value)
        return inner

    def hidden(self, path: ast.expr) -> bool:
        """Tell whether a path is made of nothing that was given, and of something that is written."""
        parts = list(self._parts(path))
        names = [part for part in parts if isinstance(part, ast.Name)]
        given = any(part.id in self.given or self.name(part).startswith("tempfile") for part in names)
        written = any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)
        return written and not given

    def is_path(self, value: ast.expr) -> bool:
        """Tell whether a value is made by pathlib, as far as its text shows."""
        return any(self.name(part.func) in ("pathlib.Path", "Path") for part in self._parts(value) if isinstance(part, ast.Call))

    def name(self, called: ast.expr) -> str:
        """Return a function's full name: "pandas.read_csv" for pd.read_csv."""
        parts: list[str] = []
        while isinstance(called, ast.Attribute):
            parts.insert(0, called.attr)
            called = called.value
        if not isinstance(called, ast.Name):
            return ""
        return ".".join([self.modules.get(called.id, called.id), *parts])

    def _parts(self, value: ast.expr) -> Iterator[ast.AST]:
        """Yield all parts of a value, and of what is written for the names in it."""
        waiting, seen = [value], set[str]()
        while waiting:
            for part in ast.walk(waiting.pop()):
                yield part
                if isinstance(part, ast.Name) and part.id not in seen:
                    seen.add(part.id)
                    waiting += self.local.get(part.id) or self.outside.get(part.id, [])


def reads(file: str, functions: Collection[str]) -> Iterator[Read]:
    """Yield the hidden reads in those functions and methods of a file that go by one of these names."""
    tree = module(file).tree
    scope = Scope({}, {})
    for statement in statements(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            scope.modules.update(_stands_for(statement))
        for name, value in _bindings(statement):
            scope.outside.setdefault(name, []).append(value)
    for statement in statements(tree.body, inside=True):
        if isinstance(statement, DEFS) and statement.name in functions:
            yield from _of_function(statement, scope)


def _of_function(function: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> Iterator[Read]:
    inner = scope.within(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and (path := _path(node, inner)) is not None and inner.hidden(path):
            yield Read(node.lineno, ast.unparse(node.func), ast.unparse(path))


def _path(call: ast.Call, scope: Scope) -> ast.expr | None:
    """Return the path that a call reads, None for a call that reads none."""
    name = scope.name(call.func)
    if name in OPEN:
        return None if _writes(call, 1) else _first(call)
    if name in READERS or name.startswith(FAMILIES):
        return _first(call)
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS and scope.is_path(call.func.value):
        return None if call.func.attr == "open" and _writes(call, 0) else call.func.value
    return None


def _first(call: ast.Call) -> ast.expr | None:
    named = (word.value for word in call.keywords if word.arg in PATHS)
    return call.args[0] if call.args else next(named, None)


def _writes(call: ast.Call, at: int) -> bool:
    """Tell whether a file is opened for writing; its mode is the argument at this place, or the one of that name."""
    mode = call.args[at] if len(call.args) > at else next((word.value for word in call.keywords if word.arg == "mode"), None)
    return isinstance(mode, ast.Constant) and bool(set("wax") & set(str(mode.value)))


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a statement binds, each with the expression that it is bound to, or taken from."""
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
        targets, value = node.targets if isinstance(node, ast.Assign) else [node.target], node.value
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        targets, value = [node.target], node.iter
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        targets, value = [node.optional_vars], node.context_expr
    else:
        return
    for target in targets:
        names = (name for name in ast.walk(target) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
        yield from ((name.id, value) for name in names)


def _stands_for(statement: ast.Import | ast.ImportFrom) -> dict[str, str]:
    return {name: f"{source}.{member}" if member else source for name, (source, member) in imported_by(statement, "")}
