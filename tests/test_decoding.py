"""Decoding with refill: whatever is beside a row, whenever it comes, however it is read, its text is the same."""

import json
import shutil
from collections import Counter
from datetime import date

import pytest
import small_models
import torch
import transformers
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, MistralConfig, MistralForCausalLM

from ddmake.backends import hf, models, slots
from ddmake.backends.base import Request
from ddmake.backends.decoding import read_sampling
from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import load_model, load_tokenizer
from ddmake.errors import DdmakeError

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


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2},
                                     {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3}])
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


def test_what_has_no_slots_is_decoded_by_generate(folder, tmp_path, capsys):
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
    assert LocalModel(folder).refills and "too many values to unpack" in slots.why_no_slots(made["alibi"])
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(", since ")[0] for line in told] == [
        f"{name}: answers are written in batches, by transformers' generate" for name in made]
    assert "not all of its layers attend" in told[0] and "can't use a cache of slots: ValueError" in told[1]


@pytest.mark.parametrize("error, alone", [(KeyError("slots"), False), (torch.OutOfMemoryError("full"), False), (ValueError("x"), True)])
def test_a_trial_that_fails_otherwise_is_no_verdict(folder, monkeypatch, error, alone):
    """What a model raises without slots, and what no architecture raises for its cache, isn't taken for a lack of slots."""
    model = load_model(folder)
    forward = model.forward

    def failing(input_ids, past_key_values=None, **given):
        if alone or past_key_values is not None:
            raise error
        return forward(input_ids=input_ids, **given)

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(type(error)):
        slots.why_no_slots(model)
    monkeypatch.undo()
    assert slots.why_no_slots(model) is None, "and nothing is remembered of it"


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


SIZES = {"vocab_size": 320, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 512,
         "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
TURNING = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0 + at for at in range(8)],
           "original_max_position_embeddings": 64}
AWKWARD = {  # what needs more than a mask to tell rows apart
    "local attention": transformers.GPTNeoConfig(vocab_size=320, hidden_size=64, num_layers=2, num_heads=4, max_position_embeddings=512,
                                                 initializer_range=0.2, attention_types=[[["global", "local"], 1]], window_size=16),
    "positions by length": transformers.Phi3Config(**SIZES, intermediate_size=96, original_max_position_embeddings=64, rope_parameters=TURNING),
    "padding is read": transformers.RwkvConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2, context_length=512, eos_token_id=1),
    "convolutions": transformers.Lfm2Config(**SIZES, intermediate_size=96, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
    "no cache": transformers.OpenAIGPTConfig(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2,
                                           tie_word_embeddings=False),
}


@pytest.fixture(scope="module")
def awkward(folder, tmp_path_factory):
    """Make a model of such a kind, by its name."""
    def make(kind):
        made = tmp_path_factory.mktemp("awkward")
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(AWKWARD[kind]).save_pretrained(made)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=small_models.bpe(), eos_token="</s>", model_max_length=512)
        tokenizer.save_pretrained(made)
        return made

    return make


@pytest.mark.parametrize("kind", AWKWARD)
def test_rows_of_awkward_models_do_not_bear_on_one_another(awkward, kind):
    made, words = awkward(kind), small_models.WORDS * 7
    texts = [" ".join(words[count:2 * count]) for count in (1, 2, 12, 30, 33, 21, 9)]
    requests = [(number, number, Request(({"role": "user", "content": text},))) for number, text in enumerate(texts)]
    together = dict(LocalModel(made, sampling={"temperature": 0, "max_tokens": 20}).answers(requests))
    alone = LocalModel(made, sampling={"temperature": 0, "max_tokens": 20}, batch_size=1)
    assert dict(alone.answers(requests[::-1])) == together and len(set(together.values())) > 3
    model = load_model(made).eval()
    for number, _, request in requests:
        ids = models.prompt_ids(alone.tokenizer, request.messages, "\n", False)
        whole = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)[0]
        assert together[number] == alone.tokenizer.decode(whole[len(ids):], skip_special_tokens=True)
    chosen = [(number, 0, Request(request.messages, labels=("red", "green"))) for number, _, request in requests]
    scores = {number: answer.scores for number, answer in alone.answers(chosen)}
    for number, answer in LocalModel(made).answers(chosen):
        assert answer.scores == pytest.approx(scores[number], abs=1e-3)


def test_padding_is_not_penalised(tmp_path):
    """A model with a window, whose padding is the token that would be written."""
    made = tmp_path / "window"
    config = MistralConfig(**SIZES | {"pad_token_id": 5}, intermediate_size=96, num_key_value_heads=2, sliding_window=16)
    torch.manual_seed(0)
    model = MistralForCausalLM(config)
    model.save_pretrained(made)
    transformers.PreTrainedTokenizerFast(tokenizer_object=small_models.bpe(), eos_token="</s>").save_pretrained(made)
    GenerationConfig(eos_token_id=1, pad_token_id=5, repetition_penalty=5.0).save_pretrained(made)
    requests = asked()[:12]
    given = {"temperature": 1.0, "max_tokens": 20}
    together = dict(LocalModel(made, sampling=given).answers(requests))
    assert together == dict(LocalModel(made, sampling=given, batch_size=1).answers(requests))


def test_a_special_token_ends_an_answer_where_it_is_a_stop_string(folder):
    hot = {"temperature": 30.0, "max_tokens": 40}
    free = LocalModel(folder, sampling=hot)
    decoder = free._decoders()[0]
    rows = [*decoder.decode([free._open(*one) for one in asked(60)]), *decoder.drain()]
    written = {row.number: row.written for row in rows}
    token = next(token for token in (0, 1, 2) if any(token in tokens[:-1] for tokens in written.values()))
    stop = small_models.SPECIAL[token]
    for number, answer in LocalModel(folder, sampling={**hot, "stop": [stop]}).answers(asked(60)):
        tokens = written[number]
        assert answer.tokens_out == (tokens.index(token) + 1 if token in tokens else len(tokens))
        assert stop not in answer and (token not in tokens or answer.finish_reason == "stop")


TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}}


def test_tools_are_told_to_the_model_by_its_chat_template(folder, tmp_path):
    request = Request(({"role": "user", "content": "hi"},), tools=(TOOL,))
    with pytest.raises(DdmakeError, match="its chat template has no place for tools="):
        list(LocalModel(folder, sampling=DRAWN).answers([(0, 0, request)]))
    made = shutil.copytree(folder, tmp_path / "calling")
    (made / "chat_template.jinja").write_text("{% if tools %}{{ tools[0].function.name }}{% endif %}" + small_models.CHAT)
    model = LocalModel(made)
    assert "weather" in model.tokenizer.decode(model._open(0, 0, request).prompt)
    assert "weather" not in model.tokenizer.decode(model._open(0, 0, Request(request.messages)).prompt)


def test_a_template_that_tells_the_day_has_it_in_its_key(folder, tmp_path, monkeypatch):
    made = shutil.copytree(folder, tmp_path / "dated")
    (made / "chat_template.jinja").write_text("{{ strftime_now('%Y-%m-%d') }}" + small_models.CHAT)
    monkeypatch.setattr(models, "date", type("Then", (date,), {"today": classmethod(lambda cls: date(2031, 5, 6))}))
    assert LocalModel(made).identity()["day"] == "2031-05-06" and "day" not in LocalModel(folder).identity()


def test_next_to_nothing_is_a_temperature_of_nothing(folder):
    assert dict(LocalModel(folder, sampling={"temperature": 1e-42, "max_tokens": 9}).answers(asked()[:4])) == \
        dict(LocalModel(folder, sampling={"temperature": 0, "max_tokens": 9}).answers(asked()[:4]))


def test_draws_are_the_rows_own():
    row, twin, other = (hf.Row(0, seed, [1], 9) for seed in (5, 5, 6))
    late = twin.draw(7)
    assert [row.draw(place) for place in range(8)][7] == late != other.draw(7)
    assert read_sampling({"stop": "x"}, GenerationConfig()).stop == ("x",)
