"""Files of code: whose they are, and where in them a function or class stands.

A file is parsed once, and its functions are found by name and first line.
"""

import ast
import os
import sysconfig
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

PACKAGE = Path(__file__).parent.parent
STDLIB = Path(sysconfig.get_path("stdlib"))
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Imported = tuple[str, str | None]  # a module, and what is taken of it; None: the module itself


@lru_cache(maxsize=4096)
def is_users(file: str | None) -> bool:
    """Tell whether a file is the user's own: neither Python's, nor ddmake's, nor an installed package's."""
    if not file or not Path(file).is_absolute():
        return False
    path = Path(file)
    return not (path.is_relative_to(STDLIB) or path.is_relative_to(PACKAGE)
                or {"site-packages", "dist-packages"} & set(path.parts))


def file_of(module: ModuleType | None) -> str | None:
    """Return a module's file, or the folder of a package that has none of its own."""
    file = getattr(module, "__file__", None)
    return file or next(iter(getattr(module, "__path__", None) or ()), None)


class Module:
    """One file's syntax tree, and where things stand in it."""

    def __init__(self, text: bytes):
        self.text = text
        self.tree = ast.parse(text)
        self._functions: dict[tuple[str, int], list[Function]] = {}
        self._classes: dict[str, list[ast.ClassDef]] = {}
        for statement in statements(self.tree.body, inside=True):
            if isinstance(statement, DEFS):
                first = min([statement.lineno, *(d.lineno for d in statement.decorator_list)])
                self._functions.setdefault((statement.name, first), []).append(statement)
            elif isinstance(statement, ast.ClassDef):
                self._classes.setdefault(statement.name, []).append(statement)

    def function(self, code: CodeType) -> Function | None:
        """Return the syntax tree of a function by its code object, or None where it isn't in the file."""
        if code.co_name == "<lambda>":
            first = code.co_firstlineno
            return _holding([n for n in self._lambdas if n.lineno <= first <= (n.end_lineno or n.lineno)], code)
        return next(iter(self._functions.get((code.co_name, code.co_firstlineno), ())), None)

    def class_(self, cls: type, file: str) -> ast.ClassDef | None:
        """Return the syntax tree of a class, or None for one that no class statement made.

        Of several by one name, the one that its methods stand in, else the last.
        """
        named = self._classes.get(cls.__name__, [])
        codes = [f.__code__ for f in vars(cls).values() if isinstance(f, FunctionType)]
        lines = [code.co_firstlineno for code in codes if code.co_filename == file]
        holding = [n for n in named if any(n.lineno <= line <= (n.end_lineno or 0) for line in lines)]
        return next(reversed(holding or named), None)

    def imports(self, package: str) -> dict[str, list[Imported]]:
        """Return what each name that the module's own level imports may stand for."""
        found: dict[str, list[Imported]] = {}
        for statement in statements(self.tree.body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                for name, imported in imported_by(statement, package):
                    found.setdefault(name, []).append(imported)
        return found

    def assigned(self, name: str) -> ast.Assign | None:
        """Return the statement at the module's own level that gives a variable its value, None unless there is just one."""
        found = [s for s in statements(self.tree.body) if isinstance(s, ast.Assign)
                 and any(isinstance(n, ast.Name) and n.id == name for target in s.targets for n in ast.walk(target))]
        return found[0] if len(found) == 1 else None

    def written(self, node: ast.AST) -> str:
        """Return a function's, a class's or the module's own text as it stands in the file, decorators and all."""
        first = min([getattr(node, "lineno", 1), *(d.lineno for d in getattr(node, "decorator_list", ()))])
        return "\n".join(self._lines[first - 1:getattr(node, "end_lineno", None)]) + "\n"

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.decode("utf-8", "replace").splitlines()

    @cached_property
    def _lambdas(self) -> list[ast.Lambda]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Lambda)]


@lru_cache(maxsize=256)
def _parsed(text: bytes) -> Module:
    return Module(text)


def module(file: str) -> Module:
    """Return a file's module, parsed once for each text that it had."""
    return _parsed(Path(file).read_bytes())


def files(folder: str) -> Iterator[str]:
    """Yield the files of modules that can be imported from a folder, sorted."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name != "__pycache__"
                            and not os.path.exists(f"{parent}/{name}/pyvenv.cfg"))
        yield from (f"{parent}/{name}" for name in sorted(names) if name.endswith(".py"))


def statements(body: list[ast.stmt], inside: bool = False) -> Iterator[ast.stmt]:
    """Yield the statements of a block and of the blocks in it; of functions and classes too if `inside`."""
    waiting = list(reversed(body))
    while waiting:
        statement = waiting.pop()
        yield statement
        if inside or not isinstance(statement, (*DEFS, ast.ClassDef)):
            blocks = [getattr(statement, field, None) or [] for field in ("body", "orelse", "finalbody")]
            others = [part.body for field in ("handlers", "cases") for part in getattr(statement, field, ())]
            waiting.extend(reversed([inner for block in (*blocks, *others) for inner in block]))


def imported_by(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Imported]]:
    """Yield the names that an import binds, each with what it stands for; "*" binds no name that is known here."""
    for name in statement.names:
        if isinstance(statement, ast.Import):
            yield (name.asname, (name.name, None)) if name.asname else (top := name.name.partition(".")[0], (top, None))
        elif name.name != "*":
            yield name.asname or name.name, (absolute(statement, package), name.name)


def absolute(statement: ast.ImportFrom, package: str) -> str:
    """Return the full name of the module that `from … import` names."""
    above = package.split(".")[:len(package.split(".")) - statement.level + 1] if statement.level else []
    return ".".join([*above, *([statement.module] if statement.module else [])])


def _holding(lambdas: list[ast.Lambda], code: CodeType) -> ast.Lambda | None:
    """Return the lambda whose body holds exactly the code's places."""
    spots = [(p[0], p[2]) for p in code.co_positions() if p[0] is not None and p[2] is not None and p[3] != 0]
    if not spots:  # as Python 3.12 leaves a lambda that returns a constant
        return lambdas[0] if len(lambdas) == 1 else next((n for n in lambdas if _constant(n, code)), None)
    around = [node for node in lambdas if (node.body.lineno, node.body.col_offset) <= min(spots)
              and max(spots) <= (node.body.end_lineno, node.body.end_col_offset)]
    return max(around or lambdas, key=lambda node: (node.lineno, node.col_offset), default=None)


def _constant(node: ast.Lambda, code: CodeType) -> bool:
    """Tell whether a lambda takes what the code takes and returns a constant of it."""
    value = getattr(node.body, "value", code)
    takes = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return takes == list(code.co_varnames[:len(takes)]) and any(type(c) is type(value) and c == value for c in code.co_consts)
