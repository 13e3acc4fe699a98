"""How outputs, inputs and arguments are bound to a recipe's parameters."""

import inspect
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.check import bind
from ddmake.ddfile.inputs import GIVEN, MODEL, PROMPT, ROWS, marked, parts_of
from ddmake.ddfile.registry import here
from ddmake.ddfile.rule import Options, Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import ROW_FILES, ModelName, Source, Target, View, suffix
from ddmake.ddfile.template import Template
from ddmake.errors import DdfileError

if TYPE_CHECKING:
    from ddmake.ddfile.recipe import Recipe

RESERVED = ("cpus", "gpus", "mem", "time", "retries", "manual", "local", "shards", "packages", "env", "observes",
            "version", "keep", "cache", "effect", "about")  # rule options of today and tomorrow: no recipe's parameters


def declare(recipe: "Recipe", outputs: Any, inputs: Sequence[Any], arguments: Mapping[str, Any]) -> Rule:
    """Return a rule, or raise DdfileError for what doesn't fit the recipe's signature."""
    options, rest = split_options(arguments, recipe.options)
    takes, keywords, signature = _parameters(recipe)
    _check_count(recipe, takes, inputs)
    given = {name: _input(value, takes[name].annotation) for name, value in zip(takes, inputs)}
    bound = bind(recipe.name, signature, (), rest)
    for name, value in bound.items():
        bound[name] = _argument(value, keywords[name].annotation)
    return Rule(recipe, _outputs(recipe, outputs, bound), given, bound, options, here())


def split_options(keywords: Mapping[str, Any], base: Options | None = None) -> tuple[Options, dict[str, Any]]:
    """Part rule options from a recipe's arguments."""
    known = {f.name: f.type for f in fields(Options)}
    given = {name: value for name, value in keywords.items() if name in known}
    for name in keywords:
        if name in RESERVED and name not in known:
            raise DdfileError(f"{here()}: the rule option {name!r} isn't known to this version of ddmake.")
    bind("a rule", inspect.signature(Options), (), given)
    return replace(base or Options(), **given), {n: v for n, v in keywords.items() if n not in known}


def _parameters(recipe: "Recipe") -> tuple[dict, dict, inspect.Signature]:
    """Return a recipe's input parameters, its arguments, and the arguments' signature."""
    every = recipe.signature.parameters
    for name, parameter in every.items():
        if name in RESERVED:
            raise DdfileError(f"{here()}: recipe {recipe.name} has a parameter {name!r}, which is a rule option's name.")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DdfileError(f"{here()}: recipe {recipe.name} takes *{name}; name each input and argument instead.")
    own = {n: p for n, p in every.items() if n not in GIVEN}
    takes = {n: p for n, p in own.items() if p.kind is not p.KEYWORD_ONLY and p.default is p.empty}
    keywords = {n: p for n, p in own.items() if n not in takes}
    only = [p.replace(kind=p.KEYWORD_ONLY) for p in keywords.values()]
    return takes, keywords, inspect.Signature(only)


def _check_count(recipe: "Recipe", takes: Mapping[str, Any], inputs: Sequence[Any]) -> None:
    if len(inputs) != len(takes):
        names = f" ({', '.join(takes)})" if takes else ""
        noun = "input" if len(takes) == 1 else "inputs"
        raise DdfileError(f"{here()}: {recipe.name} takes {len(takes)} {noun}{names} after its outputs, not {len(inputs)}.")


def _outputs(recipe: "Recipe", given: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths that a rule makes, by output name."""
    names = recipe.names
    if callable(names):
        names = names(**{n: arguments[n] for n in inspect.signature(names).parameters})
    if isinstance(given, Mapping):
        return {str(name): _fitting(recipe, output_path(path)) for name, path in _named(recipe, given, names).items()}
    folder = _fitting(recipe, output_path(given))
    return {name: f"{folder}/{name}" for name in names} if names else {"": folder}


def _fitting(recipe: "Recipe", path: str) -> str:
    """Return a path that a recipe can make; raises DdfileError for a file that rows can't be written to."""
    form = suffix(path)
    if form and form not in ROW_FILES and "output" not in recipe.signature.parameters:
        raise DdfileError(f"{here()}: {recipe.name} makes rows, which can't be written to {form} files; use a folder, "
                          f"{', '.join(ROW_FILES)}, or a recipe that takes `output` and fills it.")
    return path


def _named(recipe: "Recipe", given: Mapping[str, str], names: Sequence[str] | None) -> Mapping[str, str]:
    if names is not None and set(given) != set(names):
        raise DdfileError(f"{here()}: {recipe.name} makes the outputs {', '.join(names)}, not {', '.join(given)}.")
    if not given:
        raise DdfileError(f"{here()}: {recipe.name} is given no output.")
    return given


def output_path(given: Any) -> str:
    """Return an output's path, normalised, relative to the Ddfile's folder; raises DdfileError for any other."""
    if not isinstance(given, str) or not given:
        raise DdfileError(f"{here()}: an output is a path in a string, not {given!r}.")
    if "{" in given:
        raise DdfileError(f"{here()}: the output {given!r} has a brace in it: did you forget the f?")
    path = posixpath.normpath(given)
    if path.startswith(("/", "..")) or path in (".", ".ddmake") or path.startswith(".ddmake/"):
        raise DdfileError(f"{here()}: the output {given!r} must lie in the Ddfile's folder, and not in .ddmake.")
    return path


def _input(value: Any, annotation: Any) -> Any:
    """Return an input as sources, views and models; a string is a path, or a model's name where one is asked for."""
    asked = parts_of(annotation)
    if marked(annotation, ROWS):
        _check_rows(value)
    if isinstance(value, Target) and value.output is None:
        value = value.parts
    if asked is not None and isinstance(value, Mapping):
        value = _asked(value, asked)
    if isinstance(value, (list, tuple)):
        return [_input(item, annotation) for item in value]
    if isinstance(value, Mapping):
        return {key: _input(item, annotation) for key, item in value.items()}
    return _argument(value, annotation, paths=True)


def _check_rows(value: Any) -> None:
    """Raise DdfileError for what can't arrive as one dataset."""
    if isinstance(value, Target) and value.output is None:
        names = ", ".join(f".{name}" for name in value.parts)
        raise DdfileError(f"{here()}: one dataset is asked for, and {value!r} has several outputs: name one of {names}.")
    if isinstance(value, Target):
        value.no_file()
    if isinstance(value, (list, dict, tuple)):
        raise DdfileError(f"{here()}: one dataset is asked for, not a {type(value).__name__}.")


def _asked(parts: Mapping[str, Any], asked: Any) -> dict[str, Any]:
    """Keep the parts that a recipe asks for."""
    if asked.required not in parts:
        raise DdfileError(f"{here()}: the parts given are {', '.join(parts)}; {asked.required!r} must be among them.")
    return {name: parts[name] for name in asked.asked() if name in parts}


def _argument(value: Any, annotation: Any, paths: bool = False) -> Any:
    """Return a value with targets, models and templates in the form that the engine knows."""
    if isinstance(value, str) and marked(annotation, MODEL):
        return ModelName(value)
    if isinstance(value, str) and marked(annotation, PROMPT):
        return Template.inline(value)
    if isinstance(value, Target):
        return Source(value.path, value)
    if isinstance(value, LLM):
        return _llm(value)
    if isinstance(value, str) and paths:
        return Source(posixpath.normpath(value))
    if isinstance(value, (list, tuple)):
        return [_argument(item, annotation) for item in value]
    if isinstance(value, Mapping):
        return {key: _argument(item, annotation) for key, item in value.items()}
    return value


def _llm(spec: LLM) -> LLM:
    """Return an llm with the targets in it as sources."""
    name = Source(spec.name.path, spec.name) if isinstance(spec.name, Target) else spec.name
    adapter = Source(spec.adapter.path, spec.adapter) if isinstance(spec.adapter, Target) else spec.adapter
    return replace(spec, name=name, adapter=adapter)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the sources, views, models and llms in a value, in order, however deep."""
    if isinstance(value, (Source, View, ModelName, LLM)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
