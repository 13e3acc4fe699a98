"""Decoding with refill: rows that end leave at once, and waiting ones take their place.

The cache has a slot a row. A row's tokens lie in its slot from column 0 on, so a newcomer joins whatever the others have
written, and attention is told by a mask how far each row has come. The rows under way lie in the first slots: where one
ends, the last moves into its place. A newcomer's prompt but for its last token is read beside the other newcomers', equal
prompts once; what all of them share with the row in slot 0 is copied from there. The last token is the row's first step.

For decoders that attend to all that came before. Others go by `ddmake.backends.strided`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os.path import commonprefix
from weakref import WeakKeyDictionary

import torch
from transformers import Cache, LogitsProcessorList
from transformers.cache_utils import CacheLayerMixin

from ddmake.backends.decoding import Fitting, Row, Writer, penalise

READ = 8192  # prompt tokens that are read at once, padding included
MASK = 1 << 24  # numbers in the mask of what is read at once: a long prompt is read in pieces
SHARED = 16  # tokens that newcomers must have in common with slot 0: fewer are read as fast as copied
WIDTH = 64  # columns of a slot are a multiple of this, so that slots are seldom made anew
LATE = 8  # newcomers are let in once an eighth of the slots is free: reading them one by one would take longer


@dataclass
class _Place:
    """Where the next tokens go: slots from `first` on, their columns (1 or slots × tokens), and how many columns are seen."""

    slots: int = 0
    width: int = 0
    first: int = 0
    columns: torch.Tensor | None = None
    seen: int = 0


class _Layer(CacheLayerMixin):
    """A layer's keys and values: slots × heads × columns × size, zero where nothing was written (NaN would pass a mask)."""

    def __init__(self, place: _Place):
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the slots, as the first keys and values tell their shape."""
        self.keys, self.values = (
            new.new_zeros(self.place.slots, new.shape[1], self.place.width, new.shape[3]) for new in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object,
               **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values where the place says, and return what its rows see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, rows = self.place, slice(self.place.first, self.place.first + len(key_states))
        at = torch.arange(rows.start, rows.stop, device=key_states.device)[:, None], place.columns.to(key_states.device)
        self.keys[at[0], :, at[1]] = key_states.transpose(1, 2)
        self.values[at[0], :, at[1]] = value_states.transpose(1, 2)
        return self.keys[rows, :, :place.seen], self.values[rows, :, :place.seen]

    def resize(self, rows: int) -> None:
        """Make the slots anew in the place's size, with what the first rows hold."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(self.place.slots, old.shape[1], self.place.width, old.shape[3])
            width = min(old.shape[2], new.shape[2])
            new[:rows, :, :width] = old[:rows, :, :width]
            setattr(self, name, new)

    def copy(self, sources: list[int], targets: list[int], width: int) -> None:
        """Copy the first columns of slots to others."""
        for kept in (self.keys, self.values):
            kept[targets, :, :width] = kept[sources, :, :width]

    def get_seq_length(self) -> int:
        """Return how many columns are seen."""
        return self.place.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how wide a mask is, and where it begins."""
        return self.place.seen, 0

    def get_max_length(self) -> int:
        """Return how many columns there are."""
        return self.place.width


class Slots:
    """A model with a cache of slots: reads prompts into them, and writes a token in each."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.place = model, _Place()
        self.cache = Cache(layer_class_to_replicate=lambda: _Layer(self.place))

    @torch.inference_mode()
    def make_room(self, slots: int, width: int, rows: int) -> None:
        """Have at least so many slots of so many columns; what the first rows hold is kept."""
        if slots > self.place.slots or width > self.place.width:
            self.place.slots, self.place.width = slots, width
            for layer in self.cache.layers:
                layer.resize(rows)

    @torch.inference_mode()
    def copy(self, sources: list[int], targets: list[int], width: int) -> None:
        """Copy the first columns of slots to others."""
        if targets and width:
            for layer in self.cache.layers:
                layer.copy(sources, targets, width)

    def read(self, first: int, texts: list[tuple[int, ...]], known: int) -> None:
        """Read texts into slots from `first` on, beginning behind the columns that are known already."""
        width = max(map(len, texts))
        ids = torch.tensor([(*text, *[0] * (width - len(text))) for text in texts])
        step = max(64, min(READ // len(texts), MASK // max(1, width)))
        for start in range(known, width, step):
            columns = torch.arange(start, min(start + step, width))[None]
            hidden = torch.arange(columns.shape[1] + start) > columns[..., None]
            self._run(first, ids[:, columns[0]], columns, hidden, logits_to_keep=1)

    def write(self, tokens: list[int], columns: list[int]) -> torch.Tensor:
        """Put a token in each of the first slots, and return the logits (rows × vocabulary) of what follows."""
        at = torch.tensor(columns)[:, None]
        return self._run(0, torch.tensor(tokens)[:, None], at, torch.arange(max(columns) + 1) > at[..., None])[:, -1]

    @torch.inference_mode()
    def _run(self, first: int, ids: torch.Tensor, columns: torch.Tensor, hidden: torch.Tensor, **keep: int) -> torch.Tensor:
        """Run the model over ids (rows × tokens) at columns; `hidden` (1 or rows × tokens × columns) isn't attended to."""
        device, dtype = self.model.device, self.model.dtype
        columns = columns.to(device)
        self.place.first, self.place.columns, self.place.seen = first, columns, hidden.shape[-1]
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
        return self.model(input_ids=ids.to(device), attention_mask=mask[:, None].to(device),
                          position_ids=columns.expand(len(ids), -1), past_key_values=self.cache, use_cache=True, **keep).logits


@dataclass
class Refilling:
    """Decodes rows in slots: at most as many of them as fit at once, and at most `budget` columns in all."""

    model: torch.nn.Module
    writer: Writer
    penalties: LogitsProcessorList
    fits: Fitting
    budget: int
    live: list[Row] = field(default_factory=list)  # by slot
    waiting: list[Row] = field(default_factory=list)  # sorted by length: the longest comes last, and is taken first

    def __post_init__(self) -> None:
        """Begin with empty slots."""
        self.slots = Slots(self.model)

    def decode(self, rows: list[Row]) -> Iterator[Row]:
        """Take rows in, and yield each row that ends until none of them waits; the last ones are still under way then.

        Where memory runs out, half as many go on at once, each from where it is. Raises OutOfMemoryError if one is too many.
        """
        self.waiting = sorted(rows, key=lambda row: (len(row.prompt), row.prompt))
        while self.waiting:
            yield from self._go_on()

    def drain(self) -> Iterator[Row]:
        """Yield the rows that are still under way as they end."""
        while self.live or self.waiting:
            yield from self._go_on()

    def _go_on(self) -> list[Row]:
        """Write a token in each row, and return those that ended with it."""
        try:
            self._admit()
            self._step()
            return self._ended()
        except torch.OutOfMemoryError:
            if self.slots.place.slots == 1:
                raise
        return self._halve()  # outside the handler, which holds on to the failed step's tensors

    def _admit(self) -> None:
        """Let waiting rows in, as many as there is room for."""
        if len(self.live) > self._most(_width(self.live)) * (LATE - 1) // LATE:
            return
        while group := self._group():
            group = group if self.live else group[:1]  # the others find in slot 0 what they share with it
            del self.waiting[-len(group):]
            self._read(group)

    def _group(self) -> list[Row]:
        """Return the waiting rows that are read next: as many as there are slots for and may be read at once."""
        group: list[Row] = []
        width, longest = _width(self.live), 0
        for row in reversed(self.waiting):
            width, longest = max(width, _width([row])), max(longest, row.length)
            count = len(group) + 1
            if len(self.live) + count > self._most(width) or (group and longest * count > READ):
                break
            group.append(row)
        return group

    def _most(self, width: int) -> int:
        """Return how many slots of a width there may be."""
        return max(1, min(self.fits.rows, self.budget // width))

    def _read(self, group: list[Row]) -> None:
        """Read newcomers but for their last tokens into the slots behind those in use: equal ones once."""
        texts: dict[tuple[int, ...], list[Row]] = {}
        for row in group:
            texts.setdefault((*row.prompt, *row.written)[:-1], []).append(row)
        first, shared = len(self.live), self._shared(texts)
        self.live += [rows[0] for rows in texts.values()] + [row for rows in texts.values() for row in rows[1:]]
        width = _width(self.live)
        self.slots.make_room(min(self._most(width), len(self.live) + len(self.waiting)), width, first)
        self.slots.copy([0] * len(texts), list(range(first, first + len(texts))), shared)
        self.slots.read(first, list(texts), shared)
        sources = [slot for slot, rows in enumerate(texts.values(), first) for _ in rows[1:]]
        self.slots.copy(sources, list(range(first + len(texts), len(self.live))), max(map(len, texts)))

    def _shared(self, texts: Iterable[tuple[int, ...]]) -> int:
        """Return how many tokens are taken from slot 0: those with which it and all of the texts begin."""
        shared = len(commonprefix([(*self.live[0].prompt, *self.live[0].written)[:-1], *texts])) if self.live else 0
        return shared if shared >= SHARED else 0

    def _step(self) -> None:
        """Write a token in each row."""
        tokens = [row.written[-1] if row.written else row.prompt[-1] for row in self.live]
        logits = self.slots.write(tokens, [row.length - 1 for row in self.live])
        if self.penalties:
            logits = penalise(self.penalties, [row.prompt + row.written for row in self.live], logits)
        picked = self.writer.pick(self.live, [row.written for row in self.live], logits)
        for row, token in zip(self.live, picked.tolist(), strict=True):
            self.writer.take(row, token)

    def _ended(self) -> list[Row]:
        """Return the rows that have ended, and move the last ones into their slots."""
        ended = [row for row in self.live if row.finish]
        left = len(self.live) - len(ended)
        holes = [slot for slot in range(left) if self.live[slot].finish]
        last = [slot for slot in range(left, len(self.live)) if not self.live[slot].finish]
        self.slots.copy(last, holes, max((row.length for row in self.live), default=0))
        for hole, slot in zip(holes, last, strict=True):
            self.live[hole] = self.live[slot]
        del self.live[left:]
        return ended

    def _halve(self) -> list[Row]:
        """Start again with half as many slots, the rows under way first, and return those that had ended."""
        self.fits.halve(self.slots.place.slots)
        self.waiting += [row for row in self.live if not row.finish]
        ended = [row for row in self.live if row.finish]
        self.live, self.slots = [], Slots(self.model)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return ended


def _width(rows: list[Row]) -> int:
    """Return how many columns the slots of rows must have."""
    needed = max((row.most for row in rows), default=1)
    return -(-needed // WIDTH) * WIDTH


_tried: WeakKeyDictionary[torch.nn.Module, str | None] = WeakKeyDictionary()  # by input embeddings: a kept model is tried once


def why_no_slots(model: torch.nn.Module) -> str | None:
    """Return why a model doesn't decode in slots as it does without a cache, as a trial shows; None where it does.

    Raises what the model raises without a cache.
    """
    inner = model.get_input_embeddings()  # is the same module in each copy of a model
    if inner not in _tried:
        _tried[inner] = _tell_by_trial(model)
    return _tried[inner]


@torch.inference_mode()
def _tell_by_trial(model: torch.nn.Module) -> str | None:
    texts = [(1, 2), (3, 1, 2, 3)]
    expected = [model(input_ids=torch.tensor([text], device=model.device)).logits[0, -1] for text in texts]
    try:
        found = _in_slots(model, texts)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # by which models tell that they can't
        return f"it can't use a cache of slots: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    off = max((row - wanted).abs().max() / wanted.abs().max() for row, wanted in zip(found, expected, strict=True))
    return None if off < (1e-3 if model.dtype == torch.float32 else 0.1) else f"a cache of slots changes its logits by {off:.1e}"


def _in_slots(model: torch.nn.Module, texts: list[tuple[int, ...]]) -> torch.Tensor:
    """Return the logits of what follows texts (rows × vocabulary), read and written in slots."""
    slots = Slots(model)
    slots.make_room(len(texts), 8, 0)
    slots.read(0, [text[:-1] for text in texts], 0)
    return slots.write([text[-1] for text in texts], [len(text) - 1 for text in texts])
