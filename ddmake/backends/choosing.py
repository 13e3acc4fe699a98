"""A choice among labels without sampling: how likely a local model would write each of them, read off its logits.

A label's score is the log-probability of its tokens after the prompt, summed and not divided by their number: the labels are
events, and what is more likely has the higher score. Where one label begins another ("no", "not sure"), what the first one's
tokens tell holds for both; then the end of the answer counts as a further token of every label.

The prompt is read once for all labels. That alone tells all where each is one token; longer ones go on from its cache.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutput

from ddmake.backends.base import Answer
from ddmake.backends.decoding import Row
from ddmake.backends.reach import forget, parameters
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from ddmake.backends.hf import LocalModel

READ = 4096  # tokens of prompts that are read at once, padding included
LOGITS = 1 << 27  # numbers that are looked at together: rows × tokens of a label × vocabulary
DIGITS = 4  # of a score: below that batches differ, in float32, too


@dataclass(frozen=True)
class Labels:
    """What is to be chosen among, and the tokens of each; where `ends` isn't empty, one of these follows every label."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Return how many tokens the longest label takes."""
        return max(map(len, self.tokens)) + bool(self.ends)


def read_labels(local: "LocalModel", texts: tuple[str, ...]) -> Labels:
    """Return labels by their tokens. Raises DdmakeError for those that a model's tokens can't tell apart."""
    tokens = tuple(tuple(local.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    begins = False
    for (ids, text), (longer, other) in pairwise(sorted(zip(tokens, texts))):  # what begins another stands just before one
        if not ids or ids == longer:
            raise DdmakeError(f"{local.name}: its tokenizer can't tell the label {text!r} from {other!r}. Word it differently.")
        begins = begins or longer[:len(ids)] == ids
        if begins and not local.ends:
            raise DdmakeError(f"{local.name}: the label {text!r} begins {other!r}, and the model has no end token to tell them "
                              "apart. Word it differently.")
    return Labels(texts, tokens, tuple(sorted(local.ends)) if begins else ())


def answers(local: "LocalModel", asked: Sequence[tuple[Row, tuple[str, ...]]]) -> Iterator[tuple[int, Answer]]:
    """Yield (number, answer) for rows that are to choose among labels: the text is the likeliest, `scores` are those of all."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, texts in asked:
        groups.setdefault(texts, []).append(row)
    for texts, rows in groups.items():
        labels = read_labels(local, texts)
        problems = {row.number: row.error or _too_long(local, row, labels) for row in rows}
        yield from ((row.number, _failed(local, row, problem)) for row in rows if (problem := problems[row.number]))
        waiting = sorted((row for row in rows if not problems[row.number]), key=lambda row: len(row.prompt))
        while waiting:
            size = _batch_size(local, waiting, labels)
            yield from _batch(local, waiting[:size], labels)
            waiting = waiting[size:]


def _too_long(local: "LocalModel", row: Row, labels: Labels) -> str | None:
    """Return in words what a prompt has too many of; an encoder's decoder reads the labels apart from it."""
    left = local.window - (0 if local.encoder_decoder else labels.longest - 1)
    return f"prompt has {len(row.prompt)} tokens, the model takes {left} beside the labels" if len(row.prompt) > left else None


def _failed(local: "LocalModel", row: Row, problem: str) -> Answer:
    return Answer(model=local.name, tokens_in=len(row.prompt), error=problem)


def _batch_size(local: "LocalModel", rows: list[Row], labels: Labels) -> int:
    """Return how many of the rows, which come sorted by length, are read together."""
    vocabulary = local.model.config.get_text_config().vocab_size
    size, most = 1, min(local.choosing.rows, len(rows), max(1, LOGITS // (labels.longest * vocabulary)))
    while size < most and (size + 1) * len(rows[size].prompt) <= READ:
        if _is_far(local, rows[size], labels):
            break
        size += 1
    return size


def _is_far(local: "LocalModel", row: Row, labels: Labels) -> bool:
    """Tell whether a row is read by itself."""
    return len(row.prompt) + labels.longest > local.reach


def _batch(local: "LocalModel", rows: list[Row], labels: Labels) -> Iterator[tuple[int, Answer]]:
    """Yield the answers of one batch; where memory runs out, of its halves."""
    if _is_far(local, rows[-1], labels):
        forget(local.model)
    try:
        found = _scores(local, [row.prompt for row in rows], labels)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        found = None
    if found is not None:
        yield from ((row.number, _answer(local, row, labels, scores)) for row, scores in zip(rows, found, strict=True))
        return
    torch.cuda.empty_cache()  # outside the handler, which holds on to the failed batch's tensors
    local.choosing.halve(len(rows))
    half = local.choosing.rows
    yield from _batch(local, rows[:half], labels)
    yield from _batch(local, rows[half:], labels)


def _answer(local: "LocalModel", row: Row, labels: Labels, scores: list[float]) -> Answer:
    if not all(map(math.isfinite, scores)):
        return _failed(local, row, "the model gives the labels no probabilities (not a number)")
    told = dict(zip(labels.texts, (round(score, DIGITS) for score in scores)))
    likeliest = max(told, key=told.__getitem__)
    answer = Answer(likeliest, model=local.name, finish_reason="stop", tokens_in=len(row.prompt), tokens_out=0)
    answer.scores = told
    return answer


@torch.inference_mode()
def _scores(local: "LocalModel", prompts: list[list[int]], labels: Labels) -> list[list[float]]:
    """Return the score of each label after each prompt: prompts × labels."""
    read = (_Encoded if local.encoder_decoder else _Read)(local, prompts, labels.longest > 1)
    columns = []
    for tokens in labels.tokens:
        known = tokens if labels.ends else tokens[:-1]  # what has been written before the last step
        steps = [read.first, *(read.after(known).unbind(1) if known else ())]
        score = sum(step[:, token] for step, token in zip(steps, tokens))
        columns.append(score + steps[-1][:, list(labels.ends)].logsumexp(-1) if labels.ends else score)
    return torch.stack(columns, 1).tolist()


class _Read:
    """Prompts that a decoder has read, padded on the left; `first` are log-probabilities of what follows: rows × vocabulary."""

    def __init__(self, local: "LocalModel", prompts: list[list[int]], more: bool):
        self.model, width = local.model, max(map(len, prompts))
        self.takes = parameters(local.model)
        padded = [[local.pad] * (width - len(ids)) + ids for ids in prompts]
        self.ids = torch.tensor(padded, device=local.model.device)
        self.mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=local.model.device)
        logits, cache = self._forward(self.ids, self.mask, None, 1, more)
        self.first = logits[:, -1]
        self.cache = cache if _is_plain(cache) else None

    def after(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return log-probabilities of what follows each of some further tokens: rows × tokens × vocabulary."""
        tail = self.ids.new_tensor([tokens]).expand(len(self.ids), -1)
        mask = torch.cat([self.mask, torch.ones_like(tail)], 1)
        inputs = torch.cat([self.ids, tail], 1) if self.cache is None else tail
        return self._forward(inputs, mask, deepcopy(self.cache), len(tokens), False)[0]  # a model writes into its cache

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None, last: int,
                 keep: bool) -> tuple[torch.Tensor, Cache | None]:
        """Return log-probabilities after the last tokens, and the cache, if it is to be kept."""
        more: dict[str, Any] = {"past_key_values": cache} if cache is not None else {}
        if "position_ids" in self.takes:
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1]:]
        if "logits_to_keep" in self.takes:
            more["logits_to_keep"] = last
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=keep or cache is not None, **more)
        return out.logits[:, -last:].float().log_softmax(-1), out.get("past_key_values") if keep else None


class _Encoded:
    """Prompts that an encoder has read; its decoder begins anew with each label."""

    def __init__(self, local: "LocalModel", prompts: list[list[int]], more: bool):
        self.model, width = local.model, max(map(len, prompts))
        device, config = local.model.device, local.model.generation_config
        ids = torch.tensor([ids + [local.pad] * (width - len(ids)) for ids in prompts], device=device)
        self.mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=device)
        self.start = [token for token in (config.decoder_start_token_id, config.forced_bos_token_id) if token is not None]
        read = local.model.get_encoder()(input_ids=ids, attention_mask=self.mask, return_dict=True)
        self.read = BaseModelOutput(last_hidden_state=read.last_hidden_state)
        self.first = self.after(())[:, 0]

    def after(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return log-probabilities of what follows each of some tokens, of none what comes first: rows × tokens × vocabulary."""
        written = self.mask.new_tensor([[*self.start, *tokens]]).expand(len(self.mask), -1)
        out = self.model(encoder_outputs=self.read, attention_mask=self.mask, decoder_input_ids=written, use_cache=False)
        return out.logits[:, -max(1, len(tokens)):].float().log_softmax(-1)


def _is_plain(cache: Cache | None) -> bool:
    """Tell whether more can be read behind a cache: one that holds a running state (Mamba) goes on a token at a time."""
    layers = getattr(cache, "layers", ())
    running = LinearAttentionCacheLayerMixin
    return bool(layers) and all(isinstance(one, DynamicLayer) and not isinstance(one, running) for one in layers)
