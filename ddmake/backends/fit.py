"""Whether a model in a folder can be loaded as an llm says, told from its configs and the heads of its weights, before a run.

What isn't here yet, a target or a name on the Hub, is looked at when it is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ddmake import toys
from ddmake.backends import local_model
from ddmake.backends.models import ADAPTER, adapter_base, is_adapter, quantizer, read_json, why_no_adapter
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM, Embedder

LORA = {".lora_A.weight": 1, ".lora_B.weight": 0}  # how adapters name weights, and the side of each that is the base's
PREFIX = "base_model.model."

Shapes = dict[str, tuple[int, ...]]


def unfit(spec: "LLM | Embedder") -> str | None:
    """Return why a model can't be loaded as its spec says, as a sentence; None where it can, or where that can't be told yet.

    Raises MissingExtra where nothing that makes weights smaller is installed.
    """
    model = spec.name if spec.name in toys.NAMES else local_model(spec)
    if model is None or model in toys.NAMES:  # toys stand in for any model
        return None
    folder, adapter = Path(model), getattr(spec, "adapter", None)
    alone = adapter is None and is_adapter(folder)
    if spec.revision is not None and folder.is_dir() and not alone:
        kind = "llm" if hasattr(spec, "adapter") else "embedder"
        return f"{kind}({str(model)!r}): revision= is for a name on the Hub, and this is a folder. Leave it out."
    if getattr(spec, "quantize", None) is not None:
        quantizer(spec.quantize)
    put = folder if alone else None if adapter is None else Path(getattr(adapter, "path", adapter))
    return None if put is None or not is_adapter(put) else _of_adapter(put, None if alone else folder)


def _of_adapter(put: Path, base: Path | None) -> str | None:
    """Return why an adapter can't be put on a base, by default its own; None where it can."""
    try:
        return why_no_adapter(put) or _why_unfit(put, Path(adapter_base(put)[0]) if base is None else base)
    except DdmakeError:  # of a damaged config, or a base that isn't there: told by who opens it
        return None


def _why_unfit(adapter: Path, base: Path) -> str | None:
    """Return which weight of a LoRA adapter's has no place in a base, as a sentence; None where all fit."""
    theirs, found = _shapes(base), _shapes(adapter)
    sides = {(name.removeprefix(PREFIX).removesuffix(end), side): shape[side]
             for name, shape in found.items() for end, side in LORA.items() if name.endswith(end)}
    known = [name for name, _ in sides if f"{name}.weight" in theirs]
    if not known:  # a base whose files name their weights otherwise than its modules
        return None
    for (name, _), size in sides.items():
        shape = theirs.get(f"{name}.weight")
        if shape is None or size not in shape:
            there = "isn't there" if shape is None else f"is {' × '.join(map(str, shape))} there, and {size} is asked for"
            named = read_json(adapter, ADAPTER).get("base_model_name_or_path")
            return (f"the adapter {adapter} was made on {named} and doesn't fit {base}: {name} {there}. "
                    "Give the base that it was made for.")
    return None


def _shapes(folder: Path) -> Shapes:
    """Return the shapes of the weights in a folder, by name, as the heads of safetensors tell them."""
    return {name: tuple(told["shape"]) for file in sorted(folder.glob("*.safetensors"))
            for name, told in _head(file).items() if name != "__metadata__"}


def _head(file: Path) -> Mapping[str, Mapping[str, list[int]]]:
    """Return what a safetensors file says of its weights; nothing of one that is damaged: who loads it tells that."""
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        try:
            return json.loads(opened.read(min(size, file.stat().st_size)))
        except ValueError:
            return {}
