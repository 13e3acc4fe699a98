"""Trains small models on preferences, in children that are killed at times. Run as: python tests/preference_runs.py FOLDER

`test_preference_trainers.py` runs this once and looks at what lies in the folder.
"""

import json
import os
import random
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import small_models
from datasets import Dataset
from training_runs import child

from ddmake.ddfile.specs import Lora
from ddmake.rules.aligning import LOSSES
from ddmake.trainers import checkpoints, dpo, kto, orpo, reward

LORA = Lora(4, 8, 0.1, "all-linear")
GIVEN = dict(base=Path("chat"), base_name="chat", learning_rate=5e-3, peft=LORA, epochs=2, batch_size=8, micro_batch=4)
KINDS = {"dpo": (dpo, dpo.Direct(**GIVEN)), "kto": (kto, kto.Unpaired(**GIVEN)), "orpo": (orpo, orpo.OddsRatio(**GIVEN)),
         "reward": (reward, reward.Rewarding(**GIVEN))}
FULL = dict(peft=None, learning_rate=2e-3, base=Path("plain"), base_name="plain", separator=" => ", epochs=6)
KILLED_AT = 14  # of 24 steps: in the second epoch


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return pairs that are quickly told apart: what is chosen names colours and pets, what is rejected what stands outdoors."""
    draw, half = random.Random(seed), len(small_models.WORDS) // 2
    return [{"prompt": f"repeat: {number % 7}", "chosen": " ".join(draw.choices(small_models.WORDS[:half], k=3)),
             "rejected": " ".join(draw.choices(small_models.WORDS[half:], k=3))} for number in range(count)]


def shown(kind: str, rows: list[dict[str, str]]) -> Dataset:
    """Return rows as a trainer is shown them."""
    if kind != "kto":
        return Dataset.from_list(rows)
    return Dataset.from_list([{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                              for row in rows for side in ("chosen", "rejected")])


def fit(kind: str, name: str, *, killed_at: int = 0, validation: bool = False, rows: list[dict] | None = None,
        **changes: object) -> None:
    """Train in a child; SIGKILL hits it once the loss of step `killed_at` is told, which is before that step is saved."""
    trainer, settings = KINDS[kind]
    told = []

    def progress(step: int, steps: int, note: str) -> None:
        told.append([step, steps, note])
        if step == killed_at and note.startswith("loss"):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        examples = shown(kind, rows or pairs(48 if kind == "kto" else 96))
        held = shown(kind, pairs(8, 1)) if validation else None
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        trainer.train(examples, held, replace(settings, **changes), Path(name), kept, progress)
        Path(f"{name}.progress").write_text(json.dumps(told))

    child(name, work)


def main(folder: Path) -> None:
    """Make all runs that test_preference_trainers.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    for kind in KINDS:
        checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
        fit(kind, f"{kind}-whole")
        fit(kind, f"{kind}-killed", killed_at=KILLED_AT)
        shutil.copy(f"{kind}-killed.status", f"{kind}-killed.first")
        fit(kind, f"{kind}-killed")
        checkpoints.SECONDS = 60.0
        fit(kind, f"{kind}-watched", validation=True)
        fit(kind, f"{kind}-full", **FULL)
    for kind in ("dpo", "orpo", "reward"):
        fit(kind, f"{kind}-cut", **{**FULL, "micro_batch": 2})
    fit("dpo", "dpo-onto", base=Path("dpo-whole"), base_name="dpo-whole", epochs=1)
    fit("reward", "reward-onto", base=Path("dpo-whole"), base_name="dpo-whole", peft=None, learning_rate=1e-3)
    fit("dpo", "dpo-losses", losses=LOSSES, weights=(1.0,) * len(LOSSES), label_smoothing=0.1)
    fit("reward", "reward-margin", rows=[{**row, "margin": 5.0} for row in pairs(96)])
    fit("reward", "reward-centred", center=1.0)
    long = {"prompt": "repeat: " + "red " * 300, "chosen": "red", "rejected": "stone"}
    longer = {"prompt": "repeat: 1", "chosen": "red " * 300, "rejected": "stone"}
    for kind in ("dpo", "reward"):
        fit(kind, f"{kind}-long", rows=[*pairs(8), long, longer])
    fit("dpo", "dpo-too-long", max_length=4)
    fit("orpo", "orpo-odd", micro_batch=3)
    fit("kto", "kto-single", micro_batch=1)
    fit("dpo", "dpo-targets", peft=replace(LORA, targets=("q_proj", "v_prj")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
