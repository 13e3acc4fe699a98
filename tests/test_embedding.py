"""Embedders, and what recipes make of vectors: by a small service, by a small model on this machine, and by themselves."""

import dataclasses
import json
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from ddmake.ddfile.specs import Embedder

COUNTS = {
    "base_url": "'http://localhost:1/v1'", "identity": "'lab'", "prompt": "'query: '", "dimensions": "4", "max_length": "64",
    "extra": "{'x': 1}", "revision": "'abc'", "dtype": "'bfloat16'",
}
COUNTS_FOR_NOTHING = {
    "api_key_env": "'KEY'", "batch_size": "2", "concurrency": "3", "rpm": "100", "tpm": "9000", "timeout": "9.0", "retries": "1",
    "price": "1.0", "cache": "False", "license": "'mit'", "citation": "'@misc{x}'", "url": "'https://example.org'",
}
HERE = ("max_length", "revision", "dtype")  # parameters of those that run here

TEXTS = """
    e = embedder("openai/letters", base_url=%r, price=1.0%s)
    @step("docs")
    def docs():
        yield from ({"name": f"n{i}", "text": text} for i, text in enumerate(%r))
    embedded = embed("embedded", docs, embedder=e)
"""
DOCS = ["aab", "bbc", "hhh", "aab", None, "ccc"]


class Letters:
    """The fake service, in a process of its own."""

    def __init__(self):
        script = str(Path(__file__).with_name("fake_embeddings.py"))
        self.process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        self.root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.root}/v1"

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.root}/counts") as reply:
            return json.load(reply)


@pytest.fixture
def letters():
    found = Letters()
    yield found
    found.process.kill()
    found.process.wait()


def key(project, parameters, name="openai/some-model"):
    base = "" if "base_url" in parameters or name.startswith("hf/") else ", base_url='http://localhost:2/v1'"
    project.ddfile(f"""
        jsonl("docs", "docs.jsonl")
        embed("embedded", "docs", embedder=embedder({name!r}{base}{parameters}))
    """)
    return json.loads(project.make("-n", "--json").output)["rules"][1]["key"]


def test_every_field_of_an_embedder_is_in_the_key_or_in_neither(project):
    assert {f.name for f in dataclasses.fields(Embedder)} == {"name", *COUNTS, *COUNTS_FOR_NOTHING}
    project.write("docs.jsonl", '{"text": "a"}\n')
    (project.root / "tiny").mkdir()
    project.ddfile('jsonl("docs", "docs.jsonl")').make()
    lock = {f"org/tiny@{revision}": "0123456789" * 4 for revision in ("main", "abc")}
    project.write("Ddfile.lock", "[model]\n" + "".join(f'"{name}" = "{sha}"\n' for name, sha in lock.items()))
    base = {name: key(project, "", name) for name in ("openai/some-model", "hf/tiny", "hf/org/tiny")}
    assert len(set(base.values())) == 3 and None not in base.values()
    for field, value in (COUNTS | COUNTS_FOR_NOTHING).items():
        name = "hf/org/tiny" if field == "revision" else "hf/tiny" if field in HERE else "openai/some-model"
        assert (key(project, f", {field}={value}", name) != base[name]) == (field in COUNTS), field


@pytest.mark.slow
def test_a_changed_text_costs_one(project, letters):
    project.ddfile(TEXTS % (letters.url, "", DOCS))
    assert "4 sent, 1 cached; $0.000012" in project.make().output
    assert [row["embedding"] and row["embedding"][:3] for row in project.rows("embedded")] == [
        [2, 1, 0], [0, 2, 1], [0, 0, 0], [2, 1, 0], None, [0, 0, 3]]
    project.ddfile(TEXTS % (letters.url, "", [*DOCS[:-1], "hb"]))
    assert "1 sent, 4 cached" in project.make().output
    assert sorted(letters.counts()["texts"]) == ["aab", "bbc", "ccc", "hb", "hhh"]
    assert project.rows("embedded")[5]["embedding"] == [0, 1, 0, 0, 0, 0, 0, 1]

    project.ddfile(TEXTS % (letters.url, ", prompt='query: '", ["aab"]))  # which counts as a part of the text
    project.make()
    assert letters.counts()["texts"][-1] == "query: aab"
    project.ddfile(TEXTS % (letters.url, ", cache=False", ["aab"]))
    assert "fresh" in project.run("-n", "-v").verdicts().values()
    assert "1 sent" in project.make("embedded", "--force").output


def test_an_empty_text_may_be_the_first(project, letters):
    project.ddfile(TEXTS % (letters.url, "", ["", "aab"])).make()
    assert [row["embedding"][:3] for row in project.rows("embedded")] == [[0, 0, 0], [2, 1, 0]]


def estimate(project, target):
    plan = json.loads(project.make("-n", "--json").output)
    return next(rule["estimate"] for rule in plan["rules"] if rule["targets"] == [target])


def test_a_dry_run_counts_texts_tokens_and_dollars(project, letters):
    project.ddfile(TEXTS % (letters.url, "", DOCS)).make("docs")
    told = estimate(project, "embedded")
    assert (told["requests"], told["send"], told["cached"]) == (5, 4, 1) and 0 < told["tokens_in"] < 20  # "aab" is there twice
    assert told["dollars"] == pytest.approx(told["tokens_in"] / 1e6) and letters.counts()["requests"] == 0
    project.make()
    project.ddfile(TEXTS % (letters.url, "", [*DOCS, "ha" * 500, None])).make("docs")
    told = estimate(project, "embedded")
    assert (told["send"], told["cached"]) == (1, 5)
    assert told["tokens_in"] == 1000  # by what the service counted before: a token a letter
    assert "make embedded 1 5 ~1 k / 0 ~0.0010" in " ".join(project.run("-n").output.split())
    project.ddfile(TEXTS % (letters.url, ", cache=False", [*DOCS, "new"])).make("docs")
    told = estimate(project, "embedded")
    assert (told["send"], told["cached"]) == (5, 1)


def test_a_dry_run_counts_each_text_once_in_whichever_rule(project, letters):
    more = """
    found = retrieve("found", docs.rename(name="n"), docs, embedder=e)
    near = cosine_similarity("near", docs, a="name", b="text", embedder=e)
    both = retrieve("both", docs.rename(name="n"), embedded, embedder=e)
    """
    project.ddfile(TEXTS % (letters.url, "", DOCS) + more).make("docs")
    counts = {name: (told["send"], told["cached"]) for name in ("embedded", "found", "near") if (told := estimate(project, name))}
    assert counts == {"embedded": (4, 1), "found": (0, 10), "near": (6, 5)}
    project.make("embedded")
    told = estimate(project, "both")
    assert (told["send"], told["cached"]) == (0, 5)  # the documents have their vectors


def test_a_price_that_is_not_known_is_told(project, letters):
    text = (TEXTS % (letters.url, "", DOCS)).replace(", price=1.0", "")
    project.ddfile(text).make("docs")
    assert "the price for embedded isn't known. State it: embedder(…, price=)" in project.run("-n").output
    assert estimate(project, "embedded")["dollars"] is None


def test_a_key_that_is_missing_is_told_before_the_run(project, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    project.ddfile("""
        @step("docs")
        def docs():
            yield {"text": "a text"}
        embed("embedded", docs, embedder=embedder("openai/text-embedding-3-small"))
    """)
    told = "openai/text-embedding-3-small needs an API key: set OPENAI_API_KEY, or take one that runs here, as all-minilm."
    assert told in " ".join(project.run("-n").output.split())
    result = project.run()
    assert result.code and told in " ".join(result.output.split()) and not (project.root / "docs").exists()
    project.make("docs")
    assert 0 < estimate(project, "embedded")["dollars"] < 1e-6 and estimate(project, "embedded")["send"] == 1


def test_a_request_holds_as_many_texts_as_it_may(project, letters):
    texts = [f"{'a' * (i % 7)}b{i}" for i in range(250)]
    project.ddfile(TEXTS % (letters.url, ", dimensions=3, extra={'user': 'me'}", texts))
    project.make()
    told = letters.counts()
    assert told["requests"] == 3 and told["body"] | {"input": None} == {
        "model": "letters", "input": None, "dimensions": 3, "user": "me"}
    assert [row["embedding"] for row in project.rows("embedded")] == [[i % 7, 1, 0] for i in range(250)]
    assert project.run("calls").output.count("letters") == 3
    assert not sqlite3.connect(project.root / ".ddmake" / "calls.db").execute("SELECT max(answer) FROM calls").fetchone()[0]


def test_a_text_that_is_refused_is_named_and_the_others_are_kept(project, letters):
    texts = [f"a{i}" for i in range(9)] + ["REFUSE me"] + [f"b{i}" for i in range(9)]
    project.ddfile(TEXTS % (letters.url, "", texts))
    result = project.run()
    assert result.code == 1 and "no vector for the text 'REFUSE me': 400: too long" in result.output, result.output
    sent = letters.counts()["requests"]
    project.ddfile(TEXTS % (letters.url, "", [text for text in texts if "REFUSE" not in text]))
    assert "0 sent, 18 cached" in project.make().output or letters.counts()["requests"] == sent


@pytest.mark.parametrize("model, code, told", [
    ("letters-base64", 0, ""),
    ("letters-odd", 1, "the reply holds no vectors"),
])
def test_what_a_service_may_answer(project, letters, model, code, told):
    text = (TEXTS % (letters.url, ", retries=0", ["aab", "c"])).replace("openai/letters", f"openai/{model}")
    result = project.ddfile(text).run()
    assert result.code == code and told in result.output, result.output
    if not code:
        assert project.rows("embedded")[1]["embedding"] == [0, 0, 1, 0, 0, 0, 0, 0]


def test_no_more_is_spent_than_was_allowed(project, letters):
    project.ddfile(TEXTS % (letters.url, "", DOCS))
    result = project.run("--max-cost", "0.000001")
    assert result.code == 1 and "raise --max-cost" in result.output, result.output
    assert letters.counts()["requests"] == 0


@pytest.mark.slow
def test_what_is_found_and_compared(project, letters):
    project.ddfile(TEXTS % (letters.url, "", DOCS) + """
    @step("questions")
    def questions():
        yield from ({"question": text} for text in ["aaab", None, "c"])
    found = retrieve("found", questions, embedded, embedder=e, query="question", k=3, id="name")
    few = retrieve("few", questions, docs, embedder=e, query="question", k=9, min_score=0.4)
    near = cosine_similarity("near", found.map(first), a="question", b="first", embedder=e, column="how")
    alike = cosine_similarity("alike", embedded.rename(embedding="other"), a="other", b="other")
    """ .replace("found.map(first)", 'found.map(lambda row: {"first": (row["texts"] or [None])[0]})'))
    project.make()
    rows = project.rows("found")
    assert rows[0]["ids"] == ["n0", "n3", "n1"] and rows[0]["texts"] == ["aab", "aab", "bbc"]  # of equals the first
    assert rows[0]["scores"] == pytest.approx([7 / 50 ** 0.5, 7 / 50 ** 0.5, 2 / 50 ** 0.5])
    assert rows[1] == {"question": None, "ids": [], "texts": [], "scores": []}
    assert [row["ids"] for row in project.rows("few")] == [[0, 3], [], [5, 1]]
    assert [row["how"] for row in project.rows("near")] == [pytest.approx(7 / 50 ** 0.5), None, 1]
    assert [row["similarity"] for row in project.rows("alike")] == [1, 1, 1, 1, None, 1]

    project.make("cards")
    card = json.loads(next((project.root / "cards").glob("found/*.json")).read_text())
    assert card["synthetic"] is False  # vectors say nothing that wasn't there
    entry = card["data_card"]["embedded"]
    assert [model["name"] for model in entry["models"]] == ["openai/letters"] and entry["models"][0]["embeds"] is True
    assert "embedded" in [given["path"] for given in card["data_card"]["found"]["inputs"]]  # the index


@pytest.mark.parametrize("text, told", [
    ('embedder("tiny")', "tiny writes text and makes no vectors"),
    ('embedder("opnai/x")', "Did you mean 'openai'?"),
    ('embedder("openai/x", dtype="float16")', "asked over a network and takes no dtype"),
    ('embedder("hf/org/x", extra={"a": 1})', "runs on this machine and takes no extra"),
    ('embedder("openai/x", dimension=3)', "Did you mean 'dimensions'?"),
    ('embedder("openai/x", batch_size=0)', "batch_size=0; it is at least 1"),
    ("'all-minilm'", "Write embedder('all-minilm')"),
])
def test_mistakes_in_an_embedder(project, text, told):
    project.write("docs.jsonl", '{"text": "a"}\n')
    project.ddfile(f'docs = jsonl("docs", "docs.jsonl")\nembed("embedded", docs, embedder={text})')
    result = project.run("-n")
    assert result.code == 2 and told in result.output, result.output


@pytest.mark.parametrize("rule, told", [
    ('embed("x", docs, embedder=e, text="txet")', "no column 'txet' to embed. There are: text. Did you mean 'text'?"),
    ('retrieve("x", docs, docs)', "the queries have no column 'embedding' of vectors. Give an embedder="),
    ('retrieve("x", docs, docs, embedder=e, k=0)', "k is the number of texts to find"),
    ('retrieve("x", docs, docs, embedder=e, id="nr")', "no column 'nr' to tell documents by"),
    ('cosine_similarity("x", docs, a="text")', "no column 'b' to compare"),
    ('classify("x", docs, model="./m", text="t")', "no column 't' to classify"),
])
def test_mistakes_in_columns(project, rule, told):
    project.write("docs.jsonl", '{"text": "a"}\n')
    (project.root / "m").mkdir()
    first = 'e = embedder("hf/m")\ndocs = transform("docs", generate("g", llm=llm("echo"), prompt="x", n=1), llm=llm("echo"), prompt="{{ text }}")\n'
    result = project.ddfile(first + rule).run("-n")
    assert result.code == 2 and told in result.output, result.output


def test_the_nearest_are_exact_and_equals_come_in_order():
    np = pytest.importorskip("numpy")
    import pyarrow as pa

    from ddmake.artifacts import vectors
    from ddmake.backends.nearest import nearest

    rng = np.random.default_rng(0)
    documents = rng.standard_normal((3000, 24)).astype(np.float32)
    documents[100:400] = documents[7]  # more equals than candidates
    documents[5] = 0
    queries = np.concatenate([rng.standard_normal((300, 24)), documents[[7, 5, 2000]]]).astype(np.float32)
    there = [number % 11 != 3 for number in range(3000)]
    chunks = [vectors.array(documents[i:i + 700][there[i:i + 700]], there[i:i + 700]) for i in range(0, 3000, 700)]
    known = vectors.of_column(pa.chunked_array(chunks), "v")
    assert list(known.rows) == [number for number in range(3000) if there[number]]
    exact, asked = documents[there].astype(np.float64), queries.astype(np.float64)
    for cosine in (True, False):
        scores = (asked[:, None, :] * exact[None]).sum(-1)
        if cosine:
            lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(exact, axis=1)
            scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
        wanted = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), -scores.astype(np.float32)))[:, :20]
        ids, found = nearest(queries, known, 20, cosine)
        assert (ids == wanted).mean() > 0.999 and np.abs(found - np.take_along_axis(scores, wanted, 1)).max() < 1e-5
        assert list(ids[300]) == list(wanted[300]) and (np.diff(ids[300]) > 0).all() or not cosine
    assert nearest(queries, vectors.Vectors([], np.zeros(0, np.int64)), 5)[0].shape == (303, 0)


def small(root: Path) -> None:
    """Make a small sentence-transformer of random weights, and a classifier of three labels."""
    import torch
    from small_models import ending_tokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    tokenizer = ending_tokenizer()
    told = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
                max_position_embeddings=64, pad_token_id=0, initializer_range=0.5)
    torch.manual_seed(0)
    BertModel(BertConfig(**told)).save_pretrained(root / "embeds")
    names = {"id2label": {0: "red", 1: "green", 2: "blue"}, "label2id": {"red": 0, "green": 1, "blue": 2}}
    BertForSequenceClassification(BertConfig(**told, **names)).save_pretrained(root / "classifies")
    for name in ("embeds", "classifies"):
        tokenizer.save_pretrained(root / name)
    (root / "embeds" / "modules.json").write_text(json.dumps([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]))
    (root / "embeds" / "1_Pooling").mkdir()
    (root / "embeds" / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}')


@pytest.mark.slow
def test_models_on_this_machine(project):
    pytest.importorskip("sentence_transformers")
    small(project.root)
    words = ["red cat", "green dog by the river", "stone", "red cat", "blue bird on a tree", "cloud"]
    text = f"""
        e = embedder("./embeds", batch_size=4, dimensions=16)
        @step("docs")
        def docs():
            yield from ({{"text": text}} for text in {words!r})
        embed("embedded", docs, embedder=e, normalize=True)
        retrieve("found", docs, docs, embedder=e, k=2)
        classify("labelled", docs, model="./classifies", probabilities=True)
        classify("renamed", docs, model="./classifies", labels=["r", "g", "b"], pair="text")
    """
    project.ddfile(text).make("-j1")
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

    rows = project.rows("embedded")
    tokenizer = AutoTokenizer.from_pretrained(project.root / "embeds")
    model = BertModel.from_pretrained(project.root / "embeds").eval()
    for row in rows:
        with torch.inference_mode():
            mean = model(**tokenizer(row["text"], return_tensors="pt"))[0].mean(1)[0, :16].numpy()
        assert np.allclose(row["embedding"], mean / np.linalg.norm(mean), atol=1e-5)
    assert project.rows("found")[3]["ids"] == [0, 3]
    judge = AutoModelForSequenceClassification.from_pretrained(project.root / "classifies").eval()
    for row in project.rows("labelled"):
        with torch.inference_mode():
            shares = judge(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert list(row["label_probabilities"].values()) == pytest.approx(shares, abs=1e-5)
        assert row["label"] == ["red", "green", "blue"][shares.index(max(shares))]
    assert {row["label"] for row in project.rows("renamed")} <= {"r", "g", "b"}

    project.ddfile(text.replace("by the river", "by a river"))
    assert "1 sent, 5 cached" in project.make("embedded").output
    project.ddfile(text.replace('model="./classifies", prob', 'model="./embeds", prob'))
    result = project.run("labelled")
    assert result.code == 1 and "holds no sequence classifier: it is a BertModel" in result.output, result.output
