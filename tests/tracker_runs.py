"""Trains small models while trackers are told, which are stand-ins. Run as: python tests/tracker_runs.py FOLDER

`test_trackers.py` runs this once and looks at what lies in the folder.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("fake_trackers")))

import online_runs  # noqa: E402
import small_models  # noqa: E402
from datasets import Dataset  # noqa: E402
from training_runs import SETTINGS, child, fit  # noqa: E402

from ddmake.trainers import causal, checkpoints, tracking  # noqa: E402
from ddmake.trainers.launch import launch  # noqa: E402

BOTH = ("wandb", "trackio")


def told(name: str, wandb: str = "", *, key: bool = True, **changes: object) -> None:
    """Train in a child; what trackers are told goes to NAME.told."""
    begin(name, wandb, key)
    fit("causal", name, **{"trackers": BOTH, **changes})


def begin(name: str, wandb: str = "", key: bool = True) -> None:
    """Say where trackers write and what is wrong with one of them."""
    os.environ.update(FAKE_TOLD=str(Path(f"{name}.told").resolve()), FAKE_WANDB=wandb, WANDB_API_KEY="secret")
    if not key:
        del os.environ["WANDB_API_KEY"]


def one_after_the_other() -> None:
    """Train two models in one process, as a warm worker does."""
    for name in ("first", "second"):
        Path(f"{name}.checkpoints").mkdir()
        settings = replace(SETTINGS, base=Path("chat"), base_name="chat", epochs=1, trackers=BOTH)
        causal.train(Dataset.from_list(small_models.pairs(16)), None, settings, Path(name), Path(f"{name}.checkpoints"),
                     lambda *_: None)


def in_two_processes() -> None:
    """Train a model in two processes."""
    settings = replace(SETTINGS, base=Path("chat"), base_name="chat", epochs=1, trackers=BOTH, processes=2, micro_batch=None)
    Path("two.checkpoints").mkdir()
    launch(causal.train, Dataset.from_list(small_models.pairs(16)), None, settings, Path("two"), Path("two.checkpoints"),
           lambda *_: None)


def main(folder: Path) -> None:
    """Make all runs that test_trackers.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        os.environ.pop(name, None)
    small_models.causal(Path("chat"), chat=True)
    fit("causal", "plain")
    told("told", validation=True, evaluate_every=3)
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
    told("killed", killed_at=5)
    told("killed")
    checkpoints.SECONDS = 60.0
    told("no-number", peft=None, learning_rate=1e30, warmup=1)
    told("unreached", "unreached")
    told("fails", "fails")
    told("keyless", key=False)
    tracking.ENDING = 0.5
    told("hangs", "hangs")
    tracking.ENDING = 60.0
    begin("twice")
    child("twice", one_after_the_other)
    begin("two")
    child("two", in_two_processes)
    begin("ppo")
    online_runs.fit("ppo", "ppo", trackers=BOTH)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
