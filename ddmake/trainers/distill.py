"""Distillation of a causal model: on given answers it learns a teacher's probabilities, token by token.

The loss is ours, on transformers' Trainer: TRL's DistillationTrainer has the student write the answers. What is learned are the
tokens that fine-tuning learns, in the same form.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
from torch.nn import functional
from transformers import Trainer, TrainingArguments
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ddmake.backends.hf import context_window, end_tokens
from ddmake.backends.loading import load_model, load_tokenizer
from ddmake.errors import DdmakeError
from ddmake.trainers.causal import Encoder
from ddmake.trainers.common import (
    IGNORED,
    Progress,
    Settings,
    Watching,
    arguments,
    example_length,
    half,
    hush,
    load_base,
    load_training_tokenizer,
    lora_config,
    run,
    tokenize,
)
from ddmake.trainers.evaluating import next_tokens


@dataclass(frozen=True)
class Distilled(Settings):
    """What such a training is made of."""

    teacher: Path | str = ""
    teacher_name: str = ""
    temperature: float = 1.0
    beta: float = 0.0  # 0: KL(teacher || student), 1: KL(student || teacher), between: of Jensen and Shannon
    alpha: float = 1.0  # the teacher's share of the loss; the rest is fine-tuning's


def train(rows: datasets.Dataset, validation: datasets.Dataset | None, settings: Distilled, output: Path,
          checkpoints: Path, progress: Progress) -> dict[str, Any]:
    """Learn from rows of `prompt` and `completion`, or of `messages`, and return the metrics.

    Raises DdmakeError for a teacher with another vocabulary, and for rows that can't be learned from.
    """
    hush()
    tokenizer = load_training_tokenizer(settings)
    teacher, model = load_teacher(settings, tokenizer), load_base(settings)
    length = min(example_length(settings, model, tokenizer), context_window(teacher.config, tokenizer))
    encoder = Encoder(tokenizer, end_tokens(model.generation_config, tokenizer), settings, length)
    made_of = encoder.made_of()
    examples, counts = tokenize(rows, encoder, checkpoints / "tokens" / "train.arrow", made_of=made_of)
    held = tokenize(validation, encoder, checkpoints / "tokens" / "validation.arrow", made_of=made_of)[0] if validation else None
    config = arguments(settings, model, len(examples), held is not None, checkpoints)
    if settings.peft is not None:
        transformers.set_seed(settings.seed)  # again: loading may have drawn
        model = peft.get_peft_model(model, lora_config(settings.peft, "CAUSAL_LM"))
    trainer = Distilling(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=TrainingArguments(**config, remove_unused_columns=False),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
    )
    trainer.learn_of(teacher, settings, pieces(tokenizer))
    notes = {"tokens": int(sum(map(len, examples["input_ids"])) * settings.epochs), **counts}
    return run(trainer, settings, output, checkpoints, progress, notes, shown=validation or rows)


def load_teacher(settings: Distilled, tokenizer: Any) -> torch.nn.Module:
    """Load the teacher, which learns nothing. Raises DdmakeError if its vocabulary isn't the student's."""
    theirs = load_tokenizer(settings.teacher).get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        raise DdmakeError(f"teacher {settings.teacher_name} has another vocabulary ({len(theirs):,} pieces) than base "
                          f"{settings.base_name} ({len(ours):,}). Have it write answers by transform(), and finetune() on these.")
    dtype = "bfloat16" if torch.cuda.is_available() and half(settings) else "float32"
    return load_model(settings.teacher, None, dtype).requires_grad_(False).eval()


def pieces(tokenizer: Any) -> int:
    """Return how many of a model's outputs stand for something: some models have more, to fill up."""
    return max(tokenizer.get_vocab().values()) + 1


class Distilling(Watching, Trainer):
    """A trainer by a teacher's probabilities."""

    items = staticmethod(next_tokens)
    loss_is_scaled_for_ga = True  # by the tokens of a whole batch
    teacher: torch.nn.Module
    settings: Distilled
    pieces: int

    def learn_of(self, teacher: torch.nn.Module, settings: Distilled, pieces: int) -> None:
        """Say of whom is learned, and how."""
        self.teacher, self.settings, self.pieces = teacher.to(self.args.device), settings, pieces
        self.model_accepts_loss_kwargs = True  # so that a batch's tokens are counted

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of some examples, as a share of the mean over the tokens that their whole batch learns."""
        labels = inputs["labels"][:, 1:]
        learned = labels != IGNORED
        given = {name: value for name, value in inputs.items() if name != "labels"}
        ours = model(**given, use_cache=False).logits[:, :-1][learned][:, :self.pieces]
        with torch.no_grad():
            theirs = self.teacher(**given, use_cache=False).logits[:, :-1][learned][:, :self.pieces]
        total = taught(ours, theirs, labels[learned], self.settings)
        if num_items_in_batch is None:
            return total / learned.sum()
        return total / num_items_in_batch * self.args.world_size  # the processes' gradients are averaged


def taught(ours: torch.Tensor, theirs: torch.Tensor, labels: torch.Tensor, settings: Distilled) -> torch.Tensor:
    """Return the loss, summed over tokens, of logits (tokens × pieces): the teacher's part, and the labels'.

    A temperature makes the former's gradients smaller by its square, which is made up for (Hinton et al. 2015, section 2).
    """
    soft, heat = settings.alpha, settings.temperature
    found = soft * heat**2 * divergence(ours.float() / heat, theirs.float() / heat, settings.beta).sum() if soft else 0.0
    return found + (1 - soft) * functional.cross_entropy(ours.float(), labels, reduction="sum") if soft < 1 else found


def divergence(ours: torch.Tensor, theirs: torch.Tensor, beta: float) -> torch.Tensor:
    """Return each token's divergence between teacher and student (Agarwal et al. 2023, equation 1), given logits.

    It is the generalised one of Jensen and Shannon, whose ends are those of Kullback and Leibler: from the teacher, and from the
    student.
    """
    student, teacher = ours.log_softmax(-1), theirs.log_softmax(-1)
    if beta in (0, 1):
        return _kl(teacher, student) if beta == 0 else _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log(1 - beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(of: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return (of.exp() * (of - by)).sum(-1)
