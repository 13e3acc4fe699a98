"""Several models side by side: rated together, made pairs of; UltraFeedback's pipeline, and the project in docs/examples/preferences."""

import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from fake_providers import FakeProviders

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "preferences"
ROWS = """
@step("rows")
def rows():
    yield from {rows!r}

{rest}
"""
NAMES = ["one", "two", "three"]


def several(project, rows, rest):
    return project.ddfile(ROWS.format(rows=rows, rest=rest))


TOGETHER = """
rated = rate_together("rated", rows, llm=llm("openai/m", base_url={url!r}), rubric="Short.", answers={names}, prompt="{{% for text in texts %}}{{{{ text or '-' }}}} {{% endfor %}}")
other = rate_together("other", rows, llm=llm("openai/m", base_url={url!r}), rubric="Short.", answers={names}, seed=1, column="tone", reason=False)
"""


def test_answers_are_rated_side_by_side_in_an_order_that_is_drawn(project, service):
    """A null answer has no score; a row without answers isn't asked about. The service's reasons are its prompts."""
    rows = [{"question": f"q{n}", "one": f"a{n}", "two": f"b{n}", "three": f"c{n}", "n": n} for n in range(20)]
    rows += [{"question": "q", "one": "a", "two": None, "three": "c", "n": 20}, {"question": "q", "one": None, "two": None, "three": None, "n": 21}]
    several(project, rows, TOGETHER.format(url=service.url, names=NAMES)).make()
    rated = project.rows("rated")
    assert list(rated[0])[5:] == [f"{name}_score{what}" for name in NAMES for what in ("", "_reason")]
    shown = [row["one_score_reason"].split() for row in rated[:20]]
    assert {tuple(word[0] for word in words) for words in shown} == {(x, y, z) for x in "ABC" for y in "ABC" for z in "ABC" if len({x, y, z}) == 3}
    assert all(set(words) == {f"A{n}", f"B{n}", f"C{n}"} for n, words in enumerate(shown))
    assert rated[20]["one_score"] == 1 and (rated[20]["two_score"], rated[20]["two_score_reason"]) == (None, None)
    assert set(rated[21].values()) == {"q", None, 21}
    assert list(project.rows("other")[0])[5:] == [f"{name}_tone" for name in NAMES]
    assert service.counts()["requests"] == 42


def test_scores_go_back_to_the_answers_that_they_are_of(project):
    """A judge that writes each text's own number into its score."""
    rows = [{"question": "q", "one": f"1 {n}", "two": f"4 {n}", "three": f"3 {n}"} for n in range(12)]
    prompt = "{ {% for text in texts %}\"text_{{ loop.index }}\": {\"score\": {{ text[0] }} }{{ ', ' if not loop.last }}{% endfor %} }"
    several(project, rows, f"""
rated = rate_together("rated", rows, llm=llm("echo"), rubric="x", answers={NAMES}, reason=False, prompt={prompt!r})
pairs = binarize("pairs", rated, answers={NAMES})
worst = binarize("worst", rated, answers={NAMES}, rest="worst")
""").make()
    assert {(row["one_score"], row["two_score"], row["three_score"]) for row in project.rows("rated")} == {(1, 4, 3)}
    pairs = project.rows("pairs")
    assert {row["chosen_from"] for row in pairs} == {"two"} and {row["rejected_from"] for row in pairs} == {"one", "three"}
    assert all(row["chosen"] == row["two"] and row["rejected"] == row[row["rejected_from"]] for row in pairs)
    assert {(row["rejected_from"], row["chosen_score"], row["rejected_score"]) for row in project.rows("worst")} == {("one", 4.0, 1.0)}


def scored(**given):
    """Return a row of answers by their scores in two aspects; a text follows after a third."""
    row = {}
    for name, (x, y, *text) in given.items():
        row |= {name: text[0] if text else f"by {name}", f"{name}_x": x, f"{name}_y": y}
    return row


PAIRED = {  # the rows: from which answer to which a pair goes, and their scores
    "means decide": (scored(one=(5, 1), two=(4, 4)), ("two", "one", 4.0, 3.0)),
    "all alike": (scored(one=(3, 3), two=(1, 5)), None),
    "a null answer doesn't count": (scored(one=(5, 5, None), two=(1, 2)), None),
    "nor does one without a score": (scored(one=(5, None), two=(1, 2)), None),
    "nor the same text": (scored(one=(5, 5, "x"), two=(1, 1, "x")), None),
    "nobody is scored": (scored(one=(None, None), two=(None, None)), None),
}


def test_pairs_are_of_the_best_and_a_worse_one(project):
    rows = [{"case": case, **row} for case, (row, _) in PAIRED.items()]
    several(project, rows, """
binarize("pairs", rows, answers=["one", "two"], aspects=["x", "y"])
binarize("none", rows.filter(lambda row: row["case"] == "all alike"), answers=["one", "two"], aspects=["x", "y"])
""").make()
    found = {row["case"]: (row["chosen_from"], row["rejected_from"], row["chosen_score"], row["rejected_score"]) for row in project.rows("pairs")}
    assert found == {case: pair for case, (_, pair) in PAIRED.items() if pair} and project.rows("none") == []


@pytest.mark.slow
def test_the_pipeline_makes_each_stage_a_target_of_its_own(project, service):
    service.fail(0, sign=True)
    text = f"""
pairs = ultrafeedback("uf", rows, llms={{"one": llm("openai/x", base_url={service.url!r}), "two": llm("openai/y", base_url={service.url!r})}},
                      judge=llm("tiny", max_tokens=400), aspects={{"tone": "Kind?", "facts": "True?"}}, system="Be kind.", longest=40)
alias("all", pairs)
"""
    rows = [{"instruction": f"Do {n}.", "n": n} for n in range(6)]
    several(project, rows, text).make()
    rated, pairs = project.rows("uf/rated"), project.rows("uf/pairs")
    assert [row["one"] for row in rated] == [f"x: DO {n}." for n in range(6)] and all(len(row["two_tone_reason"]) <= 40 for row in rated)
    mean = {row["n"]: {name: (row[f"{name}_tone"] + row[f"{name}_facts"]) / 2 for name in ("one", "two")} for row in rated}
    assert [row["n"] for row in pairs] == [n for n, scores in mean.items() if scores["one"] != scores["two"]] and pairs
    assert all(row["chosen_score"] == max(mean[row["n"]].values()) and row["chosen"] == row[row["chosen_from"]] for row in pairs)
    assert service.counts()["bodies"][0]["messages"][0] == {"role": "system", "content": "Be kind."}
    changed = several(project, rows, text.replace("Kind?", "Friendly?")).run("-n").verdicts()
    assert changed == {"uf/ratings/tone": "make", "uf/rated": "maybe", "uf/pairs": "maybe"}


def test_names_that_make_no_columns_are_told(project):
    result = several(project, [{"instruction": "x"}], 'ultrafeedback("uf", rows, llms={"gpt-4o": llm("echo")}, judge=llm("echo"))').run("-n")
    assert result.code == 2 and "'gpt-4o' becomes a column's name and a path: use letters, digits and _." in result.output


@pytest.fixture
def anthropic():
    """Anthropic's API, or what looks like it, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = asyncio.run_coroutine_threadsafe(FakeProviders().start(), loop).result()
    yield fake
    asyncio.run_coroutine_threadsafe(fake.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.slow
def test_the_project_from_three_providers_to_pairs(project, service, anthropic, monkeypatch):
    """Models by their own providers' wire formats; the toy rates, and judges the pairs, by chance."""
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True)
    service.fail(0, sign=True)
    for name, value in {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": service.url, "ANTHROPIC_API_KEY": "k", "ANTHROPIC_API_BASE": anthropic.url}.items():
        monkeypatch.setenv(name, value)
    knobs = (f"open_url={service.url}", "judge=tiny", "second=tiny", "longest=60", "n=4")
    project.make(*knobs)
    answers = project.rows("data/together")[0]
    said = answers["instruction"].upper()
    assert [answers[name] for name in ("large", "small", "claude", "open")] == [f"gpt-4o: {said}", f"gpt-4o-mini: {said}", said, f"Qwen/Qwen3-8B: {said}"]
    assert len(anthropic.received) == 4 and anthropic.received[0].path == "/v1/messages"
    pairs, lines = project.rows("data/pairs"), project.lines("data/pairs.jsonl")
    assert pairs and [line["chosen"] for line in lines] == [row["chosen"] for row in pairs]
    assert all(row["chosen_score"] > row["rejected_score"] for row in pairs)
    checked, agreed = project.rows("data/checked"), project.rows("data/agreed")
    assert {row["winner"] for row in checked} <= {"a", "b", "tie"} and sum(row["n"] for row in agreed) == len(checked) == len(pairs)
    assert project.run("-n", *knobs).verdicts() == {}
