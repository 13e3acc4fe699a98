"""Training on preferences: what is learned, killed runs end in the weights of whole ones, and what lies in a model folder.

`preference_runs.py` trains everything once; the tests look at what it left.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import Project
from preference_runs import KILLED_AT, KINDS, pairs
from torch.nn import functional
from trained import log, metrics, train_all, without_clock
from transformers import GPT2Config, LlamaConfig, OPTConfig

from ddmake.backends.models import files_sha
from ddmake.rules.aligning import LOSSES

pytestmark = pytest.mark.slow

WRITERS = ("dpo", "kto", "orpo")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("preference_runs.py", tmp_path_factory.mktemp("preferences"))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_run_ends_in_the_same_weights_and_curves(runs, kind):
    assert (runs / f"{kind}-killed.first").read_text() == "-9"
    assert without_clock(metrics(runs, f"{kind}-killed")) == without_clock(metrics(runs, f"{kind}-whole"))
    assert files_sha(runs / f"{kind}-killed") == files_sha(runs / f"{kind}-whole")
    first = json.loads((runs / f"{kind}-killed.progress").read_text())[0]
    assert first[0] == KILLED_AT - 1, "went on from the newest checkpoint"


@pytest.mark.parametrize("kind", KINDS)
def test_validation_only_watches(runs, kind):
    watched = metrics(runs, f"{kind}-watched")
    assert files_sha(runs / f"{kind}-watched") == files_sha(runs / f"{kind}-whole")
    assert watched["eval_margin"] > 0 and "eval_loss" not in metrics(runs, f"{kind}-whole")
    assert ("eval_accuracy" in watched) == (kind != "kto")


@pytest.mark.parametrize("name", [f"{kind}-{how}" for kind in KINDS for how in ("whole", "full")])
def test_pairs_that_were_held_out_are_told_apart_by_what_plain_transformers_loads(runs, name):
    kind, _, how = name.partition("-")
    base = "chat" if how == "whole" else "plain"
    tell = rewards if kind == "reward" else log_probabilities
    before, after = (tell(runs, model, base) for model in (None, name))
    margins = [(chosen - rejected) - (was_chosen - was_rejected)
               for (chosen, rejected), (was_chosen, was_rejected) in zip(after, before, strict=True)]
    right = [sum(chosen > rejected for chosen, rejected in scores) / len(scores) for scores in (before, after)]
    assert right[0] < 0.8 and right[1] > 0.9, right
    assert sum(margin > 0 for margin in margins) > 0.9 * len(margins)


def held(base: str, tokenizer) -> list[list[tuple[list[int], list[int]]]]:
    """Return pairs that no training saw, each of its two texts as the tokens of prompt and answer."""
    found = []
    for row in pairs(24, seed=2):
        texts = []
        for side in ("chosen", "rejected"):
            if base == "chat":
                turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
                prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=True, return_dict=False)
                whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
            else:
                prompt = tokenizer(row["prompt"] + " => ")["input_ids"]
                whole = prompt + tokenizer(row[side])["input_ids"] + [tokenizer.eos_token_id]
            texts.append((prompt, whole[len(prompt):]))
        found.append(texts)
    return found


def opened(runs: Path, auto, name: str | None, base: str, **more):
    """Return a model of ours by transformers and peft alone, with its tokenizer; the base where there is no name."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(runs / (name or base))
    if name is None or not (runs / name / "adapter_config.json").exists():
        return auto.from_pretrained(runs / (name or base), **({} if name else more)).eval(), tokenizer
    torch.manual_seed(1)  # a head that isn't in the folder would be drawn anew
    return PeftModel.from_pretrained(auto.from_pretrained(runs / base, **more), runs / name).eval(), tokenizer


def log_probabilities(runs: Path, name: str | None, base: str) -> list[list[float]]:
    from transformers import AutoModelForCausalLM

    model, tokenizer = opened(runs, AutoModelForCausalLM, name, base)
    with torch.no_grad():
        return [[told(model, prompt, answer) for prompt, answer in texts] for texts in held(base, tokenizer)]


def told(model, prompt: list[int], answer: list[int]) -> float:
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1:-1]
    return -functional.cross_entropy(logits, torch.tensor(answer)).item()


def rewards(runs: Path, name: str | None, base: str) -> list[list[float]]:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model, tokenizer = opened(runs, AutoModelForSequenceClassification, name, base, num_labels=1)
    with torch.no_grad():
        return [[model(torch.tensor([prompt + answer])).logits.item() for prompt, answer in texts]
                for texts in held(base, tokenizer)]


@pytest.mark.parametrize("name, loss", [("dpo-whole", math.log(2)), ("dpo-full", math.log(2)), ("dpo-onto", math.log(2)),
                                        ("kto-whole", 0.5), ("kto-full", 0.5)])
def test_the_reference_is_the_base(runs, name, loss):
    assert metrics(runs, name)["loss_curve"][0][1] == pytest.approx(loss, abs=1e-4), "nothing is preferred at the start"


@pytest.mark.parametrize("kind", ["dpo", "orpo", "reward"])
def test_how_a_batch_is_cut_changes_nothing_but_low_bits(runs, kind):
    whole, cut = (metrics(runs, f"{kind}-{how}")["loss_curve"] for how in ("full", "cut"))
    assert whole != cut and len(whole) == 72
    assert [loss for _, loss in cut[:9]] == pytest.approx([loss for _, loss in whole[:9]], rel=0.01)


def test_an_adapter_as_base_is_merged_under_what_is_learned(runs):
    assert json.loads((runs / "dpo-onto" / "adapter_config.json").read_text())["base_model_name_or_path"] == "dpo-whole"
    assert {path.name for path in (runs / "reward-onto").iterdir()} >= {"config.json", "model.safetensors"}
    assert metrics(runs, "reward-onto")["accuracy_curve"][-1][1] == 1


def test_each_loss_of_trl_is_there_and_can_be_summed(runs):
    from trl import DPOConfig

    known = re.findall(r"`'(\w+)'`", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    assert sorted(LOSSES) == sorted(known)
    found = metrics(runs, "dpo-losses")
    assert found["settings"]["losses"] == list(LOSSES) and found["loss_curve"][-1][1] < found["loss_curve"][0][1]


def test_a_margin_drives_rewards_apart_and_centring_draws_them_to_zero(runs):
    plain, margin, centred = (metrics(runs, name) for name in ("reward-whole", "reward-margin", "reward-centred"))
    assert margin["margin_curve"][-1][1] > plain["margin_curve"][-1][1] > centred["margin_curve"][-1][1] > 0
    assert "margin" not in plain and margin["loss_curve"][0][1] > 4


@pytest.mark.parametrize("name, cut, dropped", [("dpo-long", 2, 1), ("reward-long", 0, 2)])
def test_what_is_too_long_is_cut_or_dropped(runs, name, cut, dropped):
    found = metrics(runs, name)
    assert (found["cut"], found["dropped"], found["settings"]["examples"]) == (cut, dropped, 10 - dropped)


@pytest.mark.parametrize("name, error", [
    ("dpo-too-long", "no row to train on: 96 given, 96 of them longer than max_length"),
    ("orpo-odd", "batch_size=8 can't be cut into 1 processes × micro_batch=3"),
    ("kto-single", "kto measures how far the model has gone on the examples that are taken at once: at least 2."),
    ("dpo-targets", "lora(targets=): base chat has no module 'v_prj'. Its linear ones: down_proj, gate_proj, k_proj, o_proj, "
                    "q_proj, up_proj, v_proj. Did you mean 'v_proj'?"),
])
def test_mistakes_get_one_sentence(runs, name, error):
    assert (runs / f"{name}.status").read_text() == "2" and f"DdmakeError: {error}" in log(runs, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["whole", "full"])
def test_model_folder_holds_a_model_and_no_path(runs, kind, how):
    files = {"metrics.json", "tokenizer.json", "tokenizer_config.json"}
    files |= {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"} if how == "whole" else {
        "config.json", "model.safetensors"}
    files |= set() if kind == "reward" else {"generation_config.json", "samples.jsonl"}
    assert {path.name for path in (runs / f"{kind}-{how}").iterdir()} == files
    for path in (runs / f"{kind}-{how}").iterdir():
        assert str(runs).encode() not in path.read_bytes(), path.name
    assert not list(runs.rglob("training_args.bin")) and not list(runs.rglob("cache-*"))


def test_a_pair_is_tokens_as_the_model_is_asked_later(runs):
    from transformers import AutoModelForCausalLM

    from ddmake.backends.loading import load_tokenizer
    from ddmake.trainers.common import Settings
    from ddmake.trainers.preference import Answers

    row, found = {"prompt": "repeat: red", "chosen": "red cat", "rejected": ""}, {}
    for base in ("chat", "plain"):
        tokenizer, model = load_tokenizer(runs / base), AutoModelForCausalLM.from_pretrained(runs / base)
        pair = Answers(Settings(runs / base, base, 1e-3, separator=" => "), model, tokenizer).pair(row)
        found[base] = {name: ids if name == "cut" else tokenizer.decode(ids) for name, ids in pair.items()}
    assert found["plain"] == {"prompt_ids": "repeat: red => ", "chosen_ids": "red cat</s>", "rejected_ids": "</s>", "cut": False}
    assert found["chat"] == {"prompt_ids": "<|im_start|>user\nrepeat: red<|im_end|>\n<|im_start|>assistant\n",
                             "chosen_ids": "red cat<|im_end|>\n", "rejected_ids": "<|im_end|>\n", "cut": False}


def test_the_odds_ratio_is_that_of_the_paper():
    from ddmake.trainers.orpo import odds_ratio_loss

    chosen, rejected = torch.tensor([0.5, 0.9]).log(), torch.tensor([0.25, 0.9]).log()
    ratios = [(0.5 / 0.5) / (0.25 / 0.75), 1.0]
    expected = [-math.log(p) - 0.3 * math.log(ratio / (1 + ratio)) for p, ratio in zip((0.5, 0.9), ratios, strict=True)]
    assert odds_ratio_loss(chosen, rejected, 0.3).item() == pytest.approx(sum(expected) / 2)
    assert odds_ratio_loss(torch.zeros(1), torch.full((1,), -1e-9), 0.3).isfinite(), "sure of both"


@pytest.mark.parametrize("config", [
    LlamaConfig(attention_dropout=0.5, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9),
    OPTConfig(dropout=0.5, attention_dropout=0.5, hidden_size=8, ffn_dim=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9,
              word_embed_proj_dim=8),
    GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9),
], ids=lambda config: config.model_type)
def test_a_base_in_training_answers_without_chance(config):
    from transformers import AutoModelForCausalLM

    from ddmake.trainers.preference import still

    model, ids = AutoModelForCausalLM.from_config(config).train(), torch.arange(8)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(still(model)(ids).logits, model(ids).logits)


def test_kto_measures_on_the_neighbours_answers():
    from ddmake.trainers.kto import Neighbours

    examples = [{"prompt_ids": [1], "completion_ids": [number, number], "label": True} for number in (7, 8, 9)]
    batch = Neighbours(pad_token_id=0).torch_call(examples)
    assert batch["input_ids"].tolist() == [[1, 7, 7], [1, 8, 8], [1, 9, 9]]
    assert batch["KL_input_ids"].tolist() == [[1, 9, 9], [1, 7, 7], [1, 8, 8]]


ROWS = '{"prompt": "repeat: 1", "chosen": "red", "rejected": "stone", "wanted": 1, "by": "x"}\n'
READ = "M, R = 'models/tuned', jsonl('data', 'in.jsonl')\n"
MISTAKES = {
    "dpo(M, R, base='tiny', chosen='choosen')": "there is no column 'choosen' to learn from. There are: prompt, chosen, rejected, "
                                                "wanted, by. Did you mean 'chosen'?",
    "orpo(M, R, base='tiny', prompt='{{ question }}')": "question",
    "dpo(M, R, base='tiny', loss='sigmod')": "there is no loss 'sigmod'. There are: aot, aot_unpaired, apo_down, apo_zero, bco_pair, "
                                             "discopop, exo_pair, hinge, ipo, nca_pair, robust, sft, sigmoid, sigmoid_norm, "
                                             "sppo_hard. Did you mean 'sigmoid'?",
    "dpo(M, R, base='tiny', label_smoothing=0.1)": "label_smoothing=0.1 says nothing to sigmoid; it is of robust, exo_pair, aot, "
                                                   "aot_unpaired.",
    "dpo(M, R, base='tiny', loss='exo_pair')": "label_smoothing=0.0; it is above 0 and below 0.5.",
    "dpo(M, R, base='tiny', loss={'robust': 1.0}, label_smoothing=0.5)": "label_smoothing=0.5; it is at least 0 and below 0.5.",
    "dpo(M, R, base='tiny', loss='aot', micro_batch=4)": "micro_batch= would change the model, since this loss sorts the pairs that "
                                                         "are taken at once. Leave it out.",
    "dpo(M, R, base='tiny', beta=0.0)": "beta=0.0; it is above 0.",
    "kto(M, R, base='tiny', chosen='chosen')": "kto takes chosen= and rejected= together, or neither.",
    "kto(M, R, base='tiny', label='wanted')": "there is no column 'completion' to learn from.",
    "kto(M, R, base='tiny', completion='chosen', label='wanted', desirable_weight=-1.0)": "desirable_weight=-1.0; it is at least 0.",
    "reward_model(M, R, base='tiny', margin='margn')": "there is no column 'margn' of margins.",
    "reward_model(M, R, base='tiny', center=-1.0)": "center=-1.0; it is at least 0.",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A project whose rows are there."""
    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", ROWS)
    found.ddfile(READ).make()
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_training_is_planned(planned, call):
    result = planned.ddfile(READ + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in result.output


@pytest.mark.parametrize("rows, error", [
    ([], "dpo: no row to learn from in validation; 0 given."),
    ([{"prompt": "x", "chosen": None, "rejected": "y"}], "dpo: no row to learn from in validation; 1 given."),
    ([{"prompt": "x", "chosen": ["y"], "rejected": "y"}], "dpo: row 0: column 'chosen' holds list; text is needed."),
    ([{"prompt": "x", "chosen": "y"}], "dpo: there is no column 'rejected'. Columns: prompt, chosen."),
])
def test_rows_that_nothing_can_be_learned_from(rows, error):
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.rules.aligning import Shown

    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ("prompt", "chosen", "rejected"))}
    with pytest.raises(DdmakeError, match=re.escape(error)):
        Shown("dpo", None, {"chosen": "chosen", "rejected": "rejected"}).parts(
            {"train": Dataset.from_list(pairs(2)), "validation": Dataset.from_dict(columns)})


def test_pairs_are_unpaired_for_kto_and_labels_are_read():
    from datasets import Dataset

    from ddmake.errors import DdmakeError
    from ddmake.rules.aligning import Shown

    rows = Dataset.from_list([{"prompt": "x", "good": "a", "bad": 1, "wanted": 0}])
    found, _ = Shown("kto", None, {"chosen": "good", "rejected": "bad"}).parts(rows)
    assert [(row["completion"], row["label"]) for row in found] == [("a", True), ("1", False)]
    found, _ = Shown("kto", None, {"completion": "good"}, label="wanted").parts(rows)
    assert found[0]["completion"] == "a" and found[0]["label"] is False
    with pytest.raises(DdmakeError, match="kto: row 0: column 'good' holds 'a'; true or false is needed"):
        Shown("kto", None, {"completion": "bad"}, label="good").parts(rows)


def test_a_toy_is_aligned_and_asked_in_a_ddfile(project):
    """Its adapter speaks by itself and on its base, the reward model is a classifier, and nothing is made twice."""
    rows = [*pairs(31), {"prompt": "repeat: 1", "chosen": None, "rejected": "x"}]
    project.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    project.ddfile("""
        parts = split("parts", jsonl("data", "in.jsonl"), validation=0.25)
        aligned = dpo("models/aligned", parts, base="tiny", peft=lora(r=4), learning_rate=5e-3, batch_size=8, epochs=2)
        reward = reward_model("models/reward", parts, base="tiny-base", learning_rate=5e-4, batch_size=8, epochs=6)
        few = parts.validation.take(3)
        for name, model in {"alone": llm(aligned), "onto": llm("tiny", adapter=aligned)}.items():
            transform(f"answers/{name}", few, llm=model.using(temperature=0, max_tokens=12), prompt="{{ prompt }}", column="answer",
                      accept={"length"})

        def spoken(row):
            return {side: f"{row['prompt']}\\n{row[side]}<|end|>" for side in ("chosen", "rejected")}

        for side in ("chosen", "rejected"):
            classify(f"scores/{side}", parts.train.map(spoken), model=reward, text=side, column="score")
    """).make()
    assert "dpo: 1 of 8 rows of validation left out: null in prompt, chosen, rejected" in project.logs()
    assert project.rows("answers/alone") == project.rows("answers/onto")
    scores = [[row["score"] for row in project.rows(f"scores/{side}")] for side in ("chosen", "rejected")]
    assert sum(good > bad for good, bad in zip(*scores, strict=True)) >= 0.9 * len(scores[0])
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
