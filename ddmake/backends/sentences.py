"""Embedders on this machine, through sentence-transformers. The model that was opened last is kept for the next job.

A vector differs in its last bits with the texts that shared its batch, as padding does; what is kept is the first one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from ddmake.backends.embedders import called
from ddmake.backends.encoders import knows_words, positions
from ddmake.backends.heads import LABELS
from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 512  # texts that are encoded between two commits
ROWS = 32  # texts at once, unless batch_size says otherwise

_kept: dict[str, SentenceTransformer] = {}  # one at most, by what tells it from others


def encode(spec: Embedder, folder: Path, name: str, texts: Sequence[str]) -> Iterator[tuple[list[int], "NDArray[np.float32]"]]:
    """Yield vectors with their texts' numbers, block by block: the longest texts first, so that like is padded with like.

    `name` tells the model in the folder, as the spec has it, from every other. The spec's prompt, if any, is put before each
    text, in place of one that the model has of its own.
    """
    if name not in _kept:
        _kept.clear()
        _kept[name] = _loaded(spec, folder)
    rows = spec.batch_size or ROWS
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    for start in range(0, len(order), max(BLOCK, rows)):
        numbers = order[start:start + max(BLOCK, rows)]
        yield numbers, _encoded(_kept[name], spec, [texts[number] for number in numbers], rows)


def _loaded(spec: Embedder, folder: Path) -> SentenceTransformer:
    """Load a model, in float32 unless the spec says otherwise. Raises DdmakeError for a folder that holds none."""
    named = f"embedder({called(spec)!r})"
    try:
        model = SentenceTransformer(str(folder), model_kwargs={"dtype": getattr(torch, spec.dtype or "float32")})
    except (OSError, ValueError, RuntimeError) as error:
        raise DdmakeError(f"{folder} holds no model that sentence-transformers can load: {str(error).splitlines()[0]}") from None
    if (folder / LABELS).is_file():
        raise DdmakeError(f"{named}: {folder} is a classifier, whose vectors are labels' numbers. Ask it by classify, or give "
                          "the embedder that it was made of.")
    if not knows_words(model.tokenizer):
        raise DdmakeError(f"{named}: {folder} holds no tokenizer, or one without words. Put the model's tokenizer beside it.")
    limit = positions(model[0].auto_model) if hasattr(model[0], "auto_model") else None
    if spec.max_length is not None:
        _check_length(model, spec.max_length, limit, named)
        model.max_seq_length = spec.max_length
    elif limit is not None and (model.max_seq_length or 0) > limit:  # as it is where a RoBERTa's tokenizer states none
        model.max_seq_length = limit
    return model


def _check_length(model: SentenceTransformer, max_length: int, limit: int | None, named: str) -> None:
    """Raise DdmakeError for more tokens than a model has positions for, or too few to hold one of a text's own."""
    if limit is not None and max_length > limit:
        raise DdmakeError(f"{named}: max_length={max_length}, and the model takes {limit} tokens. Give at most that.")
    special = getattr(model.tokenizer, "num_special_tokens_to_add", None)
    least = 1 if special is None else special() + 1
    if max_length < least:
        raise DdmakeError(f"{named}: max_length={max_length} leaves no room for a text's own tokens. Give {least} or more.")


def _encoded(model: SentenceTransformer, spec: Embedder, texts: list[str], rows: int) -> "NDArray[np.float32]":
    """Encode texts; where memory runs out, half as many at once. Raises DdmakeError for vectors shorter than was asked."""
    try:
        found = model.encode(texts, prompt=spec.prompt, batch_size=rows, truncate_dim=spec.dimensions, show_progress_bar=False)
    except torch.cuda.OutOfMemoryError:
        if rows == 1:
            raise DdmakeError("one text alone takes more memory than the GPU has. Give max_length= to the embedder.") from None
        torch.cuda.empty_cache()
        return _encoded(model, spec, texts, rows // 2)
    if spec.dimensions not in (None, found.shape[1]):
        raise DdmakeError(f"embedder({called(spec)!r}): dimensions={spec.dimensions}, and its vectors have {found.shape[1]} "
                          "numbers. Give fewer, or leave it out.")
    return np.ascontiguousarray(found, dtype=np.float32)
