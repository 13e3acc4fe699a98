"""What trainings on a model's own answers share: prompts as tokens, sampling, and how good answers to held-out prompts are."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from ddmake.backends.hf import end_tokens
from ddmake.backends.models import prompt_ids
from ddmake.errors import DdmakeError
from ddmake.trainers.common import Settings, example_length, half
from ddmake.trainers.rewards import Answer, Function, Question, Rewards
from ddmake.trainers.samples import SAMPLES

SHARES = 2**40  # into which a row's probabilities are cut: integers are summed without rounding, on every device alike
FAR = 1_000_003  # from the seeds of one training to those of the next
WATCHED = 256  # held-out prompts that are answered, at most
OF = "reward of "  # begins the name of what is noted of one reward
MOST = 5  # answers that are shown, at most


@dataclass(frozen=True)
class Online(Settings):
    """What such a training is made of."""

    rewards: tuple[str, ...] = ()  # by name
    weights: tuple[float, ...] = ()
    max_tokens: int = 256  # of an answer; with its prompt it has max_length
    temperature: float = 1.0
    kl: float = 0.05
    missing_eos_penalty: float = 0.0


def rewards_of(given: Sequence[Function | Path], settings: Online) -> Rewards:
    """Return what scores answers, reward models loaded."""
    dtype = "bfloat16" if half(settings) and torch.cuda.is_available() else "float32"
    return Rewards(given, settings.weights, settings.missing_eos_penalty, dtype)


@dataclass(frozen=True)
class Prompts:
    """Questions with their tokens, and how many were left out."""

    questions: list[Question]
    tokens: list[list[int]]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.questions)

    def at(self, places: Sequence[int]) -> "Prompts":
        """Return the prompts at some places."""
        return Prompts([self.questions[place] for place in places], [self.tokens[place] for place in places])


def encoded(questions: Sequence[Question], settings: Online, model: torch.nn.Module, tokenizer: Any) -> Prompts:
    """Return questions with their tokens, but for those that are empty, or leave no room for an answer.

    Raises DdmakeError where none is left.
    """
    room = example_length(settings, model, tokenizer) - settings.max_tokens
    found = [(question, prompt_ids(tokenizer, question.messages, settings.separator, encoder_decoder=False))
             for question in questions]
    kept = [(question, tokens) for question, tokens in found if 0 < len(tokens) <= room]
    if not kept:
        raise DdmakeError(f"no prompt to answer: {len(questions)} given, all empty or longer than {room} tokens, which is what "
                          f"max_length and the model leave beside max_tokens={settings.max_tokens}.")
    return Prompts([question for question, _ in kept], [tokens for _, tokens in kept], len(found) - len(kept))


@dataclass(frozen=True)
class Stops:
    """The tokens that end an answer, and the one that rows are filled up with."""

    ends: list[int]
    pad: int


def stops_of(model: torch.nn.Module, tokenizer: Any) -> Stops:
    """Return what ends a model's answers, its tokenizer's eos token among it."""
    return Stops(sorted({*end_tokens(model.generation_config, tokenizer), tokenizer.eos_token_id}), tokenizer.pad_token_id)


class Drawn(LogitsProcessor):
    """Leaves each row the one token that a number falls on which was drawn beforehand.

    So what is sampled doesn't depend on which rows are answered at once, and not on what else draws at random.
    """

    def __init__(self, numbers: torch.Tensor, temperature: float):
        self.numbers, self.temperature, self.at = numbers.double(), temperature, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of which a row's only finite one is the chosen token's."""
        shares = (torch.softmax(scores.float() / self.temperature, -1) * SHARES).long().cumsum(-1)
        wanted = (self.numbers[:, self.at, None] * shares[:, -1:]).long()
        self.at += 1
        chosen = torch.searchsorted(shares, wanted, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def seed_of(settings: Settings, number: int) -> int:
    """Return the seed of a part of a training."""
    return (settings.seed * FAR + number) % 2**31  # more is too much for numpy


def order(settings: Settings, count: int, epoch: int) -> list[int]:
    """Return the order of prompts in an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(settings, epoch))).tolist()


def numbers(seed: int, answers: int, max_tokens: int) -> torch.Tensor:
    """Return what answers are drawn by: a number from 0 to 1 for each token."""
    return torch.rand((answers, max_tokens), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(model: torch.nn.Module, prompts: Sequence[list[int]], drawn: torch.Tensor, stops: Stops, temperature: float,
           halved: bool) -> list[list[int]]:
    """Return the tokens of an answer to each prompt, with the one that ended it."""
    ids, attention = padded(prompts, stops.pad, model.device, left=True)
    config = GenerationConfig(max_new_tokens=drawn.shape[1], do_sample=False, num_beams=1, eos_token_id=stops.ends,
                              pad_token_id=stops.pad, use_cache=True, disable_compile=True)
    with torch.no_grad(), alone(model, config), precision(model, halved):
        found = model.generate(input_ids=ids, attention_mask=attention, generation_config=config,
                               logits_processor=[Drawn(drawn.to(model.device), temperature)])
    return [_ended(row, stops) for row in found[:, ids.shape[1]:].tolist()]


@contextmanager
def alone(model: torch.nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Have a model answer by this config alone, and as it does outside of training; its own would fill in what isn't stated."""
    kept, training = model.generation_config, model.training
    model.generation_config = config
    model.eval()
    try:
        yield
    finally:
        model.generation_config = kept
        model.train(training)


def precision(model: torch.nn.Module, halved: bool) -> AbstractContextManager:
    """Compute in bfloat16, if that is so."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=halved)


def _ended(tokens: list[int], stops: Stops) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stops.ends), len(tokens))
    return tokens[:end + 1]


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of tokens filled up to the longest, and which of them are theirs."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) if left else list(row) + [pad] * (width - len(row)) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def takes(model: torch.nn.Module) -> set[str]:
    """Return what a model's forward can be told."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(base.forward).parameters)


class Answering:
    """How answers are asked for and scored."""

    def __init__(self, rewards: Rewards, tokenizer: Any, stops: Stops, settings: Online):
        self.rewards, self.tokenizer, self.stops, self.settings = rewards, tokenizer, stops, settings
        self.half = half(settings)

    def sample(self, model: torch.nn.Module, prompts: Sequence[list[int]], drawn: torch.Tensor, at_once: int) -> list[list[int]]:
        """Return the tokens of an answer to each prompt, some being asked at once."""
        cut = [slice(first, first + at_once) for first in range(0, len(prompts), at_once)]
        return [answer for rows in cut
                for answer in sample(model, prompts[rows], drawn[rows], self.stops, self.settings.temperature, self.half)]

    def read(self, tokens: Sequence[Sequence[int]]) -> list[Answer]:
        """Return answers as texts."""
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Answer(text, bool(one) and one[-1] in self.stops.ends) for text, one in zip(texts, tokens, strict=True)]

    def worth(self, model: torch.nn.Module, asked: Prompts, at_once: int) -> tuple[float, list[dict[str, Any]]]:
        """Return the mean reward of a model's answers, and some of them: drawn by the same numbers each time."""
        asked = asked.at(range(min(len(asked), WATCHED)))
        drawn = numbers(self.settings.seed, len(asked), self.settings.max_tokens)
        answers = self.read(self.sample(model, asked.tokens, drawn, at_once))
        totals, _ = self.rewards(asked.questions, answers)
        return sum(totals) / len(totals), shown(asked.questions, answers, totals)


def shown(questions: Sequence[Question], answers: Sequence[Answer], totals: Sequence[float]) -> list[dict[str, Any]]:
    """Return some answers with what they are worth, for the card."""
    return [{"prompt": question.messages[-1]["content"], "answer": answer.text, "reward": total}
            for question, answer, total in list(zip(questions, answers, totals))[:MOST]]


def write_samples(samples: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write some answers into a model folder, one a line."""
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in samples)
    (output / SAMPLES).write_text(lines, encoding="utf-8")


def curves(history: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what was noted as `[step, value]`, by the names that it has in the metrics; several rewards each by its own."""
    found: dict[str, Any] = {}
    for entry in history:
        for noted, name in names.items():
            if entry.get(noted) is not None:
                found.setdefault(f"{name}_curve", []).append([entry["step"], entry[noted]])
        for noted in (noted for noted in entry if noted.startswith(OF)):
            found.setdefault("reward_curves", {}).setdefault(noted.removeprefix(OF), []).append([entry["step"], entry[noted]])
    if len(found.get("reward_curves", ())) < 2:
        found.pop("reward_curves", None)
    return found
