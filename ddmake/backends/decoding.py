"""What both ways of decoding share: a row under way, how its tokens are drawn, and where its text ends.

A draw belongs to its row: each token takes one number of the row's own random stream, by its place, and is where that
number falls among the summed probabilities. So a text doesn't depend on the rows beside it, nor on the device's generator.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ddmake.backends.guided import Guide, Guides, forbid

MAX_TOKENS = 256  # where neither the llm nor the model's generation_config says
COLDEST = 1e-5  # a temperature below is greedy: logits divided by it would be infinite
LOOK = 16  # tokens that are written before a row's text is searched for its stop strings


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; `temperature` 0 is greedy. `stop` cuts the text before the first of its strings."""

    temperature: float
    top_k: int | None
    top_p: float | None
    max_tokens: int
    stop: tuple[str, ...]


def read_sampling(given: Mapping[str, Any], config: GenerationConfig) -> Sampling:
    """Settle the sampling from what the llm says, else the model's generation config, else an API's defaults.

    A config that says do_sample=False makes greedy the default; one that says nothing samples at temperature 1.
    """
    drawn = {"temperature", "top_p", "top_k"} & set(given)
    greedy = config.do_sample is False and not drawn
    first = config.temperature if config.temperature is not None else 1.0
    temperature = 0.0 if greedy else given.get("temperature", first)
    stop = given.get("stop", ())
    return Sampling(
        float(temperature) if temperature >= COLDEST else 0.0, given.get("top_k", config.top_k), given.get("top_p", config.top_p),
        given.get("max_tokens") or config.max_new_tokens or MAX_TOKENS, (stop,) if isinstance(stop, str) else tuple(stop),
    )


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """Return transformers' warpers for a sampling, in its own order: temperature, top_k, top_p."""
    found = LogitsProcessorList()
    if sampling.temperature != 1.0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(top_p=sampling.top_p))
    return found


def penalties(config: GenerationConfig) -> LogitsProcessorList:
    """Return what a generation config does to a row's logits by the tokens that are in it, prompt included."""
    found = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    return found


def penalise(penalties: LogitsProcessorList, texts: Sequence[list[int]], logits: torch.Tensor) -> torch.Tensor:
    """Return logits (rows × vocabulary) changed by the tokens of each row's text."""
    width = max(map(len, texts))
    for penalty in penalties:
        if isinstance(penalty, RepetitionPenaltyLogitsProcessor):  # a token counts once: the last may stand there for padding
            ids = torch.tensor([text + text[-1:] * (width - len(text)) for text in texts], device=logits.device)
            logits = penalty(ids, logits)
        else:
            ids = [torch.tensor([text], device=logits.device) for text in texts]
            logits = torch.cat([penalty(text, its) for text, its in zip(ids, logits.split(1), strict=True)])
    return logits


@dataclass
class Fitting:
    """How many rows a model takes at once: what it was told, and less once memory ran out."""

    model: str
    rows: int

    def halve(self, tried: int) -> None:
        """Take half of what was tried from here on, and say so in the job's log."""
        self.rows = max(1, tried // 2)
        print(f"{self.model}: memory ran out with {tried} rows at once. It goes on with {self.rows}.", flush=True)


@dataclass(eq=False)
class Row:
    """One request under way: its prompt's tokens, what it may still write, and what it wrote."""

    number: int
    seed: int
    prompt: list[int]
    room: int
    written: list[int] = field(default_factory=list)
    finish: str | None = None
    text: str = ""
    error: str | None = None  # why it can't be asked
    guided: Callable[[], Guide] | None = None  # makes what says which tokens it may write
    ends: frozenset[int] = frozenset()  # tokens that end it beside those that end an answer
    stop: tuple[str, ...] = ()  # strings that end it beside those of the sampling
    _draws: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many tokens there are, prompt and written ones."""
        return len(self.prompt) + len(self.written)

    @property
    def most(self) -> int:
        """How many tokens there may come to be."""
        return len(self.prompt) + self.room

    @cached_property
    def guide(self) -> Guide | None:
        """What says which tokens it may write next, None for all of them."""
        return self.guided and self.guided()

    @cached_property
    def _random(self) -> random.Random:
        return random.Random(self.seed)

    def draw(self, place: int) -> float:
        """Return the row's random number in [0, 1) for the token at a place: the same one however often it is asked for."""
        while len(self._draws) <= place:
            self._draws.append(self._random.random())
        return self._draws[place]

    def again(self) -> "Row":
        """Return the row as it was before it wrote anything."""
        return Row(self.number, self.seed, self.prompt, self.room, guided=self.guided, ends=self.ends, stop=self.stop)


@dataclass(frozen=True)
class Writer:
    """Makes tokens of logits, and text of tokens."""

    tokenizer: Any
    sampling: Sampling
    ends: frozenset[int]  # tokens that end an answer
    guides: Guides

    @cached_property
    def warpers(self) -> LogitsProcessorList:
        """How logits are changed before a token is drawn."""
        return warpers(self.sampling)

    @torch.inference_mode()
    def pick(self, rows: Sequence[Row], written: Sequence[list[int]], logits: torch.Tensor) -> torch.Tensor:
        """Return what each row writes after its `written` tokens, by its logits (rows × vocabulary).

        Logits of rows with a guide are changed in place.
        """
        self._guide(rows, written, logits)
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        total = self.warpers(None, logits.float()).softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn = [row.draw(len(tokens)) for row, tokens in zip(rows, written, strict=True)]
        at = torch.tensor(drawn, dtype=torch.float64, device=logits.device)[:, None] * total[:, -1:]
        return torch.searchsorted(total, at, right=True)[:, 0].clamp_(max=total.shape[1] - 1)

    def _guide(self, rows: Sequence[Row], written: Sequence[list[int]], logits: torch.Tensor) -> None:
        """Put the tokens that rows with a guide may not write out of reach."""
        guided = [at for at, row in enumerate(rows) if row.guide is not None]
        if guided:
            bits = self.guides.blank(len(guided))
            for its, at in zip(bits, guided, strict=True):
                rows[at].guide.fill(its, written[at])
            logits[guided] = forbid(logits[guided], bits)

    def take(self, row: Row, token: int) -> None:
        """Add a token to a row, and end the row at an end token, a stop string or where it has no room."""
        if not self.ends and _is_whole(row):  # nothing but an end may follow, and the model has none
            row.finish = "stop"
        else:
            row.written.append(token)
        ended = token in self.ends or token in row.ends
        if ended:
            row.finish = "stop"
        elif len(row.written) >= row.room:
            row.finish = row.finish or ("stop" if _is_whole(row) else "length")
        if row.finish or (row.stop or self.sampling.stop) and len(row.written) % LOOK == 0:
            row.text = self._text(row.written[:-1] if ended else row.written)
            self._cut(row)

    def _cut(self, row: Row) -> None:
        """End a row before its first stop string, if it has one, counting only the tokens that it took to write that."""
        stops = (*self.sampling.stop, *row.stop)
        places = [place for stop in stops if (place := row.text.find(stop)) >= 0]
        if places:
            needed = next(n for n in range(1, len(row.written) + 1)
                          if any(stop in self._text(row.written[:n]) for stop in stops))
            row.written, row.finish, row.text = row.written[:needed], "stop", row.text[:min(places)]

    def _text(self, tokens: list[int]) -> str:
        """Return tokens as text, without special ones."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def _is_whole(row: Row) -> bool:
    """Tell whether nothing but an end may follow what a row has written."""
    return row.guide is not None and row.guide.ended(row.written)
