"""What each packaged recipe's code means, beside its version: recipes count by version, so code must not change under one.

    python tests/recipe_hashes.py                        # records new recipes, and those whose version was raised
    python tests/recipe_hashes.py --neutral transform    # records a change that leaves what the recipe makes as it was

The code of a recipe is its function and all that this reaches in ddmake.rules and ddmake.trainers, read from the files
and never imported.
"""

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ddmake
import ddmake.rules
from ddmake.ddfile.recipe import Recipe
from ddmake.fingerprint import hashes, source, text

PACKAGE = Path(ddmake.__file__).parent
RECORDED = Path(__file__).parent / "recipe_hashes.json"
ROOMS = ("ddmake.rules", "ddmake.trainers")

Spot = tuple[str, str]  # a module, and a name in it


@dataclass(frozen=True)
class State:
    """One recipe as it stands: its version, and the hash of its code by meaning."""

    version: str | None
    code: str


def recipes() -> dict[str, Recipe]:
    """Return the recipes that ddmake.rules exports."""
    return {name: one for name in sorted(ddmake.rules.__all__) if isinstance(one := getattr(ddmake.rules, name), Recipe)}


def states(package: Path = PACKAGE) -> dict[str, State]:
    """Return the recipes as they stand in a copy of the package."""
    code = Code(package)
    return {name: State(one.options.version, code.of(one.function.__module__, one.name)) for name, one in recipes().items()}


def recorded() -> dict[str, State]:
    """Return what was recorded last."""
    return {name: State(**state) for name, state in json.loads(RECORDED.read_text(encoding="utf-8")).items()}


def changelog() -> dict[str, dict[str, str]]:
    """Return the sentences that users read when a version went up."""
    return tomllib.loads((PACKAGE / "rules" / "changes.toml").read_text(encoding="utf-8"))


def problems(before: dict[str, State], now: dict[str, State], told: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield what is wrong, each with its remedy."""
    for name, state in now.items():
        old = before.get(name)
        if state.version is None:
            yield f"{name} has no version: give its @step a version=\"1\"."
        elif state.version != "1" and state.version not in told.get(name, {}):
            yield f"{name} is at version {state.version}: add [{name}] \"{state.version}\" = \"a sentence\" to rules/changes.toml."
        elif old is None or state.version != old.version:
            yield f"{name} isn't recorded at version {state.version}. Run: python tests/recipe_hashes.py"
        elif state.code != old.code:
            yield (f"the code of {name} changed and its version didn't. Raise its version=, with a sentence in rules/changes.toml, "
                   f"and run: python tests/recipe_hashes.py. Or, if it makes the same as before: "
                   f"python tests/recipe_hashes.py --neutral {name}")
    yield from (f"{name} is gone. Run: python tests/recipe_hashes.py" for name in before.keys() - now.keys())


def record(neutral: list[str]) -> None:
    """Write down what stands, but for changes under one and the same version that aren't neutral."""
    before, now = recorded() if RECORDED.exists() else {}, states()
    for name in neutral:
        if name not in now:
            raise SystemExit(f"There is no recipe {name}: {', '.join(now)}.")
    kept = {name: old for name, old in before.items()
            if name in now and name not in neutral and old.version == now[name].version}
    told = {name: vars(kept.get(name, state)) for name, state in now.items()}
    RECORDED.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print("\n".join(problems(recorded(), now, changelog())) or "All recipes are recorded.")


class Code:
    """The code in a copy of the package, read name by name."""

    def __init__(self, package: Path):
        self.package = package

    def of(self, module: str, name: str) -> str:
        """Return the hash of all that a recipe reaches."""
        found: dict[str, str] = {}
        waiting: list[Spot] = [(module, name)]
        while waiting:
            spot = waiting.pop()
            if ".".join(spot) not in found:
                told, reached = self._told(*spot, recipe=spot == (module, name))
                found[".".join(spot)] = told
                waiting.extend(reached)
        return hashes.of_value(sorted(found.items()))[:16]

    def _told(self, module: str, name: str, recipe: bool) -> tuple[str, list[Spot]]:
        """Return the text of what a name stands for in a module, hashed, and the names that it reaches."""
        parsed, package = self._module(module), module if self._file(module).stem == "__init__" else module.rpartition(".")[0]
        imports = {bound: several[-1] for bound, several in parsed.imports(package).items()}
        if name in imports:
            return "imported", list(self._reached(module, text.Read(name, (), imports[name])))
        texts = [text.of(part, imports, package) for node in _defining(parsed, name) for part in _parts(node, recipe)]
        reached = [spot for one in texts for read in one.reads for spot in self._reached(module, read)]
        return ",".join(one.sha for one in texts), reached

    def _reached(self, module: str, read: text.Read) -> Iterator[Spot]:
        """Yield what a name that was read stands for, where it lies in the rooms that count."""
        if read.imported is None:
            yield module, read.name
            return
        names = [*filter(None, read.imported), *read.attributes]
        if not names[0].startswith(ROOMS):
            return
        at, rest = names[0], names[1:]
        while rest and self._file(f"{at}.{rest[0]}").exists():
            at, rest = f"{at}.{rest[0]}", rest[1:]
        yield from ((at, name) for name in (rest[:1] or _names(self._module(at))))

    def _file(self, module: str) -> Path:
        place = self.package.joinpath(*module.split(".")[1:])
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    def _module(self, module: str) -> source.Module:
        return source.module(str(self._file(module)))


def _defining(module: source.Module, name: str) -> list[ast.stmt]:
    return [node for node in source.statements(module.tree.body) if name in _bound(node)]


def _names(module: source.Module) -> list[str]:
    return sorted({name for node in source.statements(module.tree.body) for name in _bound(node)})


def _bound(node: ast.stmt) -> list[str]:
    """Return the names that a statement at a module's own level defines."""
    if isinstance(node, (*source.DEFS, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [n.id for target in targets if target is not None for n in ast.walk(target) if isinstance(n, ast.Name)]


def _parts(node: ast.stmt, recipe: bool) -> list[ast.AST]:
    """Return what counts of a definition: of a recipe not its decorator, and not its defaults, which are arguments."""
    if recipe or not isinstance(node, source.DEFS):
        return [node]
    return [node, *node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]


if __name__ == "__main__":
    record(sys.argv[2:] if sys.argv[1:2] == ["--neutral"] else [])
