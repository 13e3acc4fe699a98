"""Sequence classifiers on this machine, through transformers: what they make of texts, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ddmake.artifacts.rows import read
from ddmake.backends.models import need, read_json
from ddmake.errors import DdmakeError

HEAD = "ForSequenceClassification"  # what the classes of such models are named like
ROWS = 4096  # that are sorted by length at once


@dataclass(frozen=True)
class Asked:
    """What is asked of a classifier: about which columns, and what becomes of its answers."""

    text: str
    pair: str | None
    column: str
    probabilities: bool
    threshold: float


@dataclass(frozen=True)
class Classifier:
    """A loaded model and its labels, none where it gives a number; `several` may hold at once."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    several: bool
    max_length: int
    batch_size: int


def load(folder: Path, labels: Sequence[str] | None, dtype: str | None, max_length: int | None, batch_size: int) -> Classifier:
    """Load a classifier from its folder. Raises DdmakeError for a model that is none, or has another number of labels."""
    kinds = read_json(Path(folder), "config.json").get("architectures") or []
    if not any(HEAD in kind for kind in kinds):
        what = f"it is a {kinds[0]}" if kinds else "its config.json names no architecture"
        raise DdmakeError(f"classify: {folder} holds no sequence classifier: {what}. Give a model that was trained to classify.")
    for package in ("torch", "transformers"):
        need(package, "local", "classify")
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kept = getattr(torch, dtype or "float32", None)
    if not isinstance(kept, torch.dtype):
        raise DdmakeError(f"classify: dtype={dtype!r} is none of torch's. Write float32 or bfloat16.")
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=kept).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    names = _names(model.config, labels)
    limit = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return Classifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, names,
                      model.config.problem_type == "multi_label_classification",
                      min(max_length or limit, limit, tokenizer.model_max_length), batch_size)


def _names(config: Any, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels' names in the model's order; none for a model with one output."""
    if labels is not None and len(labels) != config.num_labels:
        raise DdmakeError(f"classify: labels= names {len(labels)}, and the model has {config.num_labels}: "
                          f"{', '.join(config.id2label.values())}.")
    if config.num_labels == 1:
        return ()
    return tuple(labels or (config.id2label[number] for number in range(config.num_labels)))


def classified(rows: Any, classifier: Classifier, asked: Asked) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows with what the classifier says of them."""
    for batch in read(rows, size=ROWS):
        texts = [batch.column(name).to_pylist() for name in (asked.text, asked.pair) if name is not None]
        there = [number for number in range(batch.num_rows) if all(column[number] is not None for column in texts)]
        scores = _scores(classifier, [[str(column[number]) for number in there] for column in texts])
        columns = dict(zip(batch.schema.names, batch.columns))
        columns |= _columns(classifier, asked, scores, np.array(there, int), batch.num_rows)
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _scores(classifier: Classifier, columns: list[list[str]]) -> np.ndarray:
    """Return the model's outputs for texts, or pairs of them, the longest first: texts × outputs."""
    import torch

    count = len(columns[0])
    order = sorted(range(count), key=lambda number: -sum(len(column[number]) for column in columns))
    found = np.zeros((count, max(1, len(classifier.labels))), np.float32)
    for start in range(0, count, classifier.batch_size):
        some = order[start:start + classifier.batch_size]
        tokens = classifier.tokenizer(*([column[number] for number in some] for column in columns), padding=True,
                                      truncation=True, max_length=classifier.max_length, return_tensors="pt")
        with torch.inference_mode():
            found[some] = classifier.model(**tokens.to(classifier.model.device)).logits.float().cpu().numpy()
    return found


def _columns(classifier: Classifier, asked: Asked, scores: np.ndarray, there: np.ndarray, count: int) -> dict[str, pa.Array]:
    """Return the columns for so many rows, of which those there have scores."""
    rows: list[Any] = [None] * count
    names, told = classifier.labels, list(rows)
    shares = _probabilities(scores, classifier.several)
    for number, share, score in zip(there, shares, scores):
        told[number] = {name: float(one) for name, one in zip(names, share)}
        if not names:
            rows[number] = float(score[0])
        elif classifier.several:
            rows[number] = [name for name, one in zip(names, share) if one >= asked.threshold]
        else:
            rows[number] = names[int(score.argmax())]
    kind = pa.float64() if not names else pa.list_(pa.string()) if classifier.several else pa.string()
    found = {asked.column: pa.array(rows, kind)}
    if asked.probabilities and names:
        found[f"{asked.column}_probabilities"] = pa.array(told, pa.struct([(name, pa.float64()) for name in names]))
    return found


def _probabilities(scores: np.ndarray, several: bool) -> np.ndarray:
    """Return outputs as probabilities: of each label by itself, or of one of them."""
    if several:
        return 1 / (1 + np.exp(-scores))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
