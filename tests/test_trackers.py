"""What trackers are told of a training, and that none of them keeps it waiting, changes it, or has it fail.

`tracker_runs.py` trains everything once, with stand-ins for Weights & Biases and Trackio; the tests look at what it left.
"""

import json
from pathlib import Path

import pytest
from trained import log, metrics, train_all

from ddmake.backends.models import files_sha

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("tracker_runs.py", tmp_path_factory.mktemp("tracked"))


def told(runs: Path, name: str, *events: str) -> list[dict]:
    """Return what trackers were told of a training, in its order."""
    lines = [json.loads(line) for line in (runs / f"{name}.told").read_text().splitlines()]
    return [line for line in lines if not events or line["event"] in events]


def curve(lines: list[dict], name: str) -> list[list[float]]:
    """Return a curve as it was told."""
    return [[line["step"], line["noted"][name]] for line in lines if name in line["noted"]]


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_is_told_what_the_metrics_hold(runs, tracker):
    """The last step's evaluation comes after the trainer has said that it ends."""
    found, lines = metrics(runs, "told"), told(runs, "told", f"{tracker}.log")
    assert curve(lines, "train/loss") == found["loss_curve"] and curve(lines, "eval/loss") == found["eval_loss_curve"]
    assert [step for step, _ in found["eval_loss_curve"]] == [3, 6, 8]
    begun, = told(runs, "told", f"{tracker}.init")
    assert begun["config"] == found["settings"] and begun["project"] == runs.name and begun["name"].startswith("told-")


def test_names_say_what_is_learned_and_no_clock(runs):
    names = {name for line in told(runs, "told", "wandb.log") for name in line["noted"]}
    assert names >= {"train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "eval/loss"}
    assert not [name for name in names if "runtime" in name or "second" in name or "num_tokens" in name or "train_loss" in name]


def test_nothing_of_this_machine_and_no_key_is_told(runs):
    for name in ("told", "two", "ppo"):
        for line in told(runs, name):
            assert "secret" not in json.dumps(line), "the key"
            assert str(runs.parent) not in json.dumps({**line, "dir": ""}), "a folder, but for the one that it writes to"
    given = told(runs, "told", "wandb.init")[0]["settings"]
    assert given["console"] == "off" and given["x_disable_meta"] and given["x_disable_machine_info"] and given["disable_git"]
    assert not given["x_save_requirements"] and not given["save_code"]
    assert not list(runs.glob("wandb*")) and not list(runs.glob("runs*")), "no stray folder"


@pytest.mark.parametrize("name", ["told", "killed", "unreached", "fails", "hangs"])
def test_the_model_is_the_same_with_and_without(runs, name):
    assert metrics(runs, name)["loss_curve"] == metrics(runs, "plain")["loss_curve"]
    assert files_sha(runs / name) == files_sha(runs / "plain")


def test_a_killed_training_goes_on_as_the_same_run(runs):
    first, second = told(runs, "killed", "wandb.init")
    assert first["id"] == second["id"] and {first["resume"], second["resume"]} == {"allow"}
    assert [line["resume"] for line in told(runs, "killed", "trackio.init")] == ["never", "allow"]
    loss = metrics(runs, "plain")["loss_curve"]
    lines = told(runs, "killed")
    begun = [number for number, line in enumerate(lines) if line["event"] == "wandb.init"][-1]
    again = [line for line in lines[begun:] if line["event"] == "wandb.log"]
    assert curve(again, "train/loss") == loss, "what is written here tells all of it"
    since = [line for line in lines[begun:] if line["event"] == "trackio.log"]
    assert curve(since, "train/loss") == loss[4:], "that of the checkpoint, of step 4, is known there"


def test_trainings_in_one_process_are_runs_of_their_own(runs):
    assert (runs / "twice.status").read_text() == "0", log(runs, "twice")
    lines = told(runs, "twice", "wandb.init", "wandb.finish")
    assert [line["event"] for line in lines] == ["wandb.init", "wandb.finish"] * 2
    assert lines[0]["id"] == lines[1]["id"] != lines[2]["id"] == lines[3]["id"]


def test_several_processes_tell_once(runs):
    assert (runs / "two.status").read_text() == "0", log(runs, "two")
    steps = [line["step"] for line in told(runs, "two", "trackio.log")]
    assert len(told(runs, "two", "wandb.init")) == len(told(runs, "two", "trackio.init")) == 1
    assert steps == [1, 2]


def test_a_training_of_our_own_tells_the_same_way(runs):
    found, lines = metrics(runs, "ppo"), told(runs, "ppo", "wandb.log")
    assert curve(lines, "train/reward") == found["reward_curve"] and curve(lines, "train/kl") == found["kl_curve"]
    assert told(runs, "ppo", "wandb.init")[0]["config"] == found["settings"]
    assert told(runs, "ppo", "wandb.finish")[0]["code"] == 0


def test_a_training_that_fails_ends_its_run(runs):
    assert (runs / "no-number.status").read_text() == "2"
    assert told(runs, "no-number", "wandb.finish")[0]["code"] == 1
    assert told(runs, "no-number", "wandb.teardown") and told(runs, "no-number", "trackio.finish")


def test_a_service_that_is_not_reached_is_written_for_instead(runs):
    begun, = told(runs, "unreached", "wandb.init")
    assert begun["mode"] == "offline"
    assert curve(told(runs, "unreached", "wandb.log"), "train/loss") == metrics(runs, "plain")["loss_curve"]
    said = f"trackers: wandb isn't reached (no answer from there). Send it later: wandb sync wandb/offline-run-{begun['id']}\n"
    assert said in log(runs, "unreached")


@pytest.mark.parametrize("name, said", [
    ("fails", "trackers: wandb failed (RuntimeError: the disk is full); the training goes on without it\n"),
    ("hangs", "trackers: wandb hasn't taken all of it; the training doesn't wait\n"),
])
def test_a_tracker_that_goes_wrong_is_told_of_and_left_behind(runs, name, said):
    assert said in log(runs, name)
    assert curve(told(runs, name, "trackio.log"), "train/loss") == metrics(runs, name)["loss_curve"], "the other is told all"


def test_a_key_that_is_not_there_is_said_before_the_first_step(runs):
    assert (runs / "keyless.status").read_text() == "2" and not (runs / "keyless.told").exists()
    assert "DdmakeError: trackers='wandb': there is no key of Weights & Biases here. Give one by `wandb login`" in log(runs, "keyless")
    assert not (runs / "keyless").exists()
