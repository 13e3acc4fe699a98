"""retrieve(…, approximate=True): what it finds beside the exact search, what is fixed, and what it needs."""

import pytest

pytest.importorskip("usearch")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from ddmake.artifacts import vectors  # noqa: E402
from ddmake.backends import models  # noqa: E402
from ddmake.backends.approximate import graph_of  # noqa: E402
from ddmake.backends.nearest import nearest  # noqa: E402

RULES = """
    @step("docs")
    def docs():
        for i in range(400):
            yield {"text": f"doc {i}", "embedding": None if i %% 50 == 7 else [float(i %% 20), float(i // 20), 1.0]}
    @step("questions")
    def questions():
        yield from ({"embedding": one} for one in ([3.0, 3.0, 1.0], None, [19.0, 1.0, 2.0]))
    exact = retrieve("exact", questions, docs, k=5, similarity=%r, min_score=0.5)
    rough = retrieve("rough", questions, docs, k=5, similarity=%r, min_score=0.5, approximate=True)
"""


def drawn(count: int, size: int, seed: int) -> "np.ndarray":
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def column(matrix: "np.ndarray") -> vectors.Vectors:
    parts = [matrix[start:start + 700] for start in range(0, len(matrix), 700)]
    return vectors.of_column(pa.chunked_array([vectors.array(part, [True] * len(part)) for part in parts]), "v")


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_few_documents_are_found_as_by_the_exact_search(project, similarity):
    project.ddfile(RULES % (similarity, similarity)).make()
    assert project.rows("rough") == project.rows("exact") and project.rows("rough")[1]["ids"] == []
    assert len(project.rows("rough")[0]["ids"]) == 5


@pytest.mark.parametrize("cosine", [True, False])
def test_nearly_all_of_the_nearest_are_found_and_their_scores_are_exact(cosine):
    documents, queries = drawn(4000, 24, 0) * np.float32(1e4), drawn(200, 24, 1)  # too long for float16 as they are
    documents[5] = 0
    known = column(documents)
    wanted, scores = nearest(queries, known, 10, cosine)
    graph = graph_of(known, cosine)
    ids, found = graph.nearest(queries, 10)
    assert np.mean([len({*a} & {*b}) for a, b in zip(ids.tolist(), wanted.tolist())]) > 9.7
    same = ids == wanted
    assert same.mean() > 0.8 and (found[same] == scores[same]).all() and (np.diff(found, axis=1) <= 0).all()
    assert (graph_of(known, cosine).nearest(queries, 10)[0] == ids).all()  # the graph is the same each time
    assert (graph.nearest(queries[3:4], 10)[0] == ids[3:4]).all()


def test_vectors_that_a_graph_does_not_reach_are_found_all_the_same():
    documents = np.repeat(drawn(4, 8, 2), 1000, axis=0)
    ids, scores = graph_of(column(documents), True).nearest(documents[[0, 1500]], 20)
    assert scores.shape == (2, 20) and np.allclose(scores, 1) and (ids // 1000 == [[0], [1]]).all()
    assert graph_of(vectors.Vectors([], np.zeros(0, np.int64)), True).nearest(documents[:2], 3)[0].shape == (2, 0)


def test_what_it_needs_is_told_when_it_is_planned(project, monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "usearch" else object())
    result = project.ddfile(RULES % ("cosine", "cosine")).run("-n")
    told = "retrieve(…, approximate=True) needs usearch, which isn't installed. Do: pip install 'ddmake[search]'"
    assert result.code == 2 and told in " ".join(result.output.split()), result.output
    assert project.run("-n", "exact").code == 0  # it doesn't need it
