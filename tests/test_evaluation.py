"""What answers score against their references, which models are told apart by what, and how sure a score is.

`echo` repeats its prompt, so that a row says what is answered.
"""

import json
import re

import pytest
from conftest import Project

ROWWISE = {  # metric: (answer, reference or several, points)
    "exact_match": [("a b", " a b ", 100), ("a b", "A b", 0), ("x", ["y", "x"], 100), ("größe", "größe", 100), ("5", 5, 100)],
    "accuracy": [("Positive.", "positive", 100), ("negative", "positive", 0), ("C++", "C", 0), ("+", "-", 0), ("„ja“", "nein", 0), ("STRASSE!", "Straße", 100)],
    # by hand, after the official evaluation of SQuAD: 2 of 3 words and 2 of 2; articles and punctuation don't count
    "f1": [("the cat sat down", "Cat sat!", 80), ("dog", "cat", 0), ("the", "a", 100), ("the", "cat", 0), ("b c", ["a", "b"], 200 / 3), ("a a b", "a b b", 100 * 2 * 1 / (1 + 2))],
    # Lin 2004, section 3.1: S1 is the reference of S2 and S3
    "rouge_l": [("police kill the gunman", "police killed the gunman", 75), ("the gunman kill police", "police killed the gunman", 50), ("", "police", 0)],
    "rouge_1": [("the gunman kill police", "police killed the gunman", 75), ("x", ["y", "x"], 100)],
    "rouge_2": [("the gunman kill police", "police killed the gunman", 100 / 3)],
}
CASES = [(metric, said, [str(one) for one in (meant if isinstance(meant, list) else [meant])], points)
         for metric, cases in ROWWISE.items() for said, meant, points in cases]
TEXTS = [("The dog bit the man.", ["The dog bit the man.", "The dog had bit the man."]),
         ("It wasn't surprising.", ["It was not unexpected."]),
         ("The man had just bitten him.", ["The man bit him first.", "The man had bitten the dog.", "He bit."]),
         ("Ein ganz anderer Satz, größer.", ["Ein anderer Satz, größer!"])]
LABELS = [("yes", "yes"), ("Yes.", "yes"), ("no", "yes"), ("no", "no"), ("perhaps", "no"), ("yes", "perhaps"), ("nothing", "perhaps"), ("Perhaps!", "perhaps")]

SCORES = """
def shouts(answer, row):
    return None if row["refs"] == ["y", "x"] else answer.isupper()

told = jsonl("told", "rows.jsonl")
evaluate("scores", {"echo": llm("echo")}, told, prompt="{{ said }}", reference="refs", answers=True,
         metrics=["exact_match", "accuracy", "f1", "rouge_l", "rouge_1", "rouge_2", shouts])
texts = jsonl("texts", "texts.jsonl")
evaluate("corpus", {"echo": llm("echo")}, texts, prompt="{{ said }}", reference="refs", metrics=["bleu", "chrf"])
labels = jsonl("labels", "labels.jsonl")
for n in (1, 30):
    for seed in (0, 1):
        evaluate(f"sure/{n}-{seed}", {"a": llm("echo"), "b": llm("echo", max_tokens=9)}, labels.map(lambda row: {"n": [1] * n}).explode("n") if n > 1 else labels,
                 prompt="{{ said }}", reference="meant", metrics=["accuracy", "macro_f1"], interval=0.9, seed=seed)
evaluate("nothing", {"echo": llm("echo")}, told.filter(lambda row: False), prompt="{{ said }}", reference="refs", interval=0.9,
         metrics=["exact_match", "macro_f1", "bleu"])
"""


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("scored"))
    project.write("rows.jsonl", lines([{"said": said, "refs": refs} for _, said, refs, _ in CASES] + [{"said": "x", "refs": None}, {"said": "x", "refs": []}]))
    project.write("texts.jsonl", lines({"said": said, "refs": refs} for said, refs in TEXTS))
    project.write("labels.jsonl", lines({"said": said, "meant": meant} for said, meant in LABELS))
    project.ddfile(SCORES).make()
    return project


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0]}: {CASES[number][1]}, {CASES[number][2]}")
def test_an_answer_scores(scored, number):
    metric, said, _, points = CASES[number]
    row = scored.rows("scores/answers")[number]
    assert row["model"] == "echo" and row["answer"] == said and row[metric] == pytest.approx(points)


def test_scores_are_means_over_the_rows_that_have_references(scored):
    answers, (scores,) = scored.rows("scores/answers"), scored.rows("scores/scores")
    assert scores["rows"] == len(answers) == len(CASES)
    for metric in (*ROWWISE, "shouts"):
        values = [row[metric] for row in answers if row[metric] is not None]
        assert scores[metric] == pytest.approx(sum(values) / len(values))
    assert len(values) < len(answers)


def test_a_corpus_scores_as_its_libraries_say(scored):
    from itertools import zip_longest

    from sacrebleu.metrics import BLEU, CHRF
    from sklearn.metrics import f1_score

    row, streams = scored.rows("corpus")[0], list(zip_longest(*(refs for _, refs in TEXTS)))
    for name, scorer in (("bleu", BLEU()), ("chrf", CHRF())):
        assert row[name] == scorer.corpus_score([said for said, _ in TEXTS], streams).score > 0
        assert row[f"{name}_signature"] == str(scorer.get_signature()) and "nrefs:var" in row[f"{name}_signature"]
    said, meant = zip(*((said.strip(".!").lower(), meant) for said, meant in LABELS))
    expected = 100 * f1_score(meant, said, labels=sorted(set(meant)), average="macro")
    assert scored.rows("sure/1-0")[0]["macro_f1"] == pytest.approx(expected)


def test_an_interval_is_drawn_by_its_seed_and_narrows_with_rows(scored):
    for metric in ("accuracy", "macro_f1"):
        few, more, other = (scored.rows(f"sure/{name}")[0] for name in ("1-0", "30-0", "30-1"))
        assert few[metric] == pytest.approx(more[metric]) == pytest.approx(other[metric])
        assert few[f"{metric}_low"] < more[f"{metric}_low"] < more[metric] < more[f"{metric}_high"] < few[f"{metric}_high"]
        assert (more[f"{metric}_low"], more[f"{metric}_high"]) != (other[f"{metric}_low"], other[f"{metric}_high"])
    # a share of 1/2 in 240 rows: 1.645 standard errors of 100 / (2 * sqrt(240)) points
    assert more["accuracy"] == 50 and more["accuracy_high"] - more["accuracy_low"] == pytest.approx(2 * 5.31, rel=0.12)
    one, same = scored.rows("sure/30-0")
    assert {**same, "model": "a", "max_tokens": None} == one, "the same answers have the same interval"
    assert (one["max_tokens"], same["max_tokens"]) == (None, 9) and "temperature" not in one


def test_no_rows_have_no_scores(scored):
    assert scored.rows("nothing") == [{"model": "echo", **dict.fromkeys(f"{name}{end}" for name in ("exact_match", "macro_f1") for end in ("", "_low", "_high")),
                                       "bleu": None, "bleu_low": None, "bleu_high": None, "bleu_signature": "", "rows": 0}]


MISTAKES = {  # what follows evaluate("s", {…}, told: the sentence, and the exit code
    'prompt="x", reference="meant"': ("there is no column 'meant' to compare with. There are: said, refs.", 2),
    'prompt="x", reference="refs", metrics=["bleau"]': ("evaluate: there is no metric 'bleau'. There are rouge_l, exact_match, accuracy", 2),
    'prompt="x", reference="refs", metrics=["f1", "f1"]': ("evaluate: the metric 'f1' is there twice.", 2),
    'prompt="x", reference="refs", interval=95.0': ("interval is a share of resamples between 0 and 1, as 0.95, not 95.", 2),
    'prompt="x", reference="refs", metrics=["perplexity"]': (
        "evaluate: perplexity takes models that run here, and 'm' is llm('openai/toy'), which doesn't tell how likely a given text is.", 2),
    'prompt="x", reference="said", answers=True, metrics=["said"]': ("evaluate: there is no metric 'said'.", 2),
    'prompt="x", reference="refs", metrics=["macro_f1"]': ("macro_f1 is of labels, and the references are 301 different texts. Take f1.", 1),
    'prompt="x", reference="refs", metrics=["rouge_1"]': ("ROUGE reads the letters a to z and digits alone, and there are none in '猫'", 1),
}


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes(project, call):
    model = "openai/toy" if "perplexity" in call else "echo"
    project.write("in.jsonl", lines([{"said": "x", "refs": "猫"}] + [{"said": "x", "refs": f"猫{n}"} for n in range(300)]))
    project.ddfile('told = jsonl("told", "in.jsonl")').make()
    project.ddfile(f'told = jsonl("told", "in.jsonl")\nevaluate("s", {{"m": llm("{model}")}}, told, {call})')
    result = project.run()
    told, code = MISTAKES[call]
    assert result.code == code and told in " ".join(result.output.split()), result.output


def test_a_column_that_is_missing_at_a_jobs_start_is_that_jobs_failure(project):
    project.write("in.jsonl", lines([{"said": "x"}]))
    project.ddfile("""
        told = jsonl("told", "in.jsonl")
        evaluate("a", {"m": llm("echo")}, told, prompt="x", reference="meant")
        evaluate("b", {"m": llm("echo")}, told, prompt="{{ said }}", reference="said", metrics=["exact_match"])
    """)
    result = project.run("-k", "-j", "1")
    assert result.code == 1 and "a: Ddfile:5: there is no column 'meant' to compare with. There are: said." in " ".join(result.output.split())
    assert project.rows("b")[0]["exact_match"] == 100.0


TRAINED = """
import json
import shutil

@train
def taught(base, *, rate, seed, lora_r=None, output):
    shutil.copytree(base, output, dirs_exist_ok=True)
    if rate is not None:
        told = {"train_loss": 1.5, "settings": {"base": "tiny", "learning_rate": rate, "seed": seed, "schedule": "linear", "lora_r": lora_r}}
        (output / "metrics.json").write_text(json.dumps(told))

models = {f"{rate}-{seed}": taught(f"m/{rate}-{seed}", "./small", rate=rate, seed=seed) for rate in (0.1, 0.2) for seed in (0, 1)}
models["untold"] = taught("m/untold", "./small", rate=None, seed=0)
models["asked"] = llm(models["0.1-0"], temperature=0.0, max_tokens=2, seed=7)
data = rows("data", values=[{"q": "red cat", "a": ["blue"]}, {"q": "green", "a": ["dog tree", "bird"]}])
results = evaluate("results", models, data, prompt="{{ q }}", reference="a", metrics=["perplexity"], max_tokens=2)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    pytest.importorskip("torch")
    from small_models import causal

    project = Project(tmp_path_factory.mktemp("told"))
    causal(project.root / "small", chat=False)
    project.ddfile(TRAINED).make("-j", "1")
    return project


def test_what_was_varied_has_columns(told):
    found = {row["model"]: row for row in told.rows("results")}
    assert list(found["0.1-0"]) == ["model", "perplexity", "rows", "learning_rate", "training_seed", "seed"], "what is alike has none"
    assert {name: row["learning_rate"] for name, row in found.items()} == {
        "0.1-0": 0.1, "0.1-1": 0.1, "0.2-0": 0.2, "0.2-1": 0.2, "untold": None, "asked": 0.1}
    assert [row["training_seed"] for row in found.values()] == [0, 1, 0, 1, None, 0]
    assert [row["seed"] for row in found.values()] == [None] * 5 + [7]


@pytest.mark.slow
def test_perplexity_alone_asks_for_no_answers(told):
    assert re.search(r"results +6 rows; .*0 sent", told.make("--force", "results", "--only").output)


def test_perplexity_is_that_of_the_references_tokens(told):
    """Of all references together, as transformers has it, one by one and without batches."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(told.root / "small") for kind in (AutoModelForCausalLM, AutoTokenizer))
    loss = count = 0
    for prompt, text in (("red cat\n", "blue"), ("green\n", "dog tree"), ("green\n", "bird")):
        before, after = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
        labels = torch.tensor([[-100] * len(before) + after])
        loss += model(input_ids=torch.tensor([before + after]), labels=labels).loss.item() * len(after)
        count += len(after)
    expected = float(torch.tensor(loss / count).exp())
    assert [row["perplexity"] for row in told.rows("results")] == pytest.approx([expected] * 6, rel=1e-4)


@pytest.mark.parametrize("kind", ["causal", "t5", "bart"])
def test_a_texts_likelihood_doesnt_depend_on_its_batch(tmp_path, kind):
    """Nor on the road there: the labels of a choice have the same log-probabilities."""
    pytest.importorskip("torch")
    import small_models

    from ddmake.backends.base import Request
    from ddmake.backends.hf import LocalModel

    folder = small_models.causal(tmp_path / "m", chat=True) if kind == "causal" else getattr(small_models, kind)(tmp_path / "m")
    model = LocalModel(folder, sampling={"temperature": 0, "max_tokens": 4})
    turns = [({"role": "user", "content": words},) for words in ("red", "green blue dog", "cat " * 30, "x " * 500)]
    pairs = [(turn, text) for turn in turns for text in ("tree", "river cloud stone", "")]
    together = model.likelihoods(pairs)
    assert together == [pytest.approx(model.likelihoods([pair])[0], abs=1e-4) for pair in pairs[:9]] + [None, None, together[11]]
    assert [one[1] for one in together[2:9:3]] == [0, 0, 0] and together[9] is None
    chosen = dict(model.answers((number, 0, Request(turn, labels=("tree", "river cloud stone"))) for number, turn in enumerate(turns[:3])))
    for number in range(3):
        assert list(chosen[number].scores.values()) == pytest.approx([one[0] for one in together[3 * number:3 * number + 2]], abs=1e-3)
