"""What answers are worth: by functions from a Ddfile and by reward models, summed by their weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any

from ddmake.backends.models import base_name
from ddmake.backends.rewards import load, rewards
from ddmake.errors import DdmakeError

TOGETHER = 16  # conversations that a reward model reads at once
SHOWN = 80  # characters of an answer in a message

Function = Callable[[str, dict[str, Any]], float]
Scorer = Callable[[Sequence["Question"], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Question:
    """A prompt as chat messages, the row that it was made of, and that row's number."""

    messages: Sequence[Mapping[str, str]]
    row: Mapping[str, Any]
    number: int


@dataclass(frozen=True)
class Task:
    """What is asked, and by what answers are scored: functions of (answer, row), and folders of reward models."""

    questions: Sequence[Question]
    rewards: Sequence[Function | Path]


@dataclass(frozen=True)
class Answer:
    """A model's answer; one that isn't finished was cut at max_tokens."""

    text: str
    finished: bool


class Rewards:
    """Scores answers: the weighted sum of all rewards, less a penalty for an answer that isn't finished."""

    def __init__(self, given: Sequence[Function | Path], weights: Sequence[float], penalty: float, dtype: str):
        self.names, self.weights, self.penalty = [name_of(reward) for reward in given], weights, penalty
        self.scorers = [_of_function(reward, name) if callable(reward) else _of_model(reward, name, dtype)
                        for reward, name in zip(given, self.names, strict=True)]

    def __call__(self, questions: Sequence[Question], answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
        """Return what each answer is worth in all, and the mean of each reward. Raises DdmakeError for one that is no number."""
        by_reward = [scorer(questions, [answer.text for answer in answers]) for scorer in self.scorers]
        totals = [sum(map(mul, self.weights, scores)) - self.penalty * (not answer.finished)
                  for answer, *scores in zip(answers, *by_reward, strict=True)]
        return totals, {name: sum(scores) / len(scores) for name, scores in zip(self.names, by_reward, strict=True)}


def name_of(reward: Function | Path) -> str:
    """Return the name that a reward goes by in the metrics: a function's, or where a reward model lies."""
    return reward.__name__ if callable(reward) else base_name(reward)


def _of_function(function: Function, name: str) -> Scorer:
    return lambda questions, answers: [_asked(function, name, question, answer)
                                       for question, answer in zip(questions, answers, strict=True)]


def _asked(function: Function, name: str, question: Question, answer: str) -> float:
    """Return what a function says of an answer. Raises DdmakeError, with the function's own frames, where it raises."""
    of = f"the answer {_short(answer)} to row {question.number}"
    try:
        found = function(answer, dict(question.row))
    except Exception as error:
        told = f"reward {name} failed on {of}: {type(error).__name__}: {error}"
        raise DdmakeError(told).with_traceback(error.__traceback__) from error
    try:
        score = float(found)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DdmakeError(f"reward {name} gave {_short(found)} for {of}; a finite number is needed.")
    return score


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"


def _of_model(folder: Path, name: str, dtype: str) -> Scorer:
    """Return what scores answers by a reward model. Raises DdmakeError for a folder that holds none."""
    try:
        rewarder = load(folder, dtype, None, TOGETHER)
    except DdmakeError as error:
        raise DdmakeError(f"reward: {str(error).removeprefix('score: ')}") from error

    def scores(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        found = list(rewards(rewarder, [question.messages for question in questions], answers))
        long = next((question for question, score in zip(questions, found, strict=True) if score is None), None)
        if long is not None:
            raise DdmakeError(f"reward {name}: it reads {rewarder.max_length} tokens, and row {long.number} has more with its "
                              "answer. Lower max_length, or max_tokens.")
        return found

    return scores
