"""Classifiers from a few examples: an embedder learns which of them are alike, then a head which label a vector has.

As SetFit does (Tunstall et al. 2022, arXiv 2209.11055). The head is the last module of the embedder, so that what the whole
makes of a text is a number for each label.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sklearn.linear_model import LogisticRegression

from ddmake.backends.heads import LABELS
from ddmake.errors import DdmakeError
from ddmake.trainers import classes, vectors
from ddmake.trainers.common import Progress, Settings, hush, run

Rows = datasets.Dataset
NEVER = -20.0  # the number of a label that no example has
TRIES = 1000  # of the head's optimiser


@dataclass(frozen=True)
class Few(Settings):
    """What such a training is made of."""

    max_length: int | None = None  # None: as the base has it
    labels: tuple[str, ...] = ()
    several: bool = False
    rounds: int = 20  # pairs of each kind that are drawn for an example


def train(rows: Rows, validation: Rows | None, settings: Few, output: Path, checkpoints: Path,
          progress: Progress) -> dict[str, float]:
    """Learn from rows of `text` and `labels`, as `classes` takes them, and return the metrics."""
    hush()
    pairs = drawn(rows, settings)
    model = vectors.load(settings)
    placing = vectors.Placing(**{field.name: getattr(settings, field.name) for field in fields(Settings)}, loss="cosine")
    trainer = vectors.trainer_of(model, pairs, None, placing, checkpoints)
    notes = {"examples": len(rows), "pairs": len(pairs), "cut": vectors.counted(rows, model)["cut"]}
    return run(trainer, settings, output, checkpoints, progress, notes, saves=partial(save, rows=rows, validation=validation))


def drawn(rows: Rows, settings: Few) -> Rows:
    """Return pairs of examples, as many alike as not: for each example `rounds` of both, where there are others of such kinds."""
    draw, texts = random.Random(settings.seed), rows["text"]
    labels = [sets_of(label) for label in rows["labels"]]
    found = []
    for number, mine in enumerate(labels):
        alike = [other for other, its in enumerate(labels) if other != number and mine & its]
        unlike = [other for other, its in enumerate(labels) if other != number and not mine & its]
        for others, score in ((alike, 1.0), (unlike, 0.0)):
            for other in draw.choices(others, k=settings.rounds) if others else ():
                found.append({"anchor": texts[number], "positive": texts[other], "score": score})
    if not found:
        raise DdmakeError("few_shot_classifier: no two examples make a pair. Give more examples of each label.")
    return datasets.Dataset.from_list(found)


def sets_of(label: int | Sequence[float]) -> set[int]:
    """Return the numbers of a row's labels."""
    return {label} if isinstance(label, int) else {number for number, one in enumerate(label) if one}


def save(trainer: Any, settings: Few, output: Path, whole: Any, *, rows: Rows, validation: Rows | None) -> dict[str, float]:
    """Fit the head, fill the model folder, and return how well validation rows are told apart."""
    model: SentenceTransformer = trainer.accelerator.unwrap_model(trainer.model)
    model.append(head(encoded(model, rows), rows["labels"], settings))
    vectors.write(model, output)
    told = {"labels": settings.labels, "several": settings.several}
    (output / LABELS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if validation is None:
        return {}
    said = SimpleNamespace(predictions=encoded(model, validation), label_ids=np.array(validation["labels"]))
    return {f"eval_{name}": value for name, value in classes.scores(said, settings.several).items()}


def encoded(model: SentenceTransformer, rows: Rows) -> np.ndarray:
    """Return what a model makes of texts."""
    return model.eval().encode(list(rows["text"]), show_progress_bar=False)


def head(found: np.ndarray, labels: Sequence[Any], settings: Few) -> Dense:
    """Return a layer that makes numbers of vectors, a label each, fitted by logistic regression."""
    truth = np.array(labels)
    if settings.several:
        fitted = [fit(found, column) for column in truth.T > 0]
    else:
        fitted = fit_all(found, truth, len(settings.labels))
    weight, bias = (torch.tensor(np.array(part), dtype=torch.float32) for part in zip(*fitted, strict=True))
    return Dense(found.shape[1], len(weight), activation_function=torch.nn.Identity(), init_weight=weight, init_bias=bias)


def fit(found: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights and the bias of one label that may hold or not, whatever others do."""
    if held.all() or not held.any():
        return np.zeros(found.shape[1]), -NEVER if held.all() else NEVER
    fitted = LogisticRegression(max_iter=TRIES).fit(found, held)
    return fitted.coef_[0], fitted.intercept_[0]


def fit_all(found: np.ndarray, truth: np.ndarray, labels: int) -> list[tuple[np.ndarray, float]]:
    """Return the weights and the bias of each label, of which one holds."""
    fitted = LogisticRegression(max_iter=TRIES).fit(found, truth)
    weights, biases = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # of which the second is told
        weights, biases = np.concatenate([-weights / 2, weights / 2]), np.concatenate([-biases / 2, biases / 2])
    known = dict(zip(fitted.classes_.tolist(), zip(weights, biases)))
    return [known.get(number, (np.zeros(found.shape[1]), NEVER)) for number in range(labels)]
