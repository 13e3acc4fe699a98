"""Documents to rows, chunks, question–answer pairs and verdicts on them, in several languages."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddmake.rules.cutting import cut, sections

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "documents"
PDF = EXAMPLE / "texts" / "fr" / "phare.pdf"
SCAN = """%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [3 0 R] /Count 1 >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>
endobj
trailer
<< /Size 4 /Root 1 0 R >>
startxref
0
%%EOF
"""

ROWS = """
@step("rows")
def rows():
    yield from {rows!r}

{rest}
"""


def ask(project, rows, rest):
    return project.ddfile(ROWS.format(rows=rows, rest=rest))


def test_a_folder_becomes_rows(project):
    """By path; hidden files are left out, and other kinds, which are counted."""
    project.write("in/de/b.md", "Vorwort\n```\n# kein Titel\n```\n## Über Bienen ##\nText")
    project.write("in/de/.git/c.md", "hidden")
    project.write("in/a.TXT", "\ufeffgrün")
    for name in ("in/x.docx", "in/y.docx", "in/LICENSE"):
        project.write(name, "")
    shutil.copy(PDF, project.root / "in" / "phare.pdf")
    project.ddfile('documents("out", "in")').make()
    rows = project.rows("out")
    assert [(row["path"], row["title"], row["pages"]) for row in rows] == [
        ("a.TXT", "a", None), ("de/b.md", "Über Bienen", None), ("phare.pdf", "Le phare de la pointe", 1)]
    assert rows[0]["text"] == "grün" and "une horloge l'allume" in rows[2]["text"] and "a été construit" in rows[2]["text"]
    assert "left out 3 files of other kinds: .docx (2), LICENSE (1)" in project.logs()
    assert project.run("-n").verdicts() == {}
    project.write("in/de/b.md", "# Neu")
    assert project.run("-n").verdicts() == {"out": "make"}


def test_files_are_named_one_by_one(project):
    project.write("a.txt", "one")
    project.write("in/b.md", "# Two")
    project.ddfile('documents("out", ["in/b.md", "a.txt"])').make()
    assert [(row["path"], row["title"]) for row in project.rows("out")] == [("in/b.md", "Two"), ("a.txt", "a")]


def test_a_scan_has_no_text(project):
    project.write("in/scan.pdf", SCAN)
    project.ddfile('chunks("pieces", documents("out", "in"))').make()
    assert project.rows("out") == [{"path": "scan.pdf", "title": "scan", "text": "", "pages": 1}]
    assert "in/scan.pdf: 1 pages without text" in project.logs() and project.rows("pieces") == []


MISTAKES = {  # the file's name and bytes, what is read: what is told
    "not UTF-8": (("in/a.txt", "grün".encode("latin1")), "'in'", "in/a.txt: it isn't UTF-8 (byte 2 is 0xfc). Convert it"),
    "damaged": (("in/a.pdf", b"%PDF-1.4 nothing"), "'in'", "in/a.pdf: it can't be read as PDF: "),
    "of no kind": (("in/a.docx", b""), "['in/a.docx']", "in/a.docx: it is no document of a known kind: .txt, "),
    "none": (("in/a.docx", b""), "'in'", "in: there are no documents: .txt, .text, .md, .markdown, .pdf."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_read_is_named(project, name):
    (file, content), given_, told = MISTAKES[name]
    project.write(file, "").write_bytes(content)
    result = project.ddfile(f'documents("out", {given_})').run()
    assert result.code == 1 and told in result.output and "Traceback" not in result.output, result.output


MARKDOWN = """\
Vorwort.

# Teil eins

## Bienen

Sie tanzen. Sie summen.

Ein zweiter Absatz.
~~~
# Code
~~~
## 灯台
海を照らす。
"""
CUTS = {  # arguments: the chunks' headings and texts
    "size=60, overlap=0": [(None, "Vorwort."), ("Bienen", "## Bienen\n\nSie tanzen. Sie summen."), ("Bienen", "Ein zweiter Absatz.\n~~~\n# Code\n~~~"),
                           ("灯台", "## 灯台\n海を照らす。")],
    "size=60, overlap=0, by='sentence', markdown=False": [
        (None, "Vorwort.\n\n# Teil eins\n\n## Bienen\n\nSie tanzen. Sie summen."), (None, "Ein zweiter Absatz.\n~~~\n# Code\n~~~\n## 灯台\n海を照らす。")],
    "size=30, overlap=12, markdown=True": [
        (None, "Vorwort."), ("Bienen", "## Bienen\n\nSie tanzen."), ("Bienen", "Sie tanzen. Sie summen."), ("Bienen", "summen.\n\nEin zweiter Absatz."),
        ("Bienen", "Absatz.\n~~~\n# Code\n~~~"), ("灯台", "## 灯台\n海を照らす。")],
}


@pytest.mark.parametrize("arguments", CUTS)
def test_texts_are_cut_where_they_pause(project, arguments):
    ask(project, [{"path": "a.md", "text": MARKDOWN, "n": 7}, {"path": "b.md", "text": None, "n": 8}], f'chunks("out", rows, {arguments})').make()
    rows = project.rows("out")
    assert [(row["heading"], row["text"]) for row in rows] == CUTS[arguments]
    assert [row["chunk"] for row in rows] == list(range(len(rows))) and {(row["path"], row["n"]) for row in rows} == {("a.md", 7)}


def test_scripts_without_spaces_are_cut_at_sentences_else_anywhere():
    text = "灯台は海を照らす。船はそれを見て進む。夜も安全である。"
    assert list(cut(text, 20, 0, "paragraph")) == ["灯台は海を照らす。船はそれを見て進む。", "夜も安全である。"]
    assert list(cut("海" * 25, 10, 3, "paragraph")) == ["海" * 10, "海" * 10, "海" * 10, "海" * 4]


@given(st.text(alphabet="ab .。\n#é", max_size=300), st.integers(1, 40), st.integers(0, 20), st.sampled_from(["paragraph", "sentence", "word"]))
def test_nothing_is_lost_and_no_chunk_is_too_long(text, size, overlap, by):
    overlap = min(overlap, size // 2)
    pieces = list(cut(text, size, overlap, by))
    assert all(len(piece) <= size for piece in pieces)
    if not overlap:
        assert "".join("".join(pieces).split()) == "".join(text.split())
    assert "".join(section for _, section in sections(text)) == text


TOLD = {  # arguments of chunks: what is told when it is planned
    "size=10, overlap=6": "size is the most characters of a chunk and overlap at most half of it, not 10 and 6.",
    "text='texts'": "there is no column 'texts' to cut. There are: text, n. Did you mean 'text'?",
    "by='line'": "'line'",
}


@pytest.mark.parametrize("arguments", TOLD)
def test_chunks_are_checked_when_planned(project, arguments):
    ask(project, [{"text": "a", "n": 1}], "").make()
    result = ask(project, [{"text": "a", "n": 1}], f'chunks("out", rows, {arguments})').run("-n")
    assert result.code == 2 and TOLD[arguments] in result.output


def test_only_texts_are_cut(project):
    result = ask(project, [{"text": 1}], 'chunks("out", rows)').run()
    assert result.code == 1 and "column 'text' holds int64, and text is needed." in result.output


SAYING = [{"body": "a", "says": [["q1", "a1"], ["q2", "a2"]]}, {"body": None, "says": [["no", "no"]]}, {"body": "b", "says": [["q3", " "], ["q4", "a4"]]},
          {"body": "c", "says": []}, {"body": "  ", "says": [["no", "no"]]}, {"body": "d", "says": [["q5", "a5"], ["q6", "a6"], ["q7", "a7"]]}]
QUESTIONS = """
questions("out", rows, llm=llm("echo"), text="body", n=2, meta={meta}, prompt='''{{"pairs": [{{% for q, a in says %}}
    {{"question": {{{{ (text ~ q)|tojson }}}}, "answer": {{{{ a|tojson }}}}}}{{{{ "," if not loop.last }}}}{{% endfor %}}]}}''')
"""


def test_each_pair_is_a_row(project):
    """Texts that are null or blank aren't asked about; of the others two answer with too few or too many pairs."""
    ask(project, SAYING, QUESTIONS.format(meta=False)).make("rows")
    assert " ".join(project.run("-n").output.split()).count("make out 4 0 ") == 1
    output = project.make().output
    assert "3 rows; 4 sent; 2 failed" in output.replace("0 cached; ", "")
    assert [(row["body"], row["question"], row["answer"]) for row in project.rows("out")] == [("a", "aq1", "a1"), ("a", "aq2", "a2"), ("b", "bq4", "a4")]
    assert list(project.rows("out")[0]) == ["body", "says", "question", "answer"]
    ask(project, SAYING[:1], QUESTIONS.format(meta=True)).make()
    assert [row["question_meta"]["model"] for row in project.rows("out")] == ["echo", "echo"]


def test_a_view_is_asked_about_as_a_dataset_is(project):
    """And its texts may lie in a folder that a rule makes."""
    project.ddfile("""
folder = shell("made", [], cmd="mkdir -p {output} && echo 'Ein Satz.' > {output}/a.txt && echo > {output}/b.txt && echo no > {output}/c.txt")
seen = documents("rows", folder).filter(lambda row: row["title"] != "c")
pairs = questions("pairs", seen, llm=llm("echo"), prompt='{"pairs": [{"question": "{{ title }}?", "answer": "{{ text.strip() }}"}]}')
faithful("kept", pairs.filter(lambda row: True), llm=llm("echo"), prompt='{"reason": "{{ question }}", "verdict": "yes"}')
""").make()
    assert [(row["path"], row["question"], row["answer"]) for row in project.rows("kept")] == [("a.txt", "a?", "Ein Satz.")]


JUDGED = [{"text": "a", "q": "q", "a": "yes"}, {"text": "b", "q": "q", "a": "no"}, {"text": None, "q": "q", "a": "yes"}, {"text": "c", "q": "q", "a": "perhaps"},
          {"text": "d", "q": " ", "a": "yes"}, {"text": "e", "q": "q", "a": "yes"}]
FAITHFUL = """
faithful("kept", rows, llm=llm("echo"), question="q", answer="a", prompt='{"reason": "{{ text }} {{ question }}", "verdict": "{{ answer }}"}')
faithful("marked", rows, llm=llm("echo"), question="q", answer="a", mark="ok", prompt='{"reason": "{{ text }} {{ question }}", "verdict": "{{ answer }}"}')
"""


def test_rows_that_follow_from_their_text_are_kept_or_all_are_marked(project):
    """Three of the six can't be judged: a null, a blank, and an answer that is no verdict. Both rules ask the same."""
    ask(project, JUDGED, FAITHFUL).make("rows")
    assert [" ".join(line.split()[:4]) for line in project.run("-n").output.splitlines() if " 4 " in line] == ["make kept 4 0", "make marked 0 4"]
    project.make()
    assert project.rows("kept") == [JUDGED[0], JUDGED[5]]
    assert [(row["ok"], row["ok_reason"]) for row in project.rows("marked")] == [
        (True, "a q"), (False, "b q"), (None, None), (None, None), (None, None), (True, "e q")]


PACKAGED = {  # a recipe by its packaged prompt: what a row is asked in
    'questions("out", rows, llm=llm("echo"), n=5)': ["Write 5 questions", "Die Ebbe."],
    'faithful("out", rows, llm=llm("echo"), question="q", answer="a")': ["Die Ebbe.", "Question: Was?", "Answer: Ebbe."],
}


@pytest.mark.parametrize("recipe", PACKAGED)
def test_packaged_prompts_see_the_columns(project, recipe):
    ask(project, [{"text": "Die Ebbe.", "q": "Was?", "a": "Ebbe."}], recipe)
    result = project.run()
    assert result.code == 1 and "1 of 1 rows have no usable answer" in result.output
    asked = project.run("calls", "--json").output
    assert all(words in asked for words in PACKAGED[recipe]), asked


EMPTY = """
none = rows.filter(lambda row: False)
chunks("a", none)
questions("b", none, llm=llm("echo"), meta=True)
faithful("c", none, llm=llm("echo"), question="text", answer="n", mark="ok")
faithful("d", rows, llm=llm("echo"), question="text", answer="nothing")
"""


def test_no_rows_are_no_rows(project):
    ask(project, [{"text": "a", "n": "b", "nothing": None}], EMPTY).make()
    from datasets import load_from_disk

    columns = {name: load_from_disk(str(project.root / name)).column_names for name in "abcd"}
    assert columns == {"a": ["text", "n", "nothing", "chunk", "heading"], "b": ["text", "n", "nothing", "question_meta", "question", "answer"],
                       "c": ["text", "n", "nothing", "ok", "ok_reason"], "d": ["text", "n", "nothing"]}
    assert all(project.rows(name) == [] for name in "abcd")


RECIPES = {  # what is told of mistakes when a rule is planned
    "questions('out', rows, llm=llm('echo'), text='txt')": "there is no column 'txt' to ask about. There are: text, question. Did you mean 'text'?",
    "questions('out', rows, llm=llm('echo'))": "questions adds a column 'question', and there is one already: .rename() it.",
    "questions('out', rows.select('text'), llm=llm('echo'), n=0)": "n is the most questions to a text, at least 1, not 0.",
    "questions('out', rows.select('text'), llm=llm('echo'), prompt='{{ words }}')": "reads 'words'. There are: text, n.",
    "faithful('out', rows, llm=llm('echo'))": "there is no column 'answer' to judge. There are: text, question.",
    "faithful('out', rows, llm=llm('echo'), answer='question', meta=True)": "say mark=\"faithful\", too.",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_checked_when_planned(project, recipe):
    ask(project, [{"text": "a", "question": "b"}], "").make()
    result = ask(project, [{"text": "a", "question": "b"}], recipe).run("-n")
    assert result.code == 2 and RECIPES[recipe] in result.output, result.output


@pytest.fixture
def example(project):
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True)
    return project


def test_the_example_by_a_service_in_three_languages(example, service):
    """The service says the prompt in capitals, as question, answer and reason, and its verdict is the first: yes."""
    knobs = ("llm=openai/writer", "judge=openai/judge", f"base_url={service.url}", "longest=100000")
    example.make(*knobs)
    pieces, pairs = example.rows("data/pieces"), example.rows("data/pairs")
    assert {row["path"].split("/")[0] for row in pairs} == {"de", "fr", "ja"}
    assert "de/moor.txt" in {row["path"] for row in pieces} and "de/torfmoor.txt" not in {row["path"] for row in pieces}
    assert len(pairs) == len(pieces) and all(row["text"].upper() in row["question"] for row in pairs)
    assert len(example.lines("data/faithful.jsonl")) == len(pairs)
    assert service.counts()["requests"] == 2 * len(pairs)
    again = json.loads(example.make("-n", "--json", *knobs).output)
    assert {rule["verdict"] for rule in again["rules"]} == {"fresh"}


@pytest.mark.slow
def test_the_example_on_the_toy(example):
    """Which writes pairs that have nothing to do with the texts, and finds them faithful or not by chance."""
    print(example.make().output)
    pairs, checked = example.rows("data/pairs"), example.rows("data/checked")
    assert {row["path"].split("/")[0] for row in pairs} == {"de", "fr", "ja"} and len(pairs) <= 2 * len(example.rows("data/pieces"))
    assert [row["question"] for row in checked] == [row["question"] for row in pairs] and all(len(row["answer"]) <= 120 for row in pairs)
    assert {row["faithful"] for row in example.lines("data/faithful.jsonl")} == {True}
