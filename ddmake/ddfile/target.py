"""Targets, sources and views: what a rule's inputs are made of before anything is opened."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from ddmake.ddfile.check import checked
from ddmake.ddfile.registry import here, loading
from ddmake.errors import DdfileError, NoSuchName, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule


ROW_FILES = (".jsonl", ".json", ".csv", ".parquet")  # files that rows can be written to


def suffix(path: str | PurePath) -> str:
    """Return the suffix that makes a path a file, in lower case, or nothing: `data/v1.2` is a folder."""
    stem, dot, end = str(path).rpartition("/")[2].rpartition(".")
    return f".{end.lower()}" if stem and dot and end.isascii() and end.isalnum() and end[0].isalpha() else ""


class Viewable(ABC):
    """What lazy views can be taken of; each call adds one and copies nothing."""

    @checked(".take()")
    def take(self, n: int) -> "View":
        """Keep the first n rows."""
        return self._view("take", n)

    @checked(".skip()")
    def skip(self, n: int) -> "View":
        """Leave out the first n rows."""
        return self._view("skip", n)

    def select(self, *columns: str) -> "View":
        """Keep these columns; what is read of the others counts for nothing."""
        if not columns:
            raise DdfileError(f"{here()}: .select() keeps the columns that it names, and names none. Name one at least.")
        return self._view("select", *columns)

    def remove(self, *columns: str) -> "View":
        """Leave out these columns; what is read of them counts for nothing."""
        return self._view("remove", *columns)

    def rename(self, **columns: str) -> "View":
        """Rename columns: `.rename(old="new")`."""
        return self._view("rename", columns)

    @checked(".shuffle()")
    def shuffle(self, seed: int = 0) -> "View":
        """Put the rows in an order drawn from the seed."""
        return self._view("shuffle", seed)

    @checked(".sort()")
    def sort(self, column: str, reverse: bool = False) -> "View":
        """Sort the rows by a column: the smallest first, or the largest; nulls last, and equal rows in the order they had."""
        return self._view("sort", column, reverse)

    def reverse(self) -> "View":
        """Put the last row first."""
        return self._view("reverse")

    def pick(self, *numbers: int) -> "View":
        """Keep the rows of these numbers, counted from 0, in this order."""
        for number in numbers:
            if type(number) is not int or number < 0:
                raise DdfileError(f"{here()}: .pick() takes the numbers of rows, counted from 0, not {number!r}.")
        return self._view("pick", *numbers)

    @checked(".shard()")
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

    @checked(".explode()")
    def explode(self, column: str) -> "View":
        """Make a row of each item of a list column."""
        return self._view("explode", column)

    @abstractmethod
    def _view(self, verb: str, *args: Any) -> "View":
        """Add a step to what this is a view of."""


class Target(Viewable):
    """A path that a rule makes. One with several outputs is reached by name: `parts["train"]`, `parts.train`."""

    def __init__(self, rule: "Rule", output: str | None = None):
        self.rule = rule
        self.output = "" if output is None and rule.single else output
        self._source: Source | None = None

    @property
    def path(self) -> str:
        """Return the path, from the Ddfile's folder. Raises DdfileError where there are several."""
        if self.output is None:
            raise DdfileError(f"{here()}: {self.rule.label} has several outputs: name one of {', '.join(self.rule.outputs)}.")
        return self.rule.outputs[self.output]

    def as_source(self) -> "Source":
        """Return the target as an input: the same one for all that read it."""
        if self._source is None:
            self._source = Source(self.path, self)
        return self._source

    @property
    def parts(self) -> dict[str, "Target"]:
        """Return one target an output, by name."""
        return {name: type(self)(self.rule, name) for name in self.rule.outputs}

    def __getitem__(self, name: str) -> "Target":
        if name not in self.rule.outputs or self.rule.single:
            names = [] if self.rule.single else list(self.rule.outputs)
            has = f"it has {', '.join(names)}" if names else "it has one"
            raise NoSuchName(f"{here()}: {self.rule.label} has no output {name!r}; {has}.{did_you_mean(name, names)}")
        return type(self)(self.rule, name)

    def __getattr__(self, name: str) -> "Target":
        if name.startswith("_") or name in ("rule", "output"):
            raise AttributeError(name)
        return self[name]

    def no_file(self) -> None:
        """Raise DdfileError where the target is a file, which arrives as a path and not as rows."""
        if suffix(self.path):
            raise DdfileError(f"{here()}: {self.path} is a file and arrives as a path; give the output no suffix to get rows.")

    def _view(self, verb: str, *args: Any) -> "View":
        self.no_file()
        return View(self.as_source(), ((verb, args),))

    def __iter__(self) -> NoReturn:
        raise DdfileError(f"{here()}: {self!r} is made later; its rows are there inside of a recipe that takes it as an input.")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a rule's name stands for its target."""
        raise DdfileError(f"{here()}: {self!r} is no recipe; @step without outputs makes one that can be called.")

    def __repr__(self) -> str:
        return f"<target {self.rule.label if self.output is None else self.path}>"

    def __str__(self) -> str:
        if loading.get() is None:  # looked at from Python, where nothing is declared
            return repr(self)
        raise DdfileError(
            f"{here()}: a target can't be formatted into a string ({self!r}): its contents would count for nothing. "
            "Pass it as an input or an argument of the rule."
        )

    def __format__(self, spec: str) -> str:
        return str(self)

    def __fspath__(self) -> str:
        return str(self)


@dataclass(unsafe_hash=True, slots=True)
class Source:
    """A path given as an input: of `target`, where a rule makes it, else of a file or folder that nobody makes.

    Of one that was given as a string both are settled when the Ddfile has been loaded, and don't change after that.
    """

    path: str
    target: Target | None = field(default=None, compare=False)


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
