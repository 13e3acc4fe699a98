"""A loaded Ddfile: its rules, patterns, targets, aliases and knobs.

One that includes others shares rules, targets and aliases with them. Each has a prefix for its own targets, a folder that its
sources, templates and modules lie in, and knobs.
"""

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import toys
from ddmake.ddfile import layout, pattern, selecting
from ddmake.ddfile.binding import Shared, normal, rename
from ddmake.ddfile.config import words
from ddmake.ddfile.layout import Read
from ddmake.ddfile.registry import here, workflow
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import is_path, served_model
from ddmake.ddfile.target import ModelName, Source, Target
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.facts import Said, Saying

COMMANDS = ("make", "cards", "why", "list", "graph", "log", "verify", "clean", "gc", "lint", "show", "calls", "preview",
            "cost", "pack", "unpack", "diff", "report", "publish", "status", "cancel")
RESERVED = ("job", "worker", "init", "doctor")  # commands that ddmake calls by itself, and names of those to come


@dataclass(repr=False, eq=False)
class Workflow:
    """What a Ddfile declares. `root` is its folder; all paths count from that of the main one."""

    file: Path
    root: Path
    given: dict[str, Any]  # knobs as given from outside
    last: dict[str, Any] = field(default_factory=dict)  # knobs of an earlier run, for those that aren't given
    into: str = ""  # the folder that all targets are put under, with its slash
    within: str = ""  # what an included Ddfile's targets and aliases begin with
    base: str = ""  # an included Ddfile's folder
    parent: "Workflow | None" = None
    knobs: dict[str, Any] = field(default_factory=dict)  # all knobs with the values in force
    defaults: dict[str, Any] = field(default_factory=dict)  # of the knobs
    rules: list[Rule] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    patterns: "pattern.Patterns" = field(default_factory=lambda: pattern.Patterns())
    aliases: dict[str, list[str]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)  # every Ddfile that is part of this, the main one first

    def __post_init__(self) -> None:
        self.top: Workflow = self if self.parent is None else self.parent.top
        self.prefix = self.into + self.within
        self.shared = Shared()
        self.templates: dict[Any, Any] = {}  # that were read and checked, to be used again
        self.prefixes: set[str] = set()  # of what is included
        self.sayings: list[Saying] = []  # what facts() says
        self.said: dict[str, Said] = {}  # of what it says that, once that is told
        self._strings: dict[str, Source] = {}
        self._open: list[Read] = []  # strings whose meaning is told when all rules are known
        self._names: dict[tuple[Workflow, str, bool], list[Rule]] = {}  # models' names, and the rules that hold them
        self._forms: dict[str, str] = {} if self.parent is None else self.parent._forms  # paths by their NFC form
        self._unmade: list[Read] = []
        self._aliased: list[tuple[Workflow, str, tuple[Any, ...], str]] = []
        self._checked = -1  # rules that were there when all was last found in order; -1 while loading
        self.files.append(self.file)

    def __repr__(self) -> str:
        return f"<workflow {self.file.name}: {len(self.rules)} rules, {len(self.targets)} targets>"

    def __getitem__(self, name: str) -> Target:
        """Return the target at a path ("./cards" for one named like a command); raises DdfileError where no rule makes it."""
        found = self.find(name)
        if found is None:
            near = did_you_mean(normal(name), [*self.targets, *self.aliases])
            if self.parent:
                raise DdfileError(f"{here()}: no rule in {self.file.name} makes {name!r}.{near}")
            remedy = near or did_you_mean(name, COMMANDS) or " What there is: ddmake list"
            raise DdfileError(f"No rule in {self.file.name} makes {name!r}.{remedy}")
        return found

    def find(self, name: str) -> Target | None:
        """Return the target at a path, with the folder of `--into` or without, or None; a pattern that it fits is bound."""
        path = normal(name)
        found = self.made(path) if self.parent is None else None
        found = found or (self.made(self.prefix + path) if self.prefix else None)
        if 0 <= self.top._checked < len(self.rules):
            self.top.settle()
        return found

    def made(self, path: str) -> Target | None:
        """Return the target at just this path, in whatever Unicode form. Raises DdfileError where two patterns make it."""
        same = path if path in self.targets or path.isascii() else self._forms.get(unicodedata.normalize("NFC", path), path)
        if same in self.targets:
            return self.targets[same]
        fitting = self.patterns.fitting(path)
        if len(fitting) > 1:
            first, second = fitting[0][0], fitting[1][0]
            raise DdfileError(f"{second.place}: {path} fits two patterns, {second.label} and {first.label} at {first.place}. "
                              "Constrain a wildcard, as in {name:[a-z]+}, or give one of them another output.")
        for one, values in fitting:
            pattern.bind(one, values)
        return self.targets.get(path)

    def add(self, rule: Rule) -> None:
        """Take in a rule; raises DdfileError where another one makes the same path."""
        for name, path in rule.outputs.items():
            if path in self.targets:
                other = self.targets[path].rule.place
                raise DdfileError(f"{rule.place}: {path} is made by the rule at {other} already; give one another output.")
            self.targets[path] = Target(rule, name)
            if not path.isascii():
                self._forms[unicodedata.normalize("NFC", path)] = path
        self.rules.append(rule)

    def string(self, text: str) -> Source:
        """Return the input that a string among the inputs is: one for all that read it, settled when all rules are known."""
        found = self._strings.get(text)
        if found is None:
            if "{" in text:
                pattern.refuse_wildcards(text)
            path = normal(text)
            found = self._strings[text] = Source(self._from_root(path))
            self.top._open.append(Read(found, self._places(path, found.path)))
        return found

    def _from_root(self, path: str) -> str:
        """Return a path as it is seen from the main Ddfile's folder; one that lies in there begins with neither / nor .."""
        if self.base:
            path = posixpath.normpath(posixpath.join(self.base, path))
        if path.startswith(("/", "..")):
            full = posixpath.normpath(posixpath.join(self.top.root.as_posix(), path))
            roots = (f"{root.as_posix()}/" for root in (self.top.root, self.top.root.resolve()))
            return next((full.removeprefix(root) for root in roots if full.startswith(root)), path)
        return path

    def _places(self, path: str, place: str) -> tuple[str, ...]:
        """Return what a string may mean, the likeliest first: a target of this Ddfile's own, or what lies at a place."""
        if not self.prefix or place.startswith(("/", "..")):
            return (place,)
        return (self.into + place if path.startswith(("/", "..")) else self.prefix + path, place)

    def meanings(self, path: str) -> tuple[str, ...]:
        """Return what a path in this Ddfile may mean, as seen from the main one's folder, the likeliest first."""
        return self._places(path, self._from_root(path))

    def promise(self, path: str) -> Source:
        """Return the input at a path that a pattern makes."""
        source = Source(path)
        self.top._open.append(Read(source, (path,)))
        return source

    def note_name(self, name: str, fits_patterns: bool, rule: Rule) -> None:
        """Remember a model's name in a rule, which may prove to be a target's."""
        self.top._names.setdefault((self, name, fits_patterns), []).append(rule)

    def settle(self) -> None:
        """Tell what strings mean now that all rules are known, and check where everything lies; patterns are bound for it.

        Raises DdfileError for aliases of nothing, and for targets and sources that lie in one another.
        """
        while self._open or self._names or self._aliased:
            if self._open:  # the newest first: a pattern that is made of itself comes to its end soon
                self._settle_string(self._open.pop())
            elif self._names:
                self._settle_name(*self._names.popitem())
            else:
                flow, name, items, place = self._aliased.pop(0)
                self.aliases[name] = [path for item in items for path in selecting.aliased(flow, name, item, place)]
        layout.check(self, self._unmade)
        self._checked = len(self.rules)

    def _settle_string(self, read: Read) -> None:
        found = next((target for place in read.places if (target := self.made(place)) is not None), None)
        if found is None:
            self._unmade.append(read)
        else:
            read.source.path, read.source.target = found.path, found

    def _settle_name(self, held: "tuple[Workflow, str, bool]", rules: list[Rule]) -> None:
        flow, name, fits_patterns = held
        model = (not fits_patterns and served_model(name)) or ""
        source = flow.string(model) if is_path(model) else self._named(flow, model or name, fits_patterns or bool(model))
        for rule in rules if source is not None else ():
            rename(rule, name, source)

    def _named(self, flow: "Workflow", name: str, fits_patterns: bool) -> Source | None:
        """Return the target that has a model's name, None for a toy's and where no rule makes it."""
        path = normal(name)
        for place in (flow.prefix + path, posixpath.normpath(f"{flow.base}/{path}")) if name not in toys.NAMES else ():
            found = self.made(place) if fits_patterns else self.targets.get(place)
            if found is not None:
                return found.as_source()
        return None

    def resolve(self, model: ModelName) -> Source | ModelName:
        """Return a model's name: one that is a target's has become a source when the Ddfile was loaded."""
        return model

    def producer(self, source: Source) -> Rule | None:
        """Return the rule that makes a source's path, or None."""
        return None if source.target is None else source.target.rule

    def sources(self, rule: Rule) -> Iterator[Source]:
        """Yield every path that a rule reads, wherever it stands in inputs and arguments."""
        for group in rule.reads:
            yield from group

    def words(self) -> list[str]:
        """Return the words of a command line that load this workflow again."""
        return words(self)

    @property
    def namespace(self) -> str:
        """Return what an included Ddfile's knobs begin with."""
        return self.within.removeprefix(self.parent.within if self.parent else "").rstrip("/").replace("/", ".")

    def path(self, name: str) -> str:
        """Return a target's path by name; raises DdfileError for an unknown one."""
        return self[name].path

    def select(self, names: Iterable[str]) -> list[Rule]:
        """Return the rules asked for by target, alias, folder or glob, in the Ddfile's order; nothing named means `all`."""
        return selecting.select(self, list(names))


def alias(name: str, *targets: Target | str) -> None:
    """Name a group of targets: `alias("paper", scores, tweets)`; strings may be folders and globs, too."""
    flow = workflow("alias()")
    full = flow.within + name
    if full in COMMANDS + RESERVED:
        raise DdfileError(f"{here()}: an alias can't be named {name!r}, which is a command.")
    if full in flow.aliases:
        raise DdfileError(f"{here()}: the alias {name!r} is given twice.")
    for target in targets:
        if isinstance(target, pattern.Unbound):
            target.as_source()
        if not isinstance(target, (Target, str)):
            raise DdfileError(f"{here()}: alias() takes targets, not {type(target).__name__}.")
    flow.aliases[full] = []
    flow.top._aliased.append((flow, full, tuple(targets), here()))
