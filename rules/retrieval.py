"""Recipes over vectors of texts: making them, finding the nearest, comparing two."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.asking import Embedding
from ddmake.ddfile.inputs import StoredRows
from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.columns import added, free, need
from ddmake.rules.texts import beside

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches
    from ddmake.artifacts.vectors import Vectors

    Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # numbers and scores of the k nearest

FOUND = ("ids", "texts", "scores")  # columns that `retrieve` adds
BATCH = 8192  # rows whose vectors are held at once
TOGETHER = 2**28  # bytes of found texts that are held at once

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]


def _embedded(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `embed`."""
    columns = inputs["rows"]
    need(columns, arguments["text"], "to embed")
    return added(columns, arguments["column"])


def _retrieved(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `retrieve`."""
    queries, documents = inputs["queries"], inputs["documents"]
    if arguments["k"] < 1:
        raise DdfileError(f"k is the number of texts to find, at least 1, not {arguments['k']}.")
    need(documents, arguments["text"], "of texts to find")
    _need_packages(arguments["approximate"])
    if arguments["id"] is not None:
        need(documents, arguments["id"], "to tell documents by")
    for columns, kind in ((queries, "queries"), (documents, "documents")):
        column = arguments["embedding"]
        if columns is not None and column not in columns and arguments["embedder"] is None:
            raise DdfileError(f"the {kind} have no column {column!r} of vectors. Give an embedder=, or embed() them.")
    if queries is None:
        return None
    if arguments["embedding"] not in queries:
        need(queries, arguments["query"], "of queries")
    free(queries, FOUND, "retrieve")
    return [*queries, *FOUND]


def _compared(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `cosine_similarity`."""
    columns = inputs["rows"]
    for name in (arguments["a"], arguments["b"]):
        need(columns, name, "to compare")
    return added(columns, arguments["column"])


def _embedding(inputs: Inputs, arguments: Arguments) -> Iterator[Embedding]:
    """Tell what `embed` has embedded."""
    yield Embedding(arguments["embedder"], _said(inputs["rows"], arguments["text"]), inputs["rows"])


def _retrieving(inputs: Inputs, arguments: Arguments) -> Iterator[Embedding]:
    """Tell what `retrieve` has embedded: documents, then queries, where they have no vectors."""
    for rows, text in ((inputs["documents"], arguments["text"]), (inputs["queries"], arguments["query"])):
        if arguments["embedder"] is not None and arguments["embedding"] not in rows.column_names:
            yield Embedding(arguments["embedder"], _said(rows, text), rows)


def _comparing(inputs: Inputs, arguments: Arguments) -> Iterator[Embedding]:
    """Tell what `cosine_similarity` has embedded: either column, where it holds texts."""
    for name in (arguments["a"], arguments["b"]):
        if arguments["embedder"] is not None:
            yield Embedding(arguments["embedder"], _said(inputs["rows"], name), inputs["rows"])


def _said(rows: Any, name: str) -> Iterator[str]:
    """Yield the texts of a column that are to be embedded; none where it holds vectors."""
    from ddmake.artifacts.rows import texts_in
    from ddmake.artifacts.vectors import are_vectors

    values = _column(rows, name)
    if not are_vectors(values.type):
        yield from (one for one in texts_in(values, name) if one is not None)


@step(version="2", columns=_embedded, asks=_embedding, by_row="rows")
def embed(rows: StoredRows, *, embedder: Embedder, text: str = "text", column: str = "embedding",
          normalize: bool = False) -> "Batches":
    """Add a column of vectors that an embedder makes of a column of texts; with `normalize` each has the length 1.

    Equal texts are embedded once, and a text whose vector is known isn't embedded again. A null stays null.
    """
    from ddmake.artifacts.rows import Batches

    features = _features(rows, column)
    return Batches(_with_vectors(rows, embedder, text, column, normalize, features), features)


@step(version="2", columns=_retrieved, asks=_retrieving)
def retrieve(queries: StoredRows, documents: StoredRows, *, embedder: Embedder | None = None, k: int = 5, query: str = "text",
             text: str = "text", embedding: str = "embedding", id: str | None = None,
             similarity: Literal["cosine", "dot"] = "cosine", min_score: float | None = None,
             approximate: bool = False) -> "Batches":
    """Find the k documents that are nearest to each query; add their `ids`, `texts` and `scores` as lists, the nearest first.

    Vectors stand in a column `embedding`, of documents as of queries; where it isn't there, the embedder makes them of the
    columns `query` and `text`. Ids are the values of the column `id`, else the documents' numbers. The search is exact, unless
    it is `approximate`, and of documents that are equally near the first ones come first. A query that is null finds none.
    """
    from ddmake.artifacts.rows import Batches

    search = _approximate if approximate else _exact
    known = _vectors(documents, embedding, text, embedder)
    texts, ids = _column(documents, text), None if id is None else _column(documents, id)
    found = _Found(known, texts, ids, k, search(known, similarity == "cosine"), min_score)
    return Batches(found.batches(queries, embedding, query, embedder), _features(queries))


@step(version="2", columns=_compared, asks=_comparing)
def cosine_similarity(rows: StoredRows, *, a: str = "a", b: str = "b", embedder: Embedder | None = None,
                      column: str = "similarity") -> "Batches":
    """Add the cosine between two columns: of vectors, or of texts that an embedder makes vectors of.

    It is null where either is null, or a vector of zeros.
    """
    from ddmake.artifacts.rows import Batches

    return Batches(_with_cosines(rows, a, b, embedder, column), _features(rows, column))


def _features(rows: Any, without: str | None = None) -> dict[str, Any]:
    """Return what `datasets` says of the columns that stay as they are."""
    from ddmake.artifacts.rows import features_of

    features = features_of(rows)
    features.pop(without, None)
    return features


def _with_vectors(rows: Any, embedder: Any, text: str, column: str, normalize: bool,
                  features: dict[str, Any]) -> Iterator["pa.RecordBatch"]:
    """Yield batches of rows with their vectors, and note in `features` what these are."""
    from ddmake.artifacts import vectors
    from ddmake.artifacts.rows import read, texts_in

    waiting: list[pa.RecordBatch] = []  # without texts, and nothing yet tells how long a vector is
    for batch in read(rows, size=BATCH):
        texts = texts_in(batch.column(text), text)
        there = [one is not None for one in texts]
        if not any(there) and column not in features:
            waiting.append(batch)
            continue
        found = embedder.encode((one for one in texts if one is not None), normalize)
        size = found.shape[1] if any(there) else features[column]["length"]
        features[column] = vectors.feature(size)
        yield from (beside(one, {column: vectors.nothing(one.num_rows, size)}) for one in waiting)
        waiting.clear()
        yield beside(batch, {column: vectors.array(found.reshape(-1, size), there)})
    yield from (beside(one, {column: vectors.nothing(one.num_rows)}) for one in waiting)


def _with_cosines(rows: Any, a: str, b: str, embedder: Any, column: str) -> Iterator["pa.RecordBatch"]:
    from ddmake.artifacts.rows import read

    first = 0
    for batch in read(rows, size=BATCH):
        pair = [_of_array(batch.column(name), name, embedder, first) for name in (a, b)]
        yield beside(batch, {column: _cosines(pair[0], pair[1], batch.num_rows, f"{a!r} and {b!r}")})
        first += batch.num_rows


def _cosines(one: "Vectors", other: "Vectors", count: int, names: str) -> "pa.Array":
    """Return the cosines of two columns, of so many rows; null where there is none."""
    import numpy as np
    import pyarrow as pa

    both = np.intersect1d(one.rows, other.rows, assume_unique=True)
    if len(both) and one.dimensions != other.dimensions:
        raise DdmakeError(f"columns {names} hold vectors of {one.dimensions} and {other.dimensions} numbers.")
    left, right = (side.take(np.searchsorted(side.rows, both)).astype(np.float64) for side in (one, other))
    lengths = np.sqrt((left * left).sum(axis=1) * (right * right).sum(axis=1))
    values, null = np.zeros(count), np.ones(count, bool)
    values[both] = (left * right).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    null[both] = lengths == 0
    return pa.array(values.clip(-1, 1), mask=null)


class _Found:
    """What is found of documents, put into columns."""

    def __init__(self, known: "Vectors", texts: "pa.ChunkedArray", ids: "pa.ChunkedArray | None", k: int, search: "Search",
                 min_score: float | None):
        self.known, self.texts, self.ids, self.k, self.search, self.min_score = known, texts, ids, k, search, min_score
        self.sizes = _sizes(texts)

    def batches(self, queries: Any, embedding: str, query: str, embedder: Any) -> Iterator["pa.RecordBatch"]:
        """Yield batches of queries with what is found for them."""
        from ddmake.artifacts.rows import read

        name = embedding if embedding in queries.column_names else query
        first = 0
        for batch in read(queries, size=BATCH):
            yield from self._with_found(batch, _of_array(batch.column(name), name, embedder, first))
            first += batch.num_rows

    def _with_found(self, batch: "pa.RecordBatch", asked: "Vectors") -> "Iterator[pa.RecordBatch]":
        """Yield queries, of which those asked have a vector, with what is found: no more of them at once than memory holds."""
        import numpy as np

        numbers, scores = self._nearest(asked)
        keep = np.ones(scores.shape, bool) if self.min_score is None else scores >= self.min_score
        ends = np.zeros(batch.num_rows + 1, np.int64)
        ends[asked.rows + 1] = keep.sum(axis=1)
        ends, rows, scores = np.cumsum(ends), self.known.rows[numbers[keep]], scores[keep]
        for start, stop in _portions(np.concatenate([[0], np.cumsum(self.sizes[rows])])[ends]):
            part, some = batch.slice(start, stop - start), slice(ends[start], ends[stop])
            for column, values in zip(FOUND, self._columns(ends[start:stop + 1] - ends[start], rows[some], scores[some])):
                part = beside(part, {column: values})
            yield part

    def _columns(self, ends: "np.ndarray", rows: "np.ndarray", scores: "np.ndarray") -> list["pa.Array"]:
        """Return the columns for queries, of which each has found the documents from one of the `ends` to the next."""
        import pyarrow as pa

        ids = pa.array(rows) if self.ids is None else _taken(self.ids, rows)
        inner = (ids, _taken(self.texts, rows), pa.array(scores))
        return [pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values) for values in inner]

    def _nearest(self, asked: "Vectors") -> "tuple[np.ndarray, np.ndarray]":
        import numpy as np

        if len(asked) and len(self.known) and asked.dimensions != self.known.dimensions:
            raise DdmakeError(f"the queries' vectors have {asked.dimensions} numbers and the documents' {self.known.dimensions}: "
                              "they are of two embedders. Embed both with one.")
        matrix = np.concatenate(asked.parts) if asked.parts else np.zeros((0, self.known.dimensions), np.float32)
        return self.search(matrix, self.k)


def _sizes(texts: "pa.ChunkedArray") -> "np.ndarray":
    """Return the bytes of each text; of anything else what a value takes on average."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        return pc.binary_length(texts).fill_null(0).to_numpy().astype(np.int64)
    return np.full(len(texts), texts.nbytes // max(1, len(texts)))


def _portions(bytes_before: "np.ndarray") -> Iterator[tuple[int, int]]:
    """Yield from where to where queries are taken together, one at least, given the bytes of what is found before each."""
    import numpy as np

    start, count = 0, len(bytes_before) - 1
    if not count:
        yield 0, 0  # a batch without rows tells the columns
    while start < count:
        stop = max(start + 1, int(np.searchsorted(bytes_before, bytes_before[start] + TOGETHER, "right")) - 1)
        yield start, stop
        start = stop


def _taken(column: "pa.ChunkedArray", rows: "np.ndarray") -> "pa.Array":
    """Return a column's values of these rows, each of which is read once.

    Not by Arrow's `take` of the whole: that puts all chunks together first, and texts of more than 2 GB don't go into one.
    """
    import numpy as np
    import pyarrow as pa

    once, where = np.unique(rows, return_inverse=True)
    parts, start = [pa.array([], column.type)], 0
    for chunk in column.chunks:
        low, high = np.searchsorted(once, (start, start + len(chunk)))
        if low < high:
            parts.append(chunk.take(pa.array(once[low:high] - start)))
        start += len(chunk)
    return pa.concat_arrays(parts).take(pa.array(where))


def _exact(known: "Vectors", cosine: bool) -> "Search":
    from ddmake.backends.nearest import nearest

    return lambda queries, k: nearest(queries, known, k, cosine)


def _approximate(known: "Vectors", cosine: bool) -> "Search":
    from ddmake.backends.approximate import graph_of

    return graph_of(known, cosine).nearest


def _need_packages(approximate: bool) -> None:
    """Raise MissingExtra unless what searches is installed."""
    from ddmake.backends.models import need

    need("torch", "search", "retrieve")
    if approximate:
        need("usearch", "search", "retrieve(…, approximate=True)")


def _vectors(rows: Any, embedding: str, text: str, embedder: Any) -> "Vectors":
    """Return the vectors of rows: those of their column, else such as the embedder makes of their texts."""
    from ddmake.artifacts.rows import texts_in

    if embedding in rows.column_names:
        from ddmake.artifacts.vectors import of_column

        return of_column(_column(rows, embedding), embedding)
    return _made(texts_in(_column(rows, text), text), text, embedder)


def _of_array(values: "pa.Array", name: str, embedder: Any, first: int) -> "Vectors":
    """Return the vectors that a column holds from row `first` on, or that the embedder makes of its texts."""
    import pyarrow as pa

    from ddmake.artifacts.rows import texts_in
    from ddmake.artifacts.vectors import are_vectors, of_column

    if are_vectors(values.type):
        return of_column(pa.chunked_array([values]), name, first)
    return _made(texts_in(values, name), name, embedder)


def _made(texts: list[str | None], name: str, embedder: Any) -> "Vectors":
    import numpy as np

    from ddmake.artifacts.vectors import Vectors

    if embedder is None:
        raise DdmakeError(f"column {name!r} holds text: give an embedder=, which makes vectors of it.")
    there = [number for number, one in enumerate(texts) if one is not None]
    return Vectors(list(embedder.stream(texts[number] for number in there)), np.array(there, np.int64))


def _column(rows: Any, name: str) -> "pa.ChunkedArray":
    """Return a whole column as it is stored."""
    if name not in rows.column_names:
        raise DdmakeError(f"there is no column {name!r}. Columns: {', '.join(rows.column_names)}."
                          f"{did_you_mean(name, rows.column_names)}")
    return rows.with_format("arrow", columns=[name])[0:len(rows)].column(name)
