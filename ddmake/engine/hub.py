"""Which names on the Hub a workflow's rules hold, and what they are pinned to."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ddmake import toys
from ddmake.backends import hub, servers
from ddmake.ddfile import lock
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.inputs import MODEL, marked
from ddmake.ddfile.lock import DATASET, MAIN, HubName
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, MODELS, Embedder
from ddmake.ddfile.target import ModelName, Source
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, placed

SHORT = 16  # digits of a commit in a key: enough to tell any two, and short enough to be told in a reason

T = TypeVar("T")

_marked: dict[tuple[Callable[..., Any], str], list[str]] = {}  # by a recipe's function and a mark: parameters that carry it


def pins(flow: Workflow, rule: Rule) -> dict[str, str]:
    """Return what the names on the Hub in a rule stand for, as its key has it. Raises DdfileError as `hub.commit` does."""
    return {str(name): _placed(rule, hub.commit, flow, name)[:SHORT] for _, name in names_in(flow, rule)}


def commit_of(flow: Workflow, rule: Rule, model: LLM | Embedder | ModelName) -> str | None:
    """Return the commit that a model is pinned to; None for one that isn't the Hub's."""
    name = of_llm(flow, model).get("name") if isinstance(model, MODELS) else of_model(flow, rule, model)
    return hub.commit(flow.root, name) if name else None


def keep(flow: Workflow, rules: Iterable[Rule]) -> None:
    """Write to Ddfile.lock what was asked, and what rules that are still to be decided on will ask."""
    for rule in rules:
        pins(flow, rule)
    hub.keep(flow.root)


def look_again(flow: Workflow) -> list[str]:
    """Ask the Hub anew for all names in a workflow, and return a line for each that has moved.

    Raises DdfileError as `hub.ask_again` does.
    """
    before, told, asked = lock.read(flow.root), [], set[HubName]()
    for names in (_said, names_in):  # an adapter that has moved may name another base
        used = {name: rule for rule in flow.rules for _, name in names(flow, rule) if not name.is_commit and name not in asked}
        for name in sorted(used):
            old, new = before.get(name), _placed(used[name], hub.ask_again, flow, name)
            if old is None or old.commit != new:
                told.append(f"{name}: {old.commit[:7]} -> {new[:7]}" if old else f"{name}: {new[:7]}")
        asked |= used.keys()
    return told


def _placed(rule: Rule, ask: Callable[[Path, HubName], T], flow: Workflow, name: HubName) -> T:
    """Ask about a name; a mistake is told with the rule's place."""
    try:
        return ask(flow.root, name)
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None


def names_in(flow: Workflow, rule: Rule) -> Iterator[tuple[Any, HubName]]:
    """Yield the names on the Hub that a rule holds, each with the value that it stands in, and those that its adapters name.

    An argument `revision` says which one is meant of the models and the dataset that the rule names. Raises DdfileError as
    `hub.base` does.
    """
    for leaf, name in _said(flow, rule):
        yield leaf, name
        if _stands_alone(leaf) and (base := _placed(rule, hub.base, flow, name)) is not None:
            yield leaf, base
    yield from ((source, base) for source in _folders(rule) if (base := hub.base_of(flow.root / source.path)) is not None)


def _said(flow: Workflow, rule: Rule) -> Iterator[tuple[Any, HubName]]:
    """Yield the names on the Hub that stand in a rule."""
    said = rule.arguments.get("revision")
    revision = said if isinstance(said, str) and said else MAIN
    for dataset in _taking(rule.recipe, DATASET):
        yield rule.arguments[dataset], HubName(DATASET, rule.arguments[dataset], revision)
    for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]) if rule.names_models else ():
        if isinstance(leaf, MODELS):
            yield from ((leaf, name) for name in of_llm(flow, leaf).values())
        elif isinstance(leaf, ModelName) and leaf.name not in toys.NAMES and flow.resolve(leaf) is leaf:
            yield leaf, HubName("model", leaf.name, revision)


def _stands_alone(leaf: Any) -> bool:
    """Tell whether what goes by a name on the Hub may be an adapter that brings its own base."""
    return isinstance(leaf, ModelName) or isinstance(leaf, LLM) and leaf.adapter is None and not servers.is_served(leaf)


def _folders(rule: Rule) -> Iterator[Source]:
    """Yield the paths that a rule takes models from, but for what an adapter is put on."""
    if rule.names_models:
        given = {**rule.inputs, **rule.arguments}
        yield from (leaf for name in _taking(rule.recipe, MODEL) for leaf in leaves(given.get(name)) if isinstance(leaf, Source))
        yield from (leaf.name for leaf in leaves([*given.values()])
                    if isinstance(leaf, LLM) and leaf.adapter is None and isinstance(leaf.name, Source))


def of_llm(flow: Workflow, spec: LLM | Embedder) -> dict[str, HubName]:
    """Return the names on the Hub in an llm or embedder, by field; a folder is none, and a provider's models are its own."""
    kind, _, model = spec.name.partition("/") if isinstance(spec.name, str) else ("", "", "")
    repo = servers.on_hub(spec) or (model if kind == "hf" and not _is_folder(flow, model) else None)
    found = {"name": HubName("model", repo, spec.revision or MAIN)} if repo else {}
    adapter = spec.adapter if isinstance(spec, LLM) else None
    if isinstance(adapter, str) and kind in ("", "hf", *toys.NAMES) and not _is_folder(flow, adapter):
        found["adapter"] = HubName("model", adapter)
    return found


def of_model(flow: Workflow, rule: Rule, model: ModelName) -> HubName | None:
    """Return the name on the Hub that a model is given by, with the revision that its rule says; None for a toy."""
    return next((name for leaf, name in _said(flow, rule) if leaf is model), None)


def _is_folder(flow: Workflow, name: str) -> bool:
    return name.startswith(("./", "../", "/")) or Path(flow.root, name).is_dir()


def _taking(recipe: Recipe, mark: str) -> list[str]:
    """Return the parameters of a recipe that carry a mark."""
    known = _marked.get((recipe.function, mark))
    if known is None:
        parameters = recipe.signature.parameters.items()
        known = _marked[recipe.function, mark] = [name for name, p in parameters if marked(p.annotation, mark)]
    return known
