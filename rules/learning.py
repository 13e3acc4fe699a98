"""What recipes that train a model share: what is missing is said before it starts, and arguments become settings."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from ddmake.ddfile.inputs import Free, Parts
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError, did_you_mean

if TYPE_CHECKING:
    from ddmake.trainers.common import Settings

    Kind = TypeVar("Kind", bound=Settings)

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
TrainParts = Annotated[Any, Parts("train", observed=("validation",), counts=("best", "patience"))]
Bits = Literal["nf4", "fp4", "int8"]
Whether = Annotated[bool | None, Free]
Count = Annotated[int | None, Free]
Flag = Annotated[bool, Free]
Trackers = Annotated[str | Sequence[str], Free]
OnChange = Annotated[Literal["mark", "restart"], Free]

SCHEDULES = ("constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "inverse_sqrt", "linear", "polynomial")
SEEDS = 2**32  # so many does numpy know
AT_LEAST = ("weight_decay", "max_grad_norm", "warmup")  # 0
POSITIVE = ("epochs", "batch_size", "micro_batch", "learning_rate", "max_length", "beta", "patience", "evaluate_every",
            "processes")
TRACKERS = ("tensorboard", "trackio", "wandb")


def check(inputs: Inputs, arguments: Arguments) -> None:
    """Raise DdfileError for a number that makes no sense, and for options of which one asks for what isn't given."""
    _need_numbers(arguments)
    schedule = arguments.get("schedule", "linear")
    if schedule not in SCHEDULES:
        raise DdfileError(f"schedule={schedule!r}: there is none of that name. There are: {', '.join(SCHEDULES)}."
                          f"{did_you_mean(schedule, SCHEDULES)}")
    if arguments.get("quantize") and arguments.get("peft") is None:
        raise DdfileError(f"quantize={arguments['quantize']!r} is of a base that stays as it is, under an adapter. "
                          "Add peft=lora().")
    _need_validation(inputs.get("parts"), arguments)
    for name in named_trackers(arguments.get("trackers", ())):
        if name not in TRACKERS:
            raise DdfileError(f"trackers: there is no {name!r}. There are: {', '.join(TRACKERS)}.{did_you_mean(name, TRACKERS)}")


def _need_numbers(arguments: Arguments) -> None:
    """Raise DdfileError for a number that makes no sense."""
    for name in (*POSITIVE, *AT_LEAST):
        value, least = arguments.get(name), "above 0" if name in POSITIVE else "at least 0"
        if value is not None and not (0 < value < inf or value == 0 and name in AT_LEAST):
            raise DdfileError(f"{name}={value}; it is {least}.")
    warmup, seed = arguments.get("warmup", 0), arguments.get("seed", 0)
    if warmup >= 1 and warmup != int(warmup):
        raise DdfileError(f"warmup={warmup}; it is a share of all steps below 1, or a whole number of steps.")
    if not 0 <= seed < SEEDS:
        raise DdfileError(f"seed={seed}; it is from 0 to {SEEDS - 1}.")


def _need_validation(parts: Any, arguments: Arguments) -> None:
    """Raise DdfileError where something is asked of a validation set and there is none."""
    held = isinstance(parts, Mapping) and "validation" in parts
    for name in ("best", "patience", "evaluate_every"):
        if arguments.get(name) and not held:
            raise DdfileError(f"{name}={arguments[name]} needs a validation set. Give {{\"train\": …, \"validation\": …}}, or a "
                              "split(…, validation=0.1).")


def named_trackers(trackers: str | Sequence[str]) -> tuple[str, ...]:
    """Return trackers by name."""
    return (trackers,) if isinstance(trackers, str) else tuple(trackers)


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

    `rates` are the learning rates where none is stated: of all weights, and with an adapter. Raises MissingExtra for a package
    that an option needs and that isn't installed.
    """
    from ddmake.backends.hub import name_of
    from ddmake.backends.models import base_name, need

    for tracker in named_trackers(arguments.get("trackers", ())):
        need(tracker, tracker, f"trackers={tracker!r}")
    if arguments.get("quantize"):
        need("bitsandbytes", "quantize", f"quantize={arguments['quantize']!r}")
    base, stated = arguments["base"], arguments["learning_rate"]
    hub = name_of(base)
    named = {"base_name": hub.repo if hub else base_name(base), "revision": hub.revision if hub else arguments["revision"],
             "learning_rate": stated if stated is not None else rates[arguments["peft"] is not None]}
    if "trackers" in arguments:
        named["trackers"] = named_trackers(arguments["trackers"])
    taken = {field.name: arguments[field.name] for field in fields(kind) if field.name in arguments}
    return kind(**{**taken, **named, **more})


def text(value: Any, where: str) -> str:
    """Return a value as the text that is learned. Raises DdmakeError, which begins with where it stands, for what has none."""
    if not isinstance(value, (str, int, float, bool)):
        raise DdmakeError(f"{where} holds {type(value).__name__}; text is needed. Make it by .map().")
    return str(value)


def named_parts(parts: Any) -> dict[str, Any]:
    """Return the rows to learn from as `train`, and those to watch as `validation` where there are any."""
    named = parts if isinstance(parts, Mapping) else {"train": parts}
    return {name: named[name] for name in ("train", "validation") if named.get(name) is not None}
