"""Models on this machine, through transformers: causal and encoder-decoder ones, full or with a LoRA adapter.

An answer depends on its request and seed alone, not on the rows that shared its batch: draws belong to the row (`decoding`).
In float32 only a tie to the last bits could tell; half precision rounds by batch shape. Decoders that attend to all that came
before are decoded with refill (`slots`), all others by transformers' own `generate` (`strided`).

Not here: beam search isn't offered.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from ddmake.backends import choosing
from ddmake.backends.base import Answer, Request
from ddmake.backends.decoding import Row, Writer, penalties, read_sampling
from ddmake.backends.guided import Guide, Guides, in_words
from ddmake.backends.loading import Loaded, Manner, load, roughness
from ddmake.backends.models import identity, prompt_ids, resolve_base
from ddmake.backends.slots import Refilling, has_slots
from ddmake.backends.strided import Strided
from ddmake.errors import DdmakeError

WINDOW = 512  # requests that are taken and sorted by length at once
ROWS = 128  # in a batch, unless batch_size says otherwise
CACHE_BYTES = 1 << 30  # of attention cache in a batch on a CPU: what bounds its rows where prompts are long
UNUSUAL = (  # of a generation config: what only `generate` does
    "forced_bos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "guidance_scale",
    "exponential_decay_length_penalty", "watermarking_config", "penalty_alpha", "dola_layers",
)
NO_LIMIT = 1 << 20  # tokenizers without a limit claim 1e30


class LocalModel:
    """A Backend that asks a model in this process."""

    def __init__(self, model: Path | str, *, adapter: Path | str | None = None, revision: str | None = None,
                 dtype: str | None = None, device_map: str | None = None, quantize: str | None = None,
                 batch_size: int | None = None, separator: str | None = None, sampling: Mapping[str, object] = {},
                 loaded: Loaded | None = None):
        model = resolve_base(model)
        self.source, self.adapter, self.declared, self.quantize = model, adapter, dtype, quantize
        loaded = loaded or load(model, adapter, revision, Manner(dtype, device_map, quantize))
        self.model, self.tokenizer, config, self.commit = loaded.model, loaded.tokenizer, loaded.generation, loaded.commit
        self.separator = separator if separator is not None else loaded.separator
        self.roughness = roughness(self.model)  # why a row's text may depend on its batch
        self.model.eval()
        self.sampling = read_sampling(sampling, config)
        self.ends = end_tokens(config, self.tokenizer)
        self.pad = self.tokenizer.pad_token_id or config.pad_token_id or 0
        self.model.generation_config = greedy_config(config, self.ends, self.pad)
        self.encoder_decoder = bool(self.model.config.is_encoder_decoder)
        self.refills = not self.encoder_decoder and plain(self.model) and has_slots(self.model)
        self.guides = Guides(self.tokenizer, self.ends, self.model.config.get_text_config().vocab_size)
        self.window = context_window(self.model.config, self.tokenizer)
        self.rows = batch_size or ROWS
        self.name = model if isinstance(model, str) else model.name

    def identity(self) -> dict[str, object]:
        """Return the model by content or commit, its adapter, how it is loaded, and its chat template: no path in it."""
        return identity(self.source, self.adapter, commit=self.commit, dtype=self.declared, quantize=self.quantize,
                        template=self.tokenizer.chat_template, separator=self.separator)

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer (number, seed, request) triples, yielding each row once it has ended.

        Raises DdmakeError where memory is too small for one row.
        """
        try:
            yield from self._answers(requests)
        except torch.OutOfMemoryError as error:
            raise DdmakeError(f"{self.name}: memory ran out with one row at a time. Lower max_tokens, shorten the prompts, load "
                              "the model with dtype= or quantize=, or spread it by device_map=.") from error

    def _answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        source, decoder = iter(requests), self._decoder()
        while taken := list(islice(source, WINDOW)):
            opened = [(self._open(*triple), triple[2].labels) for triple in taken]
            yield from choosing.answers(self, [(row, labels) for row, labels in opened if labels])
            rows = [row for row, labels in opened if not labels]
            yield from ((row.number, self._answer(row)) for row in rows if row.error)
            yield from ((row.number, self._answer(row)) for row in decoder.decode([row for row in rows if not row.error]))
        yield from ((row.number, self._answer(row)) for row in decoder.drain())

    def close(self) -> None:
        """Let go of the model and its memory."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, number: int, seed: int, request: Request) -> Row:
        """Return a request as a row, with an error where its prompt can't be rendered or fills the model's context."""
        try:
            guided = self._guided(request.schema)
            messages = in_words(request) if request.schema and guided is None else request.messages
            ids = prompt_ids(self.tokenizer, messages, self.separator, self.encoder_decoder)
        except TemplateError as error:  # such as that of a template without a system turn
            return Row(number, seed, [], 0, error=f"the chat template refused the messages: {error}")
        left = self.window - (1 if self.encoder_decoder else len(ids))
        row = Row(number, seed, ids, min(self.sampling.max_tokens, left), guided=guided)
        if not ids:
            row.error = "prompt is empty"
        elif left < 1 or len(ids) > self.window:
            row.error = f"prompt has {len(ids)} tokens, the model takes {self.window}"
        return row

    def _guided(self, schema: Mapping[str, Any] | None) -> Callable[[], Guide] | None:
        """Return what makes a guide for rows under a schema; None without one, and where none can be made."""
        possible = schema and self.guides.guide(schema)
        return partial(self.guides.guide, schema) if possible else None

    def _decoder(self) -> Refilling | Strided:
        """Return what decodes rows of this model, empty."""
        writer = Writer(self.tokenizer, self.sampling, frozenset(self.ends), self.guides)
        budget = cache_budget() // cache_bytes(self.model)
        if self.refills:
            return Refilling(self.model, writer, penalties(self.model.generation_config), self.rows, budget)
        return Strided(self.model, writer, self.pad, self.rows, budget, not self.encoder_decoder and narrows(self.model))

    def _answer(self, row: Row) -> Answer:
        """Return a row that has ended as an answer."""
        return Answer(row.text, model=self.name, finish_reason=row.finish, tokens_in=len(row.prompt),
                      tokens_out=len(row.written), error=row.error)


def end_tokens(config: GenerationConfig, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the generation config's, else the tokenizer's; [] if there are none."""
    ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def greedy_config(config: GenerationConfig, ends: list[int], pad: int) -> GenerationConfig:
    """Return a model's generation config without what we do ourselves (drawing, lengths) or don't offer (beams).

    A minimal length counts padding, and a forced last token would be forced at the end of each stride.
    """
    plain = deepcopy(config)
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length",
                 "max_new_tokens", "min_length", "min_new_tokens", "forced_eos_token_id"):
        setattr(plain, name, None)
    plain.do_sample, plain.num_beams, plain.use_cache = False, 1, True
    plain.eos_token_id, plain.pad_token_id = ends or None, pad
    return plain


def narrows(model: torch.nn.Module) -> bool:
    """Tell whether rows can be taken out of a model's cache: not where it holds a running state (Mamba, linear attention)."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    return not getattr(model, "_is_stateful", False) and not any("linear" in kind for kind in kinds)


def plain(model: torch.nn.Module) -> bool:
    """Tell whether each layer attends to all that came before, and the generation config asks for nothing but penalties."""
    config, asked = model.config.get_text_config(), model.generation_config
    kinds = getattr(config, "layer_types", None) or []
    whole = all(kind == "full_attention" for kind in kinds) if kinds else not getattr(config, "sliding_window", None)
    return whole and narrows(model) and not any(getattr(asked, name, None) for name in UNUSUAL)


def context_window(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model takes: its positions, else (T5 has none) its tokenizer's limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions or min(tokenizer.model_max_length, NO_LIMIT)


def cache_budget() -> int:
    """Return the bytes that a batch's attention cache may take: on a GPU a quarter of what is free."""
    return torch.cuda.mem_get_info()[0] // 4 if torch.cuda.is_available() else CACHE_BYTES


def cache_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of attention cache that one token takes: keys and values in every layer."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * kept * size * model.dtype.itemsize
