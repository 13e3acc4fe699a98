"""Supervised fine-tuning of an encoder-decoder (T5, BART), on transformers' Seq2SeqTrainer; TRL trains none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from ddmake.backends.models import prompt_ids
from ddmake.trainers.common import (
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
    """Fine-tune on rows of `prompt` and `completion`, or of `messages` of which the last is learned.

    Returns the metrics. Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), load_base(settings)
    encoder = Encoder(tokenizer, example_length(settings, model, tokenizer))
    model = adapted(model, settings)
    examples, counts = tokenize(rows, encoder, checkpoints / "tokens" / "train.arrow")
    held = tokenize(validation, encoder, checkpoints / "tokens" / "validation.arrow")[0] if validation else None
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    trainer = Supervised(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=Seq2SeqTrainingArguments(**config, predict_with_generate=False),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )
    tokens = sum(map(len, examples["input_ids"])) + sum(map(len, examples["labels"]))
    return run(trainer, settings, output, checkpoints, progress, {"tokens": int(tokens * settings.epochs), **counts})


def adapted(model: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    """Return the model with a fresh adapter, if one is asked for."""
    config = lora_config(settings.peft, "SEQ_2_SEQ_LM")
    if config is None:
        return model
    transformers.set_seed(settings.seed)  # again: loading may have drawn
    return peft.get_peft_model(model, config)


class Supervised(Seq2SeqTrainer):
    """transformers' trainer, but for this: evaluating draws nothing from the random state, so that it only watches."""

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None,
                 metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate as Seq2SeqTrainer does, and put the random state back."""
        with torch.random.fork_rng():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)


class Encoder:
    """Turns a row into the encoder's tokens and the decoder's labels, each cut at max_length."""

    def __init__(self, tokenizer: Any, length: int):
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return input_ids and labels, and whether either was cut."""
        messages, _ = turns_of(row)
        ids = prompt_ids(self.tokenizer, messages[:-1], "\n", encoder_decoder=True)
        labels = self._ended(self.tokenizer(text_target=messages[-1]["content"])["input_ids"])
        cut = len(ids) > self.length or len(labels) > self.length
        return {"input_ids": ids[:self.length], "labels": labels[:self.length], "cut": cut}

    def _ended(self, labels: list[int]) -> list[int]:
        """Return labels that end with the token that stops."""
        end = self.tokenizer.eos_token_id
        return labels if labels and labels[-1] == end else [*labels, end]
