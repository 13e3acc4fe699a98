"""Odds ratio preference optimisation of a causal model (Hong et al. 2024, arXiv 2403.07691).

The loss is ours, on transformers' Trainer: TRL's is experimental, tokenises in a way of its own, and learns the prompts too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch.nn import functional
from transformers import Trainer, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddmake.trainers.common import (
    Progress,
    Settings,
    arguments,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
)
from ddmake.trainers.preference import Answers, Rows, Watching, paired, still
from ddmake.trainers.sums import mean

NEARLY_SURE = -1e-6  # a mean log-probability of 0 would have no odds


@dataclass(frozen=True)
class OddsRatio(Settings):
    """What such a training is made of."""

    beta: float = 0.1


def train(rows: Rows, validation: Rows | None, settings: OddsRatio, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `prompt`, `chosen` and `rejected`, and return the metrics.

    Raises DdmakeError for rows that can't be learned from.
    """
    hush()
    tokenizer, model = load_training_tokenizer(settings), still(load_base(settings))
    examples, held, notes = paired(rows, validation, Answers(settings, model, tokenizer), checkpoints)
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    if settings.peft is not None:
        transformers.set_seed(settings.seed)  # again: loading may have drawn
        model = peft.get_peft_model(model, lora_config(settings.peft, "CAUSAL_LM"))
    trainer = Preferring(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=TrainingArguments(**config, remove_unused_columns=False),
        data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
    )
    trainer.beta = settings.beta
    return run(trainer, settings, output, checkpoints, progress, notes | {"tokens": int(notes["tokens"] * settings.epochs)},
               shown=validation or rows)


class Preferring(Watching, Trainer):
    """A trainer by the odds ratio of chosen and rejected answers."""

    loss_is_scaled_for_ga = False  # a mean over the examples at once, so that the trainer divides by how often
    beta: float

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the mean loss of a batch's pairs, and note their accuracy and margin for the log."""
        chosen, rejected = mean_log_probabilities(model, inputs).chunk(2)
        rewards = self.beta * (chosen - rejected).detach()
        self.notes()["rewards/accuracies"].append((rewards > 0).float().mean().item())
        self.notes()["rewards/margins"].append(rewards.mean().item())
        return odds_ratio_loss(chosen, rejected, self.beta)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the means of what all processes have noted since."""
        super().log({**logs, **{name: mean(values) for name, values in self.notes().items()}}, start_time)
        self.notes().clear()


def mean_log_probabilities(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean log-probability of each answer's tokens; the chosen ones are the batch's first half."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits[:, :-1]
    told, learned = inputs["input_ids"][:, 1:], inputs["completion_mask"][:, 1:]
    found = -functional.cross_entropy(logits.float().transpose(1, 2), told, reduction="none")
    return (found * learned).sum(1) / learned.sum(1)


def odds_ratio_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the mean over pairs of the chosen answer's loss and, times beta, that of the ratio of odds (equations 6 and 7)."""
    odds = log_odds(chosen) - log_odds(rejected)
    return (-chosen - beta * functional.logsigmoid(odds)).mean()


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p))."""
    sure = log_probability.clamp(max=NEARLY_SURE)
    return sure - torch.log(-torch.expm1(sure))
