"""Sequence classifiers on this machine, through transformers: what they make of texts, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ddmake.artifacts.rows import read, texts_in
from ddmake.backends.models import need
from ddmake.errors import DdmakeError

ROWS = 4096  # that are sorted by length at once
MOST = 10**6  # tokens: whoever states more states no limit


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
    """A loaded model of so many outputs, and their labels: none where they are numbers; `several` may hold at once.

    Texts are cut after `max_length` tokens, if any.
    """

    model: Any
    tokenizer: Any
    outputs: int
    labels: tuple[str, ...]
    several: bool
    max_length: int | None
    batch_size: int


def load(folder: Path, asked: Asked, labels: Sequence[str] | None, dtype: str | None, max_length: int | None,
         batch_size: int) -> Classifier:
    """Load a classifier from its folder. Raises DdmakeError for a model that is none, or can't do what is asked of it."""
    for package in ("torch", "transformers"):
        need(package, "local", "classify")
    import torch

    from ddmake.backends.heads import is_several, opened

    model, tokenizer = opened(folder, getattr(torch, dtype or "float32"), "classify")
    names = _names(folder, model.config, labels, asked)
    limit = _limit(model, tokenizer, max_length, asked.pair is not None)
    return Classifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, model.config.num_labels, names,
                      is_several(model.config), limit, _together(model, tokenizer, batch_size))


def _names(folder: Path, config: Any, labels: Sequence[str] | None, asked: Asked) -> tuple[str, ...]:
    """Return the labels' names in the model's order; none for a model that gives numbers."""
    if config.num_labels == 1 or config.problem_type == "regression":
        stated = "labels" if labels is not None else "probabilities" if asked.probabilities else None
        if stated:
            raise DdmakeError(f"classify: {folder} gives numbers and no labels, so that {stated}= says nothing. Leave it out.")
        return ()
    own = tuple(config.id2label[number] for number in range(config.num_labels))
    if labels is not None and len(labels) != len(own):
        raise DdmakeError(f"classify: labels= names {len(labels)}, and the model has {len(own)}: {', '.join(own)}.")
    twice = [name for name in own if own.count(name) > 1]
    if labels is None and twice:
        raise DdmakeError(f"classify: {folder} has two labels named {twice[0]!r}. Name them by labels=, in this order: "
                          f"{', '.join(own)}.")
    return own if labels is None else tuple(labels)


def _limit(model: Any, tokenizer: Any, max_length: int | None, pairs: bool) -> int | None:
    """Return after how many tokens a text, or a pair, is cut: as is asked, else by what the model takes; None where all fits.

    Raises DdmakeError for more than it takes, or too few to hold a token of each text.
    """
    from ddmake.backends.encoders import positions

    limits = [length for length in (positions(model), tokenizer.model_max_length) if length and length <= MOST]
    limit, least = min(limits, default=None), tokenizer.num_special_tokens_to_add(pair=pairs) + 1 + pairs
    if max_length is None:
        return limit
    if limit is not None and max_length > limit:
        raise DdmakeError(f"classify: max_length={max_length}, and the model takes {limit} tokens. Give at most that.")
    if max_length < least:
        raise DdmakeError(f"classify: max_length={max_length} leaves no room for a text's own tokens. Give {least} or more.")
    return max_length


def _together(model: Any, tokenizer: Any, batch_size: int) -> int:
    """Return how many texts go at once, and have model and tokenizer pad by one token: one, where neither has any."""
    config = model.config
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id  # by which a decoder finds where a text ends
    elif config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    return 1 if config.pad_token_id is None else batch_size


def classified(rows: Any, classifier: Classifier, asked: Asked) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows with what the classifier says of them. Raises DdmakeError for a column that holds no text."""
    first = 0
    for batch in read(rows, size=ROWS):
        texts = [texts_in(batch.column(name), name) for name in (asked.text, asked.pair) if name is not None]
        there = np.array([number for number in range(batch.num_rows) if all(column[number] is not None for column in texts)], int)
        scores, said = _scores(classifier, [[column[number] for number in there] for column in texts])
        scores, there = scores[said], there[said]
        odd = there[~np.isfinite(scores).all(axis=1)]
        if len(odd):
            raise DdmakeError(f"classify: for row {first + odd[0]} the model gives nan or inf, which are no labels. "
                              "Look at its weights, or state dtype=\"float32\".")
        columns = dict(zip(batch.schema.names, batch.columns)) | _columns(classifier, asked, scores, there, batch.num_rows)
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        first += batch.num_rows


def _scores(classifier: Classifier, columns: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the model's outputs for texts, or pairs of them: texts × outputs, and which of them have a token at all."""
    import torch

    count, cut = len(columns[0]), classifier.max_length is not None
    order = sorted(range(count), key=lambda number: -sum(len(column[number]) for column in columns))
    found, said = np.zeros((count, classifier.outputs), np.float32), np.ones(count, bool)
    for start in range(0, count, classifier.batch_size):
        some = order[start:start + classifier.batch_size]
        tokens = classifier.tokenizer(*([column[number] for number in some] for column in columns), padding=len(some) > 1,
                                      truncation=cut, max_length=classifier.max_length, return_tensors="pt")
        said[some] = tokens["attention_mask"].sum(1).numpy() > 0
        if not said[some].any():
            continue
        with torch.inference_mode():
            found[some] = classifier.model(**tokens.to(classifier.model.device)).logits.float().cpu().numpy()
    return found, said


def _columns(classifier: Classifier, asked: Asked, scores: np.ndarray, there: np.ndarray, count: int) -> dict[str, pa.Array]:
    """Return the columns for so many rows, of which those there have scores."""
    rows: list[Any] = [None] * count
    names, told = classifier.labels, list(rows)
    shares = _probabilities(scores, classifier.several)
    for number, share, score in zip(there, shares, scores):
        told[number] = {name: float(one) for name, one in zip(names, share)}
        if not names:
            rows[number] = float(score[0]) if len(score) == 1 else score.tolist()
        elif classifier.several:
            rows[number] = [name for name, one in zip(names, share) if one >= asked.threshold]
        else:
            rows[number] = names[int(score.argmax())]
    one = pa.string() if names else pa.float64()
    found = {asked.column: pa.array(rows, pa.list_(one) if classifier.outputs > 1 and (classifier.several or not names) else one)}
    if asked.probabilities and names:
        found[f"{asked.column}_probabilities"] = pa.array(told, pa.struct([(name, pa.float64()) for name in names]))
    return found


def _probabilities(scores: np.ndarray, several: bool) -> np.ndarray:
    """Return outputs as probabilities: of each label by itself, or of one of them."""
    if several:
        return 1 / (1 + np.exp(-scores))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
