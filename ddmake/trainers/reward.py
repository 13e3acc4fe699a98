"""A reward model of pairs, on TRL's RewardTrainer: a causal model's body with one number for a head (Ouyang et al. 2022)."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from ddmake.errors import DdmakeError
from ddmake.trainers.common import (
    Progress,
    Settings,
    arguments,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
    tokenize,
)
from ddmake.trainers.preference import PAIR, Answers, Rows, Watching, still


@dataclass(frozen=True)
class Rewarding(Settings):
    """What such a training is made of."""

    center: float = 0.0


def train(rows: Rows, validation: Rows | None, settings: Rewarding, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `prompt`, `chosen`, `rejected` and perhaps `margin`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from, and a base that no classifier is known of.
    """
    hush()
    tokenizer, writer = load_training_tokenizer(settings), still(load_base(settings))
    encoded = Encoded(Answers(settings, writer, tokenizer))
    names = (*PAIR[1:], *(["margin"] if "margin" in rows.column_names else []))
    given, folder = (names, PAIR[1:], encoded.answers.made_of()), checkpoints / "tokens"
    examples, counts = tokenize(rows, encoded, folder / "train.arrow", *given)
    held = tokenize(validation, encoded, folder / "validation.arrow", *given)[0] if validation else None
    model = scoring(writer, settings)
    model.config.eos_token_id = writer.generation_config.eos_token_id  # by which `score` knows that an answer has ended
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    trainer = Scoring(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=RewardConfig(**config, max_length=None, center_rewards_coefficient=settings.center or None, disable_dropout=False),
        peft_config=lora_config(settings.peft, "SEQ_CLS"),
    )
    tokens = sum(len(ids) for name in PAIR[1:] for ids in examples[name])
    return run(trainer, settings, output, checkpoints, progress, {"tokens": int(tokens * settings.epochs), **counts})


def scoring(writer: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    """Return a sequence classifier of one output on a causal model's body, its head drawn by the seed.

    Raises DdmakeError for a kind of model that transformers has no classifier of.
    """
    config = deepcopy(writer.config)
    config.num_labels, config.architectures = 1, None
    try:
        with torch.device("meta"):  # the body's weights are there already
            model = AutoModelForSequenceClassification.from_config(config, dtype=writer.dtype)
    except ValueError as error:
        raise DdmakeError(f"base {settings.base_name}: transformers has no sequence classifier of a {config.model_type}. "
                          "Take a base of another kind.") from error
    body = model.base_model_prefix
    setattr(model, body, getattr(writer, body))
    transformers.set_seed(settings.seed)
    for module in model.modules():
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            draw(module.to_empty(device="cpu", recurse=False), getattr(config.get_text_config(), "initializer_range", 0.02))
    return model


def draw(head: torch.nn.Module, spread: float) -> None:
    """Draw a head's weights; its biases are zero."""
    for weight in head.parameters(recurse=False):
        torch.nn.init.zeros_(weight) if weight.dim() < 2 else torch.nn.init.normal_(weight, std=spread)


class Encoded:
    """Turns a row into the tokens of its two conversations; of a row where either is too long nothing is left."""

    def __init__(self, answers: Answers):
        self.answers = answers

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tokens, and the margin if there is one. None is cut, for a reward is read at the end."""
        pair = self.answers.pair(row)
        if pair["cut"]:
            return {"chosen_ids": [], "rejected_ids": [], "margin": 0.0, "cut": False}
        whole = {name: pair["prompt_ids"] + pair[name] for name in PAIR[1:]}
        return {**whole, "margin": row.get("margin", 0.0), "cut": False}


class Scoring(Watching, RewardTrainer):
    """TRL's trainer, on rows that are tokens."""
