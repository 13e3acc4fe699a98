"""How outputs, inputs and arguments are bound to a recipe's parameters."""

import inspect
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ddmake import toys
from ddmake.ddfile.check import bind, signature_of
from ddmake.ddfile.inputs import Parts
from ddmake.ddfile.registry import here
from ddmake.ddfile.rule import Group, Options, Rule
from ddmake.ddfile.shape import PLAIN, RESERVED, Shape, Take
from ddmake.ddfile.specs import LLM, MODELS, Mixture, is_path, named_parts, served_model
from ddmake.ddfile.structure import json_schema
from ddmake.ddfile.target import ROW_FILES, ModelName, Source, Target, View, suffix
from ddmake.ddfile.template import FILE, Template, template
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.recipe import Recipe
    from ddmake.ddfile.workflow import Workflow

OPTIONS = frozenset(f.name for f in fields(Options))
ALL_OPTIONS = frozenset(RESERVED) | OPTIONS
MANY = 8  # sources in one list from which on they are a group that rules share
NONE: Mapping[str, str] = {}


def declare(flow: "Workflow", recipe: "Recipe", outputs: Any, inputs: tuple[Any, ...], arguments: Mapping[str, Any],
            wildcards: Mapping[str, str] = NONE) -> Rule:
    """Return a rule, taken in by the workflow, or raise DdfileError for what doesn't fit the recipe's signature."""
    options, rest = split_options(arguments, recipe.options)
    shape = recipe.shape
    shape.check_count(inputs)
    binder = Binder(flow, wildcards)
    given = {take.name: binder.input(value, take) for take, value in zip(shape.inputs, inputs)}
    _check_observed(recipe, options, given)
    bound = binder.arguments(shape, rest)
    paths = output_paths(recipe, outputs, bound, flow.prefix)
    rule = Rule(recipe, paths, given, bound, options, here(), wildcards, binder.reads(), binder.models)
    if options.shards is not None:
        _check_shards(rule)
    flow.add(rule)
    for name, fits_patterns in binder.names:
        flow.note_name(name, fits_patterns, rule)
    return rule


def _check_observed(recipe: "Recipe", options: Options, inputs: Mapping[str, Any]) -> None:
    """Raise DdfileError for an input that is to be observed and isn't there."""
    for name in options.observes:
        if name not in inputs:
            near = did_you_mean(name, inputs)
            raise DdfileError(f"{here()}: observes names {name!r}, which is no input of {recipe.name}.{near}")


def _check_shards(rule: Rule) -> None:
    """Raise DdfileError for a rule that isn't the same in shards, each made of some rows of an input, as in one piece."""
    wrong = _unlike_in_shards(rule)
    if wrong:
        raise DdfileError(f"{here()}: {rule.recipe.name} can't be made in shards={rule.options.shards}: {wrong}")


def _unlike_in_shards(rule: Rule) -> str | None:
    recipe, datasets = rule.recipe, [name for name, value in rule.inputs.items() if isinstance(value, (Source, View))]
    if (rule.options.shards or 0) < 1:
        return "it is a number of jobs, at least 1."
    if recipe.kind == "train" or recipe.shape.takes_output or not rule.single:
        return "rows of one dataset can be put together again, and it makes something else. Leave shards= out."
    if recipe.packaged and recipe.by_row is None:
        return "what it makes of a row may depend on other rows. Leave shards= out."
    if recipe.by_row is None and len(datasets) != 1:
        has = f"several inputs ({', '.join(datasets)})" if datasets else "no input of rows"
        return f"one dataset is cut, and it has {has}. Say which by @step(…, by_row=), or leave shards= out."
    if recipe.by_row is not None and recipe.by_row not in datasets:
        return f"by_row={recipe.by_row!r} names no dataset among its inputs.{did_you_mean(recipe.by_row, datasets)}"
    sampled = [leaf for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()])
               if isinstance(leaf, LLM) and leaf.temperature != 0]
    if sampled and recipe.asks is None:
        return ("equal requests are told apart by how many came before, and it doesn't tell what it asks (asks=). State "
                f"temperature=0 on llm({str(sampled[0].name)!r}), or leave shards= out.")
    return None


def split_options(keywords: Mapping[str, Any], base: Options | None = None) -> tuple[Options, Mapping[str, Any]]:
    """Part rule options from a recipe's arguments."""
    if ALL_OPTIONS.isdisjoint(keywords):
        return base or Options(), keywords
    for name in keywords:
        if name in ALL_OPTIONS - OPTIONS:
            raise DdfileError(f"{here()}: the rule option {name!r} isn't known to this version of ddmake.")
    given = {name: value for name, value in keywords.items() if name in OPTIONS}
    bind("a rule", signature_of(Options), (), given)
    return replace(base or Options(), **given), {name: value for name, value in keywords.items() if name not in OPTIONS}


def output_paths(recipe: "Recipe", given: Any, arguments: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the paths that a rule makes, by output name."""
    names = recipe.names
    if callable(names):
        names = names(**{n: arguments[n] for n in inspect.signature(names).parameters})
    if isinstance(given, Mapping):
        return {str(name): prefix + _fitting(recipe, output_path(path)) for name, path in _named(recipe, given, names).items()}
    folder = prefix + _fitting(recipe, output_path(given))
    return {name: f"{folder}/{name}" for name in names} if names else {"": folder}


def _fitting(recipe: "Recipe", path: str) -> str:
    """Return a path that a recipe can make; raises DdfileError for a file that rows can't be written to."""
    if not fits(recipe, path):
        raise DdfileError(f"{here()}: {recipe.name} makes rows, which can't be written to {suffix(path)} files; use a folder, "
                          f"{', '.join(ROW_FILES)}, or a recipe that takes `output` and fills it.")
    return path


def fits(recipe: "Recipe", path: str) -> bool:
    """Tell whether a recipe can make an output at a path: rows go into folders and some kinds of files."""
    return recipe.shape.takes_output or suffix(path) in ("", *ROW_FILES)


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
    path = normal(given)
    if path.startswith((".", "/")) and (path.startswith(("/", "..")) or path in (".", ".ddmake") or path.startswith(".ddmake/")):
        raise DdfileError(f"{here()}: the output {given!r} must lie in the Ddfile's folder, and not in .ddmake.")
    return path


def normal(path: str) -> str:
    """Return a path without detours; most have none, and this is asked for every one."""
    if "/." in path or "//" in path or path[:1] in "./" or path[-1:] == "/":
        return posixpath.normpath(path)
    return path


class Binder:
    """Binds the values of one rule, and notes the sources and model names that it meets."""

    def __init__(self, flow: "Workflow", wildcards: Mapping[str, str]):
        self.flow, self.wildcards = flow, wildcards
        self.names: list[tuple[str, bool]] = []  # of models, that may prove to be a target's, and to fit a pattern
        self.models = False  # whether there are any, by name or not
        self._groups: list[Group] = []
        self._rest: list[Source] = []

    def reads(self) -> tuple[Group, ...]:
        """Return the sources that were met: long lists each by itself, then the others."""
        return (*self._groups, tuple(self._rest)) if self._rest else tuple(self._groups)

    def input(self, value: Any, take: Take) -> Any:
        """Return an input as sources, views and models; a string is a path, or a model's name where one is asked for."""
        if type(value) is Target and value.output is not None and not take.rows and not take.model:
            return self._read(value.as_source())
        if take.rows:
            _check_rows(value)
        if isinstance(value, Target) and value.output is None:
            value = value.parts
        if take.parts is not None and isinstance(value, Mapping):
            value = _asked(value, take.parts)
        if isinstance(value, (list, tuple, Mapping)):
            return self._many(value, take)
        return self._argument(value, take, paths=True)

    def arguments(self, shape: Shape, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments by name, defaults and wildcards filled in; raises DdfileError for what doesn't fit."""
        if self.wildcards:
            given = {**{n: v for n, v in self.wildcards.items() if n in shape.arguments}, **given}
        if not given.keys() <= shape.arguments.keys() or not shape.required <= given.keys():
            shape.check_names(given)
        bound = dict(shape.defaults)
        for take in shape.bound_anew:
            if take.name not in given:
                bound[take.name] = self._default(take)
        for name, value in given.items():
            take = shape.arguments[name]
            if type(value) is not take.annotation:
                take.check(shape.recipe, value)
            bound[name] = value if type(value) in PLAIN and not take.named else self._argument(value, take)
        return bound

    def _default(self, take: Take) -> Any:
        """Return what a parameter is by default: of a prompt, a string may be a template's file."""
        if take.prompt and isinstance(take.default, str) and FILE.fullmatch(take.default):
            return template(take.default).told(self.wildcards)
        return self._argument(take.default, take)

    def _many(self, value: Any, take: Take) -> Any:
        """Return a list or dict of inputs; one of many sources is bound once for all rules that are given its like."""
        share = len(value) >= MANY and not take.model
        known = self.flow.shared.find(value) if share else None
        if known is None:
            outer, self._rest = self._rest, []
            known = (self._items(value, take), tuple(self._rest))
            self._rest = outer
            if share:
                self.flow.shared.keep(value, *known)
        if len(known[1]) >= MANY:
            self._groups.append(known[1])
        else:
            self._rest.extend(known[1])
        return known[0]

    def _items(self, value: Any, take: Take) -> Any:
        if isinstance(value, Mapping):
            return {key: self.input(item, take) for key, item in value.items()}
        return [self.input(item, take) for item in value]

    def _argument(self, value: Any, take: Take, paths: bool = False) -> Any:
        """Return a value with targets, models and templates in the form that the engine knows."""
        if take.schema and value is not None:
            return json_schema(value)
        if take.written:
            return value
        self.models = self.models or take.model and value is not None
        if isinstance(value, str):
            return self._string(value, take, paths)
        if isinstance(value, Target):
            return self._read(value.as_source())
        if isinstance(value, Source):
            return self._read(value)
        if isinstance(value, View):
            self._read(value.of if value.of.target is None else value.of.target.as_source())
        elif isinstance(value, MODELS):
            self.models = True
            meant = {part: self._model(name) for part, name in named_parts(value).items()}
            same = all(meant[part] is name for part, name in named_parts(value).items())
            return value if same else replace(value, **meant)
        elif isinstance(value, Mixture):
            return value.each(lambda member: self._argument(member, take))
        elif isinstance(value, Template):
            return value.told(self.wildcards)
        elif isinstance(value, (list, tuple)):
            return [self._argument(item, take) for item in value]
        elif isinstance(value, Mapping):
            return {key: self._argument(item, take) for key, item in value.items()}
        return value

    def _string(self, value: str, take: Take, paths: bool) -> Any:
        if take.model:
            meant = self._model(value, fits_patterns=True)
            return ModelName(meant) if isinstance(meant, str) else meant
        if take.prompt:
            return Template.inline(value).told(self.wildcards)
        return self._read(self.flow.string(value)) if paths else value

    def _read(self, source: Source) -> Source:
        self._rest.append(source)
        return source

    def _model(self, name: Any, fits_patterns: bool = False) -> Any:
        """Return what names a model: a source for a target and a path, else the name, which may prove to be a target's."""
        if isinstance(name, Target):
            return self._read(name.as_source())
        if isinstance(name, Source):
            return self._read(name)
        if isinstance(name, str) and name not in toys.NAMES:
            path = name.removeprefix("hf/")
            if path.startswith(("./", "../", "/")) or path != name and (self.flow.root / self.flow.base / path).is_dir():
                return self._read(self.flow.string(path))
            if not fits_patterns and (model := served_model(name)) and is_path(model):
                self.flow.string(model)  # so that it is settled before the name is
            self.names.append((name, fits_patterns))
        return name


def _check_rows(value: Any) -> None:
    """Raise DdfileError for what can't arrive as one dataset."""
    if isinstance(value, Target) and value.output is None:
        names = ", ".join(f".{name}" for name in value.parts)
        raise DdfileError(f"{here()}: one dataset is asked for, and {value!r} has several outputs: name one of {names}.")
    if isinstance(value, Target):
        value.no_file()
    if isinstance(value, (list, dict, tuple)):
        raise DdfileError(f"{here()}: one dataset is asked for, not a {type(value).__name__}.")


def _asked(parts: Mapping[str, Any], asked: Parts) -> dict[str, Any]:
    """Keep the parts that a recipe asks for."""
    if asked.required not in parts:
        raise DdfileError(f"{here()}: the parts given are {', '.join(parts)}; {asked.required!r} must be among them.")
    return {name: parts[name] for name in asked.asked() if name in parts}


class Shared:
    """Long lists of inputs that were bound, so that rules which are given the same ones share what came of it."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[Any, Any, Any, Group]] = {}  # the list, what it held, what it was bound to, its sources
        self._by_items: dict[Any, tuple[Any, Group]] = {}

    def find(self, value: Any) -> tuple[Any, Group] | None:
        """Return what a list or dict of the same items was bound to, and its sources."""
        known = self._by_id.get(id(value))
        if known is not None and known[1] == value:
            return known[2:]
        return self._by_items.get(_items_of(value))

    def keep(self, value: Any, bound: Any, sources: Group) -> None:
        """Remember what a list or dict was bound to; it may be changed later, so that its items are noted, too."""
        items = _items_of(value)
        if items is not None:
            self._by_id[id(value)] = (value, value.copy() if isinstance(value, (list, dict)) else value, bound, sources)
            self._by_items[items] = (bound, sources)


def _items_of(value: Any) -> Any:
    """Return what tells two lists of inputs apart: its targets and paths in order; None where it holds anything else."""
    items = tuple(value.items()) if isinstance(value, Mapping) else tuple(value)
    inner = value.values() if isinstance(value, Mapping) else items
    return (type(value), items) if set(map(type, inner)) <= {Target, str} else None


def rename(rule: Rule, name: str, source: Source) -> None:
    """Put a source in the place of a model's name that has proved to be a target's, or a folder's that a server is to have."""
    for held in (rule.inputs, rule.arguments):
        held.update({parameter: _renamed(value, name, source) for parameter, value in held.items()})
    rule.reads = (*rule.reads, (source,))


def _renamed(value: Any, name: str, source: Source) -> Any:
    if isinstance(value, ModelName) and value.name == name:
        return source
    if isinstance(value, MODELS) and name in named_parts(value).values():
        meant = source if served_model(name) is None else _serving(name, source)
        return replace(value, **{part: meant for part, named in named_parts(value).items() if named == name})
    if isinstance(value, Mixture):
        return value.each(lambda member: _renamed(member, name, source))
    if isinstance(value, list):
        return [_renamed(item, name, source) for item in value]
    return {key: _renamed(item, name, source) for key, item in value.items()} if isinstance(value, dict) else value


def _serving(name: str, source: Source) -> str:
    """Return the name of a server's llm with its model by where it lies, from the main Ddfile's folder."""
    path = source.path if is_path(source.path) else f"./{source.path}"
    return f"{name.partition(':')[0]}:{path}"


def leaves(value: Any) -> Iterator[Any]:
    """Yield the sources, views, models, llms and embedders in a value, in order, however deep."""
    if isinstance(value, (Source, View, ModelName, *MODELS)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple, Mixture)):
        for item in value:
            yield from leaves(item)
