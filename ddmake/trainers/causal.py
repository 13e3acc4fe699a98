"""Supervised fine-tuning of a causal model, on TRL's SFTTrainer: the loss is taken on what the model should write.

Examples are tokenised here, in the way that `ddmake.backends.hf` asks the model later: the prompt's tokens are those
of the prompt alone, so none merges across the boundary, and the last token learned is one that stops.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from trl import SFTConfig, SFTTrainer

from ddmake.backends.hf import end_tokens
from ddmake.backends.models import prompt_ids
from ddmake.errors import DdmakeError
from ddmake.trainers import packing
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
from ddmake.trainers.evaluating import next_tokens
from ddmake.trainers.tokens import content_of
from ddmake.trainers.turns import Beside, Turn, turns_of


def train(rows: datasets.Dataset, validation: datasets.Dataset | None, settings: Settings, output: Path,
          checkpoints: Path, progress: Progress) -> dict[str, float]:
    """Fine-tune on rows of `prompt` and `completion`, or of `messages`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), load_base(settings)
    ends, length = end_tokens(model.generation_config, tokenizer), example_length(settings, model, tokenizer)
    encoder = Encoder(tokenizer, ends, settings, length)
    made_of = encoder.made_of()
    examples, counts = tokenize(rows, encoder, checkpoints / "tokens" / "train.arrow", made_of=made_of)
    held = tokenize(validation, encoder, checkpoints / "tokens" / "validation.arrow", made_of=made_of)[0] if validation else None
    notes = {"tokens": int(sum(map(len, examples["input_ids"])) * settings.epochs), **counts}
    if settings.packing:
        notes["examples"] = len(examples)
        examples = packing.packed(examples, length, checkpoints / "tokens" / "packs.arrow")
        notes["packs"] = len(examples)
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    trainer = Supervised(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=SFTConfig(**config, max_length=None, packing=False, padding_free=False, loss_type="nll",
                       completion_only_loss=False, shuffle_dataset=False),  # the labels say what is learned
        data_collator=packing.Collator(tokenizer.pad_token_id) if settings.packing else None,
        peft_config=lora_config(settings.peft, "CAUSAL_LM"),
    )
    if settings.packing:
        packing.need_apart(trainer.model, examples, settings.base_name)
    return run(trainer, settings, output, checkpoints, progress, notes, shown=validation or rows)


class Supervised(Watching, SFTTrainer):
    """TRL's trainer, watched."""

    items = staticmethod(next_tokens)


class Encoder:
    """Turns a row into tokens and labels; those of the prompt are left out of the loss."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], settings: Settings, length: int):
        self.tokenizer, self.ends, self.settings, self.length = tokenizer, ends, settings, length
        self.beside = Beside(tokenizer, settings.base_name)

    def made_of(self) -> dict[str, Any]:
        """Return what decides which tokens a row becomes."""
        return {"code": [__name__, Beside.__module__], "tokenizer": content_of(self.tokenizer), "ends": list(self.ends),
                "separator": self.settings.separator, "length": self.length}

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return input_ids and labels of the same length, and whether they were cut."""
        messages, first = turns_of(row)
        self.beside.check(messages)
        ids, labels = self._chat(messages, first) if self.tokenizer.chat_template else self._plain(messages)
        return {"input_ids": ids[:self.length], "labels": labels[:self.length], "cut": len(ids) > self.length}

    def _plain(self, messages: list[Turn]) -> tuple[list[int], list[int]]:
        """Return the tokens and labels of a prompt, the separator, and what follows it."""
        prompt = prompt_ids(self.tokenizer, messages[:-1], self.settings.separator, encoder_decoder=False)
        answer = self.tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        answer = [*answer, self.tokenizer.eos_token_id]
        return prompt + answer, [IGNORED] * len(prompt) + answer

    def _chat(self, messages: list[Turn], first: int) -> tuple[list[int], list[int]]:
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
