"""A base in fewer bits, under an adapter that learns (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes.

The adapter is saved for the base as it was. What is rounded depends on nothing but the base's weights.
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import BitsAndBytesConfig

from ddmake.backends.loading import load_model, load_tokenizer
from ddmake.backends.models import is_adapter


def load_rounded(base: Path | str, revision: str | None, bits: str, dtype: str) -> torch.nn.Module:
    """Load a base, frozen, whose linear layers are rounded to "nf4", "fp4" or "int8"; they compute in `dtype`, as does all else.

    An adapter is merged in float32 before.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would tell of each layer that int8 is computed in float16
    if not is_adapter(base):
        return load_model(base, revision, dtype, quantize=rounding(bits, dtype)).requires_grad_(False)
    with TemporaryDirectory(prefix="ddmake-") as folder:
        load_model(base, revision, "float32").save_pretrained(folder)
        load_tokenizer(base, revision).save_pretrained(folder)
        return load_rounded(Path(folder), None, bits, dtype)


def rounding(bits: str, dtype: str) -> BitsAndBytesConfig:
    """Return how weights are rounded, each choice with a value of our own."""
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0, llm_int8_has_fp16_weight=False)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=bits, bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=getattr(torch, dtype))
