"""Recipes over vectors of texts: making them, finding the nearest, comparing two."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.asking import Embedding
from ddmake.ddfile.inputs import StoredRows
from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdfileError, DdmakeError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches
    from ddmake.artifacts.vectors import Vectors

FOUND = ("ids", "texts", "scores")  # columns that `retrieve` adds
BATCH = 8192  # rows whose vectors are held at once

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]


def _need(columns: Sequence[str] | None, name: str, what: str) -> None:
    """Raise DdfileError where a column isn't among those that are known."""
    if columns is not None and name not in columns:
        raise DdfileError(f"there is no column {name!r} {what}. There are: {', '.join(columns)}.{did_you_mean(name, columns)}")


def _embedded(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `embed`."""
    columns = inputs["rows"]
    _need(columns, arguments["text"], "to embed")
    return None if columns is None else list(dict.fromkeys([*columns, arguments["column"]]))


def _retrieved(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `retrieve`."""
    queries, documents = inputs["queries"], inputs["documents"]
    if arguments["k"] < 1:
        raise DdfileError(f"k is the number of texts to find, at least 1, not {arguments['k']}.")
    _need(documents, arguments["text"], "of texts to find")
    if arguments["id"] is not None:
        _need(documents, arguments["id"], "to tell documents by")
    for columns, kind in ((queries, "queries"), (documents, "documents")):
        column = arguments["embedding"]
        if columns is not None and column not in columns and arguments["embedder"] is None:
            raise DdfileError(f"the {kind} have no column {column!r} of vectors. Give an embedder=, or embed() them.")
    if queries is None:
        return None
    if arguments["embedding"] not in queries:
        _need(queries, arguments["query"], "of queries")
    taken = next((name for name in FOUND if name in queries), None)
    if taken is not None:
        raise DdfileError(f"retrieve adds a column {taken!r}, and there is one already: .rename() it.")
    return [*queries, *FOUND]


def _compared(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `cosine_similarity`."""
    columns = inputs["rows"]
    for name in (arguments["a"], arguments["b"]):
        _need(columns, name, "to compare")
    return None if columns is None else list(dict.fromkeys([*columns, arguments["column"]]))


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
    from ddmake.artifacts.vectors import are_vectors

    values = _column(rows, name)
    if not are_vectors(values.type):
        yield from (one for one in _texts(values, name) if one is not None)


@step(version="1", columns=_embedded, asks=_embedding)
def embed(rows: StoredRows, *, embedder: Embedder, text: str = "text", column: str = "embedding",
          normalize: bool = False) -> "Batches":
    """Add a column of vectors that an embedder makes of a column of texts; with `normalize` each has the length 1.

    Equal texts are embedded once, and a text whose vector is known isn't embedded again. A null stays null.
    """
    from ddmake.artifacts.rows import Batches

    features = _features(rows, column)
    return Batches(_with_vectors(rows, embedder, text, column, normalize, features), features)


@step(version="1", columns=_retrieved, asks=_retrieving)
def retrieve(queries: StoredRows, documents: StoredRows, *, embedder: Embedder | None = None, k: int = 5, query: str = "text",
             text: str = "text", embedding: str = "embedding", id: str | None = None,
             similarity: Literal["cosine", "dot"] = "cosine", min_score: float | None = None) -> "Batches":
    """Find the k documents that are nearest to each query; add their `ids`, `texts` and `scores` as lists, the nearest first.

    Vectors stand in a column `embedding`, of documents as of queries; where it isn't there, the embedder makes them of the
    columns `query` and `text`. Ids are the values of the column `id`, else the documents' numbers. The search is exact, and of
    documents that are equally near the first ones come first. A query that is null finds none.
    """
    from ddmake.artifacts.rows import Batches

    known = _vectors(documents, embedding, text, embedder)
    texts, ids = _column(documents, text), None if id is None else _column(documents, id)
    found = _Found(known, texts, ids, k, similarity == "cosine", min_score)
    return Batches(found.batches(queries, embedding, query, embedder), _features(queries))


@step(version="1", columns=_compared, asks=_comparing)
def cosine_similarity(rows: StoredRows, *, a: str = "a", b: str = "b", embedder: Embedder | None = None,
                      column: str = "similarity") -> "Batches":
    """Add the cosine between two columns: of vectors, or of texts that an embedder makes vectors of.

    It is null where either is null, or a vector of zeros.
    """
    from ddmake.artifacts.rows import Batches

    return Batches(_with_cosines(rows, a, b, embedder, column), _features(rows, column))


def _features(rows: Any, without: str | None = None) -> dict[str, Any]:
    """Return what `datasets` says of the columns that stay as they are."""
    features = getattr(rows.features, "to_dict", rows.features.copy)()
    features.pop(without, None)
    return features


def _with_vectors(rows: Any, embedder: Any, text: str, column: str, normalize: bool,
                  features: dict[str, Any]) -> Iterator["pa.RecordBatch"]:
    """Yield batches of rows with their vectors, and note in `features` what these are."""
    from ddmake.artifacts import vectors
    from ddmake.artifacts.rows import read

    for batch in read(rows, size=BATCH):
        texts = _texts(batch.column(text), text)
        found = embedder.encode([one for one in texts if one is not None] or ["text"], normalize)
        there = [one is not None for one in texts]
        features[column] = vectors.feature(found.shape[1])
        yield _put(batch, column, vectors.array(found if any(there) else found[:0], there))


def _with_cosines(rows: Any, a: str, b: str, embedder: Any, column: str) -> Iterator["pa.RecordBatch"]:
    from ddmake.artifacts.rows import read

    for batch in read(rows, size=BATCH):
        pair = [_of_array(batch.column(name), name, embedder) for name in (a, b)]
        yield _put(batch, column, _cosines(pair[0], pair[1], batch.num_rows, f"{a!r} and {b!r}"))


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

    def __init__(self, known: "Vectors", texts: "pa.ChunkedArray", ids: "pa.ChunkedArray | None", k: int, cosine: bool,
                 min_score: float | None):
        self.known, self.texts, self.ids, self.k, self.cosine, self.min_score = known, texts, ids, k, cosine, min_score

    def batches(self, queries: Any, embedding: str, query: str, embedder: Any) -> Iterator["pa.RecordBatch"]:
        """Yield batches of queries with what is found for them."""
        from ddmake.artifacts.rows import read

        name = embedding if embedding in queries.column_names else query
        for batch in read(queries, size=BATCH):
            asked = _of_array(batch.column(name), name, embedder)
            for column, values in zip(FOUND, self._columns(asked, batch.num_rows)):
                batch = _put(batch, column, values)
            yield batch

    def _columns(self, asked: "Vectors", count: int) -> list["pa.Array"]:
        """Return the columns for so many queries, of which those asked have a vector."""
        import numpy as np
        import pyarrow as pa

        numbers, scores = self._nearest(asked)
        keep = np.ones(scores.shape, bool) if self.min_score is None else scores >= self.min_score
        sizes = np.zeros(count, np.int64)
        sizes[asked.rows] = keep.sum(axis=1)
        offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
        rows = pa.array(self.known.rows[numbers[keep]])
        ids = rows if self.ids is None else self.ids.take(rows).combine_chunks()
        inner = (ids, self.texts.take(rows).combine_chunks(), pa.array(scores[keep]))
        return [pa.ListArray.from_arrays(offsets, values) for values in inner]

    def _nearest(self, asked: "Vectors") -> "tuple[np.ndarray, np.ndarray]":
        import numpy as np

        from ddmake.backends.nearest import nearest

        if len(asked) and len(self.known) and asked.dimensions != self.known.dimensions:
            raise DdmakeError(f"the queries' vectors have {asked.dimensions} numbers and the documents' {self.known.dimensions}: "
                              "they are of two embedders. Embed both with one.")
        matrix = np.concatenate(asked.parts) if asked.parts else np.zeros((0, self.known.dimensions), np.float32)
        return nearest(matrix, self.known, self.k, self.cosine)


def _vectors(rows: Any, embedding: str, text: str, embedder: Any) -> "Vectors":
    """Return the vectors of rows: those of their column, else such as the embedder makes of their texts."""
    if embedding in rows.column_names:
        from ddmake.artifacts.vectors import of_column

        return of_column(_column(rows, embedding), embedding)
    return _made(_texts(_column(rows, text), text), text, embedder)


def _of_array(values: "pa.Array", name: str, embedder: Any) -> "Vectors":
    """Return the vectors that a column holds, or that the embedder makes of its texts."""
    import pyarrow as pa

    from ddmake.artifacts.vectors import are_vectors, of_column

    if are_vectors(values.type):
        return of_column(pa.chunked_array([values]), name)
    return _made(_texts(values, name), name, embedder)


def _made(texts: list[str | None], name: str, embedder: Any) -> "Vectors":
    import numpy as np

    from ddmake.artifacts.vectors import Vectors

    if embedder is None:
        raise DdmakeError(f"column {name!r} holds text: give an embedder=, which makes vectors of it.")
    there = [number for number, one in enumerate(texts) if one is not None]
    return Vectors(list(embedder.stream(texts[number] for number in there)), np.array(there, np.int64))


def _texts(values: "pa.Array | pa.ChunkedArray", name: str) -> list[str | None]:
    """Return a column's texts. Raises DdmakeError for one that holds anything else."""
    import pyarrow as pa

    if not any(check(values.type) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
        raise DdmakeError(f"column {name!r} holds {values.type}, and text is needed.")
    return values.to_pylist()


def _column(rows: Any, name: str) -> "pa.ChunkedArray":
    """Return a whole column as it is stored."""
    if name not in rows.column_names:
        raise DdmakeError(f"there is no column {name!r}. Columns: {', '.join(rows.column_names)}."
                          f"{did_you_mean(name, rows.column_names)}")
    return rows.with_format("arrow", columns=[name])[0:len(rows)].column(name)


def _put(batch: "pa.RecordBatch", name: str, values: "pa.Array") -> "pa.RecordBatch":
    """Return a batch with a column beside the others, or in the place of one of that name."""
    import pyarrow as pa

    columns = {**dict(zip(batch.schema.names, batch.columns)), name: values}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
