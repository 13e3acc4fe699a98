"""From a function or class to its normalised syntax tree.

Left out, since they mean nothing to what a function does: comments, layout, docstrings (unless `__doc__` is read),
annotations of parameters, results and local variables, names of local variables, decorators (what they made of a
function is reached through the wrapper). The text that comes out doesn't depend on Python's minor version.
"""

import ast
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

PACKAGE = Path(__file__).parent.parent
STDLIB = Path(sysconfig.get_path("stdlib"))
SCOPE_READERS = {"locals", "eval", "exec", "vars", "dir"}  # functions that see the names of local variables

DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (*DEFS, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)
NO_MEANING = ("ctx", "kind", "type_comment", "type_ignores")

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Names = dict[str, str]


@lru_cache(maxsize=4096)
def is_users(file: str | None) -> bool:
    """Tell whether a file is the user's own: neither Python's, nor ddmake's, nor an installed package's."""
    if not file or not Path(file).is_absolute():
        return False
    path = Path(file)
    return not (path.is_relative_to(STDLIB) or path.is_relative_to(PACKAGE)
                or {"site-packages", "dist-packages"} & set(path.parts))


@lru_cache(maxsize=256)
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def module_tree(file: str) -> ast.Module:
    """Return a file's syntax tree."""
    return _parse(Path(file).read_text(encoding="utf-8"))


def function_node(code: CodeType) -> Function | None:
    """Return the syntax tree of a function by its code object, or None where it isn't in its file."""
    first, lambdas = code.co_firstlineno, []
    for node in ast.walk(module_tree(code.co_filename)):
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            if node.lineno <= first <= (node.end_lineno or node.lineno):
                lambdas.append(node)
        elif isinstance(node, DEFS) and node.name == code.co_name:
            if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == first:
                return node
    return _innermost(lambdas, code)


def _innermost(lambdas: list[ast.Lambda], code: CodeType) -> ast.Lambda | None:
    """Return the lambda whose body holds exactly the code's places."""
    spots = [(p[0], p[2]) for p in code.co_positions() if p[0] is not None and p[2] is not None and p[3] != 0]
    if not spots:
        return lambdas[0] if len(lambdas) == 1 else None
    around = [node for node in lambdas if (node.body.lineno, node.body.col_offset) <= min(spots)
              and max(spots) <= (node.body.end_lineno, node.body.end_col_offset)]
    return max(around or lambdas, key=lambda node: (node.lineno, node.col_offset), default=None)


def class_node(cls: type, file: str) -> ast.ClassDef | None:
    """Return the syntax tree of a class, or None for one that no class statement made.

    Of several by one name, the one that its methods stand in, else the last.
    """
    named = [n for n in ast.walk(module_tree(file)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
    codes = [f.__code__ for f in vars(cls).values() if isinstance(f, FunctionType)]
    lines = [code.co_firstlineno for code in codes if code.co_filename == file]
    holding = [n for n in named if any(n.lineno <= line <= (n.end_lineno or 0) for line in lines)]
    return (holding or named or [None])[-1]


def normalised(node: ast.AST) -> str:
    """Return a syntax tree as text in which only what counts is left."""
    reads_doc = any("__doc__" in (getattr(n, "attr", None), getattr(n, "id", None)) for n in ast.walk(node))
    return "".join(_Writer(reads_doc).write(node, {}, top=True))


class _Writer:
    """Writes a tree as text; `names` maps the local variables in sight to what stands for them."""

    def __init__(self, docs: bool):
        self.docs, self.count = docs, 0

    def write(self, node: Any, names: Names, top: bool = False, in_class: bool = False) -> Iterator[str]:
        """Yield a tree's text."""
        if isinstance(node, list):
            yield "["
            for item in node:
                yield from self.write(item, names, in_class=in_class)
                yield ","
            yield "]"
        elif isinstance(node, ast.AnnAssign) and not in_class:
            yield from self.write(_plain(node), names)
        elif isinstance(node, ast.AST):
            inner = self._enter(node, names)
            yield type(node).__name__ + "("
            for name, value in self._fields(node, inner, top):
                yield name + "="
                scope = names if isinstance(node, DEFS) and name in ("decorator_list", "args") else inner
                statements = isinstance(node, ast.ClassDef) or in_class and isinstance(node, ast.If)
                yield from self.write(value, scope, in_class=statements)
                yield " "
            yield ")"
        else:
            yield repr(node)

    def _enter(self, node: ast.AST, names: Names) -> Names:
        """Return the names in sight inside of a node: its own local variables shadow and join those around it."""
        if not isinstance(node, SCOPES):
            return names
        own = list(dict.fromkeys(_bound(node)))
        kept = {a.arg for a in _arguments(node)} | _declared_global(node)
        if isinstance(node, ast.ClassDef) or _sees_names(node):
            kept |= set(own)
        inner = {name: stand for name, stand in names.items() if name not in kept}
        for name in own:
            if name not in kept:
                inner[name] = f"_{self.count}"
                self.count += 1
        return inner

    def _fields(self, node: ast.AST, names: Names, top: bool) -> Iterator[tuple[str, Any]]:
        """Yield a node's fields that count."""
        for name, value in ast.iter_fields(node):
            if value is None and name != "value" or value == [] or name in NO_MEANING:
                continue
            if isinstance(node, DEFS) and (name == "returns" or top and name in ("name", "decorator_list")):
                continue
            if isinstance(node, ast.arg) and name == "annotation":
                continue
            if name == "body" and not self.docs and isinstance(node, (ast.Module, ast.ClassDef, *DEFS)):
                value = _without_strings(value)
            if isinstance(node, ast.Name) and name == "id" or isinstance(node, ast.ExceptHandler) and name == "name":
                value = names.get(value, value)
            yield name, value


def _plain(node: ast.AnnAssign) -> ast.AST:
    """Return an annotated assignment to a variable without its annotation."""
    return ast.Assign(targets=[node.target], value=node.value) if node.value is not None else ast.Pass()


def _without_strings(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a body without its docstring and other bare strings."""
    return [s for s in body if not _is_string(s)] or [ast.Pass()]


def _is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what lies in a scope itself, and not in one inside of it."""
    waiting = list(ast.iter_child_nodes(node))
    while waiting:
        child = waiting.pop(0)
        yield child
        if not isinstance(child, SCOPES):
            waiting[:0] = list(ast.iter_child_nodes(child))


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the variables that a scope binds, in the order in which they stand."""
    for child in _own(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.ExceptHandler) and child.name:
            yield child.name


def _declared_global(node: ast.AST) -> set[str]:
    return {name for child in _own(node) if isinstance(child, (ast.Global, ast.Nonlocal)) for name in child.names}


def _sees_names(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Name) and n.id in SCOPE_READERS for n in ast.walk(node))


def _arguments(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, FUNCTIONS):
        return []
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
