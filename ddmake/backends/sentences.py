"""Embedders on this machine, through sentence-transformers. The model that was opened last is kept for the next job.

A vector differs in its last bits with the texts that shared its batch, as padding does; what is kept is the first one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 512  # texts that are encoded between two commits
ROWS = 32  # texts at once, unless batch_size says otherwise

_kept: dict[str, SentenceTransformer] = {}  # one at most, by what tells it from others


def encode(spec: Embedder, folder: Path, name: str, texts: Sequence[str]) -> Iterator[tuple[list[int], "NDArray[np.float32]"]]:
    """Yield vectors with their texts' numbers, block by block: the longest texts first, so that like is padded with like.

    `name` tells the model in the folder, as the spec has it, from every other.
    """
    if name not in _kept:
        _kept.clear()
        _kept[name] = _loaded(spec, folder)
    rows = spec.batch_size or ROWS
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    for start in range(0, len(order), max(BLOCK, rows)):
        numbers = order[start:start + max(BLOCK, rows)]
        yield numbers, _encoded(_kept[name], [texts[number] for number in numbers], rows, spec.dimensions)


def _loaded(spec: Embedder, folder: Path) -> SentenceTransformer:
    """Load a model, in float32 unless the spec says otherwise. Raises DdmakeError for a folder that holds none."""
    dtype = getattr(torch, spec.dtype or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise DdmakeError(f"embedder({str(spec.name)!r}): dtype={spec.dtype!r} is none of torch's. Write float32 or bfloat16.")
    try:
        model = SentenceTransformer(str(folder), model_kwargs={"dtype": dtype})
    except (OSError, ValueError) as error:
        raise DdmakeError(f"{folder} holds no model that sentence-transformers can load: {str(error).splitlines()[0]}") from None
    if spec.max_length is not None:
        model.max_seq_length = spec.max_length
    return model


def _encoded(model: SentenceTransformer, texts: list[str], rows: int, dimensions: int | None) -> "NDArray[np.float32]":
    """Encode texts; where memory runs out, half as many at once."""
    try:
        found = model.encode(texts, batch_size=rows, truncate_dim=dimensions, show_progress_bar=False)
    except torch.cuda.OutOfMemoryError:
        if rows == 1:
            raise DdmakeError("one text alone takes more memory than the GPU has. Give max_length= to the embedder.") from None
        torch.cuda.empty_cache()
        return _encoded(model, texts, rows // 2, dimensions)
    return np.ascontiguousarray(found, dtype=np.float32)
