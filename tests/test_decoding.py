"""Decoding with refill: whatever is beside a row, whenever it comes, however it is read, its text is the same."""

import json
from collections import Counter

import pytest
import small_models
import torch
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, MistralConfig, MistralForCausalLM

from ddmake.backends import hf, models, slots
from ddmake.backends.base import Request
from ddmake.backends.decoding import read_sampling
from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import load_model, load_tokenizer

SAMPLINGS = {"drawn": {"temperature": 3.0}, "cut": {"temperature": 6.0, "top_p": 0.9, "top_k": 30}, "greedy": {"temperature": 0}}
DRAWN = {"temperature": 3.0, "max_tokens": 40}
SYSTEM = "you are a careful reader of red and green and blue cats and of all the birds by the river. " * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a small model that ends its answers at many lengths: any of some twenty tokens is an end."""
    made = small_models.causal(tmp_path_factory.mktemp("models") / "chat", chat=True, positions=512)
    GenerationConfig(eos_token_id=[3, *range(100, 120)], pad_token_id=0).save_pretrained(made)
    return made


def asked(count: int = 24) -> list[tuple[int, int, Request]]:
    """Return requests of 10 to 110 tokens: some with a system turn in common, some twice."""
    found = []
    for number, row in enumerate(small_models.pairs(count)):
        turns = [{"role": "user", "content": row["prompt"] * (1 + number % 3)}]
        found.append(Request(({"role": "system", "content": SYSTEM}, *turns) if number % 2 else tuple(turns)))
    return [(number, number, request) for number, request in enumerate([*found, *found[:12]])]


def counted(model: LocalModel, monkeypatch) -> Counter:
    """Count what a model is run on from now on: tokens read, and tokens written."""
    seen, forward = Counter(), model.model.forward

    def run(input_ids, **given):
        seen["read" if "logits_to_keep" in given else "written"] += input_ids.numel()
        return forward(input_ids=input_ids, **given)

    monkeypatch.setattr(model.model, "forward", run)
    return seen


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_text_depends_on_neither_batch_nor_order_nor_way(folder, sampling, monkeypatch):
    given = {"max_tokens": 40, **SAMPLINGS[sampling]}
    expected = dict(LocalModel(folder, sampling=given, batch_size=1).answers(asked()))
    assert len(expected) == 36 and len({answer.tokens_out for answer in expected.values()}) > 8
    for rows, requests in ((7, asked()), (64, asked()[::-1])):
        assert dict(LocalModel(folder, sampling=given, batch_size=rows).answers(requests)) == expected
    monkeypatch.setattr(hf, "WINDOW", 9)  # rows are under way while the next ones are taken
    assert dict(LocalModel(folder, sampling=given, batch_size=16).answers(asked())) == expected
    monkeypatch.setattr(hf, "CACHE_BYTES", 1 << 20)  # slots are made anew
    assert dict(LocalModel(folder, sampling=given, batch_size=16).answers(asked())) == expected
    static = LocalModel(folder, sampling=given)
    static.refills = False
    assert dict(static.answers(asked())) == expected


def test_no_row_is_decoded_once_it_has_ended(folder, monkeypatch):
    model = LocalModel(folder, sampling=DRAWN, batch_size=16)
    seen = counted(model, monkeypatch)
    answers = dict(model.answers(asked())).values()
    assert seen["written"] == sum(answer.tokens_out for answer in answers)


def test_equal_prompts_are_read_once_and_a_common_beginning_is_copied(folder, monkeypatch):
    turns = [({"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}) for row in small_models.pairs(8)]
    model = LocalModel(folder, sampling={"max_tokens": 4}, batch_size=64)
    seen = counted(model, monkeypatch)
    answers = dict(model.answers((number, number, Request(turns[number % 8])) for number in range(64)))
    prompts = sum(answers[number].tokens_in for number in range(8))
    system = len(models.prompt_ids(model.tokenizer, turns[0][:1], "\n", False))
    assert seen["read"] < prompts - 6 * (system - 12)
    alone = dict(LocalModel(folder, sampling={"max_tokens": 4}, batch_size=1).answers([(9, 9, Request(turns[1]))]))
    assert answers[9] == alone[9]


def test_rows_are_given_as_they_end(folder):
    """A long answer holds up neither the short ones beside it nor those that take their place."""
    answers = LocalModel(folder, sampling=DRAWN, batch_size=8).answers(asked())
    lengths = [answer.tokens_out for _, answer in answers]
    assert 0 < lengths.index(40) < 30 and min(lengths[lengths.index(40):]) < 40


def test_stop_strings_are_found_wherever_they_begin(folder):
    free = dict(LocalModel(folder, sampling=DRAWN).answers(asked()))
    letters = Counter(letter for answer in free.values() for letter in set(answer) if letter.isascii() and letter.isalpha())
    stop = letters.most_common(1)[0][0]
    cut = dict(LocalModel(folder, sampling={**DRAWN, "stop": stop}).answers(asked()))
    assert cut == {number: answer.split(stop)[0] for number, answer in free.items()}
    assert {answer.finish_reason for number, answer in cut.items() if stop in free[number]} == {"stop"}
    assert all(cut[number].tokens_out < free[number].tokens_out for number in free if stop in free[number][:-4])


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}])
def test_penalties_of_the_generation_config_are_transformers_own(folder, tmp_path, penalty):
    made = small_models.causal(tmp_path / "penalised", chat=True)
    GenerationConfig(eos_token_id=3, pad_token_id=0, **penalty).save_pretrained(made)
    answers = dict(LocalModel(made, sampling={"temperature": 0, "max_tokens": 20}).answers(asked()[:6]))
    model, tokenizer = load_model(made), load_tokenizer(made)
    for number, _, request in asked()[:6]:
        ids = models.prompt_ids(tokenizer, request.messages, "\n", False)
        whole = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0]
        assert answers[number] == tokenizer.decode(whole[len(ids):], skip_special_tokens=True)
    assert answers != dict(LocalModel(folder, sampling={"temperature": 0, "max_tokens": 20}).answers(asked()[:6]))


def test_what_has_no_slots_is_decoded_by_generate(folder, tmp_path):
    """A sliding window and ALiBi: the one is told by the config, the other by a trial."""
    common = {"vocab_size": 320, "hidden_size": 64, "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 0,
              "initializer_range": 0.1}
    made = {
        "window": MistralForCausalLM(MistralConfig(**common, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                                                   num_key_value_heads=2, sliding_window=16, max_position_embeddings=512)),
        "alibi": BloomForCausalLM(BloomConfig(**common, n_layer=2, n_head=4)),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        load_tokenizer(folder).save_pretrained(tmp_path / name)
        local = LocalModel(tmp_path / name, sampling={"temperature": 0, "max_tokens": 20})
        assert not local.refills
        answers = dict(local.answers(asked()[:6]))
        for number, _, request in asked()[:6]:
            ids = models.prompt_ids(local.tokenizer, request.messages, "\n", False)
            whole = model.eval().generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0]
            assert answers[number] == local.tokenizer.decode(whole[len(ids):], skip_special_tokens=True)
    assert LocalModel(folder).refills and not slots.has_slots(made["alibi"])


def test_prompt_of_one_token(tmp_path):
    made = small_models.causal(tmp_path / "plain", chat=False)
    local = LocalModel(made, sampling={"max_tokens": 8, "temperature": 0}, separator="")
    answers = dict(local.answers([(0, 0, Request(({"role": "user", "content": "a"},)))]))
    assert (answers[0].tokens_in, answers[0].tokens_out, answers[0].error) == (1, 8, None)


def test_guided_rows_and_free_ones_go_together(folder):
    schema = {"type": "object", "properties": {"score": {"enum": [1, 2, 3]}}, "required": ["score"]}
    requests = [(number, seed, Request(request.messages, schema if number % 2 else None))
                for number, seed, request in asked()[:16]]
    answers = dict(LocalModel(folder, sampling=DRAWN, batch_size=8).answers(requests))
    assert {json.loads(answers[number])["score"] for number in range(1, 16, 2)} == {1, 2, 3}
    free = dict(LocalModel(folder, sampling=DRAWN).answers(asked()[:16]))
    assert all(answers[number] == free[number] for number in range(0, 16, 2))
    static = LocalModel(folder, sampling=DRAWN, batch_size=8)
    static.refills = False
    assert dict(static.answers(requests)) == answers


def test_draws_are_the_rows_own():
    row, twin, other = (hf.Row(0, seed, [1], 9) for seed in (5, 5, 6))
    late = twin.draw(7)
    assert [row.draw(place) for place in range(8)][7] == late != other.draw(7)
    assert read_sampling({"stop": "x"}, GenerationConfig()).stop == ("x",)
