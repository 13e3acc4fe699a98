"""Which names a function, a class or a comprehension binds, by Python's rules of scope."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ddmake.fingerprint.source import DEFS, Imported, imported_by

FUNCTIONS = (*DEFS, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)


@dataclass
class Scope:
    """The names that one scope binds, each with what is written for it, and the scope around it."""

    around: "Scope | None" = None
    names: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Imported] = field(default_factory=dict)  # names that one import binds, and nothing else
    outer: set[str] = field(default_factory=set)  # declared global
    of_class: bool = False

    def find(self, name: str) -> "Scope | None":
        """Return the scope that binds a name as it is seen from here, None where it comes from outside."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.outer:
                return None
            if name in scope.names and (scope is self or not scope.of_class):
                return scope
            scope = scope.around
        return None


@dataclass(frozen=True)
class Bindings:
    """What a scope binds in its body, in the order in which it stands there."""

    names: list[str]
    outer: set[str]  # declared global
    imports: dict[str, Imported]  # names bound by imports of one and the same thing, and by nothing else


def bindings(node: ast.AST, package: str) -> Bindings:
    """Return what a scope binds in its body; parameters apart."""
    if isinstance(node, COMPREHENSIONS):
        targets = [n for part in node.generators for n in ast.walk(part.target)]
        return Bindings([n.id for n in targets if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)], set(), {})
    names: Counter[str] = Counter()
    taken: Counter[tuple[str, Imported]] = Counter()
    outer: set[str] = set()
    elsewhere: set[str] = set()
    for child in _own(node):
        names.update(_binds(child))
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            taken.update(imported_by(child, package))
        elif isinstance(child, (ast.Global, ast.Nonlocal)):
            (outer if isinstance(child, ast.Global) else elsewhere).update(child.names)
    own = [name for name in names if name not in outer and name not in elsewhere]
    return Bindings(own, outer, {name: imported for (name, imported), count in taken.items() if names[name] == count})


def parameters(node: ast.AST) -> tuple[list[str], list[str]]:
    """Return the parameters of a function that a call may name, and those that none can."""
    if not isinstance(node, FUNCTIONS):
        return [], []
    a = node.args
    unnamed = [*a.posonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [arg.arg for arg in (*a.args, *a.kwonlyargs)], [arg.arg for arg in unnamed]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what lies in a scope itself, and of a comprehension inside of it what binds names here."""
    body = getattr(node, "body", [])
    waiting = list(reversed(body)) if isinstance(body, list) else [body]
    while waiting:
        child = waiting.pop()
        yield child
        if isinstance(child, COMPREHENSIONS):
            yield from (n for n in ast.walk(child) if isinstance(n, ast.NamedExpr))
        elif not isinstance(child, SCOPES):
            waiting.extend(reversed(list(ast.iter_child_nodes(child))))


def _binds(child: ast.AST) -> Iterable[str]:
    """Return the names that a part of a scope binds in it."""
    if isinstance(child, ast.Name):
        return () if isinstance(child.ctx, ast.Load) else (child.id,)
    if isinstance(child, ast.NamedExpr):
        return (child.target.id,)
    if isinstance(child, (*DEFS, ast.ClassDef)):
        return (child.name,)
    if isinstance(child, (ast.Import, ast.ImportFrom)):
        return [name for name, _ in imported_by(child, "")]
    if isinstance(child, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return (child.name,) if child.name else ()
    return (child.rest,) if isinstance(child, ast.MatchMapping) and child.rest else ()
