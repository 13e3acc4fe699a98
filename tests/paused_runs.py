"""Trains small models whose time is over twice, and goes on with them each time. Run as: python tests/paused_runs.py FOLDER

`test_paused.py` runs this once and looks at what lies in the folder.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import online_runs
import process_runs
import small_models
from training_runs import child

from ddmake.trainers import checkpoints, common, warned
from ddmake.trainers.launch import launch
from ddmake.trainers.pausing import Paused
from ddmake.trainers.rewards import Task

OFFLINE = {kind: replace(settings, epochs=3) for kind, (_, settings) in process_runs.EVALUATED.items() if kind != "sft"}
TRAINERS = {kind: trainer for kind, (trainer, _) in {**process_runs.EVALUATED, **online_runs.KINDS}.items()}
ONLINE = {kind: settings for kind, (_, settings) in online_runs.KINDS.items()}
ROWS = 32
WARNED_AT = (0.2, 0.6)  # of all steps


def given(kind: str) -> tuple[Any, Any]:
    """Return what a kind of training learns from, and what it is watched on."""
    if kind in ONLINE:
        return Task(online_runs.questions(), [online_runs.vowels]), None
    return process_runs.uneven(kind, ROWS, 0), process_runs.uneven(kind, 4, 1)


def fit(kind: str, name: str, warned_at: float = 2.0, **changes: Any) -> None:
    """Train in a child; once that share of the steps is told of, its time is over."""
    settings, warning = replace({**OFFLINE, **ONLINE}[kind], **changes), Path(f"{name}.warned")
    rows, held = given(kind)
    warning.unlink(missing_ok=True)

    def progress(step: int, steps: int, note: str) -> None:
        if step >= warned_at * steps and note.startswith(("loss", "reward")):
            warning.touch()

    def work() -> None:
        os.environ[warned.WARNED] = str(warning.resolve())
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        try:
            launch(TRAINERS[kind].train, rows, held, settings, Path(name), kept, progress)
        except Paused as paused:
            with Path(f"{name}.paused").open("a") as file:
                file.write(json.dumps([paused.step, paused.gained]) + "\n")

    child(name, work)


def both(kind: str, name: str, **changes: Any) -> None:
    """Train once as it is, and once with two breaks."""
    fit(kind, f"{name}-whole", **changes)
    for share in (*WARNED_AT, 2.0):
        fit(kind, f"{name}-broken", share, **changes)


def too_late() -> None:
    """Begin a training whose time is over before it has taken a step."""
    Path("late.now").touch()
    os.environ[warned.WARNED] = str(Path("late.now").resolve())
    for kind in ("causal", "ppo"):
        Path(f"late-{kind}.checkpoints").mkdir()
        rows, held = given(kind)
        try:
            launch(TRAINERS[kind].train, rows, held, {**OFFLINE, **ONLINE}[kind], Path(f"late-{kind}"),
                   Path(f"late-{kind}.checkpoints"), lambda *told: None)
        except Paused as paused:
            Path(f"late-{kind}.paused").write_text(json.dumps([paused.step, paused.gained]))


def taken_up(kind: str) -> None:
    """Train; half-way somebody else takes the training up."""
    def progress(step: int, steps: int, note: str) -> None:
        if step >= steps / 2 and note.startswith(("loss", "reward")):
            (Path(f"taken-{kind}.checkpoints") / "owner").write_text("somebody else")

    def work() -> None:
        checkpoints.SECONDS = checkpoints.SHARE = 0
        Path(f"taken-{kind}.checkpoints").mkdir()
        rows, held = given(kind)
        launch(TRAINERS[kind].train, rows, held, {**OFFLINE, **ONLINE}[kind], Path(f"taken-{kind}"),
               Path(f"taken-{kind}.checkpoints"), progress)

    child(f"taken-{kind}", work)


def main(folder: Path) -> None:
    """Make all runs that test_paused.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    small_models.t5(Path("t5"))
    small_models.bert(Path("bert"))
    for kind in (*OFFLINE, *ONLINE):
        both(kind, kind)
    both("causal", "best", best=True, evaluate_every=2)
    both("causal", "two", processes=2, epochs=8)
    both("ppo", "two-ppo", processes=2, micro_batch=16)
    child("late", too_late)
    for kind in ("causal", "ppo"):
        taken_up(kind)
    common.POINTS = 2  # so that most steps aren't logged
    both("causal", "seldom")
    both("ppo", "seldom-ppo")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
