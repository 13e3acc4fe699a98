"""Decoding by transformers' own `generate`, for what has no cache of slots: encoder-decoders, running states, windows.

A batch is decoded a stride at a time, and rows that have ended leave it between strides. A model whose cache can't be
narrowed writes all its tokens in one stride.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from ddmake.backends.decoding import Fitting, Row, Writer, penalise
from ddmake.backends.reach import forget

STRIDE = 16  # tokens decoded before finished rows leave the batch


class _Picking(LogitsProcessor):
    """Leaves each row one token to choose: the one that is drawn for it, once what is in the row was penalised."""

    def __init__(self, writer: Writer, penalties: LogitsProcessorList, rows: list[Row], start: int, decoder: bool):
        self.writer, self.penalties, self.rows, self.start, self.decoder = writer, penalties, rows, start, decoder

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows × vocabulary) that are finite at one token in each row."""
        new = input_ids[:, self.start:].tolist()
        written = [row.written + tokens for row, tokens in zip(self.rows, new, strict=True)]
        if self.penalties:  # generate's own would count padding
            read = [row.prompt + its for row, its in zip(self.rows, written, strict=True)]
            scores = penalise(self.penalties, read if self.decoder else input_ids.tolist(), scores)
        picked = self.writer.pick(self.rows, written, scores)
        return torch.full_like(scores, float("-inf")).scatter_(1, picked[:, None], 0.0)


@dataclass
class Strided:
    """Decodes rows in batches of at most as many as fit at once, and at most `budget` tokens with padding.

    Rows that may grow beyond the `reach` go one by one.
    """

    model: torch.nn.Module
    writer: Writer
    penalties: LogitsProcessorList
    pad: int
    fits: Fitting
    budget: int
    strided: bool
    reach: int

    def decode(self, rows: list[Row]) -> Iterator[Row]:
        """Yield each row as it ends."""
        waiting = sorted(rows, key=lambda row: len(row.prompt))
        while waiting:
            size = self._batch_size(waiting)
            yield from self._batch(waiting[:size])
            waiting = waiting[size:]

    def drain(self) -> Iterator[Row]:
        """Yield the rows that are still under way: none, since a batch is decoded to its end."""
        yield from ()

    def _batch_size(self, rows: list[Row]) -> int:
        """Return how many of the rows, which come sorted by length, fit one batch."""
        size = 1
        while size < min(self.fits.rows, len(rows)) and (size + 1) * rows[size].most <= self.budget:
            if rows[size].most > self.reach:
                break
            size += 1
        return size

    def _batch(self, rows: list[Row]) -> Iterator[Row]:
        """Decode one batch; where memory runs out, go on with half as many rows at once."""
        full = False
        try:
            yield from self._together(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            full = True
        if full:  # outside the handler, which holds on to the failed batch's tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.fits.halve(len(rows))
            left = [row.again() for row in rows if row.finish is None]
            while left:  # a half may be halved again
                now, left = left[:self.fits.rows], left[self.fits.rows:]
                yield from self._batch(now)

    def _together(self, live: list[Row]) -> Iterator[Row]:
        """Decode rows together, a stride at a time, yielding each as it ends; the others go on without it."""
        decoder = not self.model.config.is_encoder_decoder
        ids, mask = padded(live, self.pad, self.model.device, left=decoder)
        cache = None
        if live[0].most > self.reach:
            forget(self.model)
        while live:
            rooms = [row.room - len(row.written) for row in live]
            steps = min(STRIDE, *rooms) if self.strided else max(rooms)
            start = ids.shape[1] if decoder else 1
            ids, cache = self._generate(ids, mask, cache, self._picking(live, start), steps)
            for row, tokens in zip(live, ids[:, start:].tolist(), strict=True):
                for token in tokens:
                    if row.finish is None:
                        self.writer.take(row, token)
            yield from (row for row in live if row.finish)
            stay = [index for index, row in enumerate(live) if not row.finish]
            live, ids = [live[index] for index in stay], ids[stay]
            if live:
                mask = torch.nn.functional.pad(mask[stay], (0, ids.shape[1] - mask.shape[1]), value=1)
                cache.batch_select_indices(torch.tensor(stay, device=ids.device))

    def _picking(self, live: list[Row], start: int) -> _Picking:
        return _Picking(self.writer, self.penalties, live, start, not self.model.config.is_encoder_decoder)

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, picking: _Picking,
                  steps: int) -> tuple[torch.Tensor, Any]:
        """Write up to `steps` tokens for each row of ids (rows × padded length); return all tokens and the cache."""
        done = self.model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=steps,
            logits_processor=LogitsProcessorList([picking]), return_dict_in_generate=True,
        )
        return done.sequences, done.past_key_values


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
