"""What a job is made of, as a readable dict: its hash is the key, and the difference of two is the reason."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ddmake import toys
from ddmake.artifacts.digest import Digest
from ddmake.artifacts.views import columns_read
from ddmake.backends.models import weights_sha
from ddmake.ddfile.config import Knobs
from ddmake.ddfile.inputs import FREE, marked, parts_of
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import ModelName, Source, Target, View, suffix
from ddmake.ddfile.template import Template
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, placed
from ddmake.fingerprint import code, hashes

SCHEMA = 1  # raised when the same recipe would get another key

Ingredients = dict[str, Any]
Identify = Callable[[Source, list[str] | None], Any]  # a source's canonical form, narrowed to the columns that are read


def key_of(ingredients: Ingredients) -> str:
    """Return the hash of ingredients."""
    return hashes.of_value(ingredients)


def narrowed(digest: Digest, columns: list[str] | None) -> Any:
    """Return of a digest what a reader of these columns depends on."""
    if digest["kind"] != "dataset":
        return {"kind": digest["kind"], "sha": digest["sha"]}
    kept = digest["columns"] if columns is None else {n: c for n, c in digest["columns"].items() if n in columns}
    return {"kind": "dataset", "rows": digest["rows"], "columns": kept}


def ingredients(flow: Workflow, rule: Rule, identify: Identify) -> Ingredients:
    """Return what a rule is made of, its inputs told by `identify`.

    Raises DdfileError for a value that can't be hashed soundly.
    """
    try:
        return _ingredients(flow, rule, identify)
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None


def _ingredients(flow: Workflow, rule: Rule, identify: Identify) -> Ingredients:
    reader = _Reader(flow, rule, identify)
    takes = rule.recipe.signature.parameters
    inputs = {name: _without_observed(value, takes[name].annotation) for name, value in rule.inputs.items()}
    arguments = {name: value for name, value in rule.arguments.items() if not marked(takes[name].annotation, FREE)}
    made = {
        "schema": SCHEMA,
        "kind": rule.recipe.kind,
        "code": reader.recipe(),
        "outputs": {name: suffix(path) for name, path in rule.outputs.items()},
        "inputs": {name: reader.value(value, f"input {name}") for name, value in inputs.items()},
        "arguments": {name: reader.value(value, name) for name, value in arguments.items()},
        "packages": {name: _version(rule, name) for name in sorted(rule.options.packages)},
        "env": {name: os.environ.get(name) for name in sorted(rule.options.env)},
    }
    return {name: part for name, part in made.items() if part not in ({}, None)}


@dataclass
class _Reader:
    """Turns the values of one rule into their canonical forms."""

    flow: Workflow
    rule: Rule
    identify: Identify

    def recipe(self) -> dict[str, Any]:
        """Return the recipe's code: of a packaged one its version, of a user's own all that it reaches."""
        recipe, own = self.rule.recipe, self.rule.options.version
        if recipe.packaged:
            return {f"{recipe.function.__module__}.{recipe.name}": own}
        found = code.of_value(recipe.function, "recipe", self.special)[1]
        return found if own is None else {**found, "version": own}

    def value(self, value: Any, name: str) -> Any:
        """Return a value's canonical form, with the code that it holds beside it."""
        told, reached = code.of_value(value, name, self.special)
        return {"value": told, "code": reached} if reached else told

    def special(self, value: Any) -> Any:
        """Return the canonical form of what Ddfiles are made of; NotImplemented for plain values."""
        if isinstance(value, ModelName):
            value = self.flow.resolve(value)
        if isinstance(value, Source):
            return self.identify(value, None)
        if isinstance(value, View):
            steps = [[verb, [self.value(arg, f".{verb}()") for arg in args]] for verb, args in value.steps]
            return {"of": self.identify(value.of, columns_read(value.steps)), "view": steps}
        if isinstance(value, ModelName):
            return self._model(value.name)
        if isinstance(value, LLM):
            return self._llm(value)
        if isinstance(value, Template):
            return {"template": value.texts}
        if isinstance(value, Knobs):
            return {"knobs": {name: self.value(knob, f"knob {name}") for name, knob in vars(value).items()}}
        if isinstance(value, Target):
            raise DdfileError(
                f"{self.rule.place}: the recipe of {self.rule.label} reads the target {value!r} from outside: "
                "it would not count. Pass it as an input."
            )
        return NotImplemented

    def _model(self, name: str) -> Any:
        return {"toy": name, "weights": weights_sha(toys.folder(name))} if name in toys.NAMES else {"model": name}

    def _llm(self, spec: LLM) -> Any:
        fields = {name: self.value(value, f"llm's {name}") for name, value in spec.key_fields().items()}
        if spec.name in toys.NAMES:
            fields["weights"] = weights_sha(toys.folder(spec.name))
        return {"llm": fields}


def _without_observed(value: Any, annotation: Any) -> Any:
    """Leave out the parts that a recipe only watches."""
    asked = parts_of(annotation)
    if asked is None or not isinstance(value, dict):
        return value
    return {name: part for name, part in value.items() if name not in asked.observed}


def _version(rule: Rule, package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise DdfileError(f"{rule.place}: packages names {package!r}, which isn't installed. Do: pip install {package}") from None
