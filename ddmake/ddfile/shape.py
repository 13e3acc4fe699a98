"""What a recipe's signature asks of its rules, worked out once per recipe: there may be ten thousand of them."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddmake.ddfile.check import check_type
from ddmake.ddfile.inputs import GIVEN, MODEL, PROMPT, ROWS, SCHEMA, WRITTEN, Parts, marked, parts_of
from ddmake.ddfile.registry import here
from ddmake.errors import DdfileError, did_you_mean

RESERVED = ("cpus", "gpus", "mem", "time", "retries", "manual", "local", "slurm", "shards",
            "packages", "env", "observes",
            "version", "keep", "cache", "effect", "about")  # rule options of today and tomorrow: no recipe's parameters
PLAIN = (type(None), bool, int, float, str)  # defaults of these types stand as they are


@dataclass(frozen=True)
class Take:
    """A parameter of a recipe: an input or an argument."""

    name: str
    annotation: Any
    default: Any  # inspect's `empty` where there is none
    model: bool
    prompt: bool
    schema: bool
    rows: bool
    written: bool
    parts: Parts | None

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> "Take":
        """Return what a parameter asks for."""
        note = parameter.annotation
        marks = (marked(note, mark) for mark in (MODEL, PROMPT, SCHEMA, ROWS, WRITTEN))
        return cls(parameter.name, note, parameter.default, *marks, parts_of(note))

    @cached_property
    def named(self) -> bool:
        """Tell whether a string stands for something else: a model, or a prompt's text; a schema is never one."""
        return self.model or self.prompt or self.schema

    @property
    def required(self) -> bool:
        """Tell whether there is no default."""
        return self.default is inspect.Parameter.empty

    def check(self, recipe: str, value: Any) -> None:
        """Raise DdfileError where a value isn't of the annotated type."""
        if self.annotation is not inspect.Parameter.empty:
            check_type(f"{recipe}'s {self.name}", value, self.annotation)


@dataclass(frozen=True)
class Shape:
    """What a recipe takes: inputs by position, arguments by name."""

    recipe: str
    inputs: tuple[Take, ...]
    arguments: dict[str, Take]
    takes_output: bool

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Return every argument's default, in the signature's order, None for one that must be given."""
        return {name: None if take.required else take.default for name, take in self.arguments.items()}

    @cached_property
    def required(self) -> frozenset[str]:
        """Return the names of the arguments that must be given."""
        return frozenset(name for name, take in self.arguments.items() if take.required)

    @cached_property
    def bound_anew(self) -> tuple[Take, ...]:
        """Return the arguments whose defaults aren't plain values, or are prompts or models."""
        return tuple(take for take in self.arguments.values() if not take.required and
                     (type(take.default) not in PLAIN or type(take.default) is str and take.named))

    def check_count(self, inputs: tuple[Any, ...]) -> None:
        """Raise DdfileError where there are more or fewer inputs than the recipe takes."""
        if len(inputs) != len(self.inputs):
            names = f" ({', '.join(take.name for take in self.inputs)})" if self.inputs else ""
            noun = "input" if len(self.inputs) == 1 else "inputs"
            raise DdfileError(f"{here()}: {self.recipe} takes {len(self.inputs)} {noun}{names} after its outputs, "
                              f"not {len(inputs)}.")

    def check_names(self, given: Mapping[str, Any]) -> None:
        """Raise DdfileError, with the nearest name, for an argument that is unknown or missing."""
        takes = f" It takes: {', '.join(self.arguments)}." if self.arguments else ""
        for name in (name for name in given if name not in self.arguments):
            near = did_you_mean(name, [*self.arguments, *RESERVED])
            raise DdfileError(f"{here()}: {self.recipe} has no argument {name!r}.{near}{takes}")
        for name in self.arguments:
            if name in self.required and name not in given:
                raise DdfileError(f"{here()}: {self.recipe}: missing a required argument: {name!r}.{takes}")


def shape_of(recipe: str, signature: inspect.Signature) -> Shape:
    """Return a recipe's shape. Raises DdfileError for parameters that no rule could give."""
    parameters = signature.parameters
    for name, parameter in parameters.items():
        if name in RESERVED:
            raise DdfileError(f"{here()}: recipe {recipe} has a parameter {name!r}, which is a rule option's name.")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DdfileError(f"{here()}: recipe {recipe} takes *{name}; name each input and argument instead.")
    own = [p for name, p in parameters.items() if name not in GIVEN]
    inputs = [p for p in own if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]
    arguments = {p.name: Take.of(p) for p in own if p not in inputs}
    return Shape(recipe, tuple(map(Take.of, inputs)), arguments, "output" in parameters)
