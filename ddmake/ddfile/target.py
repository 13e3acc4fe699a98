"""Targets, sources and views: what a rule's inputs are made of before anything is opened."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.registry import here
from ddmake.errors import DdfileError, NoSuchName, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule


SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")


def suffix(path: str | PurePath) -> str:
    """Return the suffix that makes a path a file, in lower case, or nothing: `data/v1.2` is a folder."""
    found = SUFFIX.search(PurePath(path).name)
    return found[0].lower() if found and found.start() else ""


class Viewable:
    """What lazy views can be taken of; each call adds one and copies nothing."""

    def take(self, n: int) -> "View":
        """Keep the first n rows."""
        return self._view("take", n)

    def skip(self, n: int) -> "View":
        """Leave out the first n rows."""
        return self._view("skip", n)

    def select(self, *columns: str) -> "View":
        """Keep these columns; what is read of the others counts for nothing."""
        return self._view("select", *columns)

    def rename(self, **columns: str) -> "View":
        """Rename columns: `.rename(old="new")`."""
        return self._view("rename", columns)

    def shuffle(self, seed: int = 0) -> "View":
        """Put the rows in an order drawn from the seed."""
        return self._view("shuffle", seed)

    def shard(self, i: int, of: int) -> "View":
        """Keep the i-th of so many contiguous parts."""
        if not 0 <= i < of:
            raise DdfileError(f"{here()}: .shard({i}, of={of}): the shard's number is from 0 to {of - 1}.")
        return self._view("shard", i, of)

    def filter(self, keep: Callable[[dict[str, Any]], bool]) -> "View":
        """Keep the rows for which the function is true."""
        return self._view("filter", keep)

    def map(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "View":
        """Add to or replace each row's columns by what the function returns."""
        return self._view("map", change)

    def explode(self, column: str) -> "View":
        """Make a row of each item of a list column."""
        return self._view("explode", column)

    def _view(self, verb: str, *args: Any) -> "View":
        raise NotImplementedError


class Target(Viewable):
    """A path that a rule makes. One with several outputs is reached by name: `parts["train"]`, `parts.train`."""

    def __init__(self, rule: "Rule", output: str | None = None):
        self.rule = rule
        self.output = next(iter(rule.outputs)) if output is None and rule.single else output

    @property
    def path(self) -> str:
        """Return the path, from the Ddfile's folder. Raises DdfileError where there are several."""
        if self.output is None:
            raise DdfileError(f"{here()}: {self.rule.label} has several outputs: name one of {', '.join(self.rule.outputs)}.")
        return self.rule.outputs[self.output]

    @property
    def parts(self) -> dict[str, "Target"]:
        """Return one target an output, by name."""
        return {name: Target(self.rule, name) for name in self.rule.outputs}

    def __getitem__(self, name: str) -> "Target":
        if name not in self.rule.outputs or self.rule.single:
            names = [] if self.rule.single else list(self.rule.outputs)
            has = f"it has {', '.join(names)}" if names else "it has one"
            raise NoSuchName(f"{here()}: {self.rule.label} has no output {name!r}; {has}.{did_you_mean(name, names)}")
        return Target(self.rule, name)

    def __getattr__(self, name: str) -> "Target":
        if name.startswith("_") or name in ("rule", "output"):
            raise AttributeError(name)
        return self[name]

    def _view(self, verb: str, *args: Any) -> "View":
        return View(Source(self.path, self), ((verb, args),))

    def __repr__(self) -> str:
        return f"<target {self.rule.label if self.output is None else self.path}>"

    def __str__(self) -> str:
        raise DdfileError(
            f"{here()}: a target can't be formatted into a string ({self!r}): its contents would count for nothing. "
            "Pass it as an input or an argument of the rule."
        )

    def __format__(self, spec: str) -> str:
        return str(self)

    def __fspath__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Source:
    """A path given as an input: of `target`, where a rule makes it, else of a file or folder that nobody makes."""

    path: str
    target: Target | None = None


@dataclass(frozen=True)
class View(Viewable):
    """A dataset seen through lazy steps; part of its consumer's ingredients."""

    of: Source
    steps: tuple[tuple[str, tuple[Any, ...]], ...]

    def _view(self, verb: str, *args: Any) -> "View":
        return replace(self, steps=(*self.steps, (verb, args)))


@dataclass(frozen=True)
class ModelName:
    """A model given by a name that no rule makes: a toy's, or one on the Hub."""

    name: str
