"""Models on this machine, through transformers: causal and encoder-decoder ones, full or with a LoRA adapter.

An answer depends on its request and seed alone, not on the rows that shared its batch: each row has a random
generator of its own, and sampling is the argmax of warped logits plus its Gumbel noise (Gumbel 1954; Maddison et al.
2014, arXiv 1411.0030). In float32 only a tie to the last bits could tell; half precision rounds by batch shape.

Not here: JSON schemas aren't enforced, and beam search isn't offered.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils.logging import disable_progress_bar

from ddmake.backends.base import Answer, Request
from ddmake.backends.models import (
    adapter_base,
    files_sha,
    is_adapter,
    is_encoder_decoder,
    need,
    prompt_ids,
    resolve_base,
    weights_sha,
)

WINDOW = 512  # requests that are taken and sorted by length at once
ROWS = 128  # in a batch, unless batch_size says otherwise
CACHE_BYTES = 1 << 30  # of attention cache in a batch on a CPU: what bounds its rows where prompts are long
STRIDE = 16  # tokens decoded before finished rows leave the batch
MAX_TOKENS = 256  # where neither the llm nor the model's generation_config says
NO_LIMIT = 1 << 20  # tokenizers without a limit claim 1e30


def pick_dtype(dtype: str | None) -> torch.dtype | str:
    """Return the type that weights are loaded in: as declared, else float32 on a CPU and the stored one elsewhere."""
    if dtype is not None:
        return dtype if dtype == "auto" else getattr(torch, dtype)
    return "auto" if torch.cuda.is_available() else torch.float32


def load_model(model: Path | str, revision: str | None = None, dtype: str | None = None,
               device_map: str | None = None) -> torch.nn.Module:
    """Load a model by its folder or Hub name, with an adapter's base under it."""
    disable_progress_bar()
    if is_adapter(model):
        base, of = adapter_base(model)
        return put_on(load_model(base, of, dtype, device_map), model)
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder(model, revision) else AutoModelForCausalLM
    return auto.from_pretrained(str(model), revision=revision, dtype=pick_dtype(dtype), device_map=device_map)


def put_on(model: torch.nn.Module, adapter: Path | str) -> torch.nn.Module:
    """Return a model with an adapter on it: merged in float32, kept apart in half precision, where merging rounds."""
    need("peft", "local", "a model with a LoRA adapter")
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(adapter))
    return tuned.merge_and_unload() if model.dtype == torch.float32 else tuned


def load_tokenizer(model: Path | str, revision: str | None = None) -> Any:
    """Load a model's tokenizer; an adapter's folder without one uses its base's."""
    if is_adapter(model) and not (Path(model) / "tokenizer_config.json").is_file():
        return load_tokenizer(*adapter_base(model))
    return AutoTokenizer.from_pretrained(str(model), revision=revision)


def load_generation(model: Path | str, loaded: torch.nn.Module) -> GenerationConfig:
    """Return the generation config that goes with a model: an adapter folder's own, else its base's."""
    if is_adapter(model) and (Path(model) / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(model))
    return deepcopy(loaded.generation_config)


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
        float(temperature), given.get("top_k", config.top_k), given.get("top_p", config.top_p),
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


class GumbelNoise(LogitsProcessor):
    """Adds noise to logits (rows × vocabulary) so that their argmax is a draw from them, by each row's own generator."""

    def __init__(self, generators: list[torch.Generator]):
        self.generators = generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores plus one draw of noise for each row and token."""
        noise = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log_()  # -log of an exponential draw is a Gumbel one


@dataclass
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


class LocalModel:
    """A Backend that asks a model in this process."""

    def __init__(self, model: Path | str, *, adapter: Path | str | None = None, revision: str | None = None,
                 dtype: str | None = None, device_map: str | None = None, batch_size: int | None = None,
                 separator: str = "\n", sampling: Mapping[str, object] = {}):
        model = resolve_base(model)
        self.source, self.adapter, self.declared, self.separator = model, adapter, dtype, separator
        self.tokenizer = load_tokenizer(model, revision)
        self.model = load_model(model, revision, dtype, device_map or ("cuda" if torch.cuda.is_available() else None))
        self.commit = getattr(self.model.config, "_commit_hash", None) or revision
        config = load_generation(adapter or model, self.model)
        if adapter is not None:
            self.model = put_on(self.model, adapter)
        self.model.eval()
        self.sampling = read_sampling(sampling, config)
        self.ends = end_tokens(config, self.tokenizer)
        self.pad = self.tokenizer.pad_token_id or config.pad_token_id or 0
        self.model.generation_config = greedy_config(config, self.ends, self.pad)
        self.encoder_decoder = bool(self.model.config.is_encoder_decoder)
        self.strided = not self.encoder_decoder and narrows(self.model)
        self.window = context_window(self.model.config, self.tokenizer)
        self.rows = batch_size or ROWS
        self.name = model if isinstance(model, str) else model.name

    def identity(self) -> dict[str, object]:
        """Return the model by content or commit, its adapter, declared dtype and chat template: no path in it."""
        base, adapter = self.source, self.adapter
        if is_adapter(base) and adapter is None:
            (base, _), adapter = adapter_base(base), base
        local = Path(base).is_dir()
        template = self.tokenizer.chat_template
        return {
            "model": "" if local else str(base),
            "weights": weights_sha(base) if local else self.commit,
            "adapter": files_sha(adapter) if adapter is not None else None,
            "dtype": self.declared,
            "template": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
            "separator": None if template else self.separator,
        }

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer (number, seed, request) triples in batches of like length, yielding each row once it has ended."""
        source = iter(requests)
        while taken := list(islice(source, WINDOW)):
            rows = [self._open(*triple) for triple in taken]
            yield from ((row.number, self._answer(row)) for row in rows if row.error)
            waiting = sorted((row for row in rows if not row.error), key=lambda row: len(row.prompt))
            while waiting:
                size = self._batch_size(waiting)
                yield from self._answer_batch(waiting[:size])
                waiting = waiting[size:]

    def close(self) -> None:
        """Let go of the model and its memory."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, number: int, seed: int, request: Request) -> Row:
        """Return a request as a row, with an error where its prompt can't be rendered or fills the model's context."""
        try:
            ids = prompt_ids(self.tokenizer, request.messages, self.separator, self.encoder_decoder)
        except TemplateError as error:  # such as that of a template without a system turn
            return Row(number, seed, [], 0, error=f"the chat template refused the messages: {error}")
        left = self.window - (1 if self.encoder_decoder else len(ids))
        row = Row(number, seed, ids, min(self.sampling.max_tokens, left))
        if not ids:
            row.error = "prompt is empty"
        elif left < 1 or len(ids) > self.window:
            row.error = f"prompt has {len(ids)} tokens, the model takes {self.window}"
        return row

    def _batch_size(self, rows: list[Row]) -> int:
        """Return how many of the rows, which come sorted by length, fit one batch."""
        budget, size = cache_budget() // cache_bytes(self.model), 1
        while size < min(self.rows, len(rows)) and (size + 1) * (len(rows[size].prompt) + rows[size].room) <= budget:
            size += 1
        return size

    def _answer_batch(self, rows: list[Row]) -> Iterator[tuple[int, Answer]]:
        """Answer one batch; where memory runs out, go on with half as many rows at once."""
        full = False
        try:
            for row in self._decode(rows):
                yield row.number, self._answer(row)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            full = True
        if full:  # outside the handler, which holds on to the failed batch's tensors
            torch.cuda.empty_cache()
            self.rows = max(1, len(rows) // 2)
            left = [Row(row.number, row.seed, row.prompt, row.room) for row in rows if row.finish is None]
            while left:  # a half may be halved again
                now, left = left[:self.rows], left[self.rows:]
                yield from self._answer_batch(now)

    def _decode(self, live: list[Row]) -> Iterator[Row]:
        """Decode rows together, a stride at a time, yielding each as it ends; the others go on without it.

        A model whose cache can't be narrowed writes all its tokens in one stride.
        """
        ids, mask = padded(live, self.pad, self.model.device, left=not self.encoder_decoder)
        noise, cache = self._noise(live), None
        while live:
            rooms = [row.room - len(row.written) for row in live]
            steps = min(STRIDE, *rooms) if self.strided else max(rooms)
            start = 1 if self.encoder_decoder else ids.shape[1]
            ids, cache = self._generate(ids, mask, cache, noise, steps)
            for row, tokens in zip(live, ids[:, start:].tolist(), strict=True):
                self._take(row, tokens)
            yield from (row for row in live if row.finish)
            stay = [index for index, row in enumerate(live) if not row.finish]
            live, ids = [live[index] for index in stay], ids[stay]
            if live:
                mask = torch.nn.functional.pad(mask[stay], (0, ids.shape[1] - mask.shape[1]), value=1)
                cache.batch_select_indices(torch.tensor(stay, device=ids.device))
                noise = noise and GumbelNoise([noise.generators[index] for index in stay])

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, noise: GumbelNoise | None,
                  steps: int) -> tuple[torch.Tensor, Any]:
        """Write up to `steps` tokens for each row of ids (rows × padded length); return all tokens and the cache."""
        processors = [] if noise is None else [*warpers(self.sampling), noise]
        done = self.model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=steps,
            logits_processor=LogitsProcessorList(processors), return_dict_in_generate=True,
        )
        return done.sequences, done.past_key_values

    def _noise(self, rows: list[Row]) -> GumbelNoise | None:
        """Return the rows' own random draws, or None for greedy decoding."""
        if self.sampling.temperature == 0:
            return None
        return GumbelNoise([torch.Generator(self.model.device).manual_seed(row.seed % 2**63) for row in rows])

    def _take(self, row: Row, tokens: list[int]) -> None:
        """Add what a row wrote, up to an end token, a stop string or the row's room."""
        tokens = tokens[:row.room - len(row.written)]
        ends = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        row.written += tokens if ends is None else tokens[:ends + 1]
        row.text = self._text(row.written)
        if any(stop in row.text for stop in self.sampling.stop):
            self._cut(row)
        elif ends is not None:
            row.finish = "stop"
        elif len(row.written) >= row.room:
            row.finish = "length"

    def _cut(self, row: Row) -> None:
        """End a row before its first stop string, counting only the tokens that it took to write that."""
        stops = self.sampling.stop
        needed = next(n for n in range(1, len(row.written) + 1)
                      if any(stop in self._text(row.written[:n]) for stop in stops))
        row.written, row.finish = row.written[:needed], "stop"
        row.text = row.text[:min(place for stop in stops if (place := row.text.find(stop)) >= 0)]

    def _text(self, tokens: list[int]) -> str:
        """Return tokens as text, without special ones."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _answer(self, row: Row) -> Answer:
        """Return a row that has ended as an answer."""
        return Answer(row.text, model=self.name, finish_reason=row.finish, tokens_in=len(row.prompt),
                      tokens_out=len(row.written), error=row.error)


def padded(rows: list[Row], pad: int, device: torch.device, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows' prompts padded on one side, and their attention mask: both rows × longest prompt.

    A decoder goes on where its prompt ends, so it is padded on the left; an encoder counts positions from the left.
    """
    width = max(len(row.prompt) for row in rows)
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        place = slice(width - len(row.prompt), None) if left else slice(len(row.prompt))
        ids[at, place], mask[at, place] = torch.tensor(row.prompt), 1
    return ids.to(device), mask.to(device)


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
