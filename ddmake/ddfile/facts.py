"""What a Ddfile says of data and models for cards: licences, citations, addresses. It counts in no key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.binding import leaves, normal
from ddmake.ddfile.registry import here, workflow
from ddmake.ddfile.specs import MODELS
from ddmake.ddfile.target import Source, Target
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule
    from ddmake.ddfile.workflow import Workflow


@dataclass(frozen=True)
class Said:
    """What is said of a dataset or a model; None is nothing."""

    license: str | None = None
    citation: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Saying:
    """A statement of the Ddfile at `place`: the meanings that its name may have, the likeliest first."""

    name: str
    meanings: tuple[str, ...]
    said: Said
    place: str


def facts(of: Target | str, *, license: str | None = None, citation: str | None = None, url: str | None = None) -> None:
    """Say of a target, a source, or a model or dataset on the Hub, for cards: its licence, how it is cited, where it is found.

    Raises DdfileError where nothing is said, and when the Ddfile is loaded for a name that no rule reads, makes or names.
    """
    flow, said = workflow("facts()"), Said(license, citation, url)
    name = of.path if isinstance(of, Target) and of.output is not None else of
    if not isinstance(name, str) or "{" in name:
        raise DdfileError(f"{here()}: facts() takes a target or a name. Of several, or of a pattern, name one by its path.")
    texts = [text for text in (license, citation, url) if text is not None]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DdfileError(f"{here()}: facts({name!r}) needs texts for license=, citation= or url=, at least for one of them.")
    meanings = (name,) if isinstance(of, Target) else (*flow.meanings(normal(name)), name)
    flow.top.sayings.append(Saying(name, meanings, said, here()))


def settle(flow: "Workflow") -> None:
    """Tell what names mean now that all rules are known. Raises DdfileError for one that no rule reads, makes or names."""
    known = set(_known(flow)) if flow.sayings else set()
    for saying in flow.sayings:
        meant = next((name for name in saying.meanings if name in known), None)
        if meant is None:
            raise DdfileError(f"{saying.place}: facts({saying.name!r}): no rule reads, makes or names it."
                              f"{did_you_mean(saying.name, known)}")
        flow.said[meant] = saying.said


def told(flow: "Workflow") -> dict[str, Said]:
    """Return what a Ddfile says, by path, model's name or dataset's name; what facts() says counts before what llm() does."""
    found: dict[str, Said] = {}
    for rule in (rule for rule in flow.rules if rule.names_models):
        for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]):
            if isinstance(leaf, MODELS) and (leaf.license or leaf.citation or leaf.url):
                name = leaf.name if isinstance(leaf.name, str) else leaf.name.path
                found[name] = Said(leaf.license, leaf.citation, leaf.url)
    return {**found, **flow.said}


def _known(flow: "Workflow") -> Iterator[str]:
    """Yield the paths that rules make and read, and all texts in what they are given: names on the Hub are such."""
    yield from flow.targets
    for rule in flow.rules:
        yield from (source.path for source in flow.sources(rule))
        yield from _names(rule)


def _names(rule: "Rule") -> Iterator[str]:
    for value in [*rule.inputs.values(), *rule.arguments.values()]:
        yield from _texts(value)
    for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]):
        name = getattr(leaf, "name", None)
        if isinstance(name, str) and not isinstance(leaf, Source):
            yield from (name, name.removeprefix("hf/"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
