"""Training of models that make vectors of texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Progress
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import need as need_column
from ddmake.rules.learning import (
    Arguments,
    Count,
    Inputs,
    OnChange,
    Trackers,
    TrainParts,
    Whether,
    check,
    columns_of,
    named_parts,
    need_packages,
    settings,
)

RATES = (2e-5, 2e-4)  # of all weights, as in sentence-transformers' examples; with an adapter ten times as much
SCORED = ("cosent", "cosine")  # losses that learn from scores


def _placed(inputs: Inputs, arguments: Arguments) -> None:
    """Check the columns that are learned from, and that the loss goes with them."""
    check(inputs, arguments)
    there, loss = columns_of(inputs["parts"]), _loss(arguments)
    for name in _texts(arguments):
        need_column(there, name, "to learn from")
    if arguments["score"] is not None:
        need_column(there, arguments["score"], "of scores")
    if (loss in SCORED) != (arguments["score"] is not None):
        raise DdfileError(f'loss="{loss}" learns from scores: name their column by score=.' if loss in SCORED else
                          f'loss="{loss}" learns from no scores: leave out score=, or take one of {", ".join(SCORED)}.')
    if loss in SCORED and _negatives(arguments):
        raise DdfileError("negative= and score= don't go together: a score says how alike two texts are. Leave out one of them.")
    if loss == "triplet" and len(_negatives(arguments)) != 1:
        raise DdfileError('loss="triplet" takes one column of negatives: name it by negative=.')
    if loss == "cosent" and arguments["micro_batch"] is not None:
        raise DdfileError("micro_batch= would change the model, since this loss compares the pairs that are taken at once. "
                          "Leave it out.")
    for name in ("scale", "margin"):
        if arguments[name] <= 0:
            raise DdfileError(f"{name}={arguments[name]}; it is above 0.")


def _loss(arguments: Arguments) -> str:
    """Return the loss that is asked for, or that the columns call for."""
    return arguments["loss"] or ("ranking" if arguments["score"] is None else "cosent")


def _negatives(arguments: Arguments) -> list[str]:
    negative = arguments["negative"]
    return [negative] if isinstance(negative, str) else list(negative or ())


def _texts(arguments: Arguments) -> list[str]:
    """Return the columns of texts, in the order in which the loss takes them."""
    return [arguments["anchor"], arguments["positive"], *_negatives(arguments)]


@train(version="2", columns=_placed)
def train_embedder(parts: TrainParts, *, base: Model, peft: Lora | None = None, anchor: str = "anchor",
                   positive: str = "positive", negative: str | Sequence[str] | None = None, score: str | None = None,
                   loss: Literal["ranking", "triplet", "cosent", "cosine"] | None = None, scale: float = 20.0,
                   margin: float = 0.2, epochs: float = 1.0, batch_size: int = 64,
                   micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.1,
                   schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0,
                   max_length: int | None = None, dtype: str | None = None, revision: str | None = None, seed: int = 0,
                   best: bool = False, patience: int | None = None, evaluate_every: int | None = None,
                   deterministic: bool = False, gradient_checkpointing: Whether = None, trackers: Trackers = (),
                   processes: Count = None, on_change: OnChange = "mark", output: Path, checkpoints: Path,
                   progress: Progress) -> None:
    """Train a model that makes vectors of texts, so that texts which belong together are near each other.

    By sentence-transformers' trainer (Reimers and Gurevych 2019, arXiv 1908.10084). A row has two texts, `anchor` and
    `positive`, and perhaps a column or several of texts in `negative` that don't belong to the anchor. The loss "ranking" has
    each anchor find its positive among all texts of the batch (van den Oord et al. 2018, arXiv 1807.03748), so that a larger
    `batch_size` is harder; cosines count `scale` times. "triplet" wants the positive nearer than the negative by `margin`, in
    cosine. With a column `score` the two texts are as alike as that says: "cosent" learns the order of scores, "cosine" the
    scores themselves, from -1 to 1. With `peft=lora(…)` an adapter is learned (Hu et al. 2021, arXiv 2106.09685), and merged. A
    validation set only draws a curve, unless the best weights are kept by it.
    """
    arguments = locals()
    need_packages("train_embedder", peft, "sentence_transformers")
    from ddmake.trainers import vectors as trainer
    from ddmake.trainers.launch import launch

    shown = {part: _examples(rows, arguments, part) for part, rows in named_parts(parts).items()}
    made_of = settings(trainer.Placing, arguments, RATES, loss=_loss(arguments))
    launch(trainer.train, shown["train"], shown.get("validation"), made_of, output, checkpoints, progress)


def _examples(rows: Any, arguments: Arguments, part: str) -> Any:
    """Return a Dataset of `anchor`, `positive`, perhaps negatives, and perhaps `score`.

    Rows with a null are left out with a printed line. Raises DdmakeError for rows that can't be learned from.
    """
    from datasets import Dataset

    score = arguments["score"]
    needed = [*_texts(arguments), *([score] if score else [])]
    for name in needed:
        need_column(rows.column_names, name, "to learn from")
    whole = [row for row in rows.select_columns(list(dict.fromkeys(needed))) if all(row[name] is not None for name in needed)]
    if len(whole) < len(rows):
        print(f"train_embedder: {len(rows) - len(whole)} of {len(rows)} rows of {part} left out: null in {', '.join(needed)}",
              flush=True)
    if len(whole) < 2:
        raise DdmakeError(f"train_embedder: {part} has {len(whole)} row to learn from, of {len(rows)} given; there must be two.")
    names = ["anchor", "positive", *(f"negative_{number}" for number, _ in enumerate(_negatives(arguments)))]
    columns = {name: [_text(row, column) for row in whole] for name, column in zip(names, _texts(arguments), strict=True)}
    if score:
        columns["score"] = [_number(row, score, _loss(arguments)) for row in whole]
    return Dataset.from_dict(columns)


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise DdmakeError(f"train_embedder: column {column!r} holds {type(row[column]).__name__}; text is needed. "
                          "Make it by .map().")
    return row[column]


def _number(row: Mapping[str, Any], column: str, loss: str) -> float:
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DdmakeError(f"train_embedder: column {column!r} holds {value!r}; a number is needed.")
    if loss == "cosine" and not -1 <= value <= 1:
        raise DdmakeError(f'train_embedder: column {column!r} holds {value}; loss="cosine" takes scores from -1 to 1. Make them '
                          'so by .map(), or take loss="cosent", to which only their order counts.')
    return float(value)
