"""The text of code by meaning, and what it reads from outside of itself.

Left out, since they mean nothing to what code does: comments, layout, docstrings, annotations of parameters, results
and variables, names of local variables and of functions inside a function, and the names that imports give. What is
written doesn't depend on Python's minor version.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from ddmake.fingerprint import hashes, scopes
from ddmake.fingerprint.scopes import Scope
from ddmake.fingerprint.source import DEFS, Imported, absolute

SCOPE_READERS = {"locals", "eval", "exec", "vars", "dir"}  # functions that see the names of local variables
MODULE_READERS = {"globals", "eval", "exec"}  # functions that see every name of a module
SEEN = {  # what else of a function can be read, by the words that read it
    "__doc__": "__doc__", "getdoc": "__doc__", "__name__": "__name__", "__qualname__": "__name__",
    "__annotations__": "hints", "get_annotations": "hints", "get_type_hints": "hints", "signature": "hints",
    "getfullargspec": "hints", "getsource": "source", "getsourcelines": "source",
}
IMPORTERS = {"import_module", "__import__", "run_module"}
ANY_IMPORTERS = {"run_path", "resolve_name", "spec_from_file_location"}  # whose module isn't known before they run
NO_MEANING = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}


@dataclass(frozen=True)
class Read:
    """A name from outside and the attributes that are read of it: `a.b.c` whole, and not `a.b` besides."""

    name: str
    attributes: tuple[str, ...] = ()
    imported: Imported | None = None  # what an import makes of the name
    local: bool = False  # the import stands in the code itself

    @property
    def path(self) -> str:
        """Return what is read by the name that it has where it comes from: the same whatever an import calls it."""
        first = self.name if self.imported is None else ".".join(filter(None, self.imported))
        return ".".join([first, *self.attributes])


@dataclass(frozen=True)
class Text:
    """Code by meaning."""

    sha: str
    reads: tuple[Read, ...]
    modules: tuple[str, ...]  # imported in the code's own body
    modules_named: tuple[str, ...]  # variables from outside that are imported as modules
    packages: tuple[str, ...]  # of which a module is imported by a name that is computed; "": any of the user's
    docs: tuple[str, ...]  # its docstrings, which count where any code around reads one
    sees: frozenset[str]  # "globals", "__doc__", "__name__", "hints", "source": what it can read beyond plain names


def of(node: ast.AST, imports: dict[str, Imported], package: str = "", *, free: Iterable[str] = (), private: str = "",
       decorators: Iterable[ast.expr] = (), apart: Iterable[ast.AST] = ()) -> Text:
    """Return the text of a function, a class or a module.

    `imports` are the names that its module's imports bind, `free` those it closes over, `private` the class around it,
    `decorators` those of its own that count, `apart` the functions of a class that are told on their own.
    """
    writer = _Writer(node, imports, package, frozenset(free), private, {id(n) for n in apart})
    outside = Scope()
    for decorator in decorators:
        writer.write(decorator, outside)
        writer.hinted = True
    if isinstance(node, scopes.FUNCTIONS):
        writer.function(node, outside, top=True)
    elif isinstance(node, ast.ClassDef):
        writer.class_(node, outside, top=True)
    else:
        writer.fields(node, outside)
    sha = hashes.of_value("".join(writer.out))[:16]
    return Text(sha, tuple(writer.reads), tuple(writer.modules), tuple(writer.modules_named), tuple(writer.packages),
                 tuple(writer.docs), frozenset(writer.sees))


def hints(node: ast.AST) -> list[str]:
    """Return the type hints in code, which count where any code around reads them."""
    found = [getattr(n, "annotation", None) or getattr(n, "returns", None) for n in ast.walk(node)]
    return [ast.unparse(hint) for hint in found if hint is not None]


class _Writer:
    """Writes a tree into `out`, and notes what it reads on the way."""

    def __init__(self, node: ast.AST, imports: dict[str, Imported], package: str, free: frozenset[str], private: str,
                 apart: set[int]):
        self.imports, self.package, self.free, self.private, self.apart = imports, package, free, private, apart
        self.out: list[str] = []
        self.reads: dict[Read, None] = {}
        self.modules: dict[str, None] = {}
        self.modules_named: dict[str, None] = {}
        self.packages: dict[str, None] = {}
        self.hinted = False  # a package's decorator, as pydantic's validate_call, may read the function's hints
        self.docs: list[str] = []
        self.sees = _seen(node)
        self.named = bool(self.sees & {"locals", "__name__"})  # something sees the names of local variables
        self.count = 0

    def write(self, node: object, scope: Scope) -> None:
        """Write a part of a tree."""
        if isinstance(node, list):
            self.out.append("[")
            for item in node:
                if not self._means_nothing(item, scope):
                    self.write(item, scope)
                    self.out.append(",")
            self.out.append("]")
        elif isinstance(node, ast.AST):
            WRITERS.get(type(node), _Writer.fields)(self, node, scope)
        else:
            self.out.append(ascii(node))

    def fields(self, node: ast.AST, scope: Scope) -> None:
        """Write a node with those of its fields that are set and mean something."""
        self.out.append(type(node).__name__ + "(")
        for name in node._fields:
            value = getattr(node, name, None)
            if name not in NO_MEANING and value is not None and value != []:
                self.out.append(name + "=")
                self.write(value, scope)
        self.out.append(")")

    def _means_nothing(self, node: object, scope: Scope) -> bool:
        """Tell whether a statement does nothing; a docstring is noted."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            self.docs.append(node.value.value)
            return True
        bare = isinstance(node, ast.AnnAssign) and node.value is None and not scope.of_class
        return bare or isinstance(node, (ast.Pass, ast.Global, ast.Nonlocal))

    def name(self, node: ast.Name, scope: Scope) -> None:
        """Write a name alone."""
        self._chain(node.id, (), scope)

    def attribute(self, node: ast.Attribute, scope: Scope) -> None:
        """Write a name with its attributes, or the attribute of what isn't a name."""
        parts, at = [node.attr], node.value
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if isinstance(at, ast.Name):
            self._chain(at.id, tuple(reversed(parts)), scope)
        else:
            self.fields(node, scope)

    def _chain(self, name: str, attributes: tuple[str, ...], scope: Scope) -> None:
        where = scope.find(name)
        if where is None:
            stand = self._outside(name, attributes)
        elif name in where.imports:
            stand = self._read(Read(name, attributes, where.imports[name], local=True))
        else:
            stand = ".".join([where.names[name], *attributes])
            if where.of_class and where.around and where.around.find(name) is None:
                self._outside(name, attributes)  # a class reads the module's name until it binds its own
        self.out.append(f"<{stand}>")

    def _outside(self, name: str, attributes: tuple[str, ...]) -> str:
        if self.private and name.startswith("__") and not name.endswith("__"):
            name = f"_{self.private.lstrip('_')}{name}"  # as Python itself does in a class
        if name in self.free:
            return ".".join([f"^{name}", *attributes])
        return self._read(Read(name, attributes, self.imports.get(name)))

    def _read(self, read: Read) -> str:
        self.reads[read] = None
        return f"@{read.path}" if read.imported is None else f"@:{read.path}"

    def _bind(self, name: str, scope: Scope) -> str:
        """Return what is written for a name where it is bound."""
        where = scope.find(name)
        return f"@{name}" if where is None else where.names[name]

    def enter(self, node: ast.AST, scope: Scope) -> Scope:
        """Return the scope inside of a node."""
        named, unnamed = scopes.parameters(node)
        found = scopes.bindings(node, self.package)
        inner = Scope(scope, {name: name for name in named}, outer=found.outer, of_class=isinstance(node, ast.ClassDef))
        for name in (*(p.name for p in getattr(node, "type_params", ())), *unnamed, *found.names):
            if name not in inner.names:
                inner.names[name] = f".{name}" if inner.of_class else f"%{name if self.named else self.count}"
                self.count += not inner.of_class
        if not inner.of_class:
            inner.imports = {name: one for name, one in found.imports.items() if name not in (*named, *unnamed)}
        return inner

    def function(self, node: ast.AST, scope: Scope, top: bool = False) -> None:
        """Write a function or a lambda: of the one asked for, its name, decorators and defaults count elsewhere."""
        inner = self.enter(node, scope)
        self.out.append(type(node).__name__ + "(")
        if not top and isinstance(node, DEFS):
            self.out.append(self._bind(node.name, scope))
            self.write(node.decorator_list, scope)
        if id(node) not in self.apart:
            self._parameters(node.args, scope, inner, defaults=not top)
            if top and self.hinted:
                self.write([arg.annotation for arg in ast.walk(node.args) if isinstance(arg, ast.arg)], scope)
                self.write(getattr(node, "returns", None), scope)
            self.write(node.body, inner)
            self._unused(inner)
        self.out.append(")")

    def _parameters(self, args: ast.arguments, scope: Scope, inner: Scope, defaults: bool) -> None:
        for kind in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg"):
            given = getattr(args, kind) or []
            names = [inner.names[arg.arg] for arg in (given if isinstance(given, list) else [given])]
            self.out.append(f"{kind}={','.join(names)} ")
        if defaults:
            self.write(args.defaults, scope)
            self.write(args.kw_defaults, scope)

    def _unused(self, scope: Scope) -> None:
        """Read whole what is imported in a body and never named: it is imported for what that does."""
        used = {read.imported for read in self.reads if read.local}
        for name, imported in scope.imports.items():
            if imported not in used:
                self.reads[Read(name, (), imported, local=True)] = None

    def class_(self, node: ast.ClassDef, scope: Scope, top: bool = False) -> None:
        """Write a class."""
        around, self.private = self.private, node.name
        self.out.append("Class(" + ("" if top else self._bind(node.name, scope)))
        for part in (node.decorator_list, node.bases, node.keywords):
            self.write(part, scope)
        self.write(node.body, self.enter(node, scope))
        self.out.append(")")
        self.private = around

    def comprehension(self, node: ast.AST, scope: Scope) -> None:
        """Write a comprehension; what it goes through first is read outside of it."""
        inner = self.enter(node, scope)
        self.out.append(type(node).__name__ + "(")
        for number, part in enumerate(node.generators):
            self.out.append("async for " if part.is_async else "for ")
            self.write(part.target, inner)
            self.write(part.iter, inner if number else scope)
            self.write(part.ifs, inner)
        for field in ("key", "value", "elt"):
            if hasattr(node, field):
                self.write(getattr(node, field), inner)
        self.out.append(")")

    def import_(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        """Write an import: the modules alone where their names stand for nothing else."""
        above = absolute(node, self.package) if isinstance(node, ast.ImportFrom) else None
        self.out.append("Import(")
        for alias in node.names:
            module = above or alias.name
            self.modules[module] = None
            bound = alias.asname or alias.name.partition(".")[0]
            where = scope.find(bound)
            if where is not None and bound in where.imports:
                self.out.append(f"{module},")
                continue
            self.out.append(f"{module} {alias.name} {self._bind(bound, scope)},")
            self.reads[Read(bound, (), (module, alias.name if above else None), local=True)] = None
        self.out.append(")")

    def bound_name(self, node: ast.AST, scope: Scope) -> None:
        """Write an exception's handler or a pattern, which bind a name without a node of its own."""
        field = "rest" if isinstance(node, ast.MatchMapping) else "name"
        name = getattr(node, field)
        given = {part: getattr(node, part, None) for part in node._fields}
        plain = type(node)(**{**given, field: None})
        self.out.append("" if name is None else self._bind(name, scope))
        self.fields(plain, scope)

    def annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        """Write an assignment without its annotation, which counts in a class alone."""
        if scope.of_class:
            self.fields(node, scope)
            self._quoted(node.annotation, scope)
        else:
            self.fields(ast.Assign(targets=[node.target], value=node.value), scope)

    def _quoted(self, annotation: ast.expr, scope: Scope) -> None:
        """Note what the parts of an annotation read that are written as texts."""
        for part in ast.walk(annotation):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                written = len(self.out)
                try:
                    self.write(ast.parse(part.value, mode="eval").body, scope)
                except SyntaxError:
                    continue
                del self.out[written:]

    def call(self, node: ast.Call, scope: Scope) -> None:
        """Write a call; of one that imports a module, that is read whole."""
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ANY_IMPORTERS:
            self.packages[""] = None
        elif name in IMPORTERS:
            given = next(iter([*node.args, *(k.value for k in node.keywords if k.arg in ("name", "mod_name"))]), None)
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                rest = given.value.lstrip(".")
                module = absolute(ast.ImportFrom(rest, [], len(given.value) - len(rest)), self.package)
                self.modules[module] = None
                self.reads[Read(module, (), (module, None), local=True)] = None
            elif isinstance(given, ast.Name) and scope.find(given.id) is None:
                self.modules_named[given.id] = None
            else:
                self.packages[_begin(given).rpartition(".")[0]] = None
        self.fields(node, scope)

    def constant(self, node: ast.Constant, scope: Scope) -> None:
        """Write a constant; a number too long for Python to write as digits is written in hexadecimal."""
        value = node.value
        self.out.append(hex(value) if type(value) is int and value.bit_length() > 10_000 else ascii(value))

    def joined(self, node: ast.JoinedStr, scope: Scope) -> None:
        """Write an f-string; where its constant parts are cut, and empty ones, differ between versions of Python."""
        self.out.append("f(")
        last = False
        for part in node.values:
            constant = isinstance(part, ast.Constant)
            if constant and last:
                self.out.append("+")
            if not constant or part.value:
                self.write(part, scope)
                last = constant
        self.out.append(")")

    def formatted(self, node: ast.FormattedValue, scope: Scope) -> None:
        """Write a value in an f-string; an empty format is none."""
        self.out.append(f"!{node.conversion}")
        self.write(node.value, scope)
        if node.format_spec is not None and node.format_spec.values:
            self.write(node.format_spec, scope)


WRITERS = {
    ast.Name: _Writer.name, ast.Attribute: _Writer.attribute, ast.Lambda: _Writer.function, ast.FunctionDef: _Writer.function,
    ast.AsyncFunctionDef: _Writer.function, ast.ClassDef: _Writer.class_, ast.Import: _Writer.import_,
    ast.ImportFrom: _Writer.import_, ast.ExceptHandler: _Writer.bound_name, ast.MatchAs: _Writer.bound_name,
    ast.MatchStar: _Writer.bound_name, ast.MatchMapping: _Writer.bound_name, ast.AnnAssign: _Writer.annotated,
    ast.Call: _Writer.call, ast.Constant: _Writer.constant, ast.JoinedStr: _Writer.joined,
    ast.FormattedValue: _Writer.formatted, **dict.fromkeys(scopes.COMPREHENSIONS, _Writer.comprehension),
}


def _seen(node: ast.AST) -> set[str]:
    """Return what code can read beyond plain names."""
    found: set[str] = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name):
            found.update({"globals"} if n.id in MODULE_READERS else (), {"locals"} if n.id in SCOPE_READERS else ())
            word = None if n.id.startswith("__") else n.id
        else:
            word = n.attr if isinstance(n, ast.Attribute) else n.value if isinstance(n, ast.Constant) else None
        if isinstance(word, str) and word in SEEN:
            found.add(SEEN[word])
    return found


def _begin(text: ast.expr | None) -> str:
    """Return the constant part that a computed text begins with."""
    while isinstance(text, (ast.JoinedStr, ast.BinOp)):
        text = next(iter(text.values), None) if isinstance(text, ast.JoinedStr) else text.left
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
