"""Reward models on this machine: a number for each answer, read at the end of prompt and answer, as they were trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from ddmake.backends.encoders import positions
from ddmake.backends.heads import opened
from ddmake.backends.hf import end_tokens
from ddmake.backends.hub import pinned_base
from ddmake.backends.loading import writes
from ddmake.backends.models import is_adapter, plain_text, prompt_ids, separator_of
from ddmake.errors import DdmakeError

Turns = Sequence[Mapping[str, Any]]  # chat messages
MOST = 10**6  # tokens: whoever states more states no limit


@dataclass(frozen=True)
class Rewarder:
    """A loaded reward model. An answer longer than `max_length` tokens, prompt and all, has no reward."""

    model: torch.nn.Module
    tokenizer: Any
    ends: tuple[int, ...]
    max_length: int | None
    batch_size: int


def load(folder: Path, dtype: str | None, max_length: int | None, batch_size: int) -> Rewarder:
    """Load a reward model from its folder. Raises DdmakeError for a model that gives no single number."""
    model, tokenizer = opened(folder, getattr(torch, dtype or "float32"), "score")
    if model.config.num_labels != 1:
        raise DdmakeError(f"score: {folder} is a classifier of {model.config.num_labels} labels, and a score is one number. Give "
                          "a model that reward_model made, or ask this one by classify.")
    if tokenizer.pad_token_id is None and model.config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    model.config.pad_token_id = tokenizer.pad_token_id  # by which a decoder finds where a text ends
    limit = min((length for length in (max_length, positions(model), tokenizer.model_max_length) if length), default=MOST)
    return Rewarder(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, tuple(_ends(folder, model, tokenizer)),
                    limit if limit < MOST else None, batch_size if tokenizer.pad_token_id is not None else 1)


def _ends(folder: Path, model: torch.nn.Module, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer of the model that was trained: its base's under an adapter, else its config's."""
    base, revision = pinned_base(folder) if is_adapter(folder) else (folder, None)
    try:
        return end_tokens(GenerationConfig.from_pretrained(str(base), revision=revision), tokenizer)
    except OSError:  # it has none
        return end_tokens(model.config, tokenizer)


def rewards(rewarder: Rewarder, prompts: Sequence[Turns], answers: Sequence[str]) -> Iterator[float | None]:
    """Yield a number for each answer to its prompt; None for one that is too long, since a reward is read at a text's end."""
    ids = [spoken(rewarder, turns, answer) for turns, answer in zip(prompts, answers, strict=True)]
    found: list[float | None] = [None] * len(ids)
    fit = [number for number, one in enumerate(ids) if rewarder.max_length is None or len(one) <= rewarder.max_length]
    order = sorted(fit, key=lambda number: -len(ids[number]))
    for start in range(0, len(order), rewarder.batch_size):
        some = order[start:start + rewarder.batch_size]
        for number, score in zip(some, _scores(rewarder, [ids[number] for number in some]), strict=True):
            found[number] = float(score)
    odd = next((number for number, score in enumerate(found) if score is not None and not np.isfinite(score)), None)
    if odd is not None:
        raise DdmakeError(f"score: for an answer of {len(ids[odd])} tokens the model gives {found[odd]}, which is no score. Look "
                          "at its weights, or state dtype=\"float32\".")
    yield from found


def spoken(rewarder: Rewarder, turns: Turns, answer: str) -> list[int]:
    """Return prompt and answer as the tokens that a reward model is trained on; an encoder reads them as a pair of texts."""
    tokenizer = rewarder.tokenizer
    if tokenizer.chat_template:
        before = prompt_ids(tokenizer, turns, "", encoder_decoder=False)
        whole = [*map(dict, turns), {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
        ended = tokenizer.eos_token_id is None or any(token in rewarder.ends for token in ids[len(before):])
        return ids if ended else [*ids, tokenizer.eos_token_id]
    if not writes(rewarder.model.config):
        return tokenizer(plain_text(turns, "\n", encoder_decoder=True), answer)["input_ids"]
    prompt = prompt_ids(tokenizer, turns, separator_of(tokenizer.init_kwargs), encoder_decoder=False)
    return [*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _scores(rewarder: Rewarder, ids: list[list[int]]) -> np.ndarray:
    """Return the model's number for each text of a batch."""
    batch = {"input_ids": ids}
    padded = rewarder.tokenizer.pad(batch, return_tensors="pt", padding=len(ids) > 1)
    with torch.inference_mode():
        return rewarder.model(**padded.to(rewarder.model.device)).logits[:, 0].float().cpu().numpy()
