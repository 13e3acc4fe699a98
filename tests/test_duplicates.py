"""Rows left out: near-duplicates by words and by vectors, and what a benchmark holds too."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_embedding import letters  # noqa: F401

from ddmake.artifacts.vectors import Vectors
from ddmake.rules.duplicates import _near, _width
from ddmake.rules.texts import grams, words

ROWS = """
@step("rows")
def rows():
    yield from ({{"n": i, "text": text}} for i, text in enumerate({texts!r}))

{rest}
"""
LONG = "the quick brown fox jumps over the lazy dog while seven small birds sing in the old apple tree behind our house every morning"


def ask(project, texts, rest):
    return project.ddfile(ROWS.format(texts=texts, rest=rest))


def numbers(project, path):
    return [row["n"] for row in project.rows(path)]


WORDS = {  # a text: its words
    "The CAT, sat!": ["the", "cat", "sat"],
    "Straße e\u0301té ＡＢＣ": ["strasse", "été", "abc"],
    "灯台は、海を": ["灯", "台", "は", "海", "を"],
    "iPhoneを使う": ["iphone", "を", "使", "う"],
    "हिन्दी में": ["हिन्दी", "में"],
    "서울 사람": ["서울", "사람"],
    "ภาษา": ["ภ", "า", "ษ", "า"],
    "?! …": [],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_of_all_scripts(text):
    assert words(text) == WORDS[text]


def test_a_short_text_is_one_run():
    assert [list(grams(text, 3)) for text in ("a b c d", "a B, c", "a b", "!!", "")] == [["a b c", "b c d"], ["a b c"], ["a b"], ["!!"], [""]]


DUPLICATES = {  # the texts: the numbers of those that stay
    "one word of 23 changed": ([LONG, "something else entirely", LONG.replace("every", "each")], [0, 1]),
    "two words changed": ([LONG, LONG.replace("every", "each").replace("seven", "six")], [0, 1]),
    "case and punctuation": (["Ein Satz, noch ein Satz, und ein dritter.", "ein Satz noch ein Satz - und ein DRITTER!"], [0]),
    "a group by its middle": ([LONG + " a b c d", LONG, "w x y z " + LONG], [0]),
    "no words between spaces": (["灯台は岬や港の入口に建てられ、船に位置を知らせる。", "灯台は岬や港の入口に建てられ，船に位置を知らせる", "光の色と点滅の間隔は灯台ごとに違う"], [0, 2]),
    "short ones": (["yes", "no", "Yes!", "", "?", " ", "?"], [0, 1, 3, 4]),
    "nulls stay": ([None, "a", None, "a"], [0, 1, 2]),
    "one row": (["a"], [0]),
    "only nulls": ([None, None], [0, 1]),
}


@pytest.mark.parametrize("name", DUPLICATES)
def test_the_first_of_near_duplicates_stays(project, name):
    texts, stay = DUPLICATES[name]
    ask(project, texts, 'dedupe("out", rows)').make()
    assert numbers(project, "out") == stay
    assert [row["text"] for row in project.rows("out")] == [texts[number] for number in stay]
    assert f"left out {len(texts) - len(stay)} of {len(texts)} rows: near-duplicates of earlier ones" in project.logs()


def test_a_view_is_as_good_as_a_dataset(project):
    ask(project, [LONG, None, "a", LONG + " b", "A"], """
turned = rows.shuffle(seed=1).filter(lambda row: row["n"] > 0)
dedupe("out", turned)
decontaminate("clean", turned, rows.take(1))
""").make()
    assert {row["text"] and row["text"].casefold() for row in project.rows("out")} == {None, "a", LONG + " b"} and len(project.rows("out")) == 3
    assert sorted(numbers(project, "clean")) == [1, 2, 4]


def test_planted_duplicates_are_found_whatever_the_seed(project):
    """Of 400 texts a third are copies with one word changed; each is left out, and nothing else."""
    random.seed(0)
    texts = [" ".join(random.choices([f"w{i}" for i in range(500)], k=60)) for _ in range(400)]
    copies = random.sample(range(200, 400), 130)
    for number in copies:
        texts[number] = texts[number - 200].replace(" ", " new ", 1)
    ask(project, texts, "\n".join(f'dedupe("out{seed}", rows, seed={seed}, permutations={size})' for seed, size in ((0, 128), (1, 64)))).make()
    expected = [number for number in range(400) if number not in copies]
    assert numbers(project, "out0") == numbers(project, "out1") == expected


@pytest.mark.slow
def test_very_many_of_one_kind_take_no_square_of_time(project):
    ask(project, [LONG + f" {number}" for number in range(20_000)], 'dedupe("out", rows)').make()
    assert numbers(project, "out") == [0]


@given(st.floats(0.05, 1), st.integers(2, 256))
def test_pairs_at_the_threshold_are_compared(threshold, permutations):
    width = _width(threshold, permutations)
    found = 1 - (1 - threshold ** width) ** (permutations // width)
    assert 1 <= width <= permutations and (found >= 0.95 or width == 1)


SIMILAR = """
e = embedder("openai/letters", base_url={url!r})
dedupe_similar("out", rows, embedder=e, threshold={threshold})
dedupe_similar("same", embed("embedded", rows, embedder=e), threshold={threshold})
"""


def test_the_first_of_similar_rows_stays(project, letters):  # noqa: F811
    """By letters: "ab" and "aabb" have one direction, "abc" is .82 from them; zeros and nulls are like nothing."""
    texts = ["ab", "cd", "aabb", None, "abc", "zz", "zz", None, "dc"]
    ask(project, texts, SIMILAR.format(url=letters.url, threshold=0.9)).make()
    assert numbers(project, "out") == numbers(project, "same") == [0, 1, 3, 4, 5, 6, 7]
    assert list(project.rows("out")[0]) == ["n", "text"]
    ask(project, texts, SIMILAR.format(url=letters.url, threshold=0.8)).make()
    assert numbers(project, "out") == [0, 1, 3, 5, 6, 7]


def test_a_dry_run_counts_the_texts_to_embed(project, letters):  # noqa: F811
    ask(project, ["ab", "cd", None, "ab"], SIMILAR.format(url=letters.url, threshold=0.9)).make("rows")
    assert "make out 2 1 " in " ".join(project.run("-n").output.split())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.integers(1, 3), st.sampled_from([0.5, 0.9, 1.0]), st.integers(0, 99))
def test_near_is_what_all_pairs_say(count, parts, threshold, seed):
    """Whatever the blocks are, on vectors of small whole numbers, of which many have cosines just at the threshold."""
    draw = np.random.default_rng(seed)
    matrix = draw.integers(-1, 2, (count, 4)).astype(np.float32)
    exact = matrix.astype(np.float64) @ matrix.T.astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(exact), 1e-30))
    expected = [bool((exact[i, :i] / lengths[i] / lengths[:i] >= threshold - 1e-9).any()) for i in range(count)]
    found = _near(Vectors(np.array_split(matrix, parts), np.arange(count)), threshold)
    assert found.tolist() == expected


BENCHMARK = """
benchmark = rows.map(lambda row: {{"n": row["n"], "text": None, "question": {question!r}, "answer": {answer!r}}})
{rest}
"""
SHARED = {  # arguments: the texts, the benchmark's question and answer, the numbers of those that stay
    'against="question"': (["x " + " ".join(LONG.split()[:13]) + " y", "x " + " ".join(LONG.split()[:12]) + " y", None, "short"], LONG, "short", [1, 2, 3]),
    'against=["question", "answer"]': ([LONG, "Short!", "short but longer", ""], LONG.upper(), "short", [2, 3]),
    'against="question", ngram=4': (["we saw the quick, brown fox", "the quick brown cat"], LONG, "", [1]),
    'against="question", ngram=5': (["夜の灯台は海を照らす", "灯台と海"], "灯台は海を照らすもの", "", [1]),
}


@pytest.mark.parametrize("arguments", SHARED)
def test_rows_that_share_a_run_of_words_go(project, arguments):
    texts, question, answer, stay = SHARED[arguments]
    recipes = f'decontaminate("out", rows, benchmark, {arguments})\ndecontaminate("marked", rows, benchmark, {arguments}, mark="bad")'
    ask(project, texts, BENCHMARK.format(question=question, answer=answer, rest=recipes)).make()
    assert numbers(project, "out") == stay
    assert [row["n"] for row in project.rows("marked") if row["bad"] is False] == stay and len(project.rows("marked")) == len(texts)
    assert f"left out {len(texts) - len(stay)} of {len(texts)} rows: they share text with the benchmark" in project.logs()


def test_several_columns_are_looked_through(project):
    ask(project, ["a b c", "d e f", "g h i"], """
other = rows.rename(text="first").map(lambda row: {"n": row["n"], "second": "j k l" if row["n"] else None})
decontaminate("out", other, rows.take(1).map(lambda row: {"n": 0, "text": "J K L"}), text=["first", "second"], ngram=3)
""").make()
    assert numbers(project, "out") == [0]


def test_no_rows_are_no_rows(project):
    ask(project, ["a"], """
none = rows.filter(lambda row: False)
dedupe("a", none)
decontaminate("b", none, rows, mark="bad")
decontaminate("c", rows, none)
dedupe_similar("d", embed("e", none, embedder=embedder("openai/letters", base_url="http://localhost:1/v1")))
""").make("a", "b", "c")
    assert [project.rows(name) for name in "abc"] == [[], [], [{"n": 0, "text": "a"}]]


TOLD = {  # a recipe: what is told when it is planned
    "dedupe('out', rows, text='txt')": "there is no column 'txt' to compare. There are: n, text. Did you mean 'text'?",
    "dedupe('out', rows, threshold=0)": "threshold is the least similarity of duplicates, above 0 and at most 1, not 0.",
    "dedupe('out', rows, ngram=0)": "ngram is at least 1, not 0.",
    "dedupe_similar('out', rows)": "there is no column 'embedding' of vectors. Give an embedder=, or embed() the rows.",
    "dedupe_similar('out', rows, text='t', embedder=embedder('openai/e'))": "there is no column 't' to embed. There are: n, text.",
    "decontaminate('out', rows, rows, against='question')": "there is no column 'question' of the benchmark. There are: n, text.",
    "decontaminate('out', rows, rows, mark='n')": "decontaminate adds a column 'n', and there is one already: .rename() it.",
}


@pytest.mark.parametrize("recipe", TOLD)
def test_recipes_are_checked_when_planned(project, recipe):
    ask(project, ["a"], "").make()
    result = ask(project, ["a"], recipe).run("-n")
    assert result.code == 2 and TOLD[recipe] in result.output, result.output


def test_a_column_of_something_else_is_told(project):
    result = ask(project, ["a"], "dedupe('out', rows, text='n')").run()
    assert result.code == 1 and "column 'n' holds int64, and text is needed." in result.output
