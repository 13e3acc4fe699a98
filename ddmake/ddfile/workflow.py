"""A loaded Ddfile: its rules, targets, aliases and knobs, checked against each other."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ddmake import toys
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.registry import here, workflow
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import ModelName, Source, Target, View
from ddmake.errors import DdfileError, did_you_mean

COMMANDS = ("preview", "cards", "why", "list", "show", "graph", "log", "report", "cost", "calls", "diff", "verify",
            "publish", "pack", "unpack", "clean", "gc", "status", "cancel", "init", "lint", "doctor", "job")


@dataclass(repr=False)
class Workflow:
    """What a Ddfile declares. `root` is its folder, from which every path counts."""

    file: Path
    root: Path
    given: dict[str, Any]  # knobs as given from outside
    knobs: dict[str, Any] = field(default_factory=dict)  # all knobs with the values in force
    rules: list[Rule] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<workflow {self.file.name}: {len(self.rules)} rules, {len(self.targets)} targets>"

    def __getitem__(self, path: str) -> Target:
        """Return the target at a path; raises DdfileError where no rule makes it."""
        return self.targets[self.path(path)]

    def add(self, rule: Rule) -> None:
        """Take in a rule; raises DdfileError where another one makes the same path."""
        for name, path in rule.outputs.items():
            if path in self.targets:
                other = self.targets[path].rule.place
                raise DdfileError(f"{rule.place}: {path} is made by the rule at {other} already; give one another output.")
            self.targets[path] = Target(rule, name)
        self.rules.append(rule)

    def resolve(self, model: ModelName) -> Source | ModelName:
        """Return what a model's name stands for: a path that a rule makes or that begins with ./, else the name itself.

        Asked once the Ddfile is loaded, so that a rule may stand before or after the one that names its target.
        """
        path = posixpath.normpath(model.name)
        if model.name in toys.NAMES:
            return model
        return Source(path) if path in self.targets or model.name.startswith(("./", "../", "/")) else model

    def producer(self, source: Source) -> Rule | None:
        """Return the rule that makes a source's path, or None."""
        if source.target is not None:
            return source.target.rule
        made = self.targets.get(source.path)
        return made.rule if made else None

    def sources(self, rule: Rule) -> Iterator[Source]:
        """Yield every path that a rule reads, wherever it stands in inputs and arguments."""
        for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]):
            for inner in (leaf.name, leaf.adapter) if isinstance(leaf, LLM) else (leaf,):
                if isinstance(inner, ModelName):
                    inner = self.resolve(inner)
                if isinstance(inner, View):
                    yield inner.of
                elif isinstance(inner, Source):
                    yield inner

    def path(self, name: str) -> str:
        """Return a target's path by name ("./cards" for one named like a command); raises DdfileError for an unknown one."""
        path = posixpath.normpath(name)
        if path not in self.targets:
            near = did_you_mean(path, [*self.targets, *self.aliases])
            raise DdfileError(f"No rule in {self.file.name} makes {name!r}.{near}")
        return path

    def select(self, names: Iterable[str]) -> list[Rule]:
        """Return the rules asked for by target or alias, in the Ddfile's order; nothing named means `all`."""
        wanted: set[str] = set()
        for name in list(names) or ["all"]:
            wanted.update(self._named(name))
        chosen = {id(self.targets[path].rule) for path in wanted}
        return [rule for rule in self.rules if id(rule) in chosen]

    def _named(self, name: str) -> list[str]:
        if name in self.aliases:
            return self.aliases[name]
        if name == "all":
            return [path for path, target in self.targets.items() if not target.rule.options.manual]
        folder = [path for path in self.targets if path.startswith(posixpath.normpath(name) + "/")]
        return folder or [self.path(name)]

    def check(self) -> None:
        """Raise DdfileError where outputs lie in one another, or a source lies in an output."""
        for name in set(self.aliases) & set(self.targets):
            raise DdfileError(f"{self.file.name}: the alias {name!r} is a target's path; give it another name.")
        for path, target in self.targets.items():
            parent = posixpath.dirname(path)
            while parent:
                if parent in self.targets:
                    outer = self.targets[parent].rule.place
                    raise DdfileError(f"{target.rule.place}: {path} lies inside {parent}, which the rule at {outer} makes.")
                parent = posixpath.dirname(parent)
        holding = {str(folder): path for path in self.targets for folder in PurePosixPath(path).parents}
        for rule in self.rules:
            for source in self.sources(rule):
                if source.path not in self.targets:
                    self._check_source(rule, source.path, holding)
        for unknown in sorted(set(self.given) - set(self.knobs)):
            knobs = f"It has: {', '.join(self.knobs)}." if self.knobs else "It has none."
            raise DdfileError(f"{self.file.name} has no knob {unknown!r}. {knobs}{did_you_mean(unknown, self.knobs)}")

    def _check_source(self, rule: Rule, path: str, holding: Mapping[str, str]) -> None:
        """Raise DdfileError for a source that lies inside a target, or that holds one; `holding` are the targets' folders."""
        outer = next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in self.targets), None)
        if outer is not None:
            raise DdfileError(f"{rule.place}: {path} lies inside {outer}, which a rule makes. Give {outer} as the input.")
        if path in holding:
            made = holding[path]
            raise DdfileError(f"{rule.place}: the source {path} holds {made}, which a rule makes. Give that as the input.")


def alias(name: str, *targets: Target | str) -> None:
    """Name a group of targets: `alias("paper", scores, tweets)`."""
    flow = workflow("alias()")
    if name in COMMANDS:
        raise DdfileError(f"{here()}: an alias can't be named {name!r}, which is a command.")
    if name in flow.aliases:
        raise DdfileError(f"{here()}: the alias {name!r} is given twice.")
    flow.aliases[name] = [path for target in targets for path in _paths(target)]


def _paths(target: Target | str) -> list[str]:
    if isinstance(target, Target):
        return list(target.rule.outputs.values()) if target.output is None else [target.path]
    if isinstance(target, str):
        return [posixpath.normpath(target)]
    raise DdfileError(f"{here()}: alias() takes targets, not {type(target).__name__}.")
