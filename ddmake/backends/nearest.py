"""Exact search among vectors: torch finds candidates in float32, part by part, and numpy puts them in order in float64.

The order is that of the scores, and of equal ones that of the vectors: rounding, which differs with a vector's place in a
matrix, decides nothing. Memory is bounded by the parts: at most `QUERIES` × the rows of one part are scored at once.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddmake.artifacts.vectors import Vectors

    Found = tuple[NDArray[np.int64], NDArray[np.float32]]

QUERIES = 256  # at once
MORE = 8  # candidates beyond those that are asked for
TAKEN = 8192  # candidates whose vectors are held at once
MOST = 4096  # candidates, however many are equally near
SLACK = 1e-5  # by which a score in float32 may be off, of one that is 1
UNIT = 1e-5  # by which a vector's length may differ from 1 and need no division


def nearest(queries: "NDArray[np.float32]", documents: "Vectors", k: int, cosine: bool = True) -> "Found":
    """Return the numbers of the k nearest documents to each query, the nearest first, and their scores: queries × k each.

    The score is the cosine, that of a vector of zeros being 0, or the dot product. Where there are fewer documents, so are the
    columns.
    """
    k = min(k, len(documents))
    lengths = [torch.linalg.vector_norm(_tensor(part), dim=1) for part in documents.parts] if cosine else None
    scales = None if lengths is None or all(_unit(one) for one in lengths) else [1 / one.clamp_min(1e-30) for one in lengths]
    ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries) if k else 0, QUERIES):
        some = np.ascontiguousarray(queries[start:start + QUERIES], np.float32)
        if cosine:
            some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-30)
        ids[start:start + QUERIES], scores[start:start + QUERIES] = _block(some, documents, k, scales, cosine, k + MORE)
    return ids, scores


def _block(queries: "NDArray[np.float32]", documents: "Vectors", k: int, scales: list[torch.Tensor] | None, cosine: bool,
           most: int) -> "Found":
    """Return what is nearest to some queries. Those whose candidates may not be all that count are looked at again, with more."""
    rough, candidates = _candidates(queries, documents, scales, min(most, len(documents)))
    ids, scores = ordered(queries, documents, candidates, k, cosine)
    slack = SLACK if cosine else SLACK * np.abs(rough).max(axis=1)
    crowded = rough[:, -1] >= rough[:, k - 1] - slack
    if crowded.any() and candidates.shape[1] < min(MOST, len(documents)):
        ids[crowded], scores[crowded] = _block(queries[crowded], documents, k, scales, cosine, 8 * most)
    return ids, scores


def _candidates(queries: "NDArray[np.float32]", documents: "Vectors", scales: list[torch.Tensor] | None, most: int) -> "Found":
    """Return the best documents by scores in float32, roughly in order: scores and numbers, queries × most."""
    asked = _tensor(queries)
    best, found = asked.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long, device=asked.device)
    start = 0
    for number, part in enumerate(documents.parts):
        scores = asked @ _tensor(part).T
        if scales is not None:
            scores *= scales[number]
        values, places = scores.topk(min(most, len(part)), dim=1)
        best, found = torch.cat([best, values], 1), torch.cat([found, places + start], 1)
        best, kept = best.topk(min(most, best.shape[1]), dim=1)
        found = found.gather(1, kept)
        start += len(part)
    return best.cpu().numpy(), found.cpu().numpy()


def ordered(queries: "NDArray[np.float32]", documents: "Vectors", candidates: "NDArray[np.int64]", k: int,
             cosine: bool) -> "Found":
    """Return the k best candidates of each query by scores in float64, rounded: equal vectors have equal ones."""
    most = candidates.shape[1]
    scores = np.empty(candidates.shape, np.float32)
    at_once = max(1, TAKEN // most)
    for start in range(0, len(queries), at_once):
        some = slice(start, start + at_once)
        vectors = documents.take(candidates[some].reshape(-1)).reshape(-1, most, documents.dimensions).astype(np.float64)
        asked = queries[some, None].astype(np.float64)
        exact = (vectors * asked).sum(axis=2)
        if cosine:
            exact /= np.maximum(_lengths(vectors) * _lengths(asked), 1e-30)
        scores[some] = exact
    order = np.lexsort((candidates, -scores))[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)


def _lengths(vectors: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.sqrt((vectors * vectors).sum(axis=-1))


def _unit(lengths: torch.Tensor) -> bool:
    return not len(lengths) or bool(((lengths - 1).abs() < UNIT).all())


def _tensor(matrix: "NDArray[np.float32]") -> torch.Tensor:
    """Return a matrix where torch is to multiply it; on a CPU it isn't copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapped memory mustn't be written, and nobody here writes it
        tensor = torch.from_numpy(matrix)
    return tensor.cuda() if torch.cuda.is_available() else tensor
