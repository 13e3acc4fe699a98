"""Vectors that mean nothing, models that are half there, prompts of their own, and no rows at all."""

import json
import shutil
from types import SimpleNamespace

import pytest
from conftest import Project

pytest.importorskip("sentence_transformers")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_embedding import Letters, small  # noqa: E402

from ddmake import embedder  # noqa: E402
from ddmake.artifacts import vectors  # noqa: E402
from ddmake.artifacts.stored import Stored  # noqa: E402
from ddmake.backends import embedders  # noqa: E402
from ddmake.errors import DdmakeError  # noqa: E402
from ddmake.rules import retrieval  # noqa: E402

PROMPTED = {"prompts": {"query": "tree stone river: "}, "default_prompt_name": "query"}
DOCS = """
    @step("docs")
    def docs():
        yield from ({"text": text, "good": [1.0, 2.0], "count": [2 ** 24 + 1, 1]} for text in ("red cat", None, "blue bird"))
    @step("odd")
    def odd():
        for number in range(9000):
            yield {"text": f"t{number}", "embedding": [1.0, ODD[number]] if number in ODD else [1.0, number * 1.0]}
    ODD = {8500: float("nan"), 8700: 1e39}
    @step("none")
    def none():
        from datasets import Dataset, Features, Value
        return Dataset.from_dict({"text": []}, features=Features({"text": Value("string")}))
    @step("nulls")
    def nulls():
        yield from ({"text": text} for text in [None] * 8200 + ["red cat", None])
"""
NAN = 'the vector of row 8500 holds nan, inf or a number beyond float32. Mend it, or make it null'
REFUSED = {  # a rule -> what is told of it
    'retrieve("x/{}", docs.rename(good="embedding"), odd)': NAN,
    'retrieve("x/{}", odd, docs.rename(good="embedding"))': NAN,
    'cosine_similarity("x/{}", odd, a="embedding", b="embedding")': NAN,
    'retrieve("x/{}", docs.rename(good="embedding"), odd.filter(lambda row: row["text"] > "t86"))': "the vector of row ",
    'embed("x/{}", docs, embedder=embedder("./nan"))': "nan: its vector for the text 'blue bird' holds nan or inf, by which nothing can be found",
    'embed("x/{}", docs, embedder=embedder("./wordless"))': "wordless holds no tokenizer, or one without words. Put the model's tokenizer beside it",
    'embed("x/{}", docs, embedder=embedder("./damaged"))': "damaged/config.json: it isn't JSON",
    'embed("x/{}", docs, embedder=embedder("./embeds", dimensions=33))': "dimensions=33, and its vectors have 32 numbers. Give fewer, or leave it out",
    'embed("x/{}", docs, embedder=embedder("./embeds", max_length=65))': "max_length=65, and the model takes 64 tokens. Give at most that",
    'embed("x/{}", docs, embedder=embedder("./embeds", max_length=1))': "max_length=1 leaves no room for a text's own tokens. Give 2 or more",
}
FLOATS = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
TEXTS = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
EMPTY = {  # a rule of no rows -> the columns that it adds
    'embed("e/{}", none, embedder=e)': {"embedding": FLOATS},
    'retrieve("e/{}", none, docs, embedder=e)': {"ids": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"},
                                                 "texts": TEXTS, "scores": FLOATS},
    'cosine_similarity("e/{}", none, a="text", b="text", embedder=e)': {"similarity": {"dtype": "float64", "_type": "Value"}},
    'classify("e/{}", none, model="./classifies")': {"label": {"dtype": "string", "_type": "Value"}},
    'transform("e/{}", none, llm=llm("echo"), prompt="{{{{ text }}}}", column="said")': {"said": {"dtype": "string", "_type": "Value"}},
}
MORE = """
    e = embedder("./embeds")
    embed("plain", docs, embedder=e)
    embed("prompted", docs, embedder=embedder("./asking", prompt="cat: "))
    embed("unprompted", docs, embedder=embedder("./asking", prompt=""))
    embed("default", docs, embedder=embedder("./asking"))
    embed("inner", docs, embedder=embedder("./nested"))
    embed("late", nulls, embedder=e)
    retrieve("nowhere", docs, none, embedder=e)
    retrieve("rounded", docs.rename(count="embedding"), docs.rename(count="embedding"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Project, str]:
    """A project in which all rules were tried, and what was told of them."""
    project = Project(tmp_path_factory.mktemp("vectors"))
    small(project.root)
    for name in ("asking", "wordless", "nan", "damaged", "nested"):
        shutil.copytree(project.root / "embeds", project.root / name)
    (project.root / "asking/config_sentence_transformers.json").write_text(json.dumps(PROMPTED))
    (project.root / "damaged/config.json").write_text("{")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (project.root / "wordless" / name).unlink()
    weights = load_file(project.root / "embeds/model.safetensors")
    save_file({name: one * float("nan") for name, one in weights.items()}, project.root / "nan/model.safetensors", {"format": "pt"})
    _nest(project.root / "nested")
    rules = [rule.format(number) for told in (REFUSED, EMPTY) for number, rule in enumerate(told)]
    project.ddfile(DOCS + MORE + "\n".join(f"    {rule}" for rule in rules))
    return project, " ".join(project.run("-k", "-j1").output.split())


def _nest(folder) -> None:
    """Put a model's first module into a folder of its own, with its tokenizer, as older releases did."""
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    told = json.loads((folder / "modules.json").read_text())
    told[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(told))


def embedded(made, name):
    return [row["embedding"] for row in made[0].rows(name)]


@pytest.mark.parametrize("rule", REFUSED)
def test_vectors_that_mean_nothing_are_refused(made, rule):
    number = list(REFUSED).index(rule)
    assert REFUSED[rule] in made[1].rpartition(f" x/{number}: ")[2].split(" log: ")[0], made[1]


@pytest.mark.parametrize("rule", EMPTY)
def test_no_rows_give_no_rows_of_the_same_columns(made, rule):
    folder = made[0].root / f"e/{list(EMPTY).index(rule)}"
    assert made[0].rows(str(folder)) == []
    features = json.loads((folder / "dataset_info.json").read_text())["features"]
    assert features == {"text": {"dtype": "string", "_type": "Value"}, **EMPTY[rule]}


def test_nothing_is_found_where_there_are_no_documents(made):
    assert [row["ids"] for row in made[0].rows("nowhere")] == [[], [], []]


def test_a_prompt_stands_in_place_of_the_models_own(made):
    from sentence_transformers import SentenceTransformer

    model, texts = SentenceTransformer(str(made[0].root / "embeds")), ["red cat", "blue bird"]
    for name, prompt in (("plain", ""), ("unprompted", ""), ("prompted", "cat: "), ("default", "tree stone river: ")):
        found = embedded(made, name)
        assert found[1] is None
        assert np.allclose([found[0], found[2]], model.encode([prompt + text for text in texts]), atol=1e-5), name


def test_a_tokenizer_may_lie_in_a_folder_of_its_own(made):
    assert embedded(made, "inner") == embedded(made, "plain")


def test_nulls_before_the_first_text_have_the_type_of_vectors(made):
    found = embedded(made, "late")
    assert len(found) == 8202 and found[8200] == pytest.approx(embedded(made, "plain")[0]) and not any(found[:8200] + found[8201:])
    told = json.loads((made[0].root / "late/dataset_info.json").read_text())["features"]["embedding"]
    assert told == {**FLOATS, "length": 32}


def test_large_integers_are_rounded(made):
    assert [row["ids"] for row in made[0].rows("rounded")] == [[0, 1, 2]] * 3


def test_contents_of_a_folder_are_told_by_its_name(made, project):
    shutil.copytree(made[0].root, project.root, dirs_exist_ok=True)
    (project.root / "embeds/1_Pooling/config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}')
    assert project.make("-n", "plain").why("plain") == "embedder: the contents of embeds changed"


def test_what_a_model_puts_before_texts_tells_it_from_others(tmp_path):
    small(tmp_path)
    told, spec = tmp_path / "embeds/config_sentence_transformers.json", embedder("./embeds")
    found = {}
    for name, content in {"none": None, "one": PROMPTED, "other": {**PROMPTED, "default_prompt_name": None},
                          "release": {**PROMPTED, "__version__": {"transformers": "5.1"}}}.items():
        if content is not None:
            told.write_text(json.dumps(content))
        found[name] = embedders.identity(spec, tmp_path / "embeds")["weights"]
    assert len(set(found.values())) == 3 and found["release"] == found["one"]


def test_nulls_alone_are_sent_nowhere(project):
    letters = Letters()
    try:
        project.ddfile(f"""
            @step("nulls")
            def nulls():
                from datasets import Dataset, Features, Value
                return Dataset.from_dict({{"text": [None] * 3}}, features=Features({{"text": Value("string")}}))
            embed("embedded", nulls, embedder=embedder("openai/letters", base_url={letters.url!r}, price=1.0))
        """).make()
        assert letters.counts()["requests"] == 0
    finally:
        letters.process.kill()
        letters.process.wait()
    assert [row["embedding"] for row in project.rows("embedded")] == [None] * 3
    assert json.loads((project.root / "embedded/dataset_info.json").read_text())["features"]["embedding"] == FLOATS


@pytest.mark.parametrize("kind, values, told", [
    (pa.float32(), [1.0, float("inf")], "row 8"),
    (pa.float64(), [1.0, -1e39], "row 8"),
    (pa.float16(), [1.0, float("nan")], "row 8"),
    (pa.int64(), [1, 2 ** 62], None),
    (pa.float32(), [1.0, -3.4e38], None),
])
def test_what_a_vector_may_hold(kind, values, told):
    column = pa.chunked_array([pa.array([None, [0, 1]], pa.list_(kind)), pa.array([None, values], pa.list_(kind))])
    if told is None:
        assert len(vectors.of_column(column, "v", 5)) == 2
        return
    with pytest.raises(DdmakeError, match=f"column 'v': the vector of {told} holds nan, inf"):
        vectors.of_column(column, "v", 5)


@pytest.mark.parametrize("most, sizes", [(450, [3] * 4), (250, [2, 1] * 4), (1, [1] * 12)])
def test_found_texts_are_held_a_few_at_once(monkeypatch, most, sizes):
    """The first and the third of three queries find two texts of 100 bytes each, the second is null."""
    monkeypatch.setattr(retrieval, "TOGETHER", most)
    near, texts = [[1.0, 0.0], None, [0.0, 1.0]] * 4, [f"{number:0100}" for number in range(4)]
    documents = _rows(embedding=_floats([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), text=pa.array(texts))
    batches = list(retrieval.retrieve.function(_rows(embedding=_floats(near)), documents, k=2))
    assert [batch.num_rows for batch in batches] == sizes
    told = [row["texts"] for batch in batches for row in batch.to_pylist()]
    assert told == [[texts[1], texts[0]], [], [texts[2], texts[3]]] * 4


def test_documents_of_more_than_2_gb_are_searched(tmp_path):
    """Their texts lie in a file that has a size and no content, and in two parts, as more than one can't hold."""
    size, count = 2 ** 20, 1500
    with (tmp_path / "texts").open("wb") as file:
        file.truncate(size * count)
    content = pa.memory_map(str(tmp_path / "texts")).read_buffer()
    part = pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(np.arange(count + 1, dtype=np.int32) * size), content])
    there = np.zeros((2 * count, 2), np.float32)
    there[[7, 2 * count - 1]] = 1.0
    documents = _rows(text=pa.chunked_array([part, part]), embedding=vectors.array(there, [True] * len(there)))
    batches = list(retrieval.retrieve.function(_rows(embedding=_floats([[1.0, 1.0]] * 300)), documents, k=2))
    assert sum(batch.num_rows for batch in batches) == 300 and len(batches) > 1
    assert batches[0].column("ids")[0].as_py() == [7, 2 * count - 1] and len(batches[-1].column("texts")[0][1].as_py()) == size


def _floats(rows: list) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


def _rows(**columns) -> Stored:
    table = pa.table(columns)
    return Stored(table, SimpleNamespace(copy=dict))
