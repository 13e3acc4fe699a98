"""Recipes: `step` and `train` make one of a function; with outputs they make a rule of it at once."""

import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ddmake.ddfile import binding, pattern
from ddmake.ddfile.inputs import FREE, marked
from ddmake.ddfile.registry import here, workflow
from ddmake.ddfile.rule import Options
from ddmake.ddfile.shape import Shape, shape_of
from ddmake.ddfile.target import Target
from ddmake.errors import DdfileError

Columns = Callable[[dict[str, Any], dict[str, Any]], list[str] | None]
Asks = Callable[[dict[str, Any], dict[str, Any]], Iterable[Any]]

HOOKS = ("names", "columns", "asks", "by_row")  # what `step` takes that is no rule option


@dataclass(frozen=True)
class Recipe:
    """A function that makes something. Called with outputs, inputs and arguments, it declares a rule.

    `names` are the outputs of a recipe that has several: a tuple, or a function of the arguments named by its own
    parameters. `columns(inputs, arguments)` returns the columns that the recipe will give, where the columns of its
    inputs are known (a list each, else None), and raises DdfileError where they don't suffice. `asks(inputs, arguments)`
    returns what the recipe will ask its llms, given its inputs and arguments opened: an `asking.Asking` for each pass.
    `by_row` names the input of which each row is made into rows by itself, whatever the others are: `shards=` may cut it.
    """

    function: Callable[..., Any]
    kind: Literal["step", "train"]
    options: Options = field(default_factory=Options)
    names: Sequence[str] | Callable[..., Sequence[str]] | None = None
    columns: Columns | None = None
    asks: Asks | None = None
    by_row: str | None = None

    @property
    def name(self) -> str:
        """Return the function's name."""
        return self.function.__name__

    @property
    def packaged(self) -> bool:
        """Tell whether the recipe is one of the library's, which count by version."""
        return self.function.__module__.startswith("ddmake.")

    @cached_property
    def signature(self) -> inspect.Signature:
        """Return the function's signature, annotations evaluated where they can be."""
        try:
            return inspect.signature(self.function, eval_str=True)
        except Exception:  # an annotation may name what is imported for type checkers alone
            return inspect.signature(self.function)

    @cached_property
    def shape(self) -> Shape:
        """Return what the recipe takes."""
        return shape_of(self.name, self.signature)

    @cached_property
    def free(self) -> frozenset[str]:
        """Return the arguments that say how and not what: they count for nothing."""
        return frozenset(p.name for p in self.signature.parameters.values() if marked(p.annotation, FREE))

    def __call__(self, outputs: str | Mapping[str, str] | None = None, *inputs: Any, **arguments: Any) -> Target:
        """Declare a rule that makes `outputs` of `inputs`, or a pattern of rules, and return its target."""
        flow = workflow(f"recipe {self.name}")
        if outputs is None:
            raise DdfileError(f"{here()}: {self.name} takes first the path that it makes: {self.name}('data/…', …).")
        if pattern.is_pattern(outputs):
            return pattern.declare(flow, self, outputs, inputs, arguments)
        rule = binding.declare(flow, self, outputs, inputs, arguments)
        return flow.targets[rule.label] if rule.single else Target(rule)


def _decorator(kind: Literal["step", "train"], given: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Make a recipe (bare, or with options alone) or a rule (with outputs) of the function that follows."""
    if len(given) == 1 and inspect.isfunction(given[0]) and not keywords:
        return Recipe(given[0], kind)
    outputs = given[0] if given else keywords.pop("outputs", None)
    inputs = given[1:] or _as_inputs(keywords.pop("inputs", ()))
    if outputs is None:
        return lambda function: _recipe(function, kind, keywords)
    return lambda function: _on_the_spot(function, kind, keywords)(outputs, *inputs, **keywords)


def _as_inputs(given: Any) -> tuple[Any, ...]:
    """Return `inputs=` as positions: a tuple is several inputs, anything else one."""
    return given if isinstance(given, tuple) else (given,)


def _recipe(function: Callable[..., Any], kind: Literal["step", "train"], keywords: dict[str, Any]) -> Recipe:
    """Return a recipe with options of its own."""
    hooks = _hooks(kind, keywords)
    options, rest = binding.split_options(keywords)
    for unknown in rest:
        raise DdfileError(f"{here()}: @{kind} has no option {unknown!r}; arguments go to a rule, which has outputs.")
    return replace(Recipe(function, kind), options=options, **hooks)


def _on_the_spot(function: Callable[..., Any], kind: Literal["step", "train"], keywords: dict[str, Any]) -> Recipe:
    """Return the recipe of one rule; what goes to parameters of its own stays among the keywords."""
    return replace(Recipe(function, kind), **_hooks(kind, keywords, inspect.signature(function).parameters))


def _hooks(kind: str, keywords: dict[str, Any], own: Container[str] = ()) -> dict[str, Any]:
    """Take out of keywords what a recipe is asked before it runs. Raises DdfileError for what can't be called."""
    hooks = {name: keywords.pop(name) for name in HOOKS if name in keywords and name not in own}
    for name in ("columns", "asks"):
        if hooks.get(name) is not None and not callable(hooks[name]):
            raise DdfileError(f"{here()}: @{kind}'s {name} takes a function of (inputs, arguments), not {hooks[name]!r}.")
    if not isinstance(hooks.get("by_row"), str | None):
        raise DdfileError(f"{here()}: @{kind}'s by_row is the name of an input, not {hooks['by_row']!r}.")
    return hooks


def step(*given: Any, **keywords: Any) -> Any:
    """Declare a recipe, `@step`, or a rule, `@step(outputs, *inputs, **arguments)`.

    `step` and `train` differ in what the rule makes: `train` makes a model folder and keeps checkpoints.
    """
    return _decorator("step", given, keywords)


def train(*given: Any, **keywords: Any) -> Any:
    """Declare a recipe or a rule whose artifact is a model folder, as `step` does."""
    return _decorator("train", given, keywords)
