"""Which rows may share a batch with others, so that their text doesn't depend on these.

Most models don't see padding. Some read what stands before a row all the same (RWKV), and some turn positions by how long the
longest row is (longrope, dynamic NTK): their rows, or those that are long, go one by one.
"""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch

ANY = 1 << 40  # a reach that no row is beyond
TURNING = ("dynamic", "longrope")  # kinds of rotary positions that depend on the length of the whole batch
APART = 1e-3  # by which logits differ, as a part of the largest: more than rounding
ROUGHLY = 0.1  # the same in half precision

_tried: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()  # by input embeddings: a kept model is tried once


def reach(model: torch.nn.Module) -> int:
    """Return up to how many tokens, prompt and written ones, a row may be batched with others."""
    if model.config.is_encoder_decoder:
        return ANY
    inner = model.get_input_embeddings()  # is the same module in each copy of a model
    if inner not in _tried:
        _tried[inner] = 0 if reads_padding(model) else _before_turning(model.config.get_text_config())
    return _tried[inner]


def _before_turning(config: Any) -> int:
    """Return the length below which positions are turned alike in every batch."""
    told = getattr(config, "rope_parameters", None) or {}
    kinds = [one for one in (told, *told.values()) if isinstance(one, dict) and one.get("rope_type") in TURNING]
    limits = (one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
              or config.max_position_embeddings for one in kinds)
    return min(limits, default=ANY + 1) - 1  # at the limit itself, what a longer batch has left is not yet forgotten


@torch.inference_mode()
def reads_padding(model: torch.nn.Module) -> bool:
    """Tell by a trial whether a decoder's logits change where padding, told by a mask, stands before a text."""
    alone, padded = _logits(model, [3, 2], [1, 1]), _logits(model, [1, 1, 3, 2], [0, 0, 1, 1])
    most = APART if model.dtype == torch.float32 else ROUGHLY
    return bool((alone - padded).abs().max() > most * alone.abs().max())


def _logits(model: torch.nn.Module, text: list[int], mask: list[int]) -> torch.Tensor:
    ids, seen = (torch.tensor([row], device=model.device) for row in (text, mask))
    more = {"position_ids": (seen.cumsum(-1) - 1).clamp(min=0)} if "position_ids" in parameters(model) else {}
    return model(input_ids=ids, attention_mask=seen, use_cache=False, **more).logits[0, -1].float()


def parameters(model: torch.nn.Module) -> set[str]:
    """Return the names that a model's forward takes; an adapter on it hides them."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


@torch.inference_mode()
def forget(model: torch.nn.Module) -> None:
    """Have a model forget the longest text that it was run over, as dynamic NTK remembers it: a short one does that."""
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
