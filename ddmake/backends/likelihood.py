"""How likely a local model holds given texts after their prompts: the log-probabilities that a perplexity is made of.

A text's tokens are those of the text by itself, read behind the prompt's; what would end the answer isn't counted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError

from ddmake.backends.models import prompt_ids
from ddmake.backends.reach import forget, parameters

if TYPE_CHECKING:
    from ddmake.backends.hf import LocalModel

READ = 4096  # tokens that are read at once, padding included
LOGITS = 1 << 26  # numbers that are looked at together: rows × tokens × vocabulary

Likelihood = tuple[float, int]  # the log-probability of a text, and its tokens
Pair = tuple[Sequence[Mapping[str, Any]], str]  # messages, and the text that follows


@dataclass(frozen=True)
class _Row:
    number: int
    prompt: list[int]
    text: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.text)


def likelihoods(local: "LocalModel", pairs: Sequence[Pair]) -> list[Likelihood | None]:
    """Return how likely each text is after its messages; None where the model can't read them, with a printed line."""
    found: dict[int, Likelihood | None] = {}
    waiting = []
    for number, (messages, text) in enumerate(pairs):
        row = _row(local, number, messages, text)
        if row is not None and not row.text:
            found[number] = (0.0, 0)
        elif row is not None:
            waiting.append(row)
    waiting.sort(key=len)
    while waiting:
        size = _batch_size(local, waiting)
        found |= _read(local, waiting[:size])
        waiting = waiting[size:]
    lost = sum(found.get(number) is None for number in range(len(pairs)))
    if lost:
        print(f"{local.name}: {lost} of {len(pairs)} texts have no likelihood: they are too long for the model, with their "
              "prompts, or its probabilities aren't numbers", flush=True)
    return [found.get(number) for number in range(len(pairs))]


def _row(local: "LocalModel", number: int, messages: Sequence[Mapping[str, Any]], text: str) -> _Row | None:
    """Return a prompt and a text as tokens; None where the model can't read them."""
    try:
        prompt = prompt_ids(local.tokenizer, messages, local.separator, local.encoder_decoder)
    except TemplateError:
        return None
    if local.encoder_decoder:
        row = _Row(number, prompt, local.tokenizer(text_target=text, add_special_tokens=False)["input_ids"])
        return row if prompt and max(len(row.prompt), len(row.text)) <= local.window else None
    row = _Row(number, prompt, local.tokenizer(text, add_special_tokens=False)["input_ids"])
    return row if prompt and len(row) <= local.window else None


def _batch_size(local: "LocalModel", rows: list[_Row]) -> int:
    """Return how many of the rows, which come sorted by length, are read together."""
    vocabulary = local.model.config.get_text_config().vocab_size
    few = local.encoder_decoder or "logits_to_keep" in parameters(local.model)
    size, longest = 1, len(rows[0].text)
    for row in rows[1:local.choosing.rows]:
        longest = max(longest, len(row.text))
        looked_at = (size + 1) * (longest + 1 if few else len(row)) * vocabulary
        if len(row) > local.reach or (size + 1) * len(row) > READ or looked_at > LOGITS:
            break
        size += 1
    return size


def _read(local: "LocalModel", rows: list[_Row]) -> Iterator[tuple[int, Likelihood | None]]:
    """Yield the likelihoods of one batch; where memory runs out, of its halves."""
    if len(rows[-1]) > local.reach:
        forget(local.model)
    try:
        sums = (_encoded if local.encoder_decoder else _decoded)(local, rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        sums = None
    if sums is not None:
        for row, told in zip(rows, sums, strict=True):
            yield row.number, (told, len(row.text)) if math.isfinite(told) else None
        return
    torch.cuda.empty_cache()  # outside the handler, which holds on to the failed batch's tensors
    half = len(rows) // 2
    yield from _read(local, rows[:half])
    yield from _read(local, rows[half:])


@torch.inference_mode()
def _decoded(local: "LocalModel", rows: list[_Row]) -> list[float]:
    """Return the texts' log-probabilities by a decoder, prompts and texts padded on the left."""
    width, longest, takes = max(map(len, rows)), max(len(row.text) for row in rows), parameters(local.model)
    device = local.model.device
    ids = torch.tensor([[local.pad] * (width - len(row)) + row.prompt + row.text for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    more: dict[str, Any] = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if "position_ids" in takes else {}
    if "logits_to_keep" in takes:
        more["logits_to_keep"] = longest + 1
    logits = local.model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits[:, -longest - 1:-1]
    counted = torch.tensor([[0] * (longest - len(row.text)) + [1] * len(row.text) for row in rows], device=device)
    return _summed(logits, ids[:, -longest:], counted)


@torch.inference_mode()
def _encoded(local: "LocalModel", rows: list[_Row]) -> list[float]:
    """Return the texts' log-probabilities by an encoder-decoder, prompts and texts padded on the right."""
    device, config = local.model.device, local.model.generation_config
    ids, mask = _padded([row.prompt for row in rows], local.pad, device)
    texts, counted = _padded([row.text for row in rows], local.pad, device)
    start = [token for token in (config.decoder_start_token_id, config.forced_bos_token_id) if token is not None]
    before = torch.cat([texts.new_tensor([start]).expand(len(rows), -1), texts[:, :-1]], 1)
    out = local.model(input_ids=ids, attention_mask=mask, decoder_input_ids=before, use_cache=False)
    return _summed(out.logits[:, len(start) - 1:], texts, counted)


def _padded(rows: list[list[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)


def _summed(logits: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor) -> list[float]:
    """Return the sum over each row of the log-probabilities of its tokens, of those that count."""
    told = -torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return torch.where(counted.bool(), told, 0.0).double().sum(1).tolist()
