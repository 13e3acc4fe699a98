"""classify: what it makes of models of every kind, and what it refuses. One project for all, and one process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Project
from safetensors.torch import load_file, save_file
from small_models import ending_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

ENDLESS = int(1e30)  # as a tokenizer that states no length has it
SMALL = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
TEXTS = ["red cat", "", "green dog by the river", None, "stone " * 90, "blue bird"]

MODELS = {  # those that can be asked -> texts are cut after so many tokens, None where all fit
    "bert": 64,
    "numbers": 64,
    "roberta": 64,  # of 66 positions: its padding's number is 1
    "t5": None,
    "llama": None,
    "llama_padded": None,
    "leftish": 64,  # its tokenizer was saved as one that pads in front
}
REFUSED = {  # a rule -> what is told of it
    'classify("x/{}", docs, model="./nan")': 'for row 0 the model gives nan or inf, which are no labels. Look at its weights, or state dtype="float32"',
    'classify("x/{}", docs, model="./headless")': "headless lacks the weights classifier.bias, classifier.weight, without which labels would be drawn at random",
    'classify("x/{}", docs, model="./wordless")': "wordless holds no tokenizer, or one without words. Put the model's tokenizer beside it",
    'classify("x/{}", docs, model="./weightless")': "weightless holds no model that can be loaded",
    'classify("x/{}", docs, model="./damaged")': "damaged/config.json: it isn't JSON",
    'classify("x/{}", docs, model="./twice")': "twice has two labels named 'x'. Name them by labels=, in this order: x, x, y",
    'classify("x/{}", docs, model="./numbers", probabilities=True)': "numbers gives numbers and no labels, so that probabilities= says nothing",
    'classify("x/{}", docs, model="./numbers", labels=["a", "b"])': "so that labels= says nothing. Leave it out",
    'classify("x/{}", docs, model="./bert", labels=["a", "b"])': "labels= names 2, and the model has 3: LABEL_0, LABEL_1, LABEL_2",
    'classify("x/{}", docs, model="./bert", text="words")': "column 'words' holds list<item: string>, and text is needed",
    'classify("x/{}", docs, model="./bert", pair="number")': "column 'number' holds int64, and text is needed",
    'classify("x/{}", docs, model="./bert", max_length=65)': "max_length=65, and the model takes 64 tokens. Give at most that",
    'classify("x/{}", docs, model="./bert", max_length=1)': "max_length=1 leaves no room for a text's own tokens. Give 2 or more",
}
MISTAKES = {  # arguments -> what is told before anything runs
    "batch_size=-3": "batch_size=-3; it is at least 1.",
    "batch_size=0": "batch_size=0; it is at least 1.",
    "max_length=0": "max_length=0; it is at least 1.",
    "threshold=2": "threshold=2; it is a probability, from 0 to 1.",
    "threshold=float('nan')": "threshold=nan; it is a probability, from 0 to 1.",
    "labels=['a', 'a', 'b']": "labels= names 'a' twice; each label has a name of its own.",
    "dtype='int8'": "dtype='int8' is none of float32, bfloat16, float16, float64.",
    "revision='main'": "revision= is of a model on the Hub, and this one is a folder. Leave it out.",
}
DOCS = f"""
    @step("docs")
    def docs():
        yield from ({{"text": text, "words": ["a"], "number": 1}} for text in {TEXTS!r})
"""


def save(root: Path, name: str, model: torch.nn.Module, length: int = 256, **tokens: str | None) -> None:
    model.save_pretrained(root / name)
    tokenizer = ending_tokenizer()
    tokenizer.model_max_length = length
    for token, value in tokens.items():
        setattr(tokenizer, token, value)
    tokenizer.save_pretrained(root / name)


def bert(**more) -> BertForSequenceClassification:
    torch.manual_seed(0)
    size = len(ending_tokenizer())
    return BertForSequenceClassification(BertConfig(
        **SMALL, vocab_size=size, max_position_embeddings=64, pad_token_id=0, initializer_range=0.5, **{"num_labels": 3, **more}))


def llama(pad: int | None) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(LlamaConfig(
        **SMALL, vocab_size=len(ending_tokenizer()), num_key_value_heads=2, max_position_embeddings=256, num_labels=2,
        pad_token_id=pad, initializer_range=0.3))


def models(root: Path) -> None:
    """Make models that can be asked, and some that can't."""
    size = len(ending_tokenizer())
    save(root, "bert", bert())
    save(root, "numbers", bert(num_labels=2, problem_type="regression"))
    save(root, "twice", bert(id2label={0: "x", 1: "x", 2: "y"}, label2id={"x": 0, "y": 2}))
    save(root, "roberta", RobertaForSequenceClassification(RobertaConfig(
        **SMALL, vocab_size=size, max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=1, num_labels=2,
        initializer_range=0.5)), ENDLESS, pad_token="</s>")
    save(root, "t5", T5ForSequenceClassification(T5Config(
        vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, num_labels=2)), ENDLESS)
    save(root, "llama", llama(None), pad_token=None)
    save(root, "llama_padded", llama(None))
    save(root, "leftish", bert(num_labels=2, problem_type="regression"))
    stated = root / "leftish/tokenizer_config.json"
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"padding_side": "left"}))
    for name in ("headless", "wordless", "weightless", "damaged", "nan"):
        shutil.copytree(root / "bert", root / name)
    weights = load_file(root / "bert/model.safetensors")
    save_file({name: one for name, one in weights.items() if "classifier" not in name}, root / "headless/model.safetensors",
              {"format": "pt"})
    save_file(weights | {"classifier.weight": weights["classifier.weight"] * float("nan")}, root / "nan/model.safetensors",
              {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (root / "wordless" / name).unlink()
    (root / "weightless/model.safetensors").unlink()
    (root / "damaged/config.json").write_text("{")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Project, str]:
    """A project in which all rules were tried, and what was told of them."""
    project = Project(tmp_path_factory.mktemp("classified"))
    models(project.root)
    asked = [f'    classify("o/{name}", docs, model="./{name}", batch_size=3)' for name in MODELS]
    refused = [f"    {rule.format(number)}" for number, rule in enumerate(REFUSED)]
    project.ddfile(DOCS + "\n".join(asked + refused))
    return project, " ".join(project.run("-k", "-j1").output.split())


@pytest.mark.parametrize("name", MODELS)
def test_rows_have_what_the_model_says_of_each_text_alone(made, name):
    project, told = made
    assert f"o/{name} 6 rows" in told, told
    folder = project.root / name
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    length = MODELS[name]
    for row in project.rows(f"o/{name}"):
        tokens = tokenizer(row["text"] or "", return_tensors="pt", truncation=length is not None, max_length=length)
        if row["text"] is None or not tokens["input_ids"].numel():
            assert row["label"] is None
            continue
        with torch.inference_mode():
            scores = model(**tokens).logits[0]
        wanted = pytest.approx(scores.tolist(), abs=1e-4) if name in ("numbers", "leftish") else f"LABEL_{scores.argmax()}"
        assert row["label"] == wanted, row["text"]


@pytest.mark.parametrize("rule", REFUSED)
def test_what_would_give_labels_that_mean_nothing_is_refused(made, rule):
    number = list(REFUSED).index(rule)
    assert f"x/{number}: recipe classify failed" in made[1]
    assert REFUSED[rule] in made[1].split(f"x/{number}: ")[1].split(" log: ")[0]


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_told_before_anything_runs(project, arguments):
    project.write("m/config.json", json.dumps({}))
    result = project.ddfile(DOCS + f'    classify("x", docs, model="./m", {arguments})').run("-n")
    assert result.code == 2 and MISTAKES[arguments] in " ".join(result.output.split()), result.output
