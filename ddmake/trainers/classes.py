"""Sequence classifiers, on transformers' Trainer: a body that was trained before, and a head with a number for each label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import torch
import transformers
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, EvalPrediction, Trainer, TrainingArguments

from ddmake.backends.encoders import positions
from ddmake.backends.heads import HEADS, LABELS, ONE, SEVERAL
from ddmake.backends.loading import load_tokenizer
from ddmake.backends.models import is_adapter
from ddmake.errors import DdmakeError
from ddmake.trainers.common import Progress, Settings, arguments, hush, lora_config, run, tokenize
from ddmake.trainers.evaluating import Inputs, Means, Weighed
from ddmake.trainers.watching import Watching

Rows = datasets.Dataset


@dataclass(frozen=True)
class Labelled(Settings):
    """What such a training is made of. Of `labels` several may hold of a text; `weights` are in their order."""

    labels: tuple[str, ...] = ()
    several: bool = False
    weights: tuple[float, ...] = ()


def train(rows: Rows, validation: Rows | None, settings: Labelled, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `text`, perhaps `pair`, and `labels`: a label's number, or a number of 0 or 1 for each label.

    Returns the metrics. Raises DdmakeError for rows that can't be learned from, and a base that no classifier is known of.
    """
    hush()
    tokenizer, (model, fresh) = load_readers_tokenizer(settings), load(settings)
    tokenizer.model_max_length = text_length(settings, model, tokenizer)  # texts are cut at work as they were in training
    model.config.pad_token_id = tokenizer.pad_token_id  # by which a decoder finds where a text ends
    encode = Encoder(tokenizer)
    names = [name for name in encode(rows[0]) if name not in ("attention_mask", "cut")]  # the former comes with padding
    files = [checkpoints / "tokens" / f"{part}.arrow" for part in ("train", "validation")]
    examples, counts = tokenize(rows, encode, files[0], names, ("input_ids",))
    held = tokenize(validation, encode, files[1], names, ("input_ids",))[0] if validation else None
    model = adapted(model, settings, fresh)
    trainer = Classifying(
        model=model, processing_class=tokenizer, train_dataset=examples, eval_dataset=held,
        args=TrainingArguments(**arguments(settings, model, len(examples), held is not None, checkpoints)),
        data_collator=DataCollatorWithPadding(tokenizer), compute_loss_func=Loss(settings),
    )
    trainer.several = settings.several
    tokens = sum(map(len, examples["input_ids"])) * settings.epochs
    metrics = run(trainer, settings, output, checkpoints, progress, {"tokens": int(tokens), **counts})
    if settings.peft is not None and trainer.is_world_process_zero():
        told = {"labels": settings.labels, "several": settings.several}
        (output / LABELS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return metrics


def load_readers_tokenizer(settings: Settings) -> Any:
    """Load the tokenizer of a base that reads texts. Raises DdmakeError if it has nothing to pad with."""
    tokenizer = load_tokenizer(settings.base, settings.revision)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise DdmakeError(f"base {settings.base_name}: its tokenizer has neither a pad nor an eos token to make texts of a batch "
                          "alike in length with. Add one to the base's tokenizer.")
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def load(settings: Labelled) -> tuple[torch.nn.Module, list[str]]:
    """Load a base as a classifier in float32; with it the names of the modules that were drawn by the seed.

    Raises DdmakeError for a base that can't be one.
    """
    if is_adapter(settings.base):
        raise DdmakeError(f"base {settings.base_name} is an adapter alone, and a classifier begins with a whole model. Give the "
                          "model that it was made on, or one of all weights.")
    transformers.set_seed(settings.seed)
    numbers = dict(enumerate(settings.labels))
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            str(settings.base), revision=settings.revision, dtype=torch.float32, output_loading_info=True,
            id2label=numbers, label2id={label: number for number, label in numbers.items()},
            problem_type=SEVERAL if settings.several else ONE, ignore_mismatched_sizes=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DdmakeError(f"base {settings.base_name} can't be made a classifier: {str(error).splitlines()[0]}") from error
    body = f"{model.base_model_prefix}."
    drawn = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    lacking = sorted(name for name in drawn if name.startswith(body) and "pooler" not in name)
    if lacking:
        raise DdmakeError(f"base {settings.base_name} lacks the weights {', '.join(lacking[:5])}. Give the whole model.")
    return model, fresh(drawn, body)


def fresh(weights: set[str], body: str) -> list[str]:
    """Return the modules that weights belong to: of the body each by its name, and heads as a whole."""
    return sorted({name.rpartition(".")[0] if name.startswith(body) else name.partition(".")[0] for name in weights})


def text_length(settings: Settings, model: torch.nn.Module, tokenizer: Any) -> int:
    """Return how many tokens of a text are used: max_length, or what the model takes if that is less."""
    return min(length for length in (settings.max_length, positions(model), tokenizer.model_max_length) if length)


def adapted(model: torch.nn.Module, settings: Labelled, modules: Sequence[str]) -> torch.nn.Module:
    """Return the model with a fresh adapter, if one is asked for; what was drawn is trained and saved beside it."""
    config = lora_config(settings.peft, "SEQ_CLS")
    if config is None:
        return model
    config.modules_to_save = [name for name in modules if name not in HEADS]
    transformers.set_seed(settings.seed)  # again: loading may have drawn
    return peft.get_peft_model(model, config)


class Encoder:
    """Turns a row into tokens, cut where they are too many."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model is given of a row, and whether it was cut."""
        texts = [row[name] for name in ("text", "pair") if name in row]
        whole = self.tokenizer(*texts)
        cut = len(whole["input_ids"]) > self.tokenizer.model_max_length
        found = self.tokenizer(*texts, truncation=True) if cut else whole
        return {**found, "labels": row["labels"], "cut": cut}


class Loss:
    """Cross entropy, of one label or of each by itself: summed over rows and divided by how many the whole batch has.

    So it is the same however the batch is cut.
    """

    def __init__(self, settings: Labelled):
        self.several, self.weights = settings.several, torch.tensor(settings.weights or [1.0] * len(settings.labels))

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of some rows of a batch."""
        logits, weights = outputs.logits.float(), self.weights.to(labels.device)
        if self.several:
            total = functional.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="sum")
        else:
            total = (functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).sum()
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


class Classifying(Watching, Trainer):
    """transformers' trainer, which tells of an evaluation how many labels are right, too."""

    several: bool

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """Return the loss of some rows, and note of those that are evaluated what the model says."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not self.model.training:
            self.notes()["logits"].append(outputs.logits.float().cpu().numpy())
        return (loss, outputs) if return_outputs else loss

    def weighed(self, inputs: Inputs, means: Means) -> Weighed:
        """Return the loss of some rows, and how many labels are right: sums, which are compared with each other alone."""
        said = agreement(means.pop("logits"), inputs["labels"].cpu().numpy(), self.several)
        return super().weighed(inputs, means) | {name: (value, 1) for name, value in said.items()}

    def concluded(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is told of all rows."""
        return {"loss": means["loss"], **judged(means)}


def scores(found: EvalPrediction, several: bool) -> dict[str, float]:
    """Return the share of rows whose labels are all right, and F1 as the mean over labels that are said or true of a row."""
    return judged(agreement(found.predictions, found.label_ids, several))


def agreement(logits: np.ndarray, labels: np.ndarray, several: bool) -> dict[str, float]:
    """Return counts: of rows, of those whose labels are all right, and of each label being said and true, and said or true (twice
    where both).
    """
    if several:
        said, true = logits > 0, labels > 0
    else:
        every = np.arange(logits.shape[1])
        said, true = logits.argmax(1)[:, None] == every, labels[:, None] == every
    told = {"both": (said & true).sum(0), "either": said.sum(0) + true.sum(0)}
    return {"rows": len(said), "right": (said == true).all(1).sum(),
            **{f"{what} {label}": count for what, counts in told.items() for label, count in enumerate(counts)}}


def judged(told: Mapping[str, float]) -> dict[str, float]:
    """Return accuracy and F1, given what `agreement` tells of rows."""
    labels = [name.removeprefix("either ") for name in told if name.startswith("either ") and told[name]]
    each = [2 * told[f"both {label}"] / told[f"either {label}"] for label in labels]
    return {"accuracy": float(told["right"] / told["rows"]), "f1": float(np.mean(each)) if each else 1.0}
