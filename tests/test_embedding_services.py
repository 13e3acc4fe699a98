"""Embedders over services: LiteLLM's against their wire formats, what they refuse, and what two rules at once pay for."""

import pytest
from test_embedding import Letters

SERVICES = {  # as it is named -> what its api_base ends with, its path, and the variable that its key is looked for in first
    "cohere/embed-v4.0": ("/v2/embed", "/v2/embed", "COHERE_API_KEY"),
    "voyage/voyage-3.5": ("/v1", "/v1/embeddings", "VOYAGE_API_KEY"),
    "jina_ai/jina-embeddings-v3": ("/v1", "/v1/embeddings", "JINA_AI_API_KEY"),
    "gemini/gemini-embedding-001": ("", "/models/gemini-embedding-001:batchEmbedContents", "GEMINI_API_KEY"),
    "bedrock/amazon.titan-embed-text-v2:0": ("", "/model/amazon.titan-embed-text-v2:0/invoke", "AWS_ACCESS_KEY_ID"),
}
RULES = """
    e = embedder(%r, %s)
    @step("docs")
    def docs():
        yield from ({"text": text} for text in %r)
    embed("embedded", docs, embedder=e)
"""


@pytest.fixture(scope="module")
def letters():
    found = Letters()
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for _, _, variable in SERVICES.values():
        monkeypatch.setenv(variable, f"key of {variable}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key of AWS")
    monkeypatch.setenv("AWS_REGION_NAME", "eu-west-1")


def rules(project, letters, name, texts, more=""):
    base = f'"api_base": "{letters.root}{SERVICES[name][0]}"'
    return project.ddfile(RULES % (name, f"extra={{{base}}}, price=1.0{more}", texts))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, id=name.partition("/")[0]) for name in SERVICES])
def test_a_service_over_litellm(project, letters, name):
    before = letters.counts()["requests"]
    busy = f"aab BUSY {name}"
    rules(project, letters, name, ["aab", busy, "hhh", "aab"])
    result = project.make()
    assert "3 sent, 1 cached; $0.0000" in result.output, result.output
    told = letters.counts()
    assert told["paths"][-1].replace("%3A", ":") == SERVICES[name][1] and told["texts"].count(busy) == 2  # sent again after its 429
    assert told["requests"] - before == (5 if "bedrock" in name else 2)  # Titan takes one text a request
    counted = lambda text: [text.lower().count(letter) for letter in "abcdefgh"]
    assert [row["embedding"] for row in project.rows("embedded")] == [counted(text) for text in ("aab", busy, "hhh", "aab")]

    rules(project, letters, name, ["aab", "bad KEY"])
    result = project.run()
    told = " ".join(result.output.split())
    assert result.code == 1 and f'{name} answered 401: "no such key" ({SERVICES[name][2]} is set)' in told, result.output
    assert "key of" not in result.output


@pytest.mark.slow
def test_the_dimensions_and_the_kind_of_input_arrive(project, letters):
    rules(project, letters, "cohere/embed-v4.0", ["aab"], ", dimensions=3")
    project.make()
    assert project.rows("embedded")[0]["embedding"] == [2, 1, 0]
    assert letters.counts()["body"] == {"model": "embed-v4.0", "texts": ["aab"], "input_type": "search_document", "output_dimension": 3}
    assert letters.counts()["headers"]["Authorization"] == "Bearer key of COHERE_API_KEY"


@pytest.mark.parametrize("name, told", [
    ("letters-stiff", "openai/letters-stiff was asked for vectors of 3 numbers and gave 8: leave dimensions= out"),
    ("letters", ""),
])
def test_vectors_of_another_length_are_refused(project, letters, name, told):
    project.ddfile(RULES % (f"openai/{name}", f"base_url='{letters.url}', price=1.0, dimensions=3", ["aab"]))
    result = project.run()
    assert result.code == bool(told) and told in " ".join(result.output.split()), result.output


def test_two_rules_at_once_pay_once(project, letters):
    text = RULES % ("openai/letters-slow", f"base_url='{letters.url}', price=1.0", ["one a", "two b", "three c"])
    project.ddfile(text + """
    embed("again", docs.select("text"), embedder=e, normalize=True)
    """).make("docs")
    project.make("-j2")
    sent = letters.counts()["texts"]
    assert [sent.count(text) for text in ("one a", "two b", "three c")] == [1, 1, 1]
    assert len(project.rows("again")) == len(project.rows("embedded")) == 3


@pytest.mark.parametrize("name, told", [
    ("server/vllm:org/model", "a server that ddmake starts answers llms alone. Load the model in process, as hf/org/model, or start the server and name it vllm/org/model, with base_url="),
    ("anthropic/claude", "LiteLLM asks anthropic for no vectors. Where it has an OpenAI-compatible /embeddings, give that address as base_url="),
    ("voyage/", "names no model: write voyage/…."),
    ("voyag/x", "there is no backend 'voyag'"),
])
def test_an_embedder_that_nobody_serves_is_refused_when_it_is_planned(project, name, told):
    project.write("docs.jsonl", '{"text": "a"}\n')
    project.ddfile(f'docs = jsonl("docs", "docs.jsonl")\nembed("embedded", docs, embedder=embedder({name!r}))')
    result = project.run("-n")
    assert result.code == 2 and told in " ".join(result.output.split()), result.output


def test_a_missing_key_is_told_by_its_variable(project, monkeypatch):
    monkeypatch.delenv("VOYAGE_API_KEY")
    project.ddfile(RULES % ("voyage/voyage-3.5", "price=1.0", ["a"]))
    told = "voyage needs an API key: set VOYAGE_API_KEY, or take one that runs here, as all-minilm."
    assert told in " ".join(project.run("-n").output.split())
