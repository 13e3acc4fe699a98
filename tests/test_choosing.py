"""Choosing among labels: scores are the model's own log-probabilities, whatever the batch; `llm.choose` keeps them."""

import json
import math

import pytest
import small_models
import torch

from ddmake.backends import choosing, models
from ddmake.backends.base import Request
from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import load_model, load_tokenizer
from ddmake.errors import DdmakeError

KINDS = ("chat", "plain", "t5", "bart")
ENCODERS = ("t5", "bart")
LABELS = {"one token each": ("a", "b", "c"), "several": ("red cat", "blue", "stone river tree"),
          "one begins another": ("red", "red cat", "green")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    small_models.causal(made / "chat", chat=True)
    small_models.causal(made / "plain", chat=False, positions=64)
    small_models.t5(made / "t5")
    small_models.bart(made / "bart")
    return made


@pytest.fixture(scope="module")
def opened(folder):
    return {kind: LocalModel(folder / kind) for kind in KINDS}


def asked(labels, count=9):
    """Return requests of different lengths that are to choose among labels."""
    turns = [({"role": "user", "content": row["prompt"]},) for row in small_models.pairs(count)]
    return [(number, 1000 + number, Request(messages, labels=labels)) for number, messages in enumerate(turns)]


def scores(local, requests):
    return {number: answer.scores for number, answer in local.answers(requests)}


def whole(model, ids, tokens, start):
    """Return the log-probability of some tokens after a prompt, from one plain pass over all of them."""
    with torch.inference_mode():
        if start is None:
            logits = model(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1:]
        else:
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[start, *tokens]])).logits[0]
    return sum(step[token].item() for step, token in zip(logits.log_softmax(-1), tokens))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", LABELS)
def test_scores_are_the_models_log_probabilities(folder, opened, kind, which):
    model, tokenizer = load_model(folder / kind).eval(), load_tokenizer(folder / kind)
    start = model.config.decoder_start_token_id if kind in ENCODERS else None
    end = [tokenizer.eos_token_id] if which == "one begins another" else []
    found = scores(opened[kind], asked(LABELS[which]))
    for number, _, request in asked(LABELS[which]):
        ids = models.prompt_ids(tokenizer, request.messages, opened[kind].separator, kind in ENCODERS)
        for label in LABELS[which]:
            tokens = tokenizer(label, add_special_tokens=False)["input_ids"] + end
            assert found[number][label] == pytest.approx(whole(model, ids, tokens, start), abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_batch(opened, kind, monkeypatch):
    together = scores(opened[kind], asked(LABELS["several"]))
    monkeypatch.setattr(opened[kind].choosing, "rows", 1)
    alone = scores(opened[kind], list(reversed(asked(LABELS["several"]))))
    assert set(together) == set(alone) == set(range(9))
    assert all(together[n] == pytest.approx(alone[n], abs=2e-4) for n in together)
    assert len({str(one) for one in together.values()}) == 9


def test_a_model_whose_cache_cannot_be_copied_reads_the_prompt_again(opened, monkeypatch):
    kept = scores(opened["chat"], asked(LABELS["several"]))
    monkeypatch.setattr(choosing, "_is_plain", lambda cache: False)
    again = scores(opened["chat"], asked(LABELS["several"]))
    assert all(kept[n] == pytest.approx(again[n], abs=2e-4) for n in kept)


def test_labels_of_one_token_take_one_pass(opened, monkeypatch):
    passes = []
    forward = choosing._Read._forward
    monkeypatch.setattr(choosing._Read, "_forward", lambda self, *rest: passes.append(1) or forward(self, *rest))
    scores(opened["chat"], asked(LABELS["one token each"]))
    assert len(passes) == 1
    scores(opened["chat"], asked(LABELS["several"]))
    assert len(passes) == 1 + 1 + sum(len(load_ids(opened["chat"], label)) > 1 for label in LABELS["several"])


def load_ids(local, label):
    return local.tokenizer(label, add_special_tokens=False)["input_ids"]


def test_the_answer_is_the_likeliest_label(opened):
    for _, answer in opened["plain"].answers(asked(LABELS["several"])):
        assert answer == max(answer.scores, key=answer.scores.get) and answer.finish_reason == "stop" and answer.tokens_out == 0


def test_requests_of_other_labels_and_of_none_share_a_pass(opened):
    plain = [(20, 20, Request(({"role": "user", "content": "red green"},)))]
    mixed = dict(opened["chat"].answers([*asked(("a", "b"), 2), *plain, *((n + 5, n, r) for n, _, r in asked(("c", "d"), 2))]))
    assert {n: answer.scores and tuple(answer.scores) for n, answer in mixed.items()} == {
        0: ("a", "b"), 1: ("a", "b"), 20: None, 5: ("c", "d"), 6: ("c", "d")}
    assert mixed[20].tokens_out > 0


def test_out_of_memory_halves_the_batch(opened, monkeypatch):
    expected, read = scores(opened["chat"], asked(("a", "b"))), choosing._scores

    def small(local, prompts, labels):
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("no memory")
        return read(local, prompts, labels)

    monkeypatch.setattr(choosing, "_scores", small)
    found = scores(opened["chat"], asked(("a", "b")))
    assert all(found[n] == pytest.approx(expected[n], abs=2e-4) for n in expected) and len(found) == 9


def test_a_prompt_that_leaves_no_room_for_the_labels_fails_its_row(opened):
    labels = ("cat", "dog " * 5)
    words = "red " * 60
    long = [(7, 7, Request(({"role": "user", "content": words},), labels=labels))]
    answers = dict(opened["plain"].answers([*asked(labels, 3), *long]))
    assert answers[7].error.startswith("prompt has ") and answers[7].scores is None and answers[0].error is None


def test_a_model_that_gives_no_numbers_fails_the_row(opened, monkeypatch):
    monkeypatch.setattr(choosing, "_scores", lambda local, prompts, labels: [[math.nan, 0.0] for _ in prompts])
    assert dict(opened["chat"].answers(asked(("a", "b"), 1)))[0].error == "the model gives the labels no probabilities (not a number)"


def test_labels_that_tokens_cannot_tell_apart_are_refused(opened, monkeypatch):
    monkeypatch.setattr(opened["chat"], "ends", [])
    with pytest.raises(DdmakeError, match="chat: the label 'red' begins 'red cat', and the model has no end token"):
        scores(opened["chat"], asked(("blue", "red", "red cat"), 1))
    monkeypatch.setattr(opened["chat"], "tokenizer", Lowercase(opened["chat"].tokenizer))
    with pytest.raises(DdmakeError, match="chat: its tokenizer can't tell the label 'Blue' from 'blue'. Word it differently."):
        scores(opened["chat"], asked(("Blue", "red", "blue"), 1))


class Lowercase:
    """A tokenizer that knows no capitals."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, text, **options):
        return self.tokenizer(text.lower(), **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


CHOOSING = """
    @step(outputs="rated.jsonl", texts=["a short text", "another text", "a short text", "word " * {long}], model=llm({llm}))
    def rated(*, texts, model):
        for labels in {labels}:
            for found in model.choose(texts, labels):
                yield {{"label": found.label, "sum": round(sum(found.probabilities.values()), 6),
                       "of": list(found.probabilities), "error": found.error}}
"""


@pytest.mark.slow
def test_choices_are_kept_by_request_and_labels(project):
    labels = [["yes", "no"], ["yes", "no", "maybe"]]
    project.ddfile(CHOOSING.format(llm="'tiny'", labels=labels, long=5000))
    assert "6 sent, 2 cached" in project.make().output
    two, three = (rows := project.lines("rated.jsonl"))[:4], rows[4:]
    assert [row["of"] for row in rows] == [labels[0]] * 3 + [[]] + [labels[1]] * 3 + [[]]
    assert all(row["label"] in row["of"] and row["sum"] == 1.0 for row in (*two[:3], *three[:3]))
    assert two[0] == two[2] and two[3]["label"] is None and two[3]["error"].startswith("prompt has ")
    project.ddfile(CHOOSING.format(llm="'tiny', temperature=0.3, max_tokens=5", labels=labels, long=2))
    assert "2 sent, 6 cached" in project.make().output  # nothing is drawn
    assert project.lines("rated.jsonl")[:3] == two[:3]


TOLD = """
    from dataclasses import replace
    from ddmake.ddfile.asking import Asking

    def kinds_asked(inputs, arguments):
        yield Asking(arguments["model"], [f"Is it a tweet or an abstract? {{t}}" for t in {texts}], labels={labels})

    @step(asks=kinds_asked)
    def kinds(*, model):
        (asking,) = kinds_asked({{}}, {{"model": model}})
        for prompt, found in zip(asking.prompts, model.choose(asking.prompts, asking.labels)):
            yield {{"prompt": prompt, "label": found.label}}

    kinds("kinds.jsonl", model=llm({llm}))
"""


def told(project, llm="'echo'", texts=("one", "two"), labels=("abstract", "tweet")):
    return project.ddfile(TOLD.format(llm=llm, texts=list(texts), labels=list(labels)))


def counts(project):
    rule = json.loads(project.make("-n", "--json").output)["rules"][0]
    return rule["estimate"]["send"], rule["estimate"]["cached"]


@pytest.mark.slow
@pytest.mark.parametrize("llm", ["'echo'", "'tiny'"])
def test_a_dry_run_counts_choices_that_are_told(project, llm):
    assert counts(told(project, llm)) == (2, 0)
    project.make()
    assert counts(told(project, llm, ("one", "two", "three"))) == (1, 2)
    assert counts(told(project, llm, labels=("abstract", "tweet", "poem"))) == (2, 0)
    shown = json.loads(told(project, llm, labels=("yes", "no")).make("preview", "kinds.jsonl", "--json").output)["shown"]
    assert len(shown) == 2 and all(one["answer"] in one["value"] and sum(one["value"].values()) == pytest.approx(1) for one in shown)
    assert counts(project) == (0, 2)


def test_echo_chooses_the_label_that_is_named_first(project):
    told(project).make()
    assert [row["label"] for row in project.lines("kinds.jsonl")] == ["tweet", "tweet"]
    told(project, labels=("abs", "abstract", "poem")).make()
    assert project.lines("kinds.jsonl")[0]["label"] == "abstract"
    told(project, labels=("poem", "song")).make()
    assert project.lines("kinds.jsonl")[0]["label"] == "poem"


OTHERS = """
    def others_asked(inputs, arguments):
        yield from (replace(one, labels={labels}) for one in kinds_asked(inputs, arguments))

    @step(asks=others_asked)
    def others(*, model):
        yield {{"label": 1}}

    others("others.jsonl", model=llm("echo"))
"""


@pytest.mark.parametrize("labels, alike", [(["a", "b"], True), (["a", "c"], False)])
def test_rules_that_choose_among_other_labels_ask_something_else(project, labels, alike):
    one = TOLD.format(llm="'echo'", texts=["one"], labels=["a", "b"])
    project.ddfile(one + OTHERS.format(labels=labels))
    assert ("asks the very same" in project.run("lint").output) == alike


def test_a_service_that_is_to_choose_is_told_before_anything_is_made(project):
    project.ddfile(TOLD.format(llm="'vllm/some', base_url='http://127.0.0.1:9/v1'", texts=["one"], labels=["a", "b"]) + """
    @step("first")
    def first():
        yield {"x": 1}
""")
    result = project.run()
    assert "kinds.jsonl" in result.output and "only local models choose. Have the label written" in " ".join(result.output.split())
    assert result.code and not (project.root / "first").exists()


@pytest.mark.parametrize("llm, labels, message", [
    ("'tiny'", [], "there is nothing to choose among []. Give two labels or more."),
    ("'tiny'", ['a', 'a', 'b'], "the label 'a' is there twice. Leave one out."),
    ("'tiny'", ['a', ''], "a label is an empty text. Give it a word."),
    ("'tiny'", "yes", "labels is a list of texts, not 'yes'."),
    ("'vllm/some', base_url='http://127.0.0.1:9/v1'", ['a', 'b'], "only local models choose. Have the label written, by schema="),
])
def test_mistakes_are_told(project, llm, labels, message):
    project.ddfile(CHOOSING.format(llm=llm, labels=[labels], long=1))
    result = project.run()
    assert result.code == 1 and message in " ".join(result.output.split()) and "Traceback" not in result.output
