"""Models on this machine, through transformers: causal and encoder-decoder ones, full or with a LoRA adapter.

An answer depends on its request and seed alone, not on the rows that shared its batch: draws belong to the row (`decoding`).
In float32 only a tie to the last bits could tell; half precision rounds by batch shape. Decoders that attend to all that came
before are decoded with refill (`slots`), all others by transformers' own `generate` (`strided`).

Not here: beam search isn't offered.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from ddmake import toys
from ddmake.backends import choosing
from ddmake.backends.base import Answer, Request
from ddmake.backends.decoding import Fitting, Row, Writer, penalties, read_sampling
from ddmake.backends.guided import Guide, Guides, in_words
from ddmake.backends.likelihood import Likelihood, Pair, likelihoods
from ddmake.backends.loading import Loaded, Manner, load, roughness
from ddmake.backends.models import identity, prompt_ids, resolve_base, takes_tools
from ddmake.backends.reach import parameters, reach
from ddmake.backends.shortening import shortened
from ddmake.backends.slots import Refilling, why_no_slots
from ddmake.backends.strided import Strided
from ddmake.backends.userturn import Begun, begun
from ddmake.errors import DdmakeError

WINDOW = 512  # requests that are taken and sorted by length at once
ROWS = 128  # in a batch, unless batch_size says otherwise
CACHE_BYTES = 1 << 30  # of attention cache in a batch on a CPU: what bounds its rows where prompts are long
WHOLE = ("full_attention", "global")  # kinds of layers that attend to all that came before
NARROWING = (*WHOLE, "local", "sliding_attention", "chunked_attention")  # kinds whose caches let go of rows
FROM_START = ("begin_suppress_tokens", "exponential_decay_length_penalty")  # of a config: what counts from where writing began
UNUSUAL = (  # of a generation config: what only `generate` does
    "forced_bos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "guidance_scale",
    "exponential_decay_length_penalty", "watermarking_config", "penalty_alpha", "dola_layers",
)
NO_LIMIT = 1 << 20  # tokenizers without a limit claim 1e30


class LocalModel:
    """A Backend that asks a model in this process."""

    writes_users = True  # a user's turn, where a request asks for one

    def __init__(self, model: Path | str, *, adapter: Path | str | None = None, revision: str | None = None,
                 dtype: str | None = None, device_map: str | None = None, quantize: str | None = None,
                 batch_size: int | None = None, separator: str | None = None, sampling: Mapping[str, object] = {},
                 truncate: bool = False, loaded: Loaded | None = None):
        model = resolve_base(model)
        self.source, self.adapter, self.declared, self.quantize = model, adapter, dtype, quantize
        loaded = loaded or load(model, adapter, revision, Manner(dtype, device_map, quantize))
        self.model, self.tokenizer, config, self.commit = loaded.model, loaded.tokenizer, loaded.generation, loaded.commit
        self.truncate = truncate
        self.separator = separator if separator is not None else loaded.separator
        self.roughness = roughness(self.model)  # why a row's text may depend on its batch
        self.model.eval()
        self.sampling = read_sampling(sampling, config)
        self.ends = end_tokens(config, self.tokenizer)
        self.pad = self.tokenizer.pad_token_id or config.pad_token_id or 0
        self.model.generation_config = greedy_config(config, self.ends, self.pad)
        self.encoder_decoder = bool(self.model.config.is_encoder_decoder)
        self.penalties = penalties(config)
        slow = why_static(self.model)
        self.refills = slow is None
        self.reach = reach(self.model)
        self.guides = Guides(self.tokenizer, self.ends, self.model.config.get_text_config().vocab_size)
        self.window = context_window(self.model.config, self.tokenizer)
        self.name = model if isinstance(model, str) else model.name
        rows = batch_size or ROWS
        self.fits, self.choosing = (loaded.fits.setdefault((what, rows, self.sampling.max_tokens), Fitting(self.name, rows))
                                    for what in ("writing", "choosing"))
        if slow is not None:
            print(f"{self.name}: answers are written in batches, by transformers' generate, since {slow}", flush=True)

    def identity(self) -> dict[str, object]:
        """Return the model by content or commit, its adapter, how it is loaded, and its chat template: no path in it."""
        return identity(self.source, self.adapter, commit=self.commit, dtype=self.declared, quantize=self.quantize,
                        template=self.tokenizer.chat_template, separator=self.separator)

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer (number, seed, request) triples, yielding each row once it has ended.

        Raises DdmakeError where memory is too small for one row.
        """
        try:
            for number, answer in self._answers(requests):
                answer.rough = self.roughness
                yield number, answer
        except torch.OutOfMemoryError as error:
            raise DdmakeError(f"{self.name}: memory ran out with one row at a time. Lower max_tokens, shorten the prompts, load "
                              "the model with dtype= or quantize=, or spread it by device_map=.") from error

    def _answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        source, decoders = iter(requests), self._decoders()
        while taken := list(islice(source, WINDOW)):
            opened = [(self._open(*triple), triple[2].labels) for triple in taken]
            yield from choosing.answers(self, [(row, labels) for row, labels in opened if labels])
            rows = [row for row, labels in opened if not labels]
            yield from ((row.number, self._answer(row)) for row in rows if row.error)
            for decoder, some in zip(decoders, self._parted([row for row in rows if not row.error]), strict=True):
                yield from ((row.number, self._answer(row)) for row in decoder.decode(some))
        yield from ((row.number, self._answer(row)) for row in decoders[0].drain())

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood | None]:
        """Return the log-probability of each text after its messages, and how many tokens it has; None where it's too long."""
        return likelihoods(self, pairs)

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
            begun = self._begun(request, messages)
        except TemplateError as error:  # such as that of a template without a system turn
            return Row(number, seed, [], 0, error=f"the chat template refused the messages: {error}")
        ids = begun.ids
        left = self.window - (1 if self.encoder_decoder else len(ids))
        row = Row(number, seed, ids, min(self.sampling.max_tokens, left), guided=guided, ends=begun.ends, stop=begun.stop)
        if not ids:
            row.error = "prompt is empty"
        elif left < 1 or len(ids) > self.window:
            row.error = f"prompt has {len(ids)} tokens, the model takes {self.window}"
        return row

    def _begun(self, request: Request, messages: Sequence[Mapping[str, Any]]) -> Begun:
        """Return what the model is given, up to where its own text begins, and what ends that beside its end tokens.

        Raises DdmakeError for tools that the chat template has no place for; a toy stands in for a model that takes them.
        """
        if request.turn == "user":
            return begun(self.tokenizer, messages, self.name)
        if request.tools and not takes_tools(self.tokenizer.chat_template) and self.source not in map(toys.folder, toys.NAMES):
            raise DdmakeError(f"{self.name}: its chat template has no place for tools=, so that the model would never hear of "
                              "them. Leave tools= out, or take a model that was made to call them.")
        render = partial(self._prompt, tools=request.tools or ())
        ids = render(messages)
        if self.truncate and len(ids) > self._room:
            whole, ids = len(ids), shortened(messages, ids, self._room, self.tokenizer, render)
            print(f"{self.name}: a prompt of {whole} tokens was cut to {len(ids)}", flush=True)
        return Begun(ids)

    def _prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        return prompt_ids(self.tokenizer, messages, self.separator, self.encoder_decoder, tools)

    @property
    def _room(self) -> int:
        """Return how many tokens of a prompt leave room for max_tokens, or for half of the context, if that is less."""
        return self.window if self.encoder_decoder else self.window - min(self.sampling.max_tokens, self.window // 2)

    def _guided(self, schema: Mapping[str, Any] | None) -> Callable[[], Guide] | None:
        """Return what makes a guide for rows under a schema; None without one, and where none can be made."""
        possible = schema and self.guides.guide(schema)
        return partial(self.guides.guide, schema) if possible else None

    def _parted(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Return the rows that are decoded with refill, and those that are decoded in fixed batches."""
        parts: tuple[list[Row], list[Row]] = [], []
        for row in rows:
            parts[not self.refills or row.most > self.reach].append(row)
        return parts

    def _decoders(self) -> tuple[Refilling, Strided]:
        """Return what decodes rows of this model with refill, and what does in fixed batches; both empty."""
        ends = frozenset((*self.ends, *special_tokens(self.tokenizer, self.sampling.stop)))
        writer = Writer(self.tokenizer, self.sampling, ends, self.guides)
        budget = cache_budget() // cache_bytes(self.model)
        return (Refilling(self.model, writer, self.penalties, self.fits, budget),
                Strided(self.model, writer, self.penalties, self.pad, self.fits, budget, takes_strides(self.model), self.reach))

    def _answer(self, row: Row) -> Answer:
        """Return a row that has ended as an answer."""
        return Answer(row.text, model=self.name, finish_reason=row.finish, tokens_in=len(row.prompt),
                      tokens_out=len(row.written), error=row.error)


def end_tokens(config: GenerationConfig, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the generation config's, else the tokenizer's; [] if there are none."""
    ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def special_tokens(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """Return those of some texts that are special tokens, as tokens: what a model writes is read without them."""
    known = {text: tokenizer.convert_tokens_to_ids(text) for text in texts}
    return [token for text, token in known.items() if token is not None and tokenizer.decode([token]) == text
            and not tokenizer.decode([token], skip_special_tokens=True)]


def greedy_config(config: GenerationConfig, ends: list[int], pad: int) -> GenerationConfig:
    """Return a model's generation config without what we do ourselves (drawing, lengths) or don't offer (beams).

    A minimal length and penalties count padding, and a forced last token would be forced at the end of each stride.
    """
    plain = deepcopy(config)
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length",
                 "max_new_tokens", "min_length", "min_new_tokens", "forced_eos_token_id", "repetition_penalty",
                 "no_repeat_ngram_size"):
        setattr(plain, name, None)
    plain.do_sample, plain.num_beams, plain.use_cache = False, 1, True
    plain.eos_token_id, plain.pad_token_id = ends or None, pad
    return plain


def kinds_of_layers(model: torch.nn.Module) -> Sequence[str]:
    """Return what each of a model's layers attends by, as its config says; nothing where they are all alike."""
    config = model.config.get_text_config()
    return getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()


def narrows(model: torch.nn.Module) -> bool:
    """Tell whether rows can be taken out of a model's cache: not where it holds a running state (Mamba, LFM2's convolutions)."""
    return not getattr(model, "_is_stateful", False) and set(kinds_of_layers(model)) <= set(NARROWING)


def takes_strides(model: torch.nn.Module) -> bool:
    """Tell whether `generate` can be left and entered again: not without a cache, and not where a start is told of."""
    cached = "past_key_values" in parameters(model)
    counted = any(getattr(model.generation_config, name, None) for name in FROM_START)
    return cached and not counted and not model.config.is_encoder_decoder and narrows(model)


def why_static(model: torch.nn.Module) -> str | None:
    """Return why a model's rows are decoded in fixed batches, without refill; None where they aren't."""
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if not narrows(model):
        return "it holds a running state"
    config, asked, kinds = model.config.get_text_config(), model.generation_config, kinds_of_layers(model)
    if not set(kinds) <= set(WHOLE) or not kinds and getattr(config, "sliding_window", None):
        return "not all of its layers attend to all that came before"
    unusual = next((name for name in UNUSUAL if getattr(asked, name, None)), None)
    return why_no_slots(model) if unusual is None else f"its generation config says {unusual}"


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
