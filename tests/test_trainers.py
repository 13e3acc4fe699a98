"""Fine-tuning: killed runs end in the weights of whole ones, and what lies in a model folder afterwards.

`training_runs.py` trains everything once; the tests look at what it left.
"""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from trained import log, train_all, without_clock
from training_runs import KILLED_AT

from ddmake.backends.models import files_sha

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("training_runs.py", tmp_path_factory.mktemp("training"))


def status(runs: Path, name: str) -> int:
    return int((runs / f"{name}.status").read_text())


def metrics(runs: Path, name: str) -> dict:
    assert status(runs, name) == 0, log(runs, name)
    return json.loads((runs / name / "metrics.json").read_text())


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_run_ends_in_the_same_weights_and_curve(runs, kind, step):
    killed = f"{kind}-killed-{step}"
    assert (runs / f"{killed}.first").read_text() == "-9"
    assert without_clock(metrics(runs, killed)) == without_clock(metrics(runs, f"{kind}-whole"))
    assert files_sha(runs / killed) == files_sha(runs / f"{kind}-whole")
    first = json.loads((runs / f"{killed}.progress").read_text())[0]
    assert first[0] == max(0, step - 1), "went on from the newest checkpoint"


@pytest.mark.parametrize("name, reason", [
    ("causal-short", "checkpoint-3 left out: optimizer.pt is not what was written"),
    ("causal-unsealed", "checkpoint-3 left out: it was not finished"),
])
def test_damaged_checkpoint_is_left_out_with_a_line(runs, name, reason):
    assert files_sha(runs / name) == files_sha(runs / "causal-whole")
    assert reason in log(runs, name)
    assert json.loads((runs / f"{name}.progress").read_text())[0] == [2, 8, "resumed after step 2"]


def test_two_checkpoints_are_kept_without_a_pickle_of_arguments(runs):
    kept = sorted(path.name for path in (runs / "causal-whole.checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-6", "checkpoint-7"]
    assert not list(runs.rglob("training_args.bin"))


def test_short_run_writes_no_checkpoint(runs):
    assert not list((runs / "causal-full.checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_validation_only_watches(runs, kind):
    watched, whole = metrics(runs, f"{kind}-watched"), metrics(runs, f"{kind}-whole")
    assert files_sha(runs / f"{kind}-watched") == files_sha(runs / f"{kind}-whole")
    assert watched["eval_loss"] < 6 and "eval_loss" not in whole


def test_seed_changes_the_weights(runs):
    assert files_sha(runs / "causal-seed") != files_sha(runs / "causal-whole")


def test_metrics_tell_loss_steps_and_tokens(runs):
    found = metrics(runs, "causal-full")
    steps, losses = zip(*found["loss_curve"], strict=True)
    assert steps == tuple(range(1, 33)) and losses[-1] < losses[0]
    assert found["train_loss"] == pytest.approx(sum(losses) / 32)
    assert found["steps"] == 32 and found["tokens"] > 1000 and found["cut"] == found["dropped"] == 0


@pytest.mark.parametrize("name, files", [
    ("causal-whole", {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}),
    ("causal-full", {"config.json", "model.safetensors", "chat_template.jinja"}),
    ("seq2seq-whole", {"adapter_config.json", "adapter_model.safetensors"}),
    ("seq2seq-full", {"config.json", "model.safetensors"}),
])
def test_model_folder_holds_a_model_and_no_path(runs, name, files):
    always = {"generation_config.json", "metrics.json", "samples.jsonl", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (runs / name).iterdir()} == files | always
    for path in (runs / name).iterdir():
        assert str(runs).encode() not in path.read_bytes(), path.name


def test_adapter_names_its_base_as_given(runs):
    assert json.loads((runs / "causal-whole" / "adapter_config.json").read_text())["base_model_name_or_path"] == "chat"


def test_rows_folder_is_left_alone(runs):
    assert {path.suffix for path in (runs / "rows").iterdir()} == {".arrow", ".json"}
    assert not list((runs / "rows").glob("cache-*"))


@pytest.mark.parametrize("name, error", [
    ("causal-too-long", "no row to train on: 32 given, 32 of them longer than max_length"),
    ("causal-odd", "batch_size=8 can't be cut into 1 processes × micro_batch=3"),
])
def test_mistakes_get_one_sentence(runs, name, error):
    assert status(runs, name) == 2 and f"DdmakeError: {error}" in log(runs, name)


def test_plain_transformers_and_peft_load_what_was_trained(runs, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    monkeypatch.chdir(runs)
    full = AutoModelForCausalLM.from_pretrained("causal-full")
    assert full.generation_config.eos_token_id in (3, [3])
    for name, auto in [("causal-whole", AutoModelForCausalLM), ("seq2seq-whole", AutoModelForSeq2SeqLM)]:
        base = json.loads(Path(name, "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(auto.from_pretrained(base), name)
        changed = [weight for label, weight in model.named_parameters() if "lora_B" in label]
        assert changed and all(weight.abs().sum() > 0 for weight in changed)


def test_loss_is_taken_on_the_answer_alone(runs):
    from ddmake.backends.loading import load_tokenizer
    from ddmake.trainers.causal import Encoder
    from ddmake.trainers.common import IGNORED, Settings

    row = {"prompt": "repeat: red", "completion": "red"}
    learned = {}
    for base in ("chat", "plain"):
        tokenizer = load_tokenizer(runs / base)
        encoder = Encoder(tokenizer, [tokenizer.eos_token_id], Settings(runs / base, base, 1e-3, separator=" => "), 99)
        found = encoder(row)
        kept = [token for token in found["labels"] if token != IGNORED]
        learned[base] = (tokenizer.decode(found["input_ids"]), tokenizer.decode(kept))
    assert learned["plain"] == ("repeat: red => red</s>", "red</s>")
    whole = "<|im_start|>user\nrepeat: red<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    assert learned["chat"] == (whole, "red<|im_end|>\n")


def test_every_assistant_turn_of_messages_is_learned(runs):
    from ddmake.backends.loading import load_tokenizer
    from ddmake.trainers.causal import Encoder
    from ddmake.trainers.common import IGNORED, Settings

    tokenizer = load_tokenizer(runs / "chat")
    encoder = Encoder(tokenizer, [tokenizer.eos_token_id], Settings(runs / "chat", "chat", 1e-3), 99)
    roles = ("user", "assistant", "user", "assistant")
    found = encoder({"messages": [{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)]})
    kept = [token for token in found["labels"] if token != IGNORED]
    assert tokenizer.decode(kept) == "assistant 1<|im_end|>\nassistant 3<|im_end|>\n"
    assert len(found["labels"]) == len(found["input_ids"])


def test_recipes_train_and_compare(runs, monkeypatch):
    """The adapter's answers score above its base's, on rows that it was trained on."""
    from datasets import Dataset
    from small_models import pairs

    from ddmake.errors import DdfileError
    from ddmake.rules.evaluation import evaluate
    from ddmake.rules.training import examples

    monkeypatch.chdir(runs)
    rows = Dataset.from_list([*pairs(12), {"prompt": "repeat: x", "completion": None}])
    prompt = Prompt()
    shown = examples(rows, prompt, "completion", None)
    assert len(shown) == 12 and shown[0]["prompt"][0]["role"] == "user"

    def short(answer: str, row: dict) -> bool:
        return len(answer) < 9

    found = pa.Table.from_batches(list(evaluate.function(
        {"base": Greedy("chat"), "tuned": Greedy("causal-full")}, rows, prompt=prompt, reference="completion",
        metrics=["rouge_l", "exact_match", short]))).to_pylist()
    assert [row["model"] for row in found] == ["base", "tuned"] and {row["rows"] for row in found} == {12}
    assert found[1]["rouge_l"] > found[0]["rouge_l"] and 0 <= found[1]["short"] <= 1
    with pytest.raises(DdfileError, match="no metric 'rouge_3'.*Did you mean 'rouge_l'"):
        list(evaluate.function({}, rows, prompt=prompt, reference="completion", metrics=["rouge_3"]))


def test_recipe_trains_an_adapter_on_an_adapter(runs, monkeypatch):
    from ddmake.backends.base import Request
    from ddmake.backends.hf import LocalModel

    assert metrics(runs, "recipe").keys() >= {"eval_loss", "train_loss"}
    assert "finetune: 1 of 25 rows left out: null in prompt, completion" in log(runs, "recipe")
    monkeypatch.chdir(runs)
    config = json.loads(Path("recipe/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "causal-whole"
    backend = LocalModel(Path("recipe"), sampling={"temperature": 0, "max_tokens": 8})
    request = Request(({"role": "user", "content": "repeat: red"},))
    assert [answer.error for _, answer in backend.answers([(0, 0, request)])] == [None]


class Greedy:
    """What a recipe sees of a model that is asked."""

    def __init__(self, folder: str):
        from ddmake.backends.hf import LocalModel

        self.model = LocalModel(Path(folder), sampling={"temperature": 0, "max_tokens": 16})

    def complete(self, prompts: list) -> list[str]:
        from ddmake.backends.base import Request

        found = dict(self.model.answers((number, 0, Request(tuple(turns))) for number, turns in enumerate(prompts)))
        return [found[number] for number in range(len(prompts))]


class Prompt:
    """What a recipe sees of a template."""

    def messages(self, **row: object) -> tuple[dict[str, object], ...]:
        return ({"role": "user", "content": row["prompt"]},)


def test_seconds_between_saves_grow_with_what_a_save_takes():
    from transformers import TrainerControl, TrainerState

    from ddmake.trainers.checkpoints import Saver

    saver, control = Saver(Path(), {}, 5.0), TrainerControl(should_log=True)
    saver.on_step_end(None, TrainerState(global_step=3, max_steps=9), control)
    assert not control.should_save, "none is due yet"
    saver.last -= 61
    saver.on_step_end(None, TrainerState(global_step=9, max_steps=9), control)
    assert not control.should_save, "the last step's weights go to the model folder"
    saver.on_step_end(None, TrainerState(global_step=4, max_steps=9), control)
    assert control.should_save and saver.seconds() >= 5 and torch.get_num_threads() >= 1
