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
from types import CodeType
from typing import Any

PACKAGE = Path(__file__).parent.parent
STDLIB = Path(sysconfig.get_path("stdlib"))
SCOPE_READERS = {"locals", "eval", "exec", "vars", "dir"}  # functions that see the names of local variables

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def is_users(file: str | None) -> bool:
    """Tell whether a file is the user's own: neither Python's, nor ddmake's, nor an installed package's."""
    if not file or file.startswith("<"):
        return False
    path = Path(file)
    return not (path.is_relative_to(STDLIB) or path.is_relative_to(PACKAGE)
                or {"site-packages", "dist-packages"} & set(path.parts))


@lru_cache(maxsize=256)
def _parse(file: str, stamp: int) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))


def module_tree(file: str) -> ast.Module:
    """Return a file's syntax tree."""
    return _parse(file, Path(file).stat().st_mtime_ns)  # the stamp only tells one load of this process from the next


def function_node(code: CodeType) -> Function | None:
    """Return the syntax tree of a function by its code object, or None where it isn't in its file."""
    first, lambdas = code.co_firstlineno, []
    for node in ast.walk(module_tree(code.co_filename)):
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            if node.lineno <= first <= (node.end_lineno or node.lineno):
                lambdas.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
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
    """Return the syntax tree of a class by its qualified name."""
    scope: Any = module_tree(file)
    for name in cls.__qualname__.split("."):
        if name == "<locals>":
            continue
        scope = next((n for n in ast.walk(scope) if n is not scope and getattr(n, "name", None) == name), None)
        if scope is None:
            return None
    return scope if isinstance(scope, ast.ClassDef) else None


def normalised(node: ast.AST) -> str:
    """Return a syntax tree as text in which only what counts is left."""
    reads_doc = any(getattr(n, "attr", None) == "__doc__" or getattr(n, "id", None) == "__doc__" for n in ast.walk(node))
    return "".join(_dump(node, {}, reads_doc, top=True))


def _dump(node: Any, names: dict[str, str], docs: bool, top: bool = False) -> Iterator[str]:
    """Yield a tree's text; `names` maps local variables to what stands for them."""
    if isinstance(node, list):
        yield "["
        for item in node:
            yield from _dump(item, names, docs)
            yield ","
        yield "]"
    elif isinstance(node, ast.AST):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            names = {**names, **_locals(node)}
        yield type(node).__name__ + "("
        for name, value in _fields(node, names, docs, top):
            yield name + "="
            yield from _dump(value, names, docs)
            yield " "
        yield ")"
    else:
        yield repr(node)


def _fields(node: ast.AST, names: dict[str, str], docs: bool, top: bool) -> Iterator[tuple[str, Any]]:
    """Yield a node's fields that count."""
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for name, value in ast.iter_fields(node):
        if value is None and name != "value" or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
            continue
        if name == "body" and not docs and isinstance(value, list) and isinstance(node, (ast.Module, ast.ClassDef)) | function:
            value = _without_docstring(value)
        if function and (name == "returns" or top and name in ("name", "decorator_list")):
            continue
        if isinstance(node, ast.arg) and name == "annotation":
            continue
        if isinstance(node, ast.Name) and name == "id" or isinstance(node, ast.ExceptHandler) and name == "name":
            value = names.get(value, value)
        yield name, value


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a body without its docstring and other bare strings."""
    return [s for s in body if not _is_string(s)] or [ast.Pass()]


def _is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _locals(node: Function) -> dict[str, str]:
    """Map a function's local variables, parameters aside, to numbers in the order they are bound."""
    if isinstance(node, ast.Lambda):
        return {}
    inside = [n for statement in node.body for n in ast.walk(statement)]
    if any(isinstance(n, ast.Name) and n.id in SCOPE_READERS for n in inside):
        return {}
    outer = {name for n in inside if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    kept = outer | {a.arg for n in [node, *inside] if isinstance(n, (*_FUNCTIONS,)) for a in _arguments(n)}
    bound = [n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    bound += [n.name for n in inside if isinstance(n, ast.ExceptHandler) and n.name]
    return {name: f"_{i}" for i, name in enumerate(dict.fromkeys(n for n in bound if n not in kept))}


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _arguments(node: Function) -> list[ast.arg]:
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
