"""Scores of an answer against a reference, each a number per row; their means are a model's."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ddmake.backends.models import need
from ddmake.errors import DdfileError, did_you_mean

Metric = Callable[[str, Mapping[str, Any]], float | bool | None]


def rouge_l(reference: str) -> Metric:
    """Return ROUGE-L as a metric: the F-measure of the longest common subsequence of words, in points of 100.

    Words are lower-cased runs of letters and digits, unstemmed, as in Google's rouge-score. Lin 2004, "ROUGE: a
    package for automatic evaluation of summaries".
    """
    need("rouge_score", "train", "the metric rouge_l")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return lambda answer, row: 100 * scorer.score(str(row[reference]), answer)["rougeL"].fmeasure


def exact_match(reference: str) -> Metric:
    """Return exact match as a metric: 100 where answer and reference are the same but for space around them, else 0."""
    return lambda answer, row: 100.0 * (answer.strip() == str(row[reference]).strip())


NAMED: dict[str, Callable[[str], Metric]] = {"rouge_l": rouge_l, "exact_match": exact_match}


def names(metrics: Sequence[str | Metric]) -> list[str]:
    """Return the columns that metrics fill: a function's is its name.

    Raises DdfileError for a name that isn't known.
    """
    for metric in metrics:
        if not callable(metric) and metric not in NAMED:
            raise DdfileError(f"evaluate: there is no metric {metric!r}. There are {', '.join(NAMED)}; a function of "
                              f"(answer, row) will do too.{did_you_mean(str(metric), NAMED)}")
    return [metric.__name__ if callable(metric) else metric for metric in metrics]


def pick(metrics: Sequence[str | Metric], reference: str) -> dict[str, Metric]:
    """Return metrics by the name of their column: a named one takes its reference from that column of the row."""
    made = (metric if callable(metric) else NAMED[metric](reference) for metric in metrics)
    return dict(zip(names(metrics), made, strict=True))


def mean(scores: Sequence[float | bool | None]) -> float | None:
    """Return the mean of the scores that aren't None; None if there are none."""
    counted = [float(score) for score in scores if score is not None]
    return fmean(counted) if counted else None
