"""What a job is made of, as a readable dict: its hash is the key, and the difference of two is the reason."""

import os
from collections.abc import Callable, Container
from functools import cache
from typing import Any

from ddmake import toys
from ddmake.artifacts.digest import Digest
from ddmake.artifacts.views import columns_read
from ddmake.backends import servers
from ddmake.backends.models import weights_sha
from ddmake.ddfile.config import Knobs
from ddmake.ddfile.inputs import parts_of
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.rule import Group, Rule
from ddmake.ddfile.specs import LLM, MODELS, Embedder, Mixture
from ddmake.ddfile.target import ModelName, Source, Target, View, suffix
from ddmake.ddfile.template import Template
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub
from ddmake.errors import DdfileError, placed
from ddmake.fingerprint import hashes
from ddmake.fingerprint.code import Codes
from ddmake.fingerprint.packages import version
from ddmake.store import secrets

SCHEMA = 2  # raised when the same recipe would get another key
SECRET = secrets.NAME  # never in a key
CONTAINERS = (list, dict, tuple, set, frozenset, bytes)
LONG = 8  # an input list of so many items is hashed apart, once for all that read it

Ingredients = dict[str, Any]
Identify = Callable[[Source, Container[str] | None], Any]  # a source's canonical form, narrowed to the columns that are read


def narrowed(digest: Digest, columns: Container[str] | None) -> Any:
    """Return of a digest what a reader of these columns depends on."""
    if digest["kind"] != "dataset":
        return {"kind": digest["kind"], "sha": digest["sha"]}
    kept = digest["columns"] if columns is None else {n: c for n, c in digest["columns"].items() if n in columns}
    return {"kind": "dataset", "rows": digest["rows"], "columns": kept}


class Keys:
    """Hashes ingredients. What many rules share (a recipe's code, a long list of inputs) is hashed once."""

    def __init__(self) -> None:
        self._hashed: dict[int, tuple[Any, str]] = {}  # by id; the value is held, so that its id stays its own

    def of(self, made: Ingredients, epoch: int | None = None) -> str:
        """Return the key of ingredients, or the one that they would have at another sample epoch."""
        short = made.copy()
        if epoch is not None:
            short.pop("epoch", None)
            short.update({"epoch": epoch} if epoch else {})
        if "code" in short:
            short["code"] = self._sha(short["code"])
        if "inputs" in short:
            short["inputs"] = {name: self._sha(value) if is_long(value) else value for name, value in short["inputs"].items()}
        return hashes.of_value(short)

    def _sha(self, value: Any) -> str:
        known = self._hashed.get(id(value))
        if known is None:
            known = self._hashed[id(value)] = (value, hashes.of_value(value))
        return known[1]


def is_long(value: Any) -> bool:
    """Tell whether an input counts by a hash of its own: a list or dict of many."""
    items = value.get("dict") if type(value) is dict else value
    return type(items) is list and len(items) >= LONG


class Reader:
    """Tells what rules of one workflow are made of, inputs by `identify`; what rules share is worked out once."""

    def __init__(self, flow: Workflow, identify: Identify):
        self.flow, self.identify = flow, identify
        self._codes = Codes(self._special, str(flow.root))
        self._lists: dict[int, Any] = {}  # canonical forms of long inputs, by the id of the bound list
        self._of_group: dict[int, set[int]] = {}  # the lists that hold a group of sources, by its id
        self._reads: tuple[Group, ...] = ()  # of the rule at hand

    def forget(self, group: Group) -> None:
        """Work out anew the long inputs that a group of sources stands in: one of them has changed."""
        for bound in self._of_group.pop(id(group), ()):
            self._lists.pop(bound, None)

    def ingredients(self, rule: Rule, epoch: int = 0) -> Ingredients:
        """Return what a rule is made of. Raises DdfileError for a value that can't be hashed soundly."""
        try:
            return self._ingredients(rule, epoch)
        except DdfileError as error:
            raise placed(f"{rule.place}: {rule.label}", error) from None

    def texts(self, made: Ingredients) -> dict[str, str]:
        """Return the source texts of the code in ingredients, by the hashes that stand there for them."""
        found = dict(self._codes.texts(made.get("code", {})))
        for argument in made.get("arguments", {}).values():
            if isinstance(argument, dict) and argument.keys() == {"value", "code"}:
                found.update(self._codes.texts(argument["code"]))
        return found

    def given(self, rule: Rule) -> Ingredients:
        """Return of a rule's ingredients its inputs and arguments."""
        self._reads = rule.reads
        takes, observed, free = rule.recipe.signature.parameters, rule.options.observes, rule.recipe.free
        inputs = {name: _without_observed(value, takes[name].annotation, rule) for name, value in rule.inputs.items()
                  if name not in observed}
        arguments = {name: self._value(value, name) for name, value in rule.arguments.items() if name not in free}
        return {"inputs": {name: self._input(rule, value, f"input {name}") for name, value in inputs.items()},
                "arguments": arguments | hub.pins(self.flow, rule)}

    def _ingredients(self, rule: Rule, epoch: int) -> Ingredients:
        recipe, options = rule.recipe, rule.options
        self._reads = rule.reads
        made = {"schema": SCHEMA, "kind": recipe.kind, "code": self._recipe(recipe, options.version),
                "outputs": {name: suffix(path) for name, path in rule.outputs.items()}, **self.given(rule)}
        if options.packages:
            made["packages"] = {name: _version(rule, name) for name in sorted(options.packages)}
        if options.env:
            made["env"] = {name: os.environ.get(name) for name in sorted(options.env) if not SECRET.search(name)}
        if epoch:
            made["epoch"] = epoch
        return made

    def _recipe(self, recipe: Recipe, own: str | None) -> Any:
        """Return the recipe's code: of a packaged one its version, of a user's own all that it reaches."""
        if recipe.packaged:
            return {f"{recipe.function.__module__}.{recipe.name}": own}
        found = self._codes.of(recipe.function, "recipe")[1]
        return found if own is None else {**found, "version": own}

    def _input(self, rule: Rule, value: Any, name: str) -> Any:
        if type(value) is Source:
            return self.identify(value, None)
        if id(value) in self._lists:
            return self._lists[id(value)]
        held = value.values() if type(value) is dict else value if type(value) is list else (None,)
        plain = all(type(item) is Source for item in held)
        told = [self.identify(item, None) for item in value] if plain and type(value) is list else self._value(value, name)
        if plain and len(value) >= LONG:
            self._lists[id(value)] = told
            for group in rule.reads:
                self._of_group.setdefault(id(group), set()).add(id(value))
        return told

    def _value(self, value: Any, name: str) -> Any:
        """Return a value's canonical form, with the code that it holds beside it."""
        told, reached = self._codes.of(value, name)
        return {"value": told, "code": reached} if reached else told

    def _special(self, value: Any) -> Any:
        """Return the canonical form of what Ddfiles are made of; NotImplemented for plain values."""
        if type(value) in CONTAINERS:
            return NotImplemented
        if isinstance(value, ModelName):
            value = self.flow.resolve(value)
        if isinstance(value, Source):
            return self.identify(value, None)
        if isinstance(value, View):
            steps = [[verb, [self._value(arg, f".{verb}()") for arg in args]] for verb, args in value.steps]
            return {"of": self.identify(value.of, columns_read(value.steps)), "view": steps}
        if isinstance(value, ModelName):
            return self._model(value.name)
        if isinstance(value, MODELS):
            return self._llm(value)
        if isinstance(value, Mixture):
            return self._mixture(value)
        if isinstance(value, Template):
            return {"template": value.texts}
        if isinstance(value, Knobs):
            return {"knobs": {name: self._value(knob, f"knob {name}") for name, knob in vars(value).items()}}
        if isinstance(value, Target):
            raise DdfileError(f"it reads the target {value!r} from outside of its inputs, where it would not count. "
                              "Pass it as an input.")
        return NotImplemented

    def _model(self, name: str) -> Any:
        return {"toy": name, "weights": _toy_sha(name)} if name in toys.NAMES else {"model": name}

    def _llm(self, spec: LLM | Embedder) -> Any:
        kind = "llm" if isinstance(spec, LLM) else "embedder"
        fields = {name: self._value(value, f"{kind}'s {name}") for name, value in spec.key_fields().items()}
        if spec.name in toys.NAMES:
            fields["weights"] = _toy_sha(spec.name)
        if (path := servers.path(spec)) is not None:
            fields |= {"name": self._served(path), "server": servers.parts(spec.name)[0]}
        return {kind: fields}

    def _mixture(self, spec: Mixture) -> Any:
        """Return the members by what they go by, as a dict, since prompts are dealt out by that; weights where they differ."""
        names = spec.names(self.flow.into)
        weights = [["weights", {"dict": [list(pair) for pair in zip(names, spec.weights)]}]] if len(set(spec.weights)) > 1 else []
        return {"dict": [*([name, self._llm(member)] for name, member in zip(names, spec)), *weights]}

    def _served(self, path: str) -> Any:
        """Return what lies where a server's model does."""
        source = next((read for group in self._reads for read in group if read.path == path), None)
        if source is None:
            raise DdfileError(f"it reads an llm of the model {path} from outside of its arguments, where that would not count. "
                              "Pass the llm as an argument.")
        return self.identify(source, None)


@cache
def _toy_sha(name: str) -> str:
    return weights_sha(toys.folder(name))


def _without_observed(value: Any, annotation: Any, rule: Rule) -> Any:
    """Leave out the parts that a recipe only watches."""
    asked = parts_of(annotation) if type(value) is dict else None
    if asked is None:
        return value
    watched = asked.watched(rule.arguments)
    return {name: part for name, part in value.items() if name not in watched}


def _version(rule: Rule, package: str) -> str:
    found = version(package)
    if found is None:
        raise DdfileError(f"{rule.place}: packages names {package!r}, which isn't installed. Do: pip install {package}")
    return found
