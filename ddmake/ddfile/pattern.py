"""Patterns: rules with wildcards in their outputs, `@step("{lang}/tweets", "{lang}/abstracts")`.

A pattern makes nothing by itself. Where a path is asked for that it fits, or by `.bind(lang="fr")`, its wildcards are bound,
and that is a rule like any other. Binding doesn't recurse: what the new rule reads is looked up by the workflow's queue.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ddmake.ddfile import binding
from ddmake.ddfile.registry import caller, here, speaking
from ddmake.ddfile.specs import MODELS, Mixture, named_parts
from ddmake.ddfile.target import Source, Target, View
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.recipe import Recipe
    from ddmake.ddfile.workflow import Workflow

ANY = "[^/*?{}]+"  # what a wildcard stands for unless it is constrained: a glob is no value
NAME_BYTES, PATH_BYTES = 255, 4096  # no file system takes longer ones


@dataclass(eq=False)
class Pattern:
    """A recipe with outputs that have wildcards, and inputs and arguments as they were given."""

    flow: "Workflow"
    recipe: "Recipe"
    given: str | dict[str, str]  # the outputs without constraints
    outputs: dict[str, str]  # their paths by name
    wildcards: dict[str, str]  # the constraint of each
    inputs: list[Any]
    arguments: Mapping[str, Any]
    place: str

    @property
    def single(self) -> bool:
        """Tell whether the pattern has just one output."""
        return "" in self.outputs

    @property
    def label(self) -> str:
        """Return what the pattern is called in messages: its first output."""
        return next(iter(self.outputs.values()))

    @cached_property
    def _forms(self) -> list[tuple[str, str, re.Pattern[str]]]:
        """Return how each output begins and ends, and its regular expression."""
        return [(path.partition("{")[0], path.rpartition("}")[2], _regex(path, self.wildcards)) for path in self.outputs.values()]

    def match(self, path: str) -> dict[str, str] | None:
        """Return the wildcards' values with which an output is this path."""
        for head, tail, regex in self._forms:
            if path.startswith(head) and path.endswith(tail) and (found := regex.fullmatch(path)):
                return {name: found[name] for name in self.wildcards}
        return None


class Patterns:
    """The patterns of a workflow, looked up by the last part of a path: there may be thousands of them, from a loop."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Pattern]] = {}  # those with no wildcard in the last part of an output
        self._others: list[Pattern] = []
        self.all: list[Pattern] = []

    def add(self, pattern: Pattern) -> None:
        """Take a pattern in."""
        self.all.append(pattern)
        for path in pattern.outputs.values():
            name = path.rpartition("/")[2]
            (self._others if "{" in name else self._by_name.setdefault(name, [])).append(pattern)

    def fitting(self, path: str) -> list[tuple[Pattern, dict[str, str]]]:
        """Return the patterns that a path fits, with their wildcards' values."""
        if not self._by_name and not self._others:
            return []
        likely = dict.fromkeys((*self._by_name.get(path.rpartition("/")[2], ()), *self._others))
        return [(pattern, values) for pattern in likely if (values := pattern.match(path)) is not None]


class Unbound(Target):
    """What a pattern's declaration returns: an input of other patterns, and a target once it is bound."""

    rule: Any  # a Pattern

    def bind(self, /, **wildcards: Any) -> Target:
        """Return the target with these values for the wildcards: `tweets.bind(lang="fr")`."""
        pattern = self.rule
        values = {name: str(value) for name, value in wildcards.items()}
        for name in (name for name in values if name not in pattern.wildcards):
            near, takes = did_you_mean(name, pattern.wildcards), ", ".join(pattern.wildcards)
            raise DdfileError(f"{here()}: {self!r} has no wildcard {name!r}.{near} .bind() takes: {takes}.")
        for name in (name for name in pattern.wildcards if name not in values):
            raise DdfileError(f"{here()}: .bind() lacks a value for {name!r}, a wildcard of {self!r}.")
        paths = [_filled(path, values) for path in pattern.outputs.values()]
        if any(pattern.match(path) != values for path in paths):
            told = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise DdfileError(f"{here()}: {told} doesn't fit the wildcards of {self!r}.")
        bind(pattern, values)
        made = pattern.flow.targets[paths[0]].rule
        return Target(made) if self.output is None else pattern.flow.targets[_filled(self.path, values)]

    def as_source(self) -> NoReturn:
        """Refuse: only other patterns read an unbound one."""
        names = ", ".join(f"{name}=…" for name in self.rule.wildcards)
        raise DdfileError(f"{here()}: {self!r} is a pattern and makes nothing until it is bound: use .bind({names}), or name a "
                          "path that it makes.")

    def _view(self, verb: str, *args: Any) -> View:
        self.no_file()
        return View(Source(self.path, self), ((verb, args),))

    def __repr__(self) -> str:
        return f"<pattern {self.rule.label if self.output is None else self.path}>"


def is_pattern(outputs: Any) -> bool:
    """Tell whether outputs have wildcards in them."""
    if type(outputs) is str:
        return "{" in outputs or "}" in outputs
    texts = outputs.values() if isinstance(outputs, Mapping) else (outputs,)
    return any(isinstance(text, str) and ("{" in text or "}" in text) for text in texts)


def declare(flow: "Workflow", recipe: "Recipe", outputs: Any, inputs: tuple[Any, ...], arguments: Mapping[str, Any]) -> Unbound:
    """Take a pattern in and return its value, or raise DdfileError for what doesn't fit."""
    given, wildcards = _outputs(outputs)
    shape = recipe.shape
    shape.check_count(inputs)
    for value, take in zip(inputs, shape.inputs):
        _check_wildcards(None if take.prompt else value, wildcards)
    rest = {name: "" for name in wildcards if name in shape.arguments} | _checked(recipe, arguments)
    shape.check_names(rest)
    paths = binding.output_paths(recipe, given, {**shape.defaults, **rest}, flow.prefix)
    pattern = Pattern(flow, recipe, given, paths, wildcards, _as_it_is(inputs), _as_it_is(arguments), here())
    flow.patterns.add(pattern)
    return Unbound(pattern)


def bind(pattern: Pattern, wildcards: Mapping[str, str]) -> None:
    """Declare the rule that a pattern is with these wildcards, unless that was done or another rule makes its path."""
    paths = [_filled(path, wildcards) for path in pattern.outputs.values()]
    if all(path in pattern.flow.targets for path in paths):
        return
    _check_paths(pattern, paths)
    takes = pattern.recipe.shape.inputs
    with speaking(pattern.flow, pattern.place):
        inputs = tuple(_bound(pattern, value, wildcards, not take.prompt) for value, take in zip(pattern.inputs, takes))
        arguments = {name: _bound(pattern, value, wildcards, False) for name, value in pattern.arguments.items()}
        outputs = _bound(pattern, pattern.given, wildcards, True)
        binding.declare(pattern.flow, pattern.recipe, outputs, inputs, arguments, wildcards)


def _check_paths(pattern: Pattern, paths: list[str]) -> None:
    """Raise DdfileError for paths that only a pattern which fits too much would ask for."""
    remedy = f"Constrain its wildcard, as in {{{next(iter(pattern.wildcards))}:[a-z]+}}."
    told = f"{pattern.place}: the pattern {pattern.label}"
    for path in paths:
        if len(path.encode()) > PATH_BYTES or any(len(part.encode()) > NAME_BYTES for part in path.split("/")):
            raise DdfileError(f"{told} is made of itself without end: {path[:40]}… {remedy}")
        if not binding.fits(pattern.recipe, path):
            raise DdfileError(f"{told} fits {path}, a file that {pattern.recipe.name} can't write its rows to. {remedy}")


def _bound(pattern: Pattern, value: Any, wildcards: Mapping[str, str], strings: bool) -> Any:
    """Return a value with the wildcards in it bound; in strings only where these are paths."""
    again = lambda inner: _bound(pattern, inner, wildcards, strings)
    if isinstance(value, str):
        return _filled(value, wildcards) if strings else value
    if isinstance(value, Unbound):
        if value.output is None:
            return {name: again(part) for name, part in value.parts.items()}
        return pattern.flow.promise(_filled(value.path, wildcards))
    if isinstance(value, View) and isinstance(value.of.target, Unbound):
        return replace(value, of=again(value.of.target))
    if isinstance(value, MODELS):
        unbound = {part: again(named) for part, named in named_parts(value).items() if isinstance(named, Unbound)}
        return replace(value, **unbound) if unbound else value
    if isinstance(value, Mixture):
        return value.each(again)
    if isinstance(value, (list, tuple)):
        return [again(item) for item in value]
    return {key: again(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _as_it_is(value: Any) -> Any:
    """Return a copy of lists and dicts: a user may add to them before the pattern is bound."""
    if isinstance(value, (list, tuple)):
        return [_as_it_is(item) for item in value]
    return {key: _as_it_is(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _filled(text: str, wildcards: Mapping[str, str]) -> str:
    return text.format_map(wildcards) if "{" in text else text


def _outputs(given: Any) -> tuple[str | dict[str, str], dict[str, str]]:
    """Return outputs without constraints, and the constraints; raises DdfileError where outputs differ in their wildcards."""
    texts = given if isinstance(given, Mapping) else {"": given}
    parsed = {name: _parsed(text, "output") for name, text in texts.items()}
    every: dict[str, str] = {}
    for text, (_, found) in zip(texts.values(), parsed.values()):
        if found.keys() != next(iter(parsed.values()))[1].keys():
            raise DdfileError(f"{here()}: the outputs {next(iter(texts.values()))!r} and {text!r} differ in their wildcards.")
        every.update({name: regex for name, regex in found.items() if regex != ANY or name not in every})
    plain = {name: text for name, (text, _) in parsed.items()}
    return (plain if isinstance(given, Mapping) else plain[""]), every


def _parsed(text: Any, noun: str) -> tuple[str, dict[str, str]]:
    """Return a text without its wildcards' constraints, and these; raises DdfileError for what is no wildcard."""
    plain, found, at = "", {}, 0
    for start, end in _braces(text if isinstance(text, str) else "", noun):
        name, colon, regex = text[start + 1:end].partition(":")
        if not name.isidentifier():
            raise DdfileError(f"{here()}: the {noun} {text!r} has {text[start:end + 1]} in it, which is no wildcard's name: "
                              "did you forget the f?")
        _refuse_variable(name, text, noun)
        _check_regex(name, regex, colon)
        if found.get(name, ANY) not in (ANY, regex or ANY):
            raise DdfileError(f"{here()}: the {noun} {text!r} constrains {{{name}}} twice.")
        found[name] = regex if colon else found.get(name, ANY)
        plain, at = f"{plain}{text[at:start]}{{{name}}}", end + 1
    return (plain + text[at:] if isinstance(text, str) else text), found


def _braces(text: str, noun: str) -> Iterator[tuple[int, int]]:
    """Yield where the outermost pairs of braces stand."""
    depth = start = 0
    for at, char in enumerate(text):
        if char == "{":
            start = start if depth else at
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                yield start, at
        if depth < 0:
            break
    if depth:
        raise DdfileError(f"{here()}: the {noun} {text!r} has a brace too many.")


def _check_regex(name: str, regex: str, colon: str) -> None:
    try:
        if colon and not regex:
            raise re.error("it is empty")
        re.compile(regex)
    except re.error as error:
        raise DdfileError(f"{here()}: the wildcard {{{name}:{regex}}} has a constraint that is no regular expression: {error}."
                          ) from None


def _refuse_variable(name: str, text: str, noun: str) -> None:
    """Raise DdfileError where a variable has a wildcard's name: an f-string was meant. Functions and classes aren't values."""
    frame = caller()
    for scope in (frame.f_locals, frame.f_globals) if frame is not None else ():
        value = scope.get(name)
        if name in scope and not (isinstance(value, (type, ModuleType)) or callable(value) and not isinstance(value, Target)):
            raise DdfileError(f"{here()}: the {noun} {text!r} has a brace in it, and {name} is a variable here: "
                              "did you forget the f?")


def refuse_wildcards(text: str) -> None:
    """Raise DdfileError for an input with a wildcard in a rule that has none in its outputs."""
    for name in _parsed(text, "input")[1]:
        raise DdfileError(f"{here()}: the input {text!r} has the wildcard {{{name}}}, and the outputs have none: did you forget "
                          "the f?")


def _checked(recipe: "Recipe", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments among keywords, their types checked; they are bound when the wildcards are."""
    _, rest = binding.split_options(arguments, recipe.options)
    for name, value in rest.items():
        if name in recipe.shape.arguments:
            recipe.shape.arguments[name].check(recipe.name, value)
    return dict(rest)


def _check_wildcards(value: Any, wildcards: Mapping[str, str]) -> None:
    """Raise DdfileError for a wildcard in an input that no output has."""
    for text, names in _asked(value):
        for name in names:
            if name not in wildcards:
                raise DdfileError(f"{here()}: the input {text!r} has the wildcard {{{name}}}, which no output has; they have "
                                  f"{', '.join(wildcards)}.{did_you_mean(name, wildcards)}")


def _asked(value: Any) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the paths with wildcards in a value, each with its wildcards."""
    if isinstance(value, str) and "{" in value:
        plain, found = _parsed(value, "input")
        if any(regex != ANY for regex in found.values()):
            raise DdfileError(f"{here()}: the input {value!r} constrains a wildcard; do that in the output.")
        yield plain, found
    elif isinstance(value, View):
        yield from _asked(value.of.target)
    elif isinstance(value, Unbound):
        yield value.rule.label, value.rule.wildcards
    elif isinstance(value, MODELS):
        yield from _asked([part for part in named_parts(value).values() if isinstance(part, Unbound)])
    elif isinstance(value, (list, tuple, Mixture, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _asked(item)


def _regex(path: str, constraints: Mapping[str, str]) -> re.Pattern[str]:
    """Return the regular expression of an output's path; a wildcard that stands in it twice has one value."""
    seen: set[str] = set()
    made = []
    for at, piece in enumerate(re.split(r"\{(\w+)\}", path)):
        if at % 2 == 0:
            made.append(re.escape(piece))
        else:
            made.append(f"(?P={piece})" if piece in seen else f"(?P<{piece}>{constraints[piece]})")
            seen.add(piece)
    return re.compile("".join(made), re.DOTALL)
