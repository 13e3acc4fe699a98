"""Supervised fine-tuning of an encoder-decoder (T5, BART), on transformers' Seq2SeqTrainer; TRL trains none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from ddmake.backends.models import prompt_ids
from ddmake.trainers.common import (
    IGNORED,
    Progress,
    Settings,
    Watching,
    arguments,
    example_length,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
    tokenize,
)
from ddmake.trainers.evaluating import label_tokens
from ddmake.trainers.tokens import content_of
from ddmake.trainers.turns import Beside, turns_of


def train(rows: datasets.Dataset, validation: datasets.Dataset | None, settings: Settings, output: Path,
          checkpoints: Path, progress: Progress) -> dict[str, float]:
    """Fine-tune on rows of `prompt` and `completion`, or of `messages` of which the last is learned.

    Returns the metrics. Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), load_base(settings)
    encoder = Encoder(tokenizer, settings, example_length(settings, model, tokenizer))
    model = adapted(model, settings)
    made_of = encoder.made_of()
    examples, counts = tokenize(rows, encoder, checkpoints / "tokens" / "train.arrow", made_of=made_of)
    held = tokenize(validation, encoder, checkpoints / "tokens" / "validation.arrow", made_of=made_of)[0] if validation else None
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    trainer = Supervised(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=Seq2SeqTrainingArguments(**config, predict_with_generate=False),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model), compute_loss_func=token_loss,
    )
    tokens = sum(map(len, examples["input_ids"])) + sum(map(len, examples["labels"]))
    return run(trainer, settings, output, checkpoints, progress, {"tokens": int(tokens * settings.epochs), **counts},
               shown=validation or rows)


def token_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """Return the mean loss of the tokens of a whole batch, however that is cut: a T5's own is that of what is taken at once."""
    losses = functional.cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return losses / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def adapted(model: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    """Return the model with a fresh adapter, if one is asked for."""
    config = lora_config(settings.peft, "SEQ_2_SEQ_LM")
    if config is None:
        return model
    transformers.set_seed(settings.seed)  # again: loading may have drawn
    return peft.get_peft_model(model, config)


class Supervised(Watching, Seq2SeqTrainer):
    """transformers' trainer, watched."""

    items = staticmethod(label_tokens)


class Encoder:
    """Turns a row into the encoder's tokens and the decoder's labels, each cut at max_length."""

    def __init__(self, tokenizer: Any, settings: Settings, length: int):
        self.tokenizer, self.length, self.beside = tokenizer, length, Beside(tokenizer, settings.base_name)

    def made_of(self) -> dict[str, Any]:
        """Return what decides which tokens a row becomes."""
        return {"code": [__name__, Beside.__module__], "tokenizer": content_of(self.tokenizer), "length": self.length}

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return input_ids and labels, and whether either was cut."""
        messages, _ = turns_of(row)
        self.beside.check(messages)
        ids = prompt_ids(self.tokenizer, messages[:-1], "\n", encoder_decoder=True)
        labels = self._ended(self.tokenizer(text_target=messages[-1]["content"])["input_ids"])
        cut = len(ids) > self.length or len(labels) > self.length
        return {"input_ids": ids[:self.length], "labels": labels[:self.length], "cut": cut}

    def _ended(self, labels: list[int]) -> list[int]:
        """Return labels that end with the token that stops."""
        end = self.tokenizer.eos_token_id
        return labels if labels and labels[-1] == end else [*labels, end]
