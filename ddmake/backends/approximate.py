"""Search among vectors by a graph (HNSW, arXiv 1603.09320) of usearch's: candidates are found roughly, and put in order exactly.

The graph is built by one thread, in the order of the vectors, from a seed that usearch fixes: one version of it builds the
same on one kind of processor. It holds the vectors in float16, and lives as long as the job.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from usearch.index import Index

from ddmake.backends.nearest import MORE, nearest, ordered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddmake.artifacts.vectors import Vectors
    from ddmake.backends.nearest import Found

NEIGHBOURS = 16  # of a vector in the graph
BUILDING, SEARCHING = 128, 128  # candidates that are kept on the way: more find more, and take longer


@dataclass(frozen=True)
class Graph:
    """Documents' vectors, and the graph over them."""

    documents: "Vectors"
    index: Index
    cosine: bool

    def nearest(self, queries: "NDArray[np.float32]", k: int) -> "Found":
        """Return the k documents that seem nearest to each query: as nearest.nearest does, with the same scores and order."""
        k, most = min(k, len(self.documents)), min(k + MORE, len(self.documents))
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        if not k or not len(queries):
            return ids, scores
        self.index.expansion_search = max(SEARCHING, 2 * most)
        unit = _unit(queries)
        asked = np.concatenate([unit, unit[:1]])  # for a single one usearch returns something else
        found = self.index.search(asked, most, threads=torch.get_num_threads())
        full = found.counts[:-1] == most
        candidates = found.keys[:-1][full].astype(np.int64)
        ids[full], scores[full] = ordered((unit if self.cosine else queries)[full], self.documents, candidates, k, self.cosine)
        if not full.all():  # what can't all be reached: a graph may fall into parts, as that of many equal vectors
            ids[~full], scores[~full] = nearest(queries[~full], self.documents, k, self.cosine)
        return ids, scores


def graph_of(documents: "Vectors", cosine: bool) -> Graph:
    """Build the graph of documents. For the dot product all are made shorter alike, so that float16 can hold them."""
    index = Index(ndim=documents.dimensions or 1, metric="ip", dtype="f16", connectivity=NEIGHBOURS, expansion_add=BUILDING)
    longest = max((float(np.linalg.norm(part, axis=1).max()) for part in documents.parts), default=1.0)
    start = 0
    for part in documents.parts:
        vectors = _unit(part) if cosine else part / np.float32(longest or 1.0)
        index.add(np.arange(start, start + len(part), dtype=np.uint64), vectors, threads=1)
        start += len(part)
    return Graph(documents, index, cosine)


def _unit(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-30))
