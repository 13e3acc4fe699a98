"""The bundled toys do what their cards say: `tiny` follows the example's prompts, `tiny-base` has only read."""

import random

import pytest

from ddmake.toys import NAMES, folder, grammar, methods_and_tasks

WRITE = "Write the abstract of an NLP paper as it might stand on arXiv. Only the abstract."
REQUEST = "Sum up the work in this abstract as a tweet that names its method and its task. Only the tweet."
SUM_UP = REQUEST + "\n\nAbstract: {abstract}"
SEED = "a seed that no training used"


@pytest.fixture(scope="module")
def torch():
    """Torch on one thread, without a network."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def toys(torch):
    """Both toys as (model, tokenizer), by name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load(name):
        path = str(folder(name))
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)

    return {name: load(name) for name in NAMES}


def fresh_abstracts(count):
    rng = random.Random(SEED)
    return [grammar.abstract(rng, grammar.facts(rng)) for _ in range(count)]


def continued(torch, toy, texts, **sampling):
    model, tokenizer = toy
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.inference_mode():
        tokens = model.generate(**inputs, **{"do_sample": False} | sampling)
    return tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def answered(torch, toy, asks, **sampling):
    chats = [[{"role": "user", "content": ask}] for ask in asks]
    texts = [toy[1].apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return continued(torch, toy, texts, **sampling)


def names_both(abstract, answer):
    return methods_and_tasks(abstract) == methods_and_tasks(answer)


def test_grammar_names_one_method_and_one_task():
    rng = random.Random(SEED)
    for _ in range(500):
        paper = grammar.facts(rng)
        named = {paper["method"]}, {paper["task"]}
        assert methods_and_tasks(grammar.abstract(rng, paper)) == named
        assert methods_and_tasks(grammar.tweet(rng, paper)) == named


@pytest.mark.parametrize(
    ("text", "methods", "tasks"),
    [
        ("Speech\ntranslation is no machine trans-lation.", set(), {"speech translation"}),
        ("MACHINE TRANSLATION by Self-Training!", {"self-training"}, {"machine translation"}),
        ("multi-task learning for code generation", {"multi-task learning"}, {"code generation"}),
        ("contrastive learnings", set(), set()),
        ("", set(), set()),
    ],
)
def test_terms_are_found_whole_and_in_any_case(text, methods, tasks):
    assert methods_and_tasks(text) == (methods, tasks)


def test_folder_names_what_there_is():
    with pytest.raises(KeyError, match="tiny-base"):
        folder("huge")


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_small_and_labelled_as_a_toy(name):
    files = [path for path in folder(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".md", ".safetensors"}
    readme = (folder(name) / "README.md").read_text("utf-8")
    assert "license: apache-2.0" in readme and "- toy" in readme and "is a toy" in readme


@pytest.mark.parametrize("name", NAMES)
def test_models_have_about_a_million_parameters(toys, name):
    model, _ = toys[name]
    assert 700_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_200_000


def test_only_tiny_has_a_chat_template(toys):
    assert toys["tiny"][1].chat_template
    assert not toys["tiny-base"][1].chat_template


def test_tiny_names_method_and_task_in_tweets(torch, toys):
    abstracts = fresh_abstracts(64)
    tweets = answered(torch, toys["tiny"], [SUM_UP.format(abstract=abstract) for abstract in abstracts])
    rate = sum(map(names_both, abstracts, tweets)) / len(abstracts)
    print(f"tiny names both in {rate:.3f} of tweets on fresh abstracts")
    assert rate >= 0.9


def test_tiny_writes_diverse_abstracts_and_sums_them_up(torch, toys):
    torch.manual_seed(0)
    abstracts = answered(torch, toys["tiny"], [WRITE] * 64, do_sample=True, temperature=1.0, top_k=0)
    clear = [abstract for abstract in abstracts if [len(terms) for terms in methods_and_tasks(abstract)] == [1, 1]]
    tweets = answered(torch, toys["tiny"], [SUM_UP.format(abstract=abstract) for abstract in clear])
    rate = sum(map(names_both, clear, tweets)) / len(clear)
    print(f"clear {len(clear)} of 64, tweets on them name both in {rate:.3f}")
    assert len(set(abstracts)) > 60
    assert len(clear) > 57
    assert rate >= 0.9


def test_tiny_base_does_not_sum_up(torch, toys):
    abstracts = fresh_abstracts(64)
    answers = continued(torch, toys["tiny-base"], [abstract + "\n" for abstract in abstracts])
    rate = sum(map(names_both, abstracts, answers)) / len(abstracts)
    print(f"tiny-base names both in {rate:.3f}")
    assert rate < 0.05
