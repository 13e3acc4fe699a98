"""What all trainings share: the best weights, marks, packing, tokens that are kept, samples, bits, merging.

`option_runs.py` trains everything once; the tests look at what it left.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import Project
from option_runs import KILLED_AT, ROWS, TURNED
from safetensors.torch import load_file
from trained import log, metrics, train_all, without_clock

from ddmake.backends.models import files_sha
from ddmake.trainers.checkpoints import BEST

pytestmark = pytest.mark.slow

rounded = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes isn't installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("option_runs.py", tmp_path_factory.mktemp("options"))


def evaluated(runs: Path, name: str) -> dict[int, float]:
    """Return the losses of evaluations by step, as the last checkpoint has them."""
    kept = sorted((runs / f"{name}.checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    history = json.loads((kept[-1] / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}


def first_loss(model, rows: list[dict], tokenizer) -> float:
    """Return the mean loss of a chat model over the tokens of answers, by plain transformers."""
    total, count = 0.0, 0
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        before = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=True, return_dict=False)
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(before) - 1:-1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(before):]), reduction="sum").item()
        count += len(ids) - len(before)
    return total / count


def test_training_ends_after_the_best_and_keeps_that(runs):
    found, losses = metrics(runs, "stopped"), evaluated(runs, "stopped")
    best = min(losses, key=losses.get)
    assert 3 < best < found["steps"] < 36, "the loss fell, then rose, and the training ended early"
    assert found["steps"] == best + 6, "two evaluations later"
    assert (found["best_step"], found["eval_loss"]) == (best, losses[best])
    *told, last = found["eval_loss_curve"]
    assert told == [[step, loss] for step, loss in losses.items()] and last[0] == found["steps"], "it ended without a checkpoint"
    kept = load_file(runs / "stopped.checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    ours = load_file(runs / "stopped" / "model.safetensors")
    assert kept.keys() == ours.keys() and all(torch.equal(kept[name], ours[name]) for name in ours)


def test_the_best_weights_have_the_loss_that_is_told(runs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(runs / "stopped"), AutoTokenizer.from_pretrained(runs / "stopped")
    assert first_loss(model, TURNED[24:], tokenizer) == pytest.approx(metrics(runs, "stopped")["eval_loss"], rel=1e-5)


def test_best_without_patience_goes_on_to_the_end(runs):
    found = metrics(runs, "unstopped")
    assert found["steps"] == 36 and found["best_step"] == metrics(runs, "stopped")["best_step"]
    assert files_sha(runs / "unstopped") == files_sha(runs / "stopped")


@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_run_stops_at_the_same_step_with_the_same_weights(runs, step):
    """What was best so far was deleted, too: it is in each checkpoint."""
    name = f"stopped-killed-{step}"
    assert (runs / f"{name}.first").read_text() == "-9"
    assert without_clock(metrics(runs, name)) == without_clock(metrics(runs, "stopped"))
    assert files_sha(runs / name) == files_sha(runs / "stopped")


def test_best_is_under_the_seal_of_each_checkpoint(runs):
    for checkpoint in (runs / "stopped-killed-20.checkpoints").glob("checkpoint-*"):
        assert BEST in json.loads((checkpoint / "COMPLETE").read_text())["files"]


def test_best_of_preferences(runs):
    found = metrics(runs, "dpo")
    assert found["best_step"] in (4, 8, 12) and found["eval_accuracy"] == 1


@pytest.mark.parametrize("name, why", [
    ("marked", ["checkpoint-4 was made with micro_batch 4, now 2"]),
    ("other", ["checkpoint-4 was made with trl 0.0.1, now "]),
    ("twice", ["checkpoint-2 was made with trl 0.0.1, now "]),
    ("restarted", None), ("whole", None),
])
def test_other_circumstances_mark_a_model_or_begin_anew(runs, name, why):
    found = metrics(runs, name)
    assert ("reproducible" in found, "why_not" in found) == (why is not None,) * 2
    assert why is None or found["reproducible"] is False and all(part in found["why_not"] for part in why)


def test_what_began_anew_is_what_was_never_killed(runs):
    assert "checkpoint-4 was made with micro_batch 4, now 2: the training begins anew" in log(runs, "restarted")
    assert json.loads((runs / "restarted.progress").read_text())[0][0] == 0
    assert files_sha(runs / "restarted") == files_sha(runs / "cut") != files_sha(runs / "marked")
    assert files_sha(runs / "other") == files_sha(runs / "whole"), "its versions were the same in truth"


def test_packed_rows_are_fewer_and_resume_to_the_bit(runs):
    found = metrics(runs, "packed")
    assert found["settings"]["examples"] == found["examples"] == 32 and found["packs"] < 20
    assert found["tokens"] == metrics(runs, "whole")["tokens"]
    assert found["loss_curve"][-1][1] < found["loss_curve"][0][1]
    assert without_clock(metrics(runs, "packed-killed")) == without_clock(found)
    assert files_sha(runs / "packed-killed") == files_sha(runs / "packed")


def test_examples_of_a_pack_do_not_see_each_other(runs):
    """The loss of packs is that of the examples one by one, and the check of a model that mixes them fails."""
    from transformers import AutoModelForCausalLM

    from ddmake.errors import DdmakeError
    from ddmake.trainers.packing import Collator, need_apart, together

    model = AutoModelForCausalLM.from_pretrained(runs / "learned").eval()
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 300, (length,), generator=draw).tolist() for length in (9, 14, 5, 20, 7)]
    examples = [{"input_ids": one, "labels": [-100, -100, *one[2:]]} for one in ids]
    packs = [together(examples[:3]), together(examples[3:])]

    def loss(batch: dict) -> float:
        with torch.no_grad():
            return model(**batch, num_items_in_batch=torch.tensor(45)).loss.item()

    alone = sum(loss({name: torch.tensor([one[name]]) for name in one}) for one in examples)
    assert loss(Collator(0)(packs)) == pytest.approx(alone, rel=1e-5)
    mixed = Collator(0)([{name: values for name, values in pack.items() if name != "position_ids"} for pack in packs])
    assert abs(loss(mixed) - alone) > 0.01, "a mask over all would not do"
    need_apart(model, packs, "chat")
    with pytest.raises(DdmakeError, match="packing=True: in base chat the examples of a pack would see each other"):
        need_apart(Mixing(model), packs, "chat")


class Mixing(torch.nn.Module):
    """A model that doesn't look at positions."""

    def __init__(self, model):
        super().__init__()
        self.model, self.device = model, model.device

    def forward(self, input_ids, position_ids, use_cache):
        return self.model(input_ids=input_ids)


def test_packs_are_filled_and_hold_each_example_once():
    from ddmake.trainers.packing import fill

    sizes = [(7 * number) % 23 + 1 for number in range(200)]
    packs = fill(sizes, 32)
    assert sorted(number for pack in packs for number in pack) == list(range(200))
    loads = [sum(sizes[number] for number in pack) for pack in packs]
    assert max(loads) <= 32 and len(packs) <= sum(sizes) / 32 * 1.05


def test_a_full_disk_ends_a_training_with_a_sentence_and_keeps_the_older_checkpoint(runs):
    assert (runs / "full.first").read_text() == "2"
    assert "DdmakeError: checkpoint-4 can't be written: " in log(runs, "full")
    assert "Make room on the disk, then train again: it goes on from checkpoint-3." in log(runs, "full")
    assert json.loads((runs / "full.progress").read_text())[0] == [3, 8, "resumed after step 3"]
    assert files_sha(runs / "full") == files_sha(runs / "whole")


@pytest.mark.parametrize("name, said", [
    ("too-fast", "DdmakeError: the gradient is nan at step 3. Try a lower learning_rate"),
    ("no-number", "DdmakeError: the loss is nan at step 1. What it was taken on is in the log."),
    ("merged-chat", "DdmakeError: merge: chat is no adapter: its weights are whole already."),
])
def test_what_comes_to_nothing_is_told(runs, name, said):
    assert (runs / f"{name}.status").read_text() == "2" and said in log(runs, name)


def test_a_broken_training_keeps_a_sound_checkpoint_and_tells_the_batch(runs):
    kept = load_file(runs / "too-fast.checkpoints" / "checkpoint-2" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in kept.values())
    assert not (runs / "too-fast.checkpoints" / "checkpoint-3").exists()
    assert "in this batch: user\nrepeat: " in log(runs, "no-number")


def test_activations_computed_again_change_low_bits_of_an_encoder_decoder(runs):
    curve, like = metrics(runs, "t5-again")["loss_curve"], metrics(runs, "t5-whole")["loss_curve"]
    assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in like], rel=1e-4)


@pytest.mark.parametrize("name, like", [("again", "whole"), ("deterministic", "whole")])
def test_what_says_how_changes_no_bit_on_a_cpu(runs, name, like):
    """Activations that are computed again, with dropout and all; `deterministic`, which is about GPUs."""
    assert metrics(runs, name)["loss_curve"] == metrics(runs, like)["loss_curve"]
    assert files_sha(runs / name) == files_sha(runs / like)


def test_deterministic_kernels_are_asked_for_on_a_gpu_alone(monkeypatch):
    from ddmake.trainers.common import Settings, steady

    asked = []
    for cuda, deterministic in [(False, True), (True, False), (True, True)]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        with steady(Settings("", "", 1e-3, deterministic=deterministic)):
            asked.append(torch.are_deterministic_algorithms_enabled())
    assert asked == [False, False, True] and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("key, encoded", [("k0", 48), ("k1", 0), ("k2", 48), ("k3", 48), ("k4", 48)])
def test_rows_are_made_tokens_once_for_all_trainings_of_a_project(runs, key, encoded):
    """k1 has another learning rate; k2 another separator, k3 another length, k4 other answers."""
    assert log(runs, f"counted-{key}").splitlines()[-1] == f"{encoded} encoded"


def test_kept_tokens_are_whole_and_bounded(runs, monkeypatch):
    from ddmake.trainers import tokens

    folder = runs / "project" / "tokens"
    places = sorted(folder.iterdir())
    assert len(places) == 4 and {file.name for place in places for file in place.iterdir()} == {"rows.arrow", "counts.json"}
    for number, place in enumerate(places):
        os.utime(place, (number, number))
    monkeypatch.setattr(tokens, "MOST", 2 * max(sum(file.stat().st_size for file in place.iterdir()) for place in places))
    tokens.make_room(folder, places[0])
    assert sorted(folder.iterdir()) == [places[0], places[3]], "the newest stays, and what was used last"


@pytest.mark.parametrize("name, references", [("learned", 5), ("dpo", 5), ("t5-whole", 5), ("reward", 0)])
def test_samples_lie_beside_what_was_trained(runs, name, references):
    file = runs / name / "samples.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if references else []
    assert len(found) == references and file.exists() == bool(references)
    assert all(one.keys() == {"prompt", "reference", "answer"} and one["reference"] for one in found)


def test_samples_are_what_the_model_says_and_no_part_of_it(runs, tmp_path):
    import shutil

    from ddmake.artifacts.digest import digest
    from ddmake.backends.base import Request
    from ddmake.backends.hf import LocalModel
    from ddmake.fingerprint import hashes

    samples = [json.loads(line) for line in (runs / "learned" / "samples.jsonl").read_text().splitlines()]
    model = LocalModel(runs / "learned", sampling={"temperature": 0, "max_tokens": 64})
    asked = [(number, 0, Request(({"role": "user", "content": one["prompt"]},))) for number, one in enumerate(samples)]
    said = dict(model.answers(asked))
    assert [str(said[number]) for number in range(5)] == [one["answer"] for one in samples]
    shutil.copytree(runs / "learned", tmp_path / "model")
    (tmp_path / "model" / "samples.jsonl").unlink()
    one, other = (digest(path, {file.name: hashes.of_file(file) for file in path.iterdir()})
                  for path in (runs / "learned", tmp_path / "model"))
    assert one == other


@pytest.mark.parametrize("name, base", [("whole", "chat"), ("t5-whole", "t5"), ("reward", "chat")])
def test_a_merged_adapter_is_a_whole_model(runs, name, base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    auto = {"whole": AutoModelForCausalLM, "t5-whole": AutoModelForSeq2SeqLM, "reward": AutoModelForSequenceClassification}[name]
    more = {"num_labels": 1} if name == "reward" else {}
    folder = runs / f"merged-{name}"
    assert (runs / f"merged-{name}.status").read_text() == "0", log(runs, f"merged-{name}")
    apart = PeftModel.from_pretrained(auto.from_pretrained(runs / base, **more), runs / name).eval()
    ids = torch.tensor([[5, 9, 40, 11]])
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if name == "t5-whole" else {})}
    with torch.no_grad():
        merged, expected, bare = (model(**given).logits for model in (
            auto.from_pretrained(folder).eval(), apart, apart.disable_adapter() and auto.from_pretrained(runs / base, **more).eval()))
    assert torch.allclose(merged, expected, atol=1e-5) and not torch.allclose(merged, bare, atol=1e-3)
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json"} and "adapter_config.json" not in files
    assert not any(str(runs).encode() in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("given, said", [
    ({"trackers": "wandb"}, "trackers='wandb' needs wandb, which isn't installed. Do: pip install 'ddmake[wandb]'"),
    ({"trackers": ["trackio"]}, "trackers='trackio' needs trackio, which isn't installed. Do: pip install 'ddmake[trackio]'"),
    ({"quantize": "nf4"}, "quantize='nf4' needs bitsandbytes, which isn't installed. Do: pip install 'ddmake[quantize]'"),
])
def test_a_package_that_is_missing_is_named_before_anything_is_loaded(monkeypatch, given, said):
    from ddmake.errors import MissingExtra
    from ddmake.rules.learning import settings
    from ddmake.trainers.common import Settings

    monkeypatch.setattr("ddmake.backends.models.find_spec", lambda package: None)
    with pytest.raises(MissingExtra) as told:
        settings(Settings, {"base": "x", "learning_rate": None, "revision": None, "peft": None, **given}, (1.0, 1.0))
    assert str(told.value) == said


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard isn't installed")
def test_tensorboard_gets_the_curve_and_the_model_is_the_same(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((runs / "tensorboard.checkpoints" / "tensorboard").iterdir()))).Reload()
    told = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert told == [(step, pytest.approx(loss)) for step, loss in metrics(runs, "tensorboard")["loss_curve"]]
    assert files_sha(runs / "tensorboard") == files_sha(runs / "whole")


@rounded
@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_an_adapter_learns_on_a_rounded_base(runs, bits):
    """On the base as it was, which its config names, it answers better than that alone, by plain transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert json.loads((runs / bits / "adapter_config.json").read_text())["base_model_name_or_path"] == "chat"
    assert {weight.dtype for weight in load_file(runs / bits / "adapter_model.safetensors").values()} == {torch.float32}
    tokenizer, base = AutoTokenizer.from_pretrained(runs / bits), AutoModelForCausalLM.from_pretrained(runs / "chat").eval()
    before = first_loss(base, ROWS[32:], tokenizer)
    after = first_loss(PeftModel.from_pretrained(base, runs / bits).eval(), ROWS[32:], tokenizer)
    assert after < before - 1.5, (before, after)


@rounded
def test_rounded_trainings_resume_to_the_bit_and_merge_without_rounding(runs):
    assert files_sha(runs / "nf4-killed") == files_sha(runs / "nf4")
    assert "quantization_config" not in json.loads((runs / "merged-nf4" / "config.json").read_text())
    assert metrics(runs, "onto")["loss_curve"][0][1] < metrics(runs, "nf4")["loss_curve"][0][1], "the adapter below was merged"


@rounded
@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo", "reward"])
def test_preferences_are_learned_on_a_rounded_base(runs, kind):
    curve = metrics(runs, f"nf4-{kind}")["margin_curve"]
    assert curve[-1][1] > curve[0][1] + 0.04


READ = """
parts = split("data", jsonl("rows", "in.jsonl"), validation=0.5)
"""
MISTAKES = {
    "finetune('m', parts, base='tiny', quantize='nf4')": "quantize='nf4' is of a base that stays as it is, under an adapter. Add "
                                                         "peft=lora().",
    "finetune('m', parts, base='tiny', quantize='int3', peft=lora())": "finetune's quantize takes one of 'nf4', 'fp4', 'int8' or None",
    "finetune('m', parts.train, base='tiny', best=True)": "best=True needs a validation set.",
    "finetune('m', {'train': parts.train}, base='tiny', patience=3)": "patience=3 needs a validation set.",
    "finetune('m', parts.train, base='tiny', evaluate_every=3)": "evaluate_every=3 needs a validation set.",
    "finetune('m', parts, base='tiny', patience=0)": "patience=0; it is above 0.",
    "finetune('m', parts, base='tiny', processes=0)": "processes=0; it is above 0.",
    "finetune('m', parts, base='tiny', trackers='wandv')": "trackers: there is no 'wandv'. There are: tensorboard, trackio, wandb. Did "
                                                           "you mean 'wandb'?",
    "finetune('m', parts, base='tiny', on_change='go')": "finetune's on_change takes one of 'mark', 'restart', not 'go' (str).",
    "dpo('m', parts, base='tiny', chosen='completion', rejected='completion', quantize='fp4')": "Add peft=lora().",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A project whose rows are there."""
    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", '{"prompt": "a", "completion": "b"}\n' * 8)
    found.ddfile(READ).make()
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_training_is_planned(planned, call):
    result = planned.ddfile(READ + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in result.output


TRAINED = """
    from typing import Annotated, Any
    from ddmake.ddfile.inputs import Free, Parts

    @train
    def learn(parts: Annotated[Any, Parts("train", observed=("validation",), counts=("best", "patience"))], *,
              best: bool = False, patience: int | None = None, trackers: Annotated[str, Free] = "", output):
        (output / "rows").write_text(str(sum(len(rows) for rows in parts.values())))

    parts = {"train": jsonl("train", "train.jsonl"), "validation": jsonl("held", "held.jsonl")}
    learn("plain", parts)
    learn("told", parts, trackers="TRACKER")
    learn("best", parts, best=True)
    learn("patient", parts, patience=2)
"""


def test_a_validation_set_counts_where_it_decides(project):
    for name in ("train", "held"):
        project.write(f"{name}.jsonl", '{"text": "a"}\n')
    project.ddfile(TRAINED).make()
    project.ddfile(TRAINED.replace("TRACKER", "wandb"))
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
    project.write("held.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    project.make("held")
    planned = project.run("-n", "-v")
    assert {name: planned.verdicts()[name] for name in ("plain", "told", "best", "patient")} == {
        "plain": "fresh", "told": "fresh", "best": "make", "patient": "make"}
    assert planned.why("patient") == "input validation: 1 -> 2 rows"


def test_options_that_say_how_leave_a_training_fresh(project):
    """Through the surface, with a toy: what was trained, marked nothing, told in the card; then only what counts is stale."""
    project.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[:12]))
    text = """
        parts = split("data", jsonl("rows", "in.jsonl"), validation=0.25)
        tuned = finetune("tuned", parts, base="tiny", peft=lora(r=4), epochs=2, learning_rate=5e-3, patience=1{more})
        merge("whole", tuned)
        transform("said", parts.validation, llm=llm(merged := "whole").using(temperature=0, max_tokens=4), prompt="{{{{ prompt }}}}",
                  column="a", accept={{"length"}})
        transform("said_apart", parts.validation, llm=llm(tuned).using(temperature=0, max_tokens=4), prompt="{{{{ prompt }}}}",
                  column="a", accept={{"length"}})
    """
    project.ddfile(text.format(more="")).make()
    assert project.rows("said") == project.rows("said_apart")
    assert list((project.root / ".ddmake" / "tokens").iterdir())
    how = ", gradient_checkpointing=True, trackers='tensorboard', processes=1, on_change='restart'"
    assert project.ddfile(text.format(more=how)).run("-n", "-v").verdicts()["tuned"] == "fresh"
    assert project.ddfile(text.format(more=", deterministic=True")).run("-n").verdicts()["tuned"] == "make"
