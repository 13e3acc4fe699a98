"""Metrics by name: how answers are scored against their references, of which a row may have several."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from math import exp
from typing import Any

from ddmake.backends.models import need
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.scoring import Part, Score, numbers, quotient

Function = Callable[[str, Mapping[str, Any]], float | bool | None]  # of a user's own: an answer and its row
References = Sequence[Sequence[str]]  # of each row, one or more

LABELS = 300  # that macro_f1 tells apart at most: more are texts
AROUND = string.whitespace + ".,;:!?\"'`*()[]{}"  # what a label is stripped of
ARTICLES = re.compile(r"\b(a|an|the)\b")
UNPUNCTUATED = str.maketrans("", "", string.punctuation)


def _best(compare: Callable[[str, str], float], references: References) -> Score:
    """Return the mean of a score of an answer and a reference, of several the one that it does best by."""
    return Score(lambda asked: numbers(max(compare(text, one) for one in row)
                                       for text, row in zip(asked.texts, references, strict=True)), quotient, rowwise=True)


def _same(text: str, reference: str) -> float:
    return 100.0 * (text.strip() == reference.strip())


def _label(text: str) -> str:
    """Return a text as a label: without case, and without space and punctuation around it, unless it is nothing else."""
    return text.strip(AROUND).casefold() or text.strip()


def _same_label(text: str, reference: str) -> float:
    return 100.0 * (_label(text) == _label(reference))


def _words(text: str) -> list[str]:
    """Return a text's words as SQuAD's evaluation has them: lower-cased, without punctuation and English articles."""
    return ARTICLES.sub(" ", text.lower().translate(UNPUNCTUATED)).split()


def _overlap(text: str, reference: str) -> float:
    """Return the F1 of the words of an answer and a reference; of two that have none, 100."""
    said, meant = _words(text), _words(reference)
    shared = (Counter(said) & Counter(meant)).total()
    if not said or not meant:
        return 100.0 * (said == meant)
    return 200.0 * shared / (len(said) + len(meant))


def _rouge(kind: str, references: References) -> Score:
    """Return a ROUGE score. Raises DdmakeError for references in which it can't read a letter."""
    need("rouge_score", "evaluate", "ROUGE")
    from rouge_score.rouge_scorer import RougeScorer

    texts = (one for row in references for one in row)
    unread = next((one for one in texts if any(map(str.isalnum, one)) and not re.search("[A-Za-z0-9]", one)), None)
    if unread is not None:
        raise DdmakeError(f"evaluate: ROUGE reads the letters a to z and digits alone, and there are none in {unread[:60]!r}. "
                          "Take chrf, or a function of your own.")
    scorer = RougeScorer([kind], use_stemmer=False)
    return _best(lambda text, reference: 100 * scorer.score(reference, text)[kind].fmeasure, references)


def _sacrebleu(name: str, references: References) -> Score:
    """Return a corpus' score by sacrebleu, with its signature."""
    need("sacrebleu", "evaluate", f"the metric {name}")
    from sacrebleu.metrics import BLEU, CHRF

    if not references:
        return Score(lambda asked: [], quotient, remarks={f"{name}_signature": ""})
    streams = list(zip_longest(*references))  # those that a row lacks are None
    scorer = BLEU(references=streams, force=True) if name == "bleu" else CHRF(references=streams)
    # what corpus_score does, in its two halves, so that what rows add can be resampled
    return Score(lambda asked: scorer._extract_corpus_statistics(asked.texts, None),
                 lambda sums: scorer._compute_score_from_stats([round(one) for one in sums]).score,
                 remarks={f"{name}_signature": str(scorer.get_signature())})


def _macro_f1(references: References) -> Score:
    """Return the mean over the references' labels of the F1 of each. Raises DdmakeError where there are too many."""
    labels = sorted({_label(one) for row in references for one in row})
    if len(labels) > LABELS:
        raise DdmakeError(f"evaluate: macro_f1 is of labels, and the references are {len(labels):,} different texts. Take f1.")
    place = {label: 3 * number for number, label in enumerate(labels)}

    def part(text: str, row: Sequence[str]) -> Part:
        said, meant = _label(text), [_label(one) for one in row]
        right = said if said in meant else meant[0]
        added = [0.0] * (3 * len(labels))  # of each label: how often it was hit, said, meant
        added[place[right]] += said == right
        added[place[right] + 2] += 1
        if said in place:
            added[place[said] + 1] += 1
        return added

    return Score(lambda asked: [part(text, row) for text, row in zip(asked.texts, references, strict=True)], _mean_f1)


def _mean_f1(sums: Sequence[float]) -> float | None:
    """Return the mean F1 of labels, those left out that a resample has none of."""
    found = [200 * hit / (said + meant) for hit, said, meant in zip(*(sums[at::3] for at in range(3))) if meant]
    return sum(found) / len(found) if found else None


def _perplexity(references: References) -> Score:
    """Return the perplexity of the references given their prompts; a reference that is too long for a model doesn't count."""
    def parts(asked: Any) -> list[Part]:
        pairs = [(turns, one) for turns, row in zip(asked.turns, references, strict=True) for one in row]
        told = iter(asked.model.likelihoods(pairs))
        found = [[one for _ in row if (one := next(told)) is not None] for row in references]
        return [tuple(map(sum, zip(*row))) if row else None for row in found]

    return Score(parts, lambda sums: exp(-sums[0] / sums[1]) if sums[1] else None)


NAMED: dict[str, Callable[[References], Score]] = {
    "rouge_l": partial(_rouge, "rougeL"), "exact_match": partial(_best, _same), "accuracy": partial(_best, _same_label),
    "f1": partial(_best, _overlap), "macro_f1": _macro_f1, "rouge_1": partial(_rouge, "rouge1"),
    "rouge_2": partial(_rouge, "rouge2"), "bleu": partial(_sacrebleu, "bleu"), "chrf": partial(_sacrebleu, "chrf"),
    "perplexity": _perplexity,
}


def names(metrics: Sequence[str | Function]) -> list[str]:
    """Return the columns that metrics fill: a function's is its name.

    Raises DdfileError for a name that isn't known, and for one that is there twice.
    """
    for metric in metrics:
        if not callable(metric) and metric not in NAMED:
            raise DdfileError(f"evaluate: there is no metric {metric!r}. There are {', '.join(NAMED)}; a function of "
                              f"(answer, row) will do too.{did_you_mean(str(metric), NAMED)}")
    found = [metric.__name__ if callable(metric) else metric for metric in metrics]
    taken = ("model", "rows", "answer")
    for name in found:
        if name in taken or found.count(name) > 1:
            why = "names a column of its own" if name in taken else "is there twice"
            raise DdfileError(f"evaluate: the metric {name!r} {why}. Give the function another name.")
    return found


def pick(metrics: Sequence[str | Function], rows: Sequence[Mapping[str, Any]], references: References) -> dict[str, Score]:
    """Return metrics as scores of these rows, by the names of their columns."""
    made = (_of_function(metric, rows) if callable(metric) else NAMED[metric](references) for metric in metrics)
    return dict(zip(names(metrics), made, strict=True))


def _of_function(function: Function, rows: Sequence[Mapping[str, Any]]) -> Score:
    return Score(lambda asked: numbers(function(text, row) for text, row in zip(asked.texts, rows, strict=True)), quotient,
                 rowwise=True)


def read(value: Any) -> list[str]:
    """Return a reference, or a list of them, as texts; [] where it is null."""
    found = value if isinstance(value, (list, tuple)) else [value]
    return [str(one) for one in found if one is not None]
