"""Which names on the Hub a workflow's rules hold, and what they are pinned to."""

import posixpath
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ddmake import toys
from ddmake.backends import hub, servers
from ddmake.ddfile import lock
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.inputs import marked
from ddmake.ddfile.lock import DATASET, MAIN, HubName
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, MODELS, Embedder
from ddmake.ddfile.target import ModelName
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, placed

SHORT = 16  # digits of a commit in a key: enough to tell any two, and short enough to be told in a reason

_datasets: dict[Callable[..., Any], str | None] = {}  # by a recipe's function: its argument that names a dataset


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
    before, told = lock.read(flow.root), []
    used = {name: rule for rule in flow.rules for _, name in names_in(flow, rule) if not name.is_commit}
    for name in sorted(used):
        old, new = before.get(name), _placed(used[name], hub.ask_again, flow, name)
        if old != new:
            told.append(f"{name}: {old[:7]} -> {new[:7]}" if old else f"{name}: {new[:7]}")
    return told


def _placed(rule: Rule, ask: Callable[[Path, HubName], str], flow: Workflow, name: HubName) -> str:
    """Ask for a name's commit; a mistake is told with the rule's place."""
    try:
        return ask(flow.root, name)
    except DdfileError as error:
        raise placed(f"{rule.place}: {rule.label}", error) from None


def names_in(flow: Workflow, rule: Rule) -> Iterator[tuple[Any, HubName]]:
    """Yield the names on the Hub that a rule holds, each with the value that it stands in.

    An argument `revision` says which one is meant of the models and the dataset that the rule names.
    """
    said = rule.arguments.get("revision")
    revision = said if isinstance(said, str) and said else MAIN
    dataset = _dataset(rule.recipe)
    if dataset is not None and dataset in rule.arguments:
        yield rule.arguments[dataset], HubName(DATASET, rule.arguments[dataset], revision)
    for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]) if rule.names_models else ():
        if isinstance(leaf, MODELS):
            yield from ((leaf, name) for name in of_llm(flow, leaf).values())
        elif isinstance(leaf, ModelName) and leaf.name not in toys.NAMES and flow.resolve(leaf) is leaf:
            yield leaf, HubName("model", leaf.name, revision)


def of_llm(flow: Workflow, spec: LLM | Embedder) -> dict[str, HubName]:
    """Return the names on the Hub in an llm or embedder, by field; a folder is none, and a provider's models are its own."""
    kind, _, model = spec.name.partition("/") if isinstance(spec.name, str) else ("", "", "")
    if servers.is_served(spec):
        _refuse_target(flow, spec)
    repo = servers.on_hub(spec) or (model if kind == "hf" and not _is_folder(flow, model) else None)
    found = {"name": HubName("model", repo, spec.revision or MAIN)} if repo else {}
    adapter = spec.adapter if isinstance(spec, LLM) else None
    if isinstance(adapter, str) and kind in ("", "hf", *toys.NAMES) and not _is_folder(flow, adapter):
        found["adapter"] = HubName("model", adapter)
    return found


def _refuse_target(flow: Workflow, spec: LLM | Embedder) -> None:
    """Raise DdfileError where a rule makes the model that a server is to have: its name there makes no edge."""
    path = posixpath.normpath(servers.parts(spec.name)[1])
    if path in flow.targets or flow.into + path in flow.targets:
        raise DdfileError(f"llm({spec.name!r}): a rule makes {path}, and a server's model isn't waited for. Ask it in process, "
                          f"by llm({path!r}); a LoRA adapter can also be adapter= of a server that has its base.")


def of_model(flow: Workflow, rule: Rule, model: ModelName) -> HubName | None:
    """Return the name on the Hub that a model is given by, with the revision that its rule says; None for a toy."""
    return next((name for leaf, name in names_in(flow, rule) if leaf is model), None)


def _is_folder(flow: Workflow, name: str) -> bool:
    return name.startswith(("./", "../", "/")) or Path(flow.root, name).is_dir()


def _dataset(recipe: Recipe) -> str | None:
    """Return a recipe's argument that names a dataset on the Hub, if it has one."""
    if recipe.function not in _datasets:
        parameters = recipe.signature.parameters.items()
        _datasets[recipe.function] = next((name for name, p in parameters if marked(p.annotation, DATASET)), None)
    return _datasets[recipe.function]
