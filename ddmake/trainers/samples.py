"""What a model that was just trained writes: a few prompts, answered greedily, for a reader to look at."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import GenerationConfig, Trainer

from ddmake.backends.hf import context_window
from ddmake.backends.models import prompt_ids

SAMPLES = "samples.jsonl"
MOST = 5  # prompts
LONGEST = 64  # tokens of an answer
ANSWERS = ("completion", "chosen")  # columns of what was to be written


def write(trainer: Trainer, rows: datasets.Dataset, separator: str, output: Path) -> None:
    """Write `prompt`, `reference` and `answer` for some rows, one a line; a printed line where the model gives none."""
    try:
        found = drawn(trainer, rows, separator)
    except Exception as error:  # whatever it is, the model is trained
        print(f"no {SAMPLES}: {type(error).__name__}: {error}", flush=True)
        return
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
    (output / SAMPLES).write_text(lines, encoding="utf-8")


def drawn(trainer: Trainer, rows: datasets.Dataset, separator: str) -> list[dict[str, str]]:
    """Return what a model answers to the first rows whose prompts are short enough."""
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model).eval(), trainer.processing_class
    room = context_window(model.config, tokenizer) - LONGEST
    encoder_decoder = bool(model.config.is_encoder_decoder)
    asked = ((prompt_ids(tokenizer, turns, separator, encoder_decoder), turns, told) for turns, told in map(shown, rows) if told)
    chosen = list(islice((one for one in asked if 0 < len(one[0]) <= room), MOST))
    written = answers(trainer, model, [ids for ids, _, _ in chosen]) if chosen else []
    return [{"prompt": turns[-1]["content"], "reference": told, "answer": answer}
            for (_, turns, told), answer in zip(chosen, written, strict=True)]


def shown(row: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, str]], str | None]:
    """Return what a row asks, and the answer that was wanted; None where it has none."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1]["content"] if len(row["messages"]) > 1 else None
    turns = [{"role": "user", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
    return turns, next((row[name] for name in ANSWERS if name in row), None) if row.get("label", True) else None


def answers(trainer: Trainer, model: torch.nn.Module, prompts: list[list[int]]) -> list[str]:
    """Return what a model writes after the tokens of some prompts, greedily and all at once."""
    told = model.generation_config
    greedy = GenerationConfig(do_sample=False, max_new_tokens=LONGEST, use_cache=True, eos_token_id=told.eos_token_id,
                              pad_token_id=told.pad_token_id, decoder_start_token_id=told.decoder_start_token_id)
    with torch.random.fork_rng(), torch.no_grad(), trainer.accelerator.autocast():
        given = trainer.processing_class.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
        found = model.generate(**given, generation_config=greedy)
    written = found if model.config.is_encoder_decoder else found[:, given["input_ids"].shape[1]:]
    return trainer.processing_class.batch_decode(written, skip_special_tokens=True)
