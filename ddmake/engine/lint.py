"""What is likely a mistake in a Ddfile, though it loads: things that nothing uses, and what hides from the key."""

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from ddmake.ddfile import modules
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.template import FILE, Template
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hidden, twice
from ddmake.engine.alike import alike
from ddmake.engine.graph import Graph
from ddmake.engine.ingredients import Ingredients
from ddmake.engine.nulls import nulls
from ddmake.engine.reasons import reason
from ddmake.fingerprint.source import module
from ddmake.fingerprint.values import dicts

BRACES = re.compile(r"(?<![{$%\\])\{([A-Za-z_]\w*)\}(?!\})")

HEAVY = frozenset({"torch", "transformers", "datasets", "litellm", "sentence_transformers", "vllm", "tensorflow", "jax"})


@dataclass(frozen=True)
class Finding:
    """One likely mistake: where, what, and what to do."""

    kind: str
    place: str
    what: str
    remedy: str


def findings(flow: Workflow) -> list[Finding]:
    """Return what is likely a mistake, in the order in which it is looked for. Raises DdmakeError."""
    made_of = twice.made_of(flow)
    found = [*_unsettled(flow, made_of, twice.loaded_again(flow)), *_hidden_reads(flow, made_of), *_forgotten_f(flow),
             *_templates(flow, made_of), *_unneeded(flow), *_recipes(flow), *_heavy(flow), *_alike(flow, made_of), *_nulls(flow)]
    return list(dict.fromkeys(found))


def _unsettled(flow: Workflow, first: Mapping[str, Ingredients], second: Mapping[str, Ingredients]) -> Iterator[Finding]:
    """Yield rules that aren't the same when the Ddfile is loaded twice."""
    remedy = "Keep clocks, random numbers, and the order of folders and sets out of the top level, or make it a knob."
    for label, made in first.items():
        if label not in second:
            what = f"the path {label} is another when the Ddfile is loaded again"
        elif made != second[label]:
            what = f"{label} isn't the same when the Ddfile is loaded again: {reason(made, second[label])}"
        else:
            continue
        yield Finding("unsettled", flow.targets[label].rule.place, what, remedy)


def _hidden_reads(flow: Workflow, made_of: Mapping[str, Ingredients]) -> Iterator[Finding]:
    """Yield the reads of files, in recipes and what they call, that no key knows of."""
    names = {rule.recipe.function.__name__ for rule in flow.rules if not rule.recipe.packaged}
    codes = (part["code"] for made in made_of.values() for part in dicts(made) if isinstance(part.get("code"), dict))
    names |= {re.split(r"[.#]", label)[-1] for code in codes for label in code}
    for file in _files(flow):
        for read in hidden.reads(file, names):
            yield Finding("hidden read", f"{os.path.relpath(file, flow.root)}:{read.line}",
                          f"{read.call}() reads {read.path}, and no key knows of it", "Give the file to the rule as an input.")


def _forgotten_f(flow: Workflow) -> Iterator[Finding]:
    """Yield texts with a variable of the Ddfile in braces."""
    known = _variables()
    for rule in flow.rules:
        for where, text in _texts(rule):
            for name in dict.fromkeys(BRACES.findall(text)):
                if name in known and name not in rule.wildcards:
                    what = f"{where} of {rule.label} holds {{{name}}} as it stands there"
                    remedy = f"If the variable {name} is meant, put an f before the quotes; Jinja's braces are then doubled."
                    yield Finding("forgotten f", rule.place, what, remedy)


def _templates(flow: Workflow, made_of: Mapping[str, Ingredients]) -> Iterator[Finding]:
    """Yield the files in templates/ that no rule uses, nor any template that one uses."""
    used = {name for made in made_of.values() for part in dicts(made) if isinstance(part.get("template"), dict)
            for name in part["template"]}
    used |= _mentioned(flow)  # by a pattern that nothing has bound, for one
    folder = flow.root / "templates"
    for path in sorted(folder.glob("**/*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if FILE.fullmatch(path.name) and name not in used:
            yield Finding("unused template", f"templates/{name}", "no rule uses it", "Use it, or delete it.")


def _unneeded(flow: Workflow) -> Iterator[Finding]:
    """Yield the rules that neither `all` nor an alias needs, where the Ddfile says what `all` is."""
    if "all" not in flow.aliases:
        return
    needed = set(Graph(flow, flow.select(["all", *flow.aliases])).order)
    for rule in flow.rules:
        if rule not in needed and not rule.options.manual:
            yield Finding("unneeded rule", rule.place, f"neither `all` nor another alias needs {rule.label}",
                          "Add it to an alias, make it manual=True, or delete it.")


def _recipes(flow: Workflow) -> Iterator[Finding]:
    """Yield the recipes that are written in the Ddfile and that no rule uses."""
    used, mentioned = {rule.recipe.function for rule in flow.rules}, _mentioned(flow)
    for name, value in vars(sys.modules["Ddfile"]).items():
        if isinstance(value, Recipe) and value.function not in used and name not in mentioned:
            code = value.function.__code__
            if code.co_filename == str(flow.file):
                yield Finding("unused recipe", f"{flow.file.name}:{code.co_firstlineno}", f"no rule uses the recipe {value.name}",
                              "Call it with outputs, or delete it.")


def _heavy(flow: Workflow) -> Iterator[Finding]:
    """Yield the imports, at the top of the user's files, of packages that take seconds."""
    for file in _files(flow):
        for node in module(file).tree.body:
            for name in sorted(_imported(node) & HEAVY):
                yield Finding("slow top level", f"{os.path.relpath(file, flow.root)}:{node.lineno}",
                              f"{name} is imported whenever the Ddfile is loaded, if only to list targets",
                              "Import it in the recipe that uses it.")


def _alike(flow: Workflow, made_of: Mapping[str, Ingredients]) -> Iterator[Finding]:
    """Yield the rules that ask an llm the very same as another one."""
    for rule, other in alike(flow, made_of):
        yield Finding("same requests", rule.place, f"{rule.label} asks the very same as {other.label}, and gets its answers",
                      "If others are meant, give it another sample: llm.using(sample=1).")


def _nulls(flow: Workflow) -> Iterator[Finding]:
    """Yield the nulls that prompts would spell out."""
    for rule in flow.rules:
        for one in nulls(flow, rule):
            yield Finding("null in a prompt", rule.place, f"{rule.label}: {one.told}", one.remedy)


def _imported(node: ast.stmt) -> set[str]:
    """Return the packages that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()


def _files(flow: Workflow) -> list[str]:
    """Return the Ddfiles, and the user's modules that they have loaded."""
    return sorted({*map(str, modules.loaded(flow.root).values()), *map(str, flow.files)})


def _mentioned(flow: Workflow) -> set[str]:
    """Return the names that are read anywhere in the user's files, and the texts that stand there."""
    nodes = [node for file in _files(flow) for node in ast.walk(module(file).tree)]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return names | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _variables() -> set[str]:
    """Return the names of the plain variables of the Ddfile."""
    return {name for name, value in vars(sys.modules["Ddfile"]).items()
            if not name.startswith("_") and not isinstance(value, ModuleType) and not callable(value)}


def _texts(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield the texts among a rule's arguments, and its `about`, by name; a shell command has placeholders of its own."""
    told = {name: value for name, value in rule.arguments.items() if not (rule.recipe.packaged and name == "cmd")}
    for name, value in {**told, "about": rule.options.about}.items():
        for item in value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else (value,):
            if isinstance(item, str):
                yield name, item
            elif isinstance(item, Template) and item.name is None:
                yield name, item.text
