"""Trains small models on their own answers, in children that are killed at times. Run as: python tests/online_runs.py FOLDER

`test_online_trainers.py` runs this once and looks at what lies in the folder.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import small_models
from datasets import Dataset
from preference_runs import pairs
from training_runs import child

from ddmake.ddfile.specs import Lora
from ddmake.trainers import checkpoints, grpo, ppo, reward, rloo
from ddmake.trainers.launch import launch
from ddmake.trainers.reward import Rewarding
from ddmake.trainers.rewards import Question, Task, name_of

LORA = Lora(8, 16, 0.0, "all-linear")
ANSWERS = dict(base=Path("chat"), base_name="chat", rewards=("vowels",), weights=(1.0,), max_tokens=8, batch_size=32, micro_batch=32)
PPO = ppo.Proximal(**ANSWERS, learning_rate=1e-3, epochs=25, kl=0.2, kl_target=4.0, kl_horizon=1000)
KINDS = {
    "ppo": (ppo, replace(PPO, peft=LORA, learning_rate=1e-2, epochs=5)),
    "rloo": (rloo, rloo.LeaveOneOut(**ANSWERS, learning_rate=1e-2, peft=LORA, epochs=2, samples=8)),
    "grpo": (grpo, grpo.GroupRelative(**ANSWERS, learning_rate=1e-2, peft=LORA, epochs=2, samples=8, passes=2)),
}
SEEDS = range(5)
KILLED_AT = {"ppo": 12, "rloo": 9, "grpo": 14}  # of 20, 16 and 32 steps; rloo's is in the second epoch


def vowels(answer: str, row: dict) -> float:
    """A reward that is quickly learned."""
    return sum(letter in "aeiou" for letter in answer) / 4


def fails(answer: str, row: dict) -> float:
    """A reward that not every row suits."""
    return row["words"]


def questions(count: int = 32) -> list[Question]:
    """Return what is asked."""
    return [Question([{"role": "user", "content": row["prompt"]}], row, number)
            for number, row in enumerate(small_models.pairs(count))]


def fit(kind: str, name: str, *, killed_at: int = 0, held: bool = False, given: list | None = None,
        asked: list[Question] | None = None, **changes: object) -> None:
    """Train in a child; SIGKILL hits it once step `killed_at` is told of, which is before that step is saved."""
    trainer, settings = KINDS[kind]
    told = []

    def progress(step: int, steps: int, note: str) -> None:
        told.append([step, steps, note])
        if step == killed_at and note.startswith(("loss", "reward")):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        launch(trainer.train, Task(asked or questions(), given or [vowels]), questions()[:8] if held else None,
               replace(settings, **changes), Path(name), kept, progress)
        Path(f"{name}.progress").write_text(json.dumps(told))

    child(name, work)


def rewarding(name: str, base: str, peft: Lora | None) -> Callable[[], None]:
    """Return what trains a reward model, which likes colours and pets."""
    settings = Rewarding(base=Path(base), base_name=base, learning_rate=5e-3 if peft else 2e-3, peft=peft, epochs=4, batch_size=8,
                         separator=" => ")

    def work() -> None:
        Path(f"{name}.checkpoints").mkdir()
        reward.train(Dataset.from_list(pairs(48)), None, settings, Path(name), Path(f"{name}.checkpoints"), lambda *told: None)

    return work


def main(folder: Path) -> None:
    """Make all runs that test_online_trainers.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step that may have one
    for kind in KINDS:
        fit(kind, f"{kind}-whole")
        fit(kind, f"{kind}-killed", killed_at=KILLED_AT[kind])
        shutil.copy(f"{kind}-killed.status", f"{kind}-killed.first")
        fit(kind, f"{kind}-killed")
    checkpoints.SECONDS = 60.0
    for seed in SEEDS:
        fit("ppo", f"ppo-seed-{seed}", **{**vars(PPO), "seed": seed})
    fit("ppo", "ppo-free", **{**vars(PPO), "kl": 0.0})
    for kind in KINDS:
        short = {"epochs": 2 if kind == "ppo" else 0.5}
        fit(kind, f"{kind}-watched", held=True, **short)
        fit(kind, f"{kind}-cut", micro_batch=8, **short)
        fit(kind, f"{kind}-two", micro_batch=16, processes=2, **short)
        fit(kind, f"{kind}-full", base=Path("plain"), base_name="plain", separator=" => ", peft=None, learning_rate=1e-3, **short)
    child("taste", rewarding("taste", "plain", None))
    child("taste-lora", rewarding("taste-lora", "plain", LORA))
    for name, given in {"taste": [Path("taste")], "both": [Path("taste-lora"), vowels]}.items():
        weights = (1.0, 0.5)[:len(given)]
        fit("ppo", f"ppo-{name}", given=given, rewards=(*map(name_of, given),), weights=weights, epochs=1, passes=1)
    empty = [Question([{"role": "user", "content": "x " * 200}], {}, 1), *questions(3)]
    fit("ppo", "ppo-long", asked=empty, epochs=1, passes=1, missing_eos_penalty=7.0)
    fit("grpo", "grpo-too-long", max_tokens=250)
    fit("grpo", "grpo-few", asked=questions(3))
    fit("ppo", "ppo-raises", given=[fails])
    fit("rloo", "rloo-none", given=[lambda answer, row: None])
    fit("ppo", "ppo-nan", given=[lambda answer, row: float("nan")])
    fit("ppo", "ppo-no-reward-model", given=[Path("chat")])
    fit("ppo", "ppo-diverges", learning_rate=1e30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
