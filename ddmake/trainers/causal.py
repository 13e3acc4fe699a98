"""Supervised fine-tuning of a causal model, on TRL's SFTTrainer: the loss is taken on what the model should write.

Examples are tokenised here, in the way that `ddmake.backends.hf` asks the model later: the prompt's tokens are those
of the prompt alone, so none merges across the boundary, and the last token learned is one that stops.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from trl import SFTConfig, SFTTrainer

from ddmake.backends.hf import end_tokens
from ddmake.backends.models import prompt_ids
from ddmake.errors import DdmakeError
from ddmake.trainers.common import (
    IGNORED,
    Progress,
    Settings,
    arguments,
    example_length,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
    tokenize,
    turns_of,
)


def train(rows: datasets.Dataset, validation: datasets.Dataset | None, settings: Settings, output: Path,
          checkpoints: Path, progress: Progress) -> dict[str, float]:
    """Fine-tune on rows of `prompt` and `completion`, or of `messages`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), load_base(settings)
    ends, length = end_tokens(model.generation_config, tokenizer), example_length(settings, model, tokenizer)
    encoder = Encoder(tokenizer, ends, settings, length)
    examples, counts = tokenize(rows, encoder, checkpoints / "tokens" / "train.arrow")
    held = tokenize(validation, encoder, checkpoints / "tokens" / "validation.arrow")[0] if validation else None
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    trainer = Supervised(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=SFTConfig(**config, max_length=None, packing=False, padding_free=False, loss_type="nll",
                       completion_only_loss=False, shuffle_dataset=False),  # the labels say what is learned
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    tokens = sum(map(len, examples["input_ids"])) * settings.epochs
    return run(trainer, settings, output, checkpoints, progress, {"tokens": int(tokens), **counts})


class Supervised(SFTTrainer):
    """TRL's trainer, but for this: evaluating draws nothing from the random state, so that it only watches."""

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None,
                 metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate as SFTTrainer does, and put the random state back."""
        with torch.random.fork_rng():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)


class Encoder:
    """Turns a row into tokens and labels; those of the prompt are left out of the loss."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], settings: Settings, length: int):
        self.tokenizer, self.ends, self.settings, self.length = tokenizer, ends, settings, length

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return input_ids and labels of the same length, and whether they were cut."""
        messages, first = turns_of(row)
        ids, labels = self._chat(messages, first) if self.tokenizer.chat_template else self._plain(messages)
        return {"input_ids": ids[:self.length], "labels": labels[:self.length], "cut": len(ids) > self.length}

    def _plain(self, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
        """Return the tokens and labels of a prompt, the separator, and what follows it."""
        prompt = prompt_ids(self.tokenizer, messages[:-1], self.settings.separator, encoder_decoder=False)
        answer = self.tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        answer = [*answer, self.tokenizer.eos_token_id]
        return prompt + answer, [IGNORED] * len(prompt) + answer

    def _chat(self, messages: list[dict[str, str]], first: int) -> tuple[list[int], list[int]]:
        """Return the tokens and labels of a conversation: every assistant turn from the first given on is learned.

        Raises DdmakeError where the chat template renders a turn otherwise once others follow it.
        """
        ids, labels = [], []
        for place in range(first, len(messages)):
            if messages[place]["role"] != "assistant":
                continue
            before = prompt_ids(self.tokenizer, messages[:place], self.settings.separator, encoder_decoder=False)
            after = self.tokenizer.apply_chat_template(messages[:place + 1], tokenize=True, return_dict=False)
            if before[:len(ids)] != ids or after[:len(before)] != before:
                raise DdmakeError(f"base {self.settings.base_name}: its chat template renders a prompt differently once "
                                  "its answer follows. Give one answer a row, or another template.")
            labels += [IGNORED] * (len(before) - len(labels)) + after[len(before):]
            ids = after
        if not any(token in self.ends for token in after[len(before):]):
            ids, labels = [*ids, self.tokenizer.eos_token_id], [*labels, self.tokenizer.eos_token_id]
        return ids, labels
