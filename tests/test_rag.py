"""`rag`: documents that are found for each question, shown to an llm."""

import pytest
from test_embedding import letters  # noqa: F401

DOCUMENTS = [{"text": text, "name": f"n{number}"} for number, text in enumerate(["aaa", "bbb", "aab", None, "ccc"])]
QUESTIONS = [{"question": "a"}, {"question": "bc"}, {"question": None}]
SHOWN = "{% for text in texts %}{{ ids[loop.index0] }}:{{ text }} {% endfor %}| {{ question }}"


def ddfile(project, letters, rule, questions=QUESTIONS, documents=DOCUMENTS, rows_="questions"):  # noqa: F811
    project.ddfile(f"""
        e = embedder("openai/letters", base_url={letters.url!r}, price=1.0)
        questions = rows("questions", values={questions!r})
        documents = rows("documents", values={documents!r})
        rag("out", {rows_}, documents, {rule})
    """).make("questions", "documents")
    return project


def made(project, *given, **more):
    ddfile(project, *given, **more).make()
    return project.rows("out")


@pytest.mark.slow
def test_the_nearest_texts_are_shown_and_an_answer_is_added(project, letters):  # noqa: F811
    rows = made(project, letters, 'llm=llm("echo"), embedder=e, k=2')
    head = "Answer the question by the texts below. If they don't hold the answer, say that you don't know.\n\n"
    assert rows[0] == {"question": "a", "answer": head + "Text 1:\naaa\n\nText 2:\naab\n\nQuestion: a"}
    assert [row["answer"].split("Question")[1] for row in rows] == [": a", ": bc", ": "]
    assert "Text 1" not in rows[2]["answer"]
    assert sorted(letters.counts()["texts"]) == ["a", "aaa", "aab", "bbb", "bc", "ccc"]
    assert project.run("-n").verdicts() == {}


@pytest.mark.slow
def test_sources_are_what_was_shown(project, letters):  # noqa: F811
    rule = f'llm=llm("echo"), embedder=e, k=3, sources=True, prompt={SHOWN!r}'
    rows = made(project, letters, rule + ', id="name"')
    assert [row["answer"] for row in rows] == ["n0:aaa n2:aab n1:bbb | a", "n1:bbb n4:ccc n2:aab | bc", "| None"]
    assert [(row["ids"], row["texts"]) for row in rows] == [
        (["n0", "n2", "n1"], ["aaa", "aab", "bbb"]), (["n1", "n4", "n2"], ["bbb", "ccc", "aab"]), ([], [])]
    assert rows[0]["scores"] == pytest.approx([1, 0.8944, 0], abs=1e-3) and list(rows[0]) == ["question", "ids", "texts", "scores", "answer"]
    for view in ("questions", "questions.shuffle(seed=3)"):
        fitted = made(project, letters, rule + ", context=1, min_texts=1", rows_=view)
        told = {row["question"]: (row["ids"], row["texts"], row["answer"]) for row in fitted}
        assert told == {"a": ([0], ["aaa"], "0:aaa | a"), "bc": ([1], ["bbb"], "1:bbb | bc"), None: ([], [], "| None")}


@pytest.mark.slow
def test_rows_that_are_dropped_go_with_their_sources(project, letters):  # noqa: F811
    questions = [{"question": "aa", "n": 1}, {"question": "b", "n": 2}, {"question": "cc", "n": 3}]
    rows = made(project, letters, 'llm=llm("echo"), embedder=e, k=1, sources=True, on_error="drop", parse=lambda text, row: 1 / (row["n"] - 2)',
                questions=questions)
    assert [(row["n"], row["texts"], row["answer"]) for row in rows] == [(1, ["aaa"], -1.0), (3, ["ccc"], 1.0)]


@pytest.mark.slow
def test_more_rows_than_are_read_at_once(project, letters):  # noqa: F811
    """Each row keeps its own texts, whatever the batch."""
    questions = [{"question": "abc"[number % 3] * (number % 5 + 1)} for number in range(2300)]
    rows = made(project, letters, f'llm=llm("echo"), embedder=e, k=1, sources=True, prompt={SHOWN!r}', questions=questions)
    best = {"a": "aaa", "b": "bbb", "c": "ccc"}
    assert all(row["texts"] == [best[row["question"][0]]] and row["answer"].split()[0].split(":")[1] == row["texts"][0] for row in rows)
    assert [row["question"] for row in rows] == [row["question"] for row in questions]


@pytest.mark.slow
def test_vectors_that_are_there_are_used(project, letters):  # noqa: F811
    project.ddfile(f"""
        e = embedder("openai/letters", base_url={letters.url!r}, price=1.0)
        questions = embed("questions", rows("q", values={QUESTIONS[:2]!r}), embedder=e, text="question")
        documents = embed("documents", rows("d", values={DOCUMENTS!r}), embedder=e)
        rag("out", questions, documents, llm=llm("echo"), k=1, prompt={SHOWN!r})
    """).make()
    assert [row["answer"] for row in project.rows("out")] == ["0:aaa | a", "1:bbb | bc"]
    assert letters.counts()["requests"] == 2


def test_a_dry_run_sends_nothing(project, letters):  # noqa: F811
    ddfile(project, letters, 'llm=llm("echo"), embedder=e')
    assert " ".join(project.run("-n").output.split()).count("make out ? ? ") == 1
    assert "which texts are found for a question isn't known before it runs" in project.run("preview", "out").output
    assert letters.counts()["requests"] == 0


def test_a_key_that_is_missing_is_told_before_anything_is_embedded(project, letters, monkeypatch):  # noqa: F811
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ddfile(project, letters, 'llm=llm("anthropic/claude-sonnet-4-5"), embedder=e')
    result = project.run("out")
    assert result.code and "ANTHROPIC_API_KEY" in result.output and letters.counts()["requests"] == 0


@pytest.mark.slow
def test_no_rows_and_no_documents(project, letters):  # noqa: F811
    assert made(project, letters, 'llm=llm("echo"), embedder=e, sources=True', rows_="questions.skip(9)") == []
    from datasets import load_from_disk
    assert load_from_disk(str(project.root / "out")).column_names == ["question", "ids", "texts", "scores", "answer"]
    ddfile(project, letters, 'llm=llm("echo"), embedder=e, min_texts=5, k=6')
    project.ddfile((project.root / "Ddfile").read_text().replace(", documents, llm", ", documents.take(1), llm"), header="")
    assert "min_texts=5, and there are 1 documents" in " ".join(project.run().output.split())


@pytest.mark.parametrize("more, told", [
    ('question="qestion"', "there is no column 'qestion' of questions. There are: question. Did you mean 'question'?"),
    ('text="txt"', "there is no column 'txt' of texts to find. There are: text, name. Did you mean 'text'?"),
    ("min_texts=9", "min_texts is a number from 0 to k, not 9"),
    ("k=0", "k is the number of texts to find, at least 1, not 0"),
    ('prompt="{{ txts }}"', "Did you mean 'texts'?"),
    ("context=0", "context is a number of at least 1, not 0"),
])
def test_mistakes_are_told_when_it_is_planned(project, letters, more, told):  # noqa: F811
    ddfile(project, letters, f'llm=llm("echo"), embedder=e, {more}')
    result = project.run("-n")
    assert result.code and told in " ".join(result.output.split()) and "Traceback" not in result.output


def test_without_vectors_and_an_embedder_the_remedy_is_told(project, letters):  # noqa: F811
    ddfile(project, letters, 'llm=llm("echo")')
    assert "have no column 'embedding' of vectors. Give an embedder=, or embed() them." in " ".join(project.run("-n").output.split())
