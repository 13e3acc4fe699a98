"""Scores that are functions of sums over rows: so means, a corpus' BLEU and perplexities are made and resampled in one way.

A mean adds (its number, 1) a row and divides the sums; BLEU adds counts of n-grams, perplexity log-probabilities and tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import TYPE_CHECKING, Any

from ddmake.errors import DdfileError

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

DRAWS = 1000  # resamples that an interval is read off

Part = Sequence[float] | None  # what a row adds to the sums; None for a row that doesn't count


@dataclass(frozen=True)
class Score:
    """How a score is made of answers: what each row adds, and what the sums come to.

    `rowwise` says that a row has a score of its own, the first of its numbers; `remarks` are texts that belong to the score.
    """

    parts: Callable[[Any], list[Part]]
    of_sums: Callable[[Sequence[float]], float | None]
    rowwise: bool = False
    remarks: dict[str, str] = field(default_factory=dict)


def quotient(sums: Sequence[float]) -> float | None:
    """Return the first sum over the second: the mean of what was added with a 1."""
    return sums[0] / sums[1] if sums[1] else None


def numbers(scores: Iterable[float | bool | None]) -> list[Part]:
    """Return the rows' own scores as what they add to a mean."""
    return [None if score is None else (float(score), 1.0) for score in scores]


def total(score: Callable[[Sequence[float]], float | None], parts: Sequence[Part]) -> float | None:
    """Return a score of all rows; None where none counts."""
    counted = [part for part in parts if part is not None]
    return score([fsum(column) for column in zip(*counted)]) if counted else None


def interval(score: Callable[[Sequence[float]], float | None], parts: Sequence[Part], share: float,
             seed: int) -> tuple[float | None, float | None]:
    """Return between which values a score lies in that share of resamples of the rows (the percentile bootstrap, Efron 1979).

    Rows are drawn by the seed alone, so that scores on the same rows are resampled alike.
    """
    import numpy as np

    counted = [part for part in parts if part is not None]
    if not counted:
        return None, None
    matrix, draw, count = np.array(counted, dtype=np.float64), np.random.default_rng(seed), len(counted)
    drawn = (np.bincount(draw.integers(0, count, count), minlength=count) for _ in range(DRAWS))
    found = [value for times in drawn if (value := score((times @ matrix).tolist())) is not None]
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def columns(name: str, score: Callable[[Sequence[float]], float | None], parts: Sequence[Part], share: float | None,
            seed: int) -> dict[str, float | None]:
    """Return a score under its name, and, where a share is given, the interval beside it."""
    found = {name: total(score, parts)}
    return found if share is None else found | dict(zip((f"{name}_low", f"{name}_high"), interval(score, parts, share, seed)))


def stored(rows: Sequence[Mapping[str, Any]], scores: Iterable[str]) -> "Batches":
    """Return rows as they are to be stored: scores are numbers, also where all are null."""
    import pyarrow as pa

    from ddmake.artifacts.arrays import array
    from ddmake.artifacts.rows import Batches

    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    arrays = {name: array(name, values, 0) for name, values in columns.items()}
    arrays |= {name: arrays[name].cast(pa.float64()) for name in scores if name in arrays and pa.types.is_null(arrays[name].type)}
    return Batches([pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))] if rows else [])


def check_share(share: float | None) -> None:
    """Raise DdfileError for an interval that is no share."""
    if share is not None and not 0 < share < 1:
        raise DdfileError(f"interval is a share of resamples between 0 and 1, as 0.95, not {share:g}.")
