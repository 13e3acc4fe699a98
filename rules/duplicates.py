"""Recipes that leave out rows: near-duplicates of earlier ones, by words or by meaning, and what a benchmark holds too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Embedding
from ddmake.ddfile.inputs import StoredRows
from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdfileError, did_you_mean
from ddmake.rules.columns import added, free, need
from ddmake.rules.texts import beside, grams, hashed, texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches
    from ddmake.artifacts.vectors import Vectors

FOUND = 0.95  # the least share of pairs at the threshold that are to be compared
HELD = 8192  # texts whose runs of words are kept for further comparisons
BLOCK = 1024  # vectors that are compared at once with as many others
SLACK = 1e-5  # by which a cosine in float32 may be off

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]


def _unlike(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `dedupe`."""
    _check_threshold(arguments["threshold"])
    for name, least in (("ngram", 1), ("permutations", 2)):
        if arguments[name] < least:
            raise DdfileError(f"{name} is at least {least}, not {arguments[name]}.")
    need(inputs["rows"], arguments["text"], "to compare")
    return inputs["rows"]


def _dissimilar(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `dedupe_similar`."""
    columns, embedding = inputs["rows"], arguments["embedding"]
    _check_threshold(arguments["threshold"])
    if columns is not None and embedding not in columns:
        if arguments["embedder"] is None:
            raise DdfileError(f"there is no column {embedding!r} of vectors. Give an embedder=, or embed() the rows."
                              f"{did_you_mean(embedding, columns)}")
        need(columns, arguments["text"], "to embed")
    return columns


def _clean(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `decontaminate`."""
    columns, mark = inputs["rows"], arguments["mark"]
    if arguments["ngram"] < 1:
        raise DdfileError(f"ngram is the number of words that a row may not share, at least 1, not {arguments['ngram']}.")
    for known, argument, what in ((columns, "text", "to look through"), (inputs["benchmark"], "against", "of the benchmark")):
        for name in _names(arguments[argument]):
            need(known, name, what)
    free(columns, [mark] if mark else [], "decontaminate")
    return added(columns, *([mark] if mark else []))


def _embedding(inputs: Inputs, arguments: Arguments) -> Iterator[Embedding]:
    """Tell what `dedupe_similar` has embedded: texts, where there are no vectors."""
    rows = inputs["rows"]
    if arguments["embedder"] is not None and arguments["embedding"] not in rows.column_names:
        yield Embedding(arguments["embedder"], (one for one in texts(rows, arguments["text"]) if one is not None), rows)


@step(version="1", columns=_unlike)
def dedupe(rows: StoredRows, *, text: str = "text", threshold: float = 0.8, ngram: int = 5, permutations: int = 128,
           seed: int = 0) -> "Batches":
    """Leave out rows whose text is nearly that of an earlier row, found by MinHash and locality-sensitive hashing.

    Two texts are near-duplicates where of the runs of `ngram` words that either has, the share that both have is at least
    `threshold`. Pairs that may be are found by MinHash (Broder 1997), nineteen of twenty at the threshold, nearly all above it;
    each is compared exactly. Near-duplicates of near-duplicates form a group, of which the first row stays (Lee et al. 2022,
    arXiv 2107.06499). Case, punctuation and width don't count; Chinese, Japanese, Thai and their like are compared by characters.
    A text of fewer words is one run, so that it is a duplicate of its equals alone. Null texts stay. Columns stay as they are.
    """
    from ddmake.backends.models import need as need_package

    need_package("datasketch", "dedupe", "dedupe")
    keep = _firsts(rows, text, threshold, ngram, permutations, seed)
    return _kept(rows, keep, "near-duplicates of earlier ones")


@step(version="1", columns=_dissimilar, asks=_embedding)
def dedupe_similar(rows: StoredRows, *, text: str = "text", embedder: Embedder | None = None, embedding: str = "embedding",
                   threshold: float = 0.9) -> "Batches":
    """Leave out rows whose vector is near that of an earlier row: their cosine is at least `threshold`.

    As SemDeDup does (Abbas et al. 2023, arXiv 2303.09540) within its clusters; here all rows are compared, exactly, so that time
    grows with the square of their number, and memory doesn't. Vectors stand in the column `embedding`; where it isn't there, the
    embedder makes them of the column `text`. Rows without a vector or text stay. Columns are left as they are.
    """
    import numpy as np

    vectors = _vectors(rows, embedding, text, embedder)
    keep = np.ones(len(rows), bool)
    keep[vectors.rows[_near(vectors, threshold)]] = False
    return _kept(rows, keep, f"similar to earlier ones ({threshold:g} or more)")


@step(version="1", columns=_clean, by_row="rows")
def decontaminate(rows: StoredRows, benchmark: StoredRows, *, text: str | Sequence[str] = "text",
                  against: str | Sequence[str] = "text", ngram: int = 13, mark: str | None = None) -> "Batches":
    """Leave out rows that share a run of `ngram` words with a benchmark (Brown et al. 2020, arXiv 2005.14165, appendix C).

    `text` names the column, or columns, to look through, and `against` those of the benchmark. With `mark` all rows are kept, and
    a column of that name says which ones share one. Case, punctuation and width don't count; Chinese, Japanese, Thai and their
    like are compared by characters. A text of fewer words is one run: it matches its equals alone. Null texts share nothing.
    """
    from ddmake.artifacts.rows import Batches, features_of

    known: set[int] = set()
    for name in _names(against):
        known.update(number for one in texts(benchmark, name) if one is not None for number in hashed(grams(one, ngram)))
    features = features_of(rows)
    return Batches(_marked(rows, [_share(rows, name, ngram, known) for name in _names(text)], mark), features)


def _names(columns: str | Sequence[str]) -> Sequence[str]:
    return [columns] if isinstance(columns, str) else columns


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise DdfileError(f"threshold is the least similarity of duplicates, above 0 and at most 1, not {threshold:g}.")


def _share(rows: Any, name: str, ngram: int, known: set[int]) -> Iterator[bool]:
    """Tell of each text of a column whether it holds a run of words that is known."""
    return (one is not None and not known.isdisjoint(hashed(grams(one, ngram))) for one in texts(rows, name))


def _marked(rows: Any, shared: list[Iterator[bool]], mark: str | None) -> Iterator["pa.RecordBatch"]:
    """Yield batches of the rows that share nothing, or of all with a mark."""
    import pyarrow as pa

    from ddmake.artifacts.rows import read

    each, count = (any(ones) for ones in zip(*shared)), 0
    for batch in read(rows):
        found = list(islice(each, batch.num_rows))
        count += sum(found)
        yield (batch.filter(pa.array([not one for one in found], pa.bool_())) if mark is None
               else beside(batch, {mark: pa.array(found, pa.bool_())}))
    done = "left out" if mark is None else "marked"
    print(f"{done} {count} of {len(rows)} rows: they share text with the benchmark", flush=True)


def _kept(rows: Any, keep: "np.ndarray", why: str) -> "Batches":
    """Return the rows to keep."""
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, features_of, read

    print(f"left out {len(keep) - int(keep.sum())} of {len(keep)} rows: {why}", flush=True)
    numbers = iter(keep.tolist())
    batches = (batch.filter(pa.array(list(islice(numbers, batch.num_rows)), pa.bool_())) for batch in read(rows))
    return Batches(batches, features_of(rows))


def _firsts(rows: Any, text: str, threshold: float, ngram: int, permutations: int, seed: int) -> "np.ndarray":
    """Tell of each row whether it is the first of its group of near-duplicates."""
    import numpy as np

    numbers, signatures = _signatures(rows, text, ngram, permutations, seed)
    column = rows.with_format("arrow", columns=[text])
    runs = lru_cache(HELD)(lambda number: hashed(grams(column[number:number + 1].column(0)[0].as_py(), ngram)))
    groups = _Groups(len(rows))
    for bucket in _buckets(signatures, _width(threshold, permutations)):
        _join(numbers[bucket].tolist(), groups, lambda one, other: _jaccard(runs(one), runs(other)) >= threshold)
    return np.array([groups.first(number) == number for number in range(len(rows))], bool)


def _signatures(rows: Any, text: str, ngram: int, permutations: int, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return the numbers of the rows with a text, and their MinHash signatures: rows × permutations."""
    import numpy as np
    from datasketch import MinHash

    numbers = np.array([number for number, one in enumerate(texts(rows, text)) if one is not None], np.int64)
    runs = ([run & 0xFFFFFFFF for run in hashed(grams(one, ngram))] for one in texts(rows, text) if one is not None)
    signatures = np.empty((len(numbers), permutations), np.uint32)
    for at, made in enumerate(MinHash.generator(runs, num_perm=permutations, seed=seed, hashfunc=int)):
        signatures[at] = made.hashvalues
    return numbers, signatures


def _width(threshold: float, permutations: int) -> int:
    """Return how many places of a signature make a band: as many as find `FOUND` of the pairs at the threshold."""
    fits = (width for width in range(permutations, 1, -1) if 1 - (1 - threshold ** width) ** (permutations // width) >= FOUND)
    return next(fits, 1)


def _buckets(signatures: "np.ndarray", width: int) -> Iterator["np.ndarray"]:
    """Yield, in order, the places of signatures that are alike in a band, for those of two and more."""
    import numpy as np

    for start in range(0, signatures.shape[1] - width + 1, width):
        bands = np.ascontiguousarray(signatures[:, start:start + width]).view(f"V{4 * width}").reshape(-1)
        order = np.argsort(bands, kind="stable")
        edges = np.concatenate([[0], np.flatnonzero(bands[order][1:] != bands[order][:-1]) + 1, [len(order)]])
        yield from (order[edges[at]:edges[at + 1]] for at in np.flatnonzero(np.diff(edges) > 1))


def _join(bucket: list[int], groups: "_Groups", alike: Callable[[int, int], bool]) -> None:
    """Join each row of a bucket with the first one there that it is like; so that many alike take no more time than few."""
    firsts: list[int] = []
    for number in bucket:
        found = next((first for first in firsts if groups.first(first) == groups.first(number) or alike(first, number)), None)
        if found is None:
            firsts.append(number)
        else:
            groups.join(found, number)


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


class _Groups:
    """Rows in groups, each known by its first row (union-find)."""

    def __init__(self, count: int):
        self.above = list(range(count))

    def first(self, number: int) -> int:
        """Return the first row of a row's group."""
        while self.above[number] != number:
            self.above[number] = number = self.above[self.above[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Make one group of two rows' groups."""
        low, high = sorted((self.first(one), self.first(other)))
        self.above[high] = low


def _vectors(rows: Any, embedding: str, text: str, embedder: Any) -> "Vectors":
    """Return the vectors of rows: those of their column, else such as the embedder makes of their texts."""
    import numpy as np

    from ddmake.artifacts.vectors import Vectors, of_column

    if embedding in rows.column_names:
        return of_column(rows.with_format("arrow", columns=[embedding])[0:len(rows)].column(embedding), embedding)
    numbers = [number for number, one in enumerate(texts(rows, text)) if one is not None]
    return Vectors(list(embedder.stream(one for one in texts(rows, text) if one is not None)), np.array(numbers, np.int64))


def _near(vectors: "Vectors", threshold: float) -> "np.ndarray":
    """Tell of each vector whether an earlier one is near."""
    import numpy as np

    near = np.zeros(len(vectors), bool)
    for start in range(0, len(vectors), BLOCK):
        here = np.arange(start, min(start + BLOCK, len(vectors)))
        block = _unit(vectors, here)
        for before in range(0, start + 1, BLOCK):
            there = np.arange(before, min(before + BLOCK, len(vectors)))
            rest = np.flatnonzero(~near[here])
            scores = block[rest] @ _unit(vectors, there).T
            scores[there[None] >= here[rest][:, None]] = -2  # not those before
            near[here[rest]] = _reach(scores, threshold, vectors, here[rest], there)
    return near


def _reach(scores: "np.ndarray", threshold: float, vectors: "Vectors", here: "np.ndarray", there: "np.ndarray") -> "np.ndarray":
    """Tell of each row of cosines whether one reaches the threshold: in float64 where float32 can't tell, whatever the blocks."""
    import numpy as np

    found = scores.max(axis=1) >= threshold + SLACK
    for row in np.flatnonzero(~found & (scores.max(axis=1) >= threshold - SLACK)):
        some = np.flatnonzero(scores[row] >= threshold - SLACK)
        pair = _unit(vectors, here[[row]], np.float64) * _unit(vectors, there[some], np.float64)
        found[row] = (pair.sum(axis=1) >= threshold - 1e-12).any()
    return found


def _unit(vectors: "Vectors", numbers: "np.ndarray", kind: Any = "float32") -> "np.ndarray":
    """Return vectors of the length 1; one of zeros stays so."""
    import numpy as np

    found = vectors.take(numbers).astype(kind)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-30)
