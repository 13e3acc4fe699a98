"""Training on a model's own answers: rewards rise and the divergence stays bounded, killed runs end in the weights of whole ones.

`online_runs.py` trains everything once; the tests look at what it left.
"""

import json
import math
import os
import random
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from conftest import Project
from online_runs import KILLED_AT, KINDS, PPO, SEEDS, questions, vowels
from preference_runs import pairs
from scipy.stats import ttest_1samp, ttest_ind
from trained import log, metrics, train_all

from ddmake.backends.models import files_sha

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("online_runs.py", tmp_path_factory.mktemp("online"))


def values(curve: list[list[float]]) -> list[float]:
    return [value for _, value in curve]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_run_ends_in_the_same_weights_curves_and_samples(runs, kind):
    whole, killed = (metrics(runs, f"{kind}-{how}") | {"runtime_s": 0} for how in ("whole", "killed"))
    assert (runs / f"{kind}-killed.first").read_text() == "-9" and killed == whole
    assert files_sha(runs / f"{kind}-killed") == files_sha(runs / f"{kind}-whole")
    assert (runs / f"{kind}-killed" / "samples.jsonl").read_text() == (runs / f"{kind}-whole" / "samples.jsonl").read_text()
    first = json.loads((runs / f"{kind}-killed.progress").read_text())[0]
    assert 0 < first[0] < KILLED_AT[kind] and first[2] == f"resumed after step {first[0]}"


def test_grpo_is_kept_where_new_answers_are_drawn(runs):
    assert metrics(runs, "grpo-whole")["settings"]["passes"] == 2
    steps = [int(path.name.removeprefix("checkpoint-")) for path in (runs / "grpo-whole.checkpoints").glob("checkpoint-*")]
    assert steps and all(step % 2 == 0 for step in steps)


def asked(runs: Path, name: str | None) -> tuple[list[float], float]:
    """Return the rewards of a model's answers by plain transformers and peft, and how far it is from the base in nats."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, base = AutoTokenizer.from_pretrained(runs / "chat"), AutoModelForCausalLM.from_pretrained(runs / "chat").eval()
    model = AutoModelForCausalLM.from_pretrained(runs / "chat").eval()
    if name is not None and (runs / name / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, runs / name).eval()
    elif name is not None:
        model = AutoModelForCausalLM.from_pretrained(runs / name).eval()
    prompts = [question.messages for question in questions(128)[32:]]
    found = tokenizer.apply_chat_template(3 * prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True,
                                          tokenizer_kwargs={"padding_side": "left"})
    torch.manual_seed(0)
    with torch.no_grad():
        ids = model.generate(**found, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=PPO.max_tokens, pad_token_id=0)
    answers = ids[:, found["input_ids"].shape[1]:]
    attended = torch.cat([found["attention_mask"], (answers != 0).long()], 1)
    far = [likely(one, ids, attended, answers.shape[1]) for one in (model, base)]
    return [vowels(text, {}) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)], (far[0] - far[1]).mean().item()


def likely(model: torch.nn.Module, ids: torch.Tensor, attended: torch.Tensor, width: int) -> torch.Tensor:
    """Return the log-probability of each row's answer."""
    places = (attended.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attended, position_ids=places).logits[:, -width - 1:-1]
    told = logits.log_softmax(-1).gather(-1, ids[:, -width:, None])[..., 0]
    return (told * attended[:, -width:]).sum(1)


def test_ppo_raises_the_reward_over_seeds_and_stays_near_the_base(runs):
    """By answers to prompts that weren't trained on; without the price, the same training goes far off."""
    before, _ = asked(runs, None)
    after = {seed: asked(runs, f"ppo-seed-{seed}") for seed in SEEDS}
    for rewards, far in after.values():
        assert ttest_ind(rewards, before, equal_var=False, alternative="greater").pvalue < 0.01
        assert fmean(rewards) > 1.3 * fmean(before) and far < PPO.kl_target
    times = [math.log(fmean(rewards) / fmean(before)) for rewards, _ in after.values()]
    assert ttest_1samp(times, 0.0, alternative="greater").pvalue < 0.01
    assert max(max(values(metrics(runs, f"ppo-seed-{seed}")["kl_curve"])) for seed in SEEDS) < 1.5 * PPO.kl_target
    _, unbounded = asked(runs, "ppo-free")
    assert unbounded > 2 * max(far for _, far in after.values())


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_groups_of_answers_raise_the_reward(runs, kind):
    before, after = asked(runs, None)[0], asked(runs, f"{kind}-whole")[0]
    assert ttest_ind(after, before, equal_var=False, alternative="greater").pvalue < 0.01
    assert fmean(after) > 1.25 * fmean(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cut", "two"])
def test_how_a_batch_is_cut_changes_nothing_but_low_bits(runs, kind, how):
    """Into micro-batches, and over two processes: the same answers are drawn."""
    whole, cut = (metrics(runs, f"{kind}-{one}") for one in ("watched", how))
    assert cut["reward_curve"][:2] == whole["reward_curve"][:2] and len(whole["reward_curve"]) > 1
    assert values(cut["loss_curve"])[:2] == pytest.approx(values(whole["loss_curve"])[:2], abs=1e-4)
    assert files_sha(runs / f"{kind}-cut") != files_sha(runs / f"{kind}-watched")


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_prompts_only_watch(runs, kind):
    watched = metrics(runs, f"{kind}-watched")
    assert watched["eval_reward"] == watched["eval_reward_curve"][-1][1] and isinstance(watched["eval_reward"], float)
    assert "eval_reward" not in metrics(runs, f"{kind}-cut")
    shown = [json.loads(line) for line in (runs / f"{kind}-watched" / "samples.jsonl").read_text().splitlines()]
    assert len(shown) == 5 and all(vowels(one["answer"], {}) == one["reward"] for one in shown)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["whole", "full"])
def test_model_folder_holds_a_model_and_no_path(runs, kind, how):
    files = {"metrics.json", "samples.jsonl", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    files |= {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"} if how == "whole" else {
        "config.json", "model.safetensors"}
    assert {path.name for path in (runs / f"{kind}-{how}").iterdir()} == files
    for path in (runs / f"{kind}-{how}").iterdir():
        assert str(runs).encode() not in path.read_bytes(), path.name
    assert values(metrics(runs, f"{kind}-full")["kl_curve"])[-1] != 0, "measured from a copy of the base"


def test_reward_models_score_what_they_were_trained_to_by_a_tokenizer_of_their_own(runs):
    """Both kinds tell what is chosen from what is rejected, though the model that is trained has a chat template and they have none."""
    from ddmake.trainers.rewards import Answer, Question, Rewards

    rows = pairs(24, seed=2)
    for name in ("taste", "taste-lora"):
        os.chdir(runs)
        scores = {side: Rewards([Path(name)], [1.0], 0.0, "float32")(
            [Question([{"role": "user", "content": row["prompt"]}], row, 0) for row in rows], [Answer(row[side], True) for row in rows])[0]
            for side in ("chosen", "rejected")}
        assert sum(map(float.__gt__, scores["chosen"], scores["rejected"])) > 0.9 * len(rows)


def test_rewards_are_summed_by_weights_and_told_one_by_one(runs):
    found = metrics(runs, "ppo-both")
    parts = {name: values(curve)[0] for name, curve in found["reward_curves"].items()}
    assert list(parts) == ["taste-lora", "vowels"] == found["settings"]["rewards"]
    assert values(found["reward_curve"])[0] == pytest.approx(parts["taste-lora"] + 0.5 * parts["vowels"], abs=1e-5)
    assert "reward_curves" not in metrics(runs, "ppo-taste")


def test_what_is_too_long_is_left_out_and_what_has_no_end_is_charged_for(runs):
    found = metrics(runs, "ppo-long")
    assert (found["dropped"], found["settings"]["examples"]) == (1, 3)
    assert found["reward"] < -6 * found["cut_curve"][0][1] < 0


@pytest.mark.parametrize("name, error", [
    ("grpo-too-long", "no prompt to answer: 32 given, all empty or longer than 6 tokens, which is what max_length and the model leave "
                      "beside max_tokens=250."),
    ("ppo-raises", "reward fails failed on the answer '"),
    ("ppo-raises", "to row 12: KeyError: 'words'"),
    ("rloo-none", "reward <lambda> gave None for the answer '"),
    ("ppo-nan", "to row 12; a finite number is needed."),
    ("ppo-no-reward-model", "reward: chat holds no sequence classifier: it is a LlamaForCausalLM."),
    ("ppo-diverges", "the loss is nan at step 1. Try a lower learning_rate"),
])
def test_mistakes_get_one_sentence(runs, name, error):
    assert (runs / f"{name}.status").read_text() == "2" and error in log(runs, name)


def test_advantages_are_those_of_the_paper():
    """Against the sum over k of (gamma × lambda)^k × delta, row by row."""
    from ddmake.trainers.advantages import gae

    draw = random.Random(0)
    for _ in range(20):
        width, length, gamma, lam = 6, draw.randint(1, 6), draw.choice([1.0, 0.9]), draw.choice([1.0, 0.95, 0.0])
        rewards, values_ = ([draw.gauss(0, 1) for _ in range(width)] for _ in range(2))
        mask = [1.0] * length + [0.0] * (width - length)
        deltas = [rewards[t] + gamma * (values_[t + 1] if t + 1 < length else 0) - values_[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        found = gae(*(torch.tensor([row], dtype=torch.float64) for row in (rewards, values_, mask)), gamma, lam)[0].tolist()
        assert found[:length] == pytest.approx(expected) and not any(found[length:])


def test_an_answers_score_falls_on_its_last_token():
    from ddmake.trainers.advantages import placed

    told, reference = torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]), torch.tensor([[-2.0, -2.0, 0.0], [-1.0, -3.0, -1.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    found = placed(torch.tensor([5.0, 7.0]), told, reference, mask, 0.5)
    assert found.tolist() == [[-0.5, 5.0, 0.0], [0.0, -1.0, 7.0]]


def test_losses_stop_pulling_once_they_are_clipped():
    from ddmake.trainers.advantages import policy_loss, value_loss

    told = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    policy_loss(told, torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2).sum().backward()
    assert [bool(pull) for pull in told.grad] == [False, True, True, False]
    values_ = torch.tensor([0.5, 0.5], requires_grad=True)
    value_loss(values_, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2).sum().backward()
    assert values_.grad.tolist() == [0.0, 1.5]


def test_whitening_and_the_coefficient():
    from ddmake.trainers.advantages import moments, next_kl, whitened

    given, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 4.0, 5.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    found = whitened(given, mask, moments(given, mask))[mask.bool()].tolist()
    assert fmean(found) == pytest.approx(0, abs=1e-6) and stdev(found) == pytest.approx(math.sqrt(5 / 4), abs=1e-4)
    assert fmean(whitened(given, mask, moments(given, mask), shift=False)[mask.bool()].tolist()) == pytest.approx(3)
    assert next_kl(0.1, 12.0, 6.0, 100, 1000) == pytest.approx(0.102) and next_kl(0.1, 5.4, 6.0, 100, 1000) == pytest.approx(0.099)
    assert next_kl(0.1, 12.0, None, 100, 1000) == 0.1


def test_answers_are_drawn_from_the_models_distribution():
    from ddmake.trainers.online import Drawn, numbers

    scores = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2])).expand(20_000, 4)
    chosen = Drawn(numbers(0, 20_000, 1), 1.0)(None, scores).argmax(-1).bincount(minlength=4) / 20_000
    assert chosen.tolist() == pytest.approx([0.5, 0.0, 0.3, 0.2], abs=0.015) and chosen[1] == 0
    cold = Drawn(numbers(0, 20_000, 1), 0.5)(None, scores).argmax(-1).bincount(minlength=4) / 20_000
    assert cold.tolist() == pytest.approx([25 / 38, 0.0, 9 / 38, 4 / 38], abs=0.015)


READ = """
def short(answer, row):
    return -len(answer)

def odd(answer):
    return 1.0

M, R = 'models/tuned', jsonl('data', 'in.jsonl')
"""
MISTAKES = {
    "ppo(M, R, base='tiny', reward=odd)": "reward odd: it is called with an answer and its row, (answer, row), and takes (answer): too "
                                          "many positional arguments.",
    "ppo(M, R, base='tiny', reward=[])": "reward: give a function of (answer, row), a reward model, or a list of them.",
    "ppo(M, R, base='tiny', reward=7)": "reward=7: give a function of (answer, row), a reward model, or a list of them.",
    "rloo(M, R, base='tiny', reward=short, weights=[1.0, 2.0])": "weights=[1.0, 2.0]: give one number for each reward; there is 1.",
    "grpo(M, R, base='tiny', reward=short, batch_size=20)": "batch_size=20 can't be cut into groups of samples=8 answers to a prompt. "
                                                            "Take batch_size=16.",
    "rloo(M, R, base='tiny', reward=short, samples=1)": "samples=1: answers to one prompt are compared, at least 2.",
    "ppo(M, R, base='tiny', reward=short, prompt='{{ question }}')": "question",
    "ppo(M, R.select('by'), base='tiny', reward=short)": "there is no column 'prompt' to answer.",
    "ppo(M, R, base='tiny', reward=short, kl=-1.0)": "kl=-1.0; it is at least 0.",
    "ppo(M, R, base='tiny', reward=short, lam=1.5)": "lam=1.5; it is from 0 to 1.",
    "ppo(M, R, base='tiny', reward=short, max_tokens=0)": "max_tokens=0; it is above 0.",
    "grpo(M, R, base='tiny', reward=short, max_length=256)": "max_length=256 is of a prompt with its answer, and leaves no room for "
                                                             "one of max_tokens=256.",
    "ppo(M, R, base='tiny', reward=short, peft=lora(dropout=0.1))": "lora(dropout=0.1): by dropout alone the odds of an answer would "
                                                                    "change while it is learned from. Leave it out.",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A project whose rows are there."""
    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", '{"prompt": "repeat: 1", "by": "x"}\n')
    found.ddfile(READ).make()
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_training_is_planned(planned, call):
    result = planned.ddfile(READ + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in re.sub(r"\s+", " ", result.output)


def test_a_toy_is_rewarded_in_a_ddfile(project):
    """By a function, which counts as code, and a reward model, behind which the training stands."""
    project.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in [*pairs(24), {"prompt": None}]))
    text = """
        def brief(answer, row):
            return -len(answer) / LENGTH

        LENGTH = 40
        rows = jsonl("data", "in.jsonl")
        taste = reward_model("models/taste", rows, base="tiny-base", learning_rate=5e-4, batch_size=8)
        tuned = ppo("models/tuned", rows, base="tiny", peft=lora(r=4), reward=[brief, taste], weights=[1.0, 0.5], max_tokens=8,
                    batch_size=8, passes=1)
        grouped = grpo("models/grouped", rows, base="tiny", peft=lora(r=4), reward=brief, max_tokens=8, batch_size=8, samples=4,
                       epochs=0.25)
        transform("answers", rows.take(2), llm=llm(tuned, temperature=0, max_tokens=8), prompt="{{ prompt }}", column="answer",
                  accept={"length"})
    """
    project.ddfile(text).make()
    assert "ppo: 1 of 25 rows of train left out: null in prompt" in project.logs()
    assert len(project.rows("answers")) == 2
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
    project.ddfile(text.replace("LENGTH = 40", "LENGTH = 50"))
    verdicts = project.run("-n", "-v").verdicts()
    assert (verdicts["models/tuned"], verdicts["models/grouped"], verdicts["models/taste"]) == ("make", "make", "fresh")
    assert "LENGTH" in project.run("why", "models/tuned").output
    project.ddfile(text.replace("learning_rate=5e-4", "learning_rate=4e-4"))
    verdicts = project.run("-n", "-v").verdicts()
    assert (verdicts["models/taste"], verdicts["models/tuned"], verdicts["models/grouped"]) == ("make", "maybe", "fresh")
