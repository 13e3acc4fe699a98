"""Models on this machine: an answer depends on its request alone, and greedy text is transformers' own."""

import json
from pathlib import Path

import pytest
import small_models
import torch
from transformers import GenerationConfig

from ddmake import toys
from ddmake.backends import models
from ddmake.backends.base import Answer, Request
from ddmake.backends.hf import LocalModel, end_tokens, read_sampling
from ddmake.backends.loading import load, load_model, load_tokenizer
from ddmake.errors import DdmakeError, MissingExtra

KINDS = ("chat", "plain", "t5", "bart")
ENCODERS = ("t5", "bart")
GREEDY = {"temperature": 0, "max_tokens": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make three small models, and an adapter for the first."""
    made = tmp_path_factory.mktemp("models")
    small_models.causal(made / "chat", chat=True)
    small_models.causal(made / "plain", chat=False, positions=64)
    small_models.t5(made / "t5")
    small_models.bart(made / "bart")
    make_adapter(made / "chat", made / "adapter")
    return made


def make_adapter(base: Path, output: Path) -> None:
    """Make an adapter that changes its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(load_model(base), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = base.name
    model.save_pretrained(output)


def requests(count: int = 24) -> list[tuple[int, int, Request]]:
    """Return requests of different lengths, each with its seed."""
    turns = [({"role": "user", "content": row["prompt"]},) for row in small_models.pairs(count)]
    return [(number, 1000 + number, Request(messages)) for number, messages in enumerate(turns)]


def ask(model: Path, sampling: dict, asked: list | None = None, **options: object) -> dict[int, Answer]:
    return dict(LocalModel(model, sampling=sampling, **options).answers(asked or requests()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [
    {"max_tokens": 30}, {"max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "top_k": 40}, GREEDY,
])
def test_text_does_not_depend_on_the_batch(folder, kind, sampling):
    together = ask(folder / kind, sampling)
    alone = ask(folder / kind, sampling, list(reversed(requests())), batch_size=1)
    assert together == alone and set(together) == set(range(24))
    assert [together[n].tokens_out for n in range(24)] == [alone[n].tokens_out for n in range(24)]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_what_transformers_generates(folder, kind):
    model, tokenizer = load_model(folder / kind), load_tokenizer(folder / kind)
    answers = ask(folder / kind, GREEDY, requests(8))
    for number, _, request in requests(8):
        ids = models.prompt_ids(tokenizer, request.messages, "\n", kind in ENCODERS)
        whole = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0]
        written = whole[1:] if kind in ENCODERS else whole[len(ids):]
        assert answers[number] == tokenizer.decode(written, skip_special_tokens=True)
        assert (answers[number].tokens_in, answers[number].tokens_out) == (len(ids), len(written))


def test_draws_follow_the_distribution(folder):
    """First tokens of one prompt, drawn 3,000 times, are as frequent as the model says they should be."""
    model, tokenizer = load_model(folder / "chat"), load_tokenizer(folder / "chat")
    request = requests(1)[0][2]
    ids = models.prompt_ids(tokenizer, request.messages, "\n", False)
    with torch.inference_mode():
        expected = (model(torch.tensor([ids])).logits[0, -1] / 0.5).softmax(-1)
    backend = LocalModel(folder / "chat", sampling={"temperature": 0.5, "max_tokens": 1})
    written = []
    backend._answer = lambda row: written.append(row.written[0]) or Answer()
    list(backend.answers((seed, seed, request) for seed in range(3000)))
    seen = torch.bincount(torch.tensor(written), minlength=len(expected)) / 3000
    assert (seen - expected).abs().sum() < 2 * (2 * len(expected) / (torch.pi * 3000)) ** 0.5


def test_seed_decides_the_draw(folder):
    same = [(number, 7, requests(1)[0][2]) for number in range(3)]
    other = [(number, number, requests(1)[0][2]) for number in range(3)]
    assert len(set(ask(folder / "chat", {"max_tokens": 20}, same).values())) == 1
    assert len(set(ask(folder / "chat", {"max_tokens": 20}, other).values())) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_stop_string_cuts_the_text(folder, kind):
    free = ask(folder / kind, {"max_tokens": 30, "temperature": 1.5})
    number, stop = next((number, text[place:place + 2]) for number, text in sorted(free.items())
                        for place in range(5, len(text) // 2) if text[place:place + 2].isascii())
    text = free[number]
    cut = ask(folder / kind, {"max_tokens": 30, "temperature": 1.5, "stop": ["no such text", stop]})[number]
    assert cut == text[:text.index(stop)] and cut.finish_reason == "stop"
    assert 0 < cut.tokens_out < free[number].tokens_out


def test_answer_ends_at_an_end_token_or_is_cut_for_length(folder):
    answers = ask(folder / "chat", {"max_tokens": 40, "temperature": 3.0}, requests(200)).values()
    reasons = {answer.finish_reason for answer in answers}
    assert reasons == {"stop", "length"}
    assert all((answer.finish_reason == "length") == (answer.tokens_out == 40) for answer in answers if answer.tokens_out != 40)
    assert not any("<|im_end|>" in answer for answer in answers)


def test_prompt_beyond_the_context_is_an_error_of_its_row(folder):
    long = (99, 0, Request(({"role": "user", "content": "red green " * 60},)))
    answers = ask(folder / "plain", GREEDY, [*requests(3), long])
    assert answers[99].error == f"prompt has {answers[99].tokens_in} tokens, the model takes 64"
    assert answers[0].error is None and len(answers) == 4


def test_max_tokens_is_bounded_by_the_context(folder):
    answers = ask(folder / "plain", {"temperature": 0}, requests(6))
    assert all(answer.tokens_in + answer.tokens_out <= 64 for answer in answers.values())
    assert {answer.tokens_in + answer.tokens_out for answer in answers.values()} == {64}


def test_requests_are_taken_lazily(folder):
    taken = []

    def source():
        for triple in requests(24) * 30:
            taken.append(triple)
            yield triple

    answers = LocalModel(folder / "chat", sampling={"max_tokens": 2}).answers(source())
    next(answers)
    assert len(taken) == 512
    answers.close()


@pytest.mark.parametrize("kind", ["chat", "t5"])
def test_out_of_memory_halves_the_batch(folder, kind, monkeypatch):
    expected = ask(folder / kind, {"max_tokens": 30})
    backend = LocalModel(folder / kind, sampling={"max_tokens": 30})
    forward, sizes = backend.model.forward, []

    def small(*args, input_ids=None, decoder_input_ids=None, **given):
        rows = len(decoder_input_ids if input_ids is None else input_ids)
        sizes.append(rows)
        if rows > 6:
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, input_ids=input_ids, decoder_input_ids=decoder_input_ids, **given)

    def causal(input_ids, **given):
        sizes.append(len(input_ids))
        if len(input_ids) > 6 and len(sizes) > 8:  # rows under way go on from where they are
            raise torch.OutOfMemoryError("no memory")
        return forward(input_ids=input_ids, **given)

    monkeypatch.setattr(backend.model, "forward", causal if kind == "chat" else small)
    assert dict(backend.answers(requests())) == expected and max(sizes) > 6


@pytest.mark.parametrize("kind", ["chat", "t5"])
def test_what_fits_is_remembered_for_the_next_pass_and_told_once(folder, kind, monkeypatch, capsys):
    loaded = load(folder / kind)
    forward, failed = loaded.model.forward, []

    def small(*args, input_ids=None, decoder_input_ids=None, **given):
        rows = len(decoder_input_ids if input_ids is None else input_ids)
        if rows > 6:
            failed.append(rows)
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, input_ids=input_ids, decoder_input_ids=decoder_input_ids, **given)

    monkeypatch.setattr(loaded.model, "forward", small)
    for _ in range(3):
        ask(folder / kind, {"max_tokens": 5}, loaded=loaded)
    assert len(failed) == 2 and capsys.readouterr().out.count("memory ran out with ") == 2
    ask(folder / kind, {"max_tokens": 6}, loaded=loaded)
    assert len(failed) == 4, "longer answers are tried anew"


@pytest.mark.parametrize("kind", ["chat", "t5"])
def test_memory_too_small_for_one_row_is_told_in_words(folder, kind, monkeypatch):
    backend = LocalModel(folder / kind, sampling={"max_tokens": 30})

    def none(*args, **given):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(backend.model, "forward", none)
    with pytest.raises(DdmakeError, match=rf"^{kind}: memory ran out with one row at a time\. Lower max_tokens"):
        list(backend.answers(requests()))


def test_adapter_answers_as_peft_does_however_it_is_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    from peft import PeftModel

    alone, onto = LocalModel(Path("adapter"), sampling=GREEDY), LocalModel(Path("chat"), adapter="adapter", sampling=GREEDY)
    assert alone.identity() == onto.identity() and alone.identity()["adapter"]
    answers = dict(alone.answers(requests(4)))
    assert answers == dict(onto.answers(requests(4))) != ask(Path("chat"), GREEDY, requests(4))
    model, tokenizer = PeftModel.from_pretrained(load_model("chat"), "adapter").eval(), load_tokenizer("chat")
    ids = models.prompt_ids(tokenizer, requests(1)[0][2].messages, "\n", False)
    whole = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0]
    assert answers[0] == tokenizer.decode(whole[len(ids):], skip_special_tokens=True)


def test_identity_is_by_content_and_holds_no_path(folder, tmp_path):
    there = {kind: LocalModel(folder / kind).identity() for kind in KINDS}
    assert len({json.dumps(identity) for identity in there.values()}) == 4
    assert str(folder) not in json.dumps(there)
    copied = small_models.causal(tmp_path / "elsewhere", chat=True)
    (copied / "README.md").write_text("a card")
    config = json.loads((copied / "config.json").read_text()) | {"transformers_version": "9.9"}
    (copied / "config.json").write_text(json.dumps(config))
    assert LocalModel(copied).identity() == there["chat"]
    (copied / "generation_config.json").write_text('{"temperature": 0.3}')
    assert LocalModel(copied).identity() != there["chat"]
    assert LocalModel(folder / "plain", dtype="bfloat16").identity() != there["plain"]


def test_hub_names_pass_through():
    assert models.resolve_base("google/flan-t5-small") == models.base_name("google/flan-t5-small") == "google/flan-t5-small"


def test_bases_are_named_without_an_absolute_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert models.base_name(toys.folder("tiny")) == "tiny" and models.resolve_base("tiny") == toys.folder("tiny")
    assert models.base_name(folder / "chat") == models.base_name(Path("chat")) == "chat"
    assert models.resolve_base("chat") == Path("chat")


def test_adapter_whose_base_is_gone_says_so(folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "./models/gone"}')
    with pytest.raises(DdmakeError, match="its base './models/gone' isn't there"):
        LocalModel(tmp_path)


def test_missing_package_names_the_extra():
    with pytest.raises(MissingExtra, match=r"needs no_such_package.*ddmake\[local\]"):
        models.need("no_such_package", "local", "llm('hf/…')")


@pytest.mark.parametrize("given, config, expected", [  # temperature, top_k, top_p
    ({}, {}, (1.0, None, None)),
    ({}, {"do_sample": False}, (0.0, None, None)),
    ({}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}, (0.6, None, 0.9)),
    ({"temperature": 0}, {"do_sample": True, "temperature": 0.6}, (0.0, None, None)),
    ({"temperature": 0.2}, {"do_sample": False, "top_k": 20}, (0.2, 20, None)),
    ({"top_p": 0.5}, {"do_sample": False}, (1.0, None, 0.5)),
])
def test_unset_sampling_follows_the_models_config(given, config, expected):
    sampling = read_sampling(given, GenerationConfig(**config))
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == expected and sampling.max_tokens == 256


def test_end_tokens_are_the_configs_else_the_tokenizers(folder):
    tokenizer = load_tokenizer(folder / "chat")
    assert end_tokens(GenerationConfig(), tokenizer) == [tokenizer.eos_token_id]
    assert end_tokens(GenerationConfig(eos_token_id=[1, 2]), tokenizer) == [1, 2]
