"""Loading what answers: weights, tokenizer and generation config, by a folder or a name on the Hub.

Several models that differ in their adapters alone share the weights of their base.
"""

import warnings
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from ddmake.backends.decoding import Fitting
from ddmake.backends.hub import pinned_base
from ddmake.backends.models import (
    TOKENIZER,
    adapter_base,
    has_tokenizer,
    is_adapter,
    is_encoder_decoder,
    need,
    quantizer,
    read_json,
    resolve_base,
    separator_of,
    why_no_adapter,
)
from ddmake.errors import DdmakeError

MISSING = "Found missing adapter keys"  # how peft warns of weights that an adapter lacks and that it makes up
NAMED = 5  # weights that are missing and are told by name


@dataclass(frozen=True)
class Manner:
    """How weights are loaded: their type, their devices, and whether they are made smaller."""

    dtype: str | None = None
    device_map: str | None = None
    quantize: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A model as it came. `generation` says how it wants to be asked, `separator` what ends its prompts without a template.

    `fits` is what was learned of how many rows fit at once: whoever asks the same weights again finds it there.
    """

    model: torch.nn.Module
    tokenizer: Any
    generation: GenerationConfig
    separator: str
    commit: str | None  # on the Hub; of an adapter, its base's
    fits: dict[tuple[object, ...], Fitting] = field(default_factory=dict)  # by how rows are asked


def load(model: Path | str, adapter: Path | str | None = None, revision: str | None = None, manner: Manner = Manner()) -> Loaded:
    """Load a model with all that is needed to ask it; `revision` is its own on the Hub, or its base's if it is an adapter.

    Raises DdmakeError for one that can't be loaded.
    """
    model = resolve_base(model)
    if adapter is not None:
        return with_adapter(load(model, None, revision, manner), adapter, alone=False)
    if is_adapter(model):
        base, of = adapter_base(model)
        return with_adapter(load(base, None, of or revision, manner), model, alone=True)
    weights = load_model(model, revision, manner.dtype, manner.device_map or _device(), manner.quantize)
    tokenizer = load_tokenizer(model, revision)
    commit = getattr(weights.config, "_commit_hash", None) or revision
    return Loaded(weights, tokenizer, load_generation(model, weights), separator_of(tokenizer.init_kwargs), commit)


def with_adapter(base: Loaded, adapter: Path | str, alone: bool, shared: bool = False) -> Loaded:
    """Return a loaded base with an adapter on it; one that is named `alone` brings its tokenizer along, if it has one.

    Where weights are `shared` the base stays what it is, and can take another adapter; else it is used up.
    """
    generation = load_generation(adapter, base.model)
    tokenizer = load_tokenizer(adapter) if alone and has_tokenizer(adapter) else base.tokenizer
    tuned = put_on(sharing(base.model, written_by(adapter)) if shared else base.model, adapter)
    separator = separator_of(read_json(Path(adapter), TOKENIZER)) if has_tokenizer(adapter) else base.separator
    return Loaded(tuned, tokenizer, generation, separator, base.commit)


def _device() -> str | None:
    return "cuda" if torch.cuda.is_available() else None


def pick_dtype(dtype: str | None) -> torch.dtype | str:
    """Return the type that weights are loaded in: as declared, else float32 on a CPU and the stored one elsewhere."""
    if dtype is not None:
        return dtype if dtype == "auto" else getattr(torch, dtype)
    return "auto" if torch.cuda.is_available() else torch.float32


def load_model(model: Path | str, revision: str | None = None, dtype: str | None = None,
               device_map: str | None = None, quantize: Any = None) -> torch.nn.Module:
    """Load a model by its folder or Hub name, with an adapter's base under it; `quantize` is a name, or transformers' config.

    Raises DdmakeError where that can't be.
    """
    disable_progress_bar()
    if is_adapter(model):
        base, of = pinned_base(model)
        return put_on(load_model(base, of, dtype, device_map, quantize), model)
    rounding = quantization(quantize) if isinstance(quantize, str) else quantize
    smaller = {} if rounding is None else {"quantization_config": rounding}
    try:
        auto = AutoModelForSeq2SeqLM if is_encoder_decoder(model, revision) else AutoModelForCausalLM
        loaded, found = auto.from_pretrained(str(model), revision=revision, dtype=pick_dtype(dtype), device_map=device_map,
                                             output_loading_info=True, **smaller)
    except (OSError, RuntimeError, ValueError) as error:
        raise DdmakeError(f"the model {model} can't be loaded: {_first_line(error)}") from error
    if not writes(loaded.config):
        raise DdmakeError(f"the model {model} is a {loaded.config.model_type} encoder, which reads texts and writes none. Name "
                          "one that generates, or use it by embedder() or classify().")
    if found["missing_keys"]:
        raise DdmakeError(f"the model {model} lacks weights, which would be made up at random: {_few(found['missing_keys'])}. "
                          "Give the whole model.")
    return loaded


def writes(config: Any) -> bool:
    """Tell whether a model writes texts: an encoder (BERT) has a head for words in gaps, and sees what comes after them."""
    if config.is_encoder_decoder or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return True
    return bool(getattr(config, "is_decoder", False) or getattr(config, "causal", False))


def quantization(quantize: str) -> Any:
    """Return transformers' config for weights of fewer bits. Raises MissingExtra where its package isn't installed."""
    if quantizer(quantize) == "torchao":
        if quantize == "int4" and find_spec("mslk") is None:  # without it torchao fails midway, in words of its own
            raise DdmakeError("quantize='int4' needs a GPU and the package mslk, which isn't installed. "
                              "Do: pip install mslk, or take int8 or nf4.")
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig() if quantize == "int8" else Int4WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantize)


def put_on(model: torch.nn.Module, adapter: Path | str) -> torch.nn.Module:
    """Return a model with an adapter on it: merged in float32, kept apart where weights are rounded, and merging would be.

    Merging puts new tensors in the place of old ones, so that a base which shares its weights stays what it is. Raises
    DdmakeError for an adapter that was made for another model.
    """
    need("peft", "local", "a model with a LoRA adapter")
    from peft import PeftModel

    if (kind := why_no_adapter(adapter)) is not None:
        raise DdmakeError(kind)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", MISSING)
            tuned = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, UserWarning) as error:
        raise DdmakeError(f"the adapter {adapter} doesn't fit the model that it is put on: {_first_line(error)} "
                          "Give the one that it was made for.") from error
    exact = model.dtype == torch.float32 and not is_quantized(model)
    return tuned.merge_and_unload(safe_merge=True) if exact else tuned


def sharing(model: torch.nn.Module, written: Collection[str] = ()) -> torch.nn.Module:
    """Return a model of its own modules on another's weights: what is put in a weight's place there is not seen here.

    Weights that will be `written` into, by their names, are copied.
    """
    apart = {id(found) for name, found in model.named_parameters(remove_duplicate=False) if name in written}
    held = {id(found): torch.nn.Parameter(found.data.clone() if id(found) in apart else found.data, requires_grad=False)
            for found in model.parameters()}
    return deepcopy(model, {**held, **{id(found): found for found in model.buffers()}})


def written_by(adapter: Path | str) -> set[str]:
    """Return the names of a base's own weights that loading an adapter overwrites: biases and embeddings that were trained."""
    need("peft", "local", "a model with a LoRA adapter")
    from peft.utils import load_peft_weights

    return {name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            for name in load_peft_weights(str(adapter), device="cpu")}


def can_share(model: torch.nn.Module) -> bool:
    """Tell whether modules may be copied around a model's weights: not where they are packed, or spread over devices."""
    return not is_quantized(model) and len(getattr(model, "hf_device_map", None) or ()) < 2


def is_quantized(model: torch.nn.Module) -> bool:
    """Tell whether a model's weights were made smaller."""
    return getattr(model.config, "quantization_config", None) is not None


def roughness(model: torch.nn.Module) -> str | None:
    """Return why a row's text may depend on the rows beside it, or None where it can't."""
    weights = "quantised" if is_quantized(model) else str(model.dtype).removeprefix("torch.")
    placed = "" if model.device.type == "cpu" else f" on a {model.device.type.upper()} device"
    return None if weights == "float32" and not placed else weights + placed


def load_tokenizer(model: Path | str, revision: str | None = None) -> Any:
    """Load a model's tokenizer; an adapter's folder without one uses its base's."""
    if is_adapter(model) and not has_tokenizer(model):
        return load_tokenizer(*pinned_base(model))
    return AutoTokenizer.from_pretrained(str(model), revision=revision)


def load_generation(model: Path | str, loaded: torch.nn.Module) -> GenerationConfig:
    """Return the generation config that goes with a model: an adapter folder's own, else its base's."""
    if is_adapter(model) and (Path(model) / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(model))
    return deepcopy(loaded.generation_config)


def _few(names: Collection[str]) -> str:
    """Return the first of many names."""
    told = ", ".join(sorted(names)[:NAMED])
    return told if len(names) <= NAMED else f"{told} and {len(names) - NAMED} more"


def _first_line(error: Exception) -> str:
    """Return what an error of a library says first, as the part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines or [type(error).__name__])[0].rstrip('.:')}."
