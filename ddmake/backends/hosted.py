"""Models that a service has fine-tuned: a target's folder tells by which name one is asked, and its base where.

Before the folder is there, the base alone tells who will be asked. It is never asked in the tuned model's place.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.backends.models import read_json
from ddmake.ddfile.inputs import TUNED, marked
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import Source
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from ddmake.ddfile.rule import Rule

FILE = "model.json"  # in the folder: the model's name at the service, and how it came about
WHERE = ("base_url", "identity", "api_key_env")  # fields of an llm that say where it is asked


def base_in(rule: "Rule") -> LLM | None:
    """Return the llm that a rule has a service make a model of; None for any other rule."""
    takes = rule.recipe.signature.parameters
    found = (value for name, value in rule.arguments.items() if isinstance(value, LLM) and marked(takes[name].annotation, TUNED))
    return next(found, None)


def base_of(model: Any) -> LLM | None:
    """Return the llm that a target at a service is made of; None for whatever else names a model."""
    return base_in(model.target.rule) if isinstance(model, Source) and model.target is not None else None


def like(spec: Any) -> Any:
    """Return an llm by whose name it is known who is asked: under its base's, if a service makes it, else as it is."""
    base = base_of(spec.name) if isinstance(spec, LLM) else None
    return spec if base is None else _there(spec, like(base))


def opened(spec: LLM) -> LLM:
    """Return an llm that a service has made by its name there, any other as it is. Raises DdmakeError where there is no name."""
    if base_of(spec.name) is None:
        return spec
    name = read_json(Path(spec.name.path), FILE).get("model")
    if not name:
        raise DdmakeError(f"{spec.name.path}/{FILE} names no model. Take it back: ddmake --restore {spec.name.path}")
    known = like(spec)
    return replace(known, name=f"{known.name.partition('/')[0]}/{name}")


def _there(spec: LLM, base: LLM) -> LLM:
    """Return an llm under its base's name, asked where that is unless it says otherwise."""
    stated = {name: getattr(base, name) for name in WHERE if getattr(spec, name) is None}
    return replace(spec, name=base.name, **stated)
