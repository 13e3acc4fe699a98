"""Trainings whose time is over twice: they stop after a step, go on in other processes, and end in the weights of whole ones.

`paused_runs.py` trains everything once; the tests look at what it left.
"""

import json
from pathlib import Path

import pytest
from paused_runs import OFFLINE, ONLINE
from trained import log, metrics, train_all, without_clock

from ddmake.backends.models import files_sha
from ddmake.trainers.checkpoints import damage, numbered

pytestmark = pytest.mark.slow

FEW = ("seldom", "seldom-ppo")  # of whose steps most aren't logged, so that they hear of it once
MANY = ("two", "two-ppo")  # in two processes, which may hear of it some steps later


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("paused_runs.py", tmp_path_factory.mktemp("paused"))


def breaks(runs: Path, name: str) -> list[tuple[int, int]]:
    """Return after which steps a training stopped, and how many it had gained."""
    return [tuple(json.loads(line)) for line in (runs / f"{name}-broken.paused").read_text().splitlines()]


@pytest.mark.parametrize("name", [*OFFLINE, *ONLINE, "best", *FEW, *MANY])
def test_a_training_with_breaks_ends_in_the_same_weights(runs, name):
    whole, broken = (metrics(runs, f"{name}-{how}") for how in ("whole", "broken"))
    assert files_sha(runs / f"{name}-broken") == files_sha(runs / f"{name}-whole")
    found = breaks(runs, name)
    assert len(found) >= (1 if name in FEW else 2) and all(0 < step < whole["steps"] for step, _ in found)
    assert [gained for _, gained in found] == [step - before for (step, _), before in zip(found, [0, *(step for step, _ in found)])]
    if name not in FEW:
        assert without_clock(broken) == without_clock(whole)


@pytest.mark.parametrize("name", FEW)
def test_a_break_after_a_step_that_is_not_logged_adds_a_point_to_the_curve(runs, name):
    whole, broken = (metrics(runs, f"{name}-{how}") for how in ("whole", "broken"))
    (step, _), = breaks(runs, name)
    points = [[at for at, _ in found["loss_curve"]] for found in (whole, broken)]
    assert step not in points[0] and points[1] == sorted([*points[0], step])
    assert broken["train_loss"] == pytest.approx(whole["train_loss"])


def test_grpo_stops_where_new_answers_are_drawn(runs):
    assert metrics(runs, "grpo-whole")["settings"]["passes"] == 2
    assert all(step % 2 == 0 for step, _ in breaks(runs, "grpo"))


def test_two_checkpoints_are_kept(runs):
    assert [path.name for path in numbered(runs / "causal-broken.checkpoints")] == [f"checkpoint-{step}" for step, _ in
                                                                                    reversed(breaks(runs, "causal"))]


@pytest.mark.parametrize("kind", ["causal", "ppo"])
def test_a_training_whose_time_is_over_at_once_gains_nothing(runs, kind):
    assert (runs / "late.status").read_text() == "0", log(runs, "late")
    assert json.loads((runs / f"late-{kind}.paused").read_text()) == [0, 0]
    assert not numbered(runs / f"late-{kind}.checkpoints")


@pytest.mark.parametrize("kind", ["causal", "ppo"])
def test_a_training_that_another_process_has_taken_up_writes_no_more(runs, kind):
    assert (runs / f"taken-{kind}.status").read_text() == "2"
    assert "DdmakeError: this training was taken up by another process, and goes on there." in log(runs, f"taken-{kind}")
    sound = [path for path in numbered(runs / f"taken-{kind}.checkpoints") if damage(path) is None]
    assert len(sound) == 2 and not (runs / f"taken-{kind}" / "metrics.json").exists()
