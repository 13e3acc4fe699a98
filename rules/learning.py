"""What recipes that train a model share: what is missing is said before it starts, and arguments become settings."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError

if TYPE_CHECKING:
    from ddmake.trainers.common import Settings

    Kind = TypeVar("Kind", bound=Settings)

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
POSITIVE = ("epochs", "batch_size", "micro_batch", "learning_rate", "max_length", "beta")


def check(arguments: Arguments) -> None:
    """Raise DdfileError for a number that makes no sense."""
    for name in POSITIVE:
        if arguments.get(name) is not None and arguments[name] <= 0:
            raise DdfileError(f"{name}={arguments[name]}; it is above 0.")


def columns_of(parts: Any) -> Sequence[str] | None:
    """Return the columns of the rows to learn from; None where they aren't known."""
    return parts.get("train") if isinstance(parts, Mapping) else parts


def need_packages(recipe: str, peft: Lora | None, *more: str) -> None:
    """Raise MissingExtra for a package that a training needs and that isn't installed."""
    from ddmake.backends.models import need

    for package in ("transformers", "datasets", *more):
        need(package, "train", recipe)
    if peft is not None:
        need("peft", "train", f"{recipe} with lora()")


def need_causal(recipe: str, base: Path | str, revision: str | None) -> None:
    """Raise DdmakeError for a base that is an encoder-decoder."""
    from ddmake.backends.models import base_name, is_encoder_decoder

    if is_encoder_decoder(base, revision):
        raise DdmakeError(f"{recipe}: base {base_name(base)} is an encoder-decoder; take a causal model.")


def settings(kind: "type[Kind]", arguments: Arguments, rates: tuple[float, float], **more: Any) -> "Kind":
    """Return a trainer's settings: its fields by the arguments of the same names, `more` before these.

    `rates` are the learning rates where none is stated: of all weights, and with an adapter.
    """
    from ddmake.backends.hub import name_of
    from ddmake.backends.models import base_name

    base, stated = arguments["base"], arguments["learning_rate"]
    hub = name_of(base)
    named = {"base_name": hub.repo if hub else base_name(base), "revision": hub.revision if hub else arguments["revision"],
             "learning_rate": stated if stated is not None else rates[arguments["peft"] is not None]}
    taken = {field.name: arguments[field.name] for field in fields(kind) if field.name in arguments}
    return kind(**{**taken, **named, **more})


def named_parts(parts: Any) -> dict[str, Any]:
    """Return the rows to learn from as `train`, and those to watch as `validation` where there are any."""
    named = parts if isinstance(parts, Mapping) else {"train": parts}
    return {name: named[name] for name in ("train", "validation") if named.get(name) is not None}
