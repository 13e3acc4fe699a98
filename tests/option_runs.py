"""Trains small models with the options that all trainings share. Run as: python tests/option_runs.py FOLDER

`test_training_options.py` runs this once and looks at what lies in the folder.
"""

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import preference_runs
import small_models
import torch
import training_runs
from datasets import Dataset
from training_runs import SETTINGS, child, fit
from transformers import AutoModelForCausalLM

from ddmake.trainers import causal, checkpoints, merging

ROWS = small_models.pairs(48)
TURNED = [{**row, "completion": ROWS[-1 - number]["completion"]} for number, row in enumerate(ROWS)]  # nothing to learn in the end
WATCHED = dict(peft=None, learning_rate=5e-3, epochs=12, patience=2, evaluate_every=3)
KILLED_AT = (8, 20)


def watched(name: str, *, killed_at: int = 0, harm: Callable[[], object] = lambda: None, **changes: object) -> None:
    """Train with a validation set whose loss falls and then rises."""
    settings = replace(SETTINGS, base=Path("chat"), base_name="chat", **{**WATCHED, **changes})

    def progress(step: int, steps: int, note: str) -> None:
        if step == killed_at and note.startswith("loss"):
            harm()
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        causal.train(Dataset.from_list(ROWS[:24]), Dataset.from_list(TURNED[24:]), settings, Path(name), kept, progress)

    child(name, work)


def best_ones() -> None:
    """Early stopping, whole and killed."""
    checkpoints.KEEP = 99
    watched("stopped")
    checkpoints.KEEP = 2
    watched("unstopped", patience=None, best=True)
    for step in KILLED_AT:
        name = f"stopped-killed-{step}"
        watched(name, killed_at=step, harm=lambda name=name: Path(f"{name}.checkpoints", checkpoints.BEST).unlink(missing_ok=True))
        shutil.copy(f"{name}.status", f"{name}.first")
        watched(name)


def killed(name: str, step: int = 5, then: Callable[[Path], object] = lambda checkpoint: None, again: dict | None = None,
           **changes: object) -> None:
    """Train, be killed, and train again with other settings perhaps."""
    fit("causal", name, killed_at=step, **changes)
    then(checkpoints.numbered(Path(f"{name}.checkpoints"))[0])
    fit("causal", name, **{**changes, **(again or {})})


def of_another_trl(checkpoint: Path) -> None:
    """Have a checkpoint's seal tell of another version."""
    seal = checkpoint / checkpoints.SEAL
    told = json.loads(seal.read_text())
    told["circumstances"]["trl"] = "0.0.1"
    seal.write_text(json.dumps(told))


def full(name: str) -> None:
    """Train while no file may grow beyond 30 kB from the fourth step on, and then with room."""
    told = []

    def progress(step: int, steps: int, note: str) -> None:
        told.append(step)
        if step == 4 and note.startswith("loss"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    settings = replace(SETTINGS, base=Path("chat"), base_name="chat")
    Path(f"{name}.checkpoints").mkdir()
    child(name, lambda: causal.train(Dataset.from_list(small_models.pairs(32)), None, settings, Path(name),
                                     Path(f"{name}.checkpoints"), progress))
    shutil.copy(f"{name}.status", f"{name}.first")
    fit("causal", name)


def counted(key: str, rows: list[dict], **changes: object) -> None:
    """Train as a job of a project does, and print how many rows were made tokens."""
    made = []

    class Counting(causal.Encoder):
        def __call__(self, row: dict) -> dict:
            made.append(row)
            return super().__call__(row)

    def work() -> None:
        causal.Encoder = Counting
        kept = Path("project", "scratch", key, "checkpoints")
        kept.mkdir(parents=True)
        settings = replace(SETTINGS, base=Path("chat"), base_name="chat", epochs=1, **changes)
        causal.train(Dataset.from_list(rows), None, settings, Path(f"counted-{key}"), kept, lambda *_: None)
        print(f"{len(made)} encoded", flush=True)

    child(f"counted-{key}", work)


def poisoned() -> None:
    """Make a base whose loss is no number."""
    model = AutoModelForCausalLM.from_pretrained("chat")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.inf
    model.save_pretrained("poisoned")
    for path in Path("chat").glob("*token*"):
        shutil.copy(path, "poisoned")
    shutil.copy("chat/chat_template.jinja", "poisoned")


def merged(name: str, dtype: str = "float32") -> None:
    """Merge an adapter in a child."""
    child(f"merged-{name}", lambda: merging.merge(Path(name), dtype, Path(f"merged-{name}")))


def main(folder: Path) -> None:
    """Make all runs that test_training_options.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    small_models.t5(Path("t5"))
    child("poisoned", poisoned)
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
    best_ones()
    fit("causal", "whole")
    fit("causal", "cut", micro_batch=2)
    killed("marked", again={"micro_batch": 2})
    killed("restarted", again={"micro_batch": 2, "on_change": "restart"})
    killed("other", then=of_another_trl)
    fit("causal", "twice", killed_at=3)
    of_another_trl(checkpoints.numbered(Path("twice.checkpoints"))[0])
    fit("causal", "twice", killed_at=6)
    fit("causal", "twice")
    fit("causal", "packed", packing=True, max_length=64)
    killed("packed-killed", 3, packing=True, max_length=64)
    full("full")
    fit("causal", "too-fast", peft=None, learning_rate=1e30, warmup=1)
    training_runs.KINDS["poisoned"] = (causal, "poisoned")
    fit("poisoned", "no-number")
    checkpoints.SECONDS = 60.0
    fit("causal", "again", gradient_checkpointing=True)
    fit("seq2seq", "t5-whole")
    fit("seq2seq", "t5-again", gradient_checkpointing=True)
    fit("causal", "deterministic", deterministic=True)
    fit("causal", "learned", peft=None, epochs=10, learning_rate=5e-3)
    for number, changes in enumerate(({}, {"learning_rate": 1e-3}, {"separator": " => "}, {"max_length": 32})):
        counted(f"k{number}", ROWS, **changes)
    counted("k4", TURNED)
    preference_runs.fit("reward", "reward", epochs=1)
    preference_runs.fit("dpo", "dpo", validation=True, epochs=1, best=True, evaluate_every=4)
    for name in ("whole", "t5-whole", "reward"):
        merged(name)
    child("merged-chat", lambda: merging.merge(Path("chat"), "float32", Path("merged-chat")))
    if find_spec("tensorboard"):
        fit("causal", "tensorboard", trackers=("tensorboard",))
    if find_spec("bitsandbytes"):
        for bits in ("nf4", "int8"):
            fit("causal", bits, quantize=bits, epochs=6, learning_rate=1e-2)
        fit("causal", "onto", base=Path("whole"), base_name="whole", quantize="nf4", epochs=1)
        checkpoints.SECONDS = 0
        killed("nf4-killed", 10, quantize="nf4", epochs=6, learning_rate=1e-2)
        checkpoints.SECONDS = 60.0
        for kind in preference_runs.KINDS:
            preference_runs.fit(kind, f"nf4-{kind}", quantize="nf4", epochs=1)
        merged("nf4")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
