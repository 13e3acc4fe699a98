"""A choice among labels, as a recipe is given it by `llm.choose`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddmake.backends.base import Answer
from ddmake.errors import DdmakeError


@dataclass(frozen=True)
class Choice:
    """The likeliest label, and how the model's probability is shared among all of them: it sums to 1.

    Where the model couldn't be asked (a prompt that is too long), `label` is None and `error` says why.
    """

    label: str | None
    probabilities: Mapping[str, float]
    error: str | None = None


def checked(labels: Sequence[str]) -> tuple[str, ...]:
    """Return labels that can be chosen among. Raises DdmakeError for those that can't."""
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise DdmakeError(f"choose: labels is a list of texts, not {labels!r}.")
    found = tuple(labels)
    if len(found) < 2:
        raise DdmakeError(f"choose: there is nothing to choose among {list(found)}. Give two labels or more.")
    if "" in found:
        raise DdmakeError("choose: a label is an empty text. Give it a word.")
    if twice := sorted({label for label in found if found.count(label) > 1}):
        raise DdmakeError(f"choose: the label {twice[0]!r} is there twice. Leave one out.")
    return found


def read(answer: Answer, llm: str) -> Choice:
    """Return the choice that an answer tells. Raises DdmakeError where the llm told no log-probabilities."""
    if answer.error is not None:
        return Choice(None, {}, answer.error)
    if answer.scores is None:
        raise unable(llm)
    top = max(answer.scores.values())
    shares = {label: math.exp(score - top) for label, score in answer.scores.items()}
    total = sum(shares.values())
    return Choice(str(answer), {label: share / total for label, share in shares.items()})


def unable(llm: str) -> DdmakeError:
    """Return what is to be said where an llm can't choose."""
    return DdmakeError(f"llm({llm!r}) tells no log-probabilities of labels: only local models choose. Have the label written, "
                       'by schema={"label": Literal["yes", "no"]}.')
