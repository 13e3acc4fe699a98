"""Distils small models, in children that are killed at times. Run as: python tests/distill_runs.py FOLDER

The teacher is another random model of the same tokenizer, wider, whose probabilities are sharp. `test_distilling.py` runs this
once and looks at what lies in the folder.
"""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import small_models
import torch
from datasets import Dataset
from training_runs import child
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ddmake import toys
from ddmake.ddfile.specs import Lora
from ddmake.rules.distilling import distill
from ddmake.trainers import checkpoints
from ddmake.trainers import distill as trainer

LORA = Lora(8, 16, 0.1, "all-linear")
SETTINGS = trainer.Distilled(base=Path("chat"), base_name="chat", teacher=Path("teacher"), teacher_name="teacher",
                             learning_rate=5e-3, peft=LORA, epochs=4, batch_size=8, micro_batch=4)
FULL = dict(peft=None, learning_rate=2e-3, base=Path("plain"), base_name="plain", teacher=Path("plain-teacher"), separator=" => ",
            epochs=6)
KILLED_AT = 14  # of 24 steps


def make_teacher(folder: Path, of: Path, extra: int) -> None:
    """Make a model with another's tokenizer, and some more outputs that stand for nothing."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(of)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer) + extra, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.4)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fit(name: str, *, killed_at: int = 0, validation: bool = False, rows: list[dict] | None = None, **changes: object) -> None:
    """Train in a child; SIGKILL hits it once the loss of step `killed_at` is told, which is before that step is saved."""
    def progress(step: int, steps: int, note: str) -> None:
        if step == killed_at and note.startswith("loss"):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        held = Dataset.from_list(small_models.pairs(56)[48:]) if validation else None
        trainer.train(Dataset.from_list(rows or small_models.pairs(48)), held, replace(SETTINGS, **changes), Path(name), kept, progress)

    child(name, work)


def by_recipe() -> None:
    """Distil by the recipe: the teacher is an adapter that was distilled itself, one row is a chat and one has a null."""
    rows = [{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
            for row in small_models.pairs(16)] + [{"messages": None}]
    Path("recipe.checkpoints").mkdir()
    distill.function({"train": Dataset.from_list(rows)}, base=Path("chat"), teacher=Path("whole"), peft=LORA, messages="messages",
                     epochs=1.0, temperature=2.0, beta=0.5, alpha=0.5, learning_rate=5e-3, output=Path("recipe"),
                     checkpoints=Path("recipe.checkpoints"), progress=lambda done, total, note: None)


def main(folder: Path) -> None:
    """Train all that is looked at."""
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    small_models.t5(Path("t5"))
    make_teacher(Path("teacher"), Path("chat"), extra=3)
    make_teacher(Path("plain-teacher"), Path("plain"), extra=0)
    checkpoints.SECONDS = 0.0  # a checkpoint as often as it may be
    fit("whole")
    fit("watched", validation=True)
    fit("killed", killed_at=KILLED_AT)
    shutil.copy("killed.status", "killed.first")
    fit("killed")
    fit("full", **FULL)
    fit("cut", micro_batch=2, **FULL)
    fit("reverse", beta=1.0, **FULL)
    fit("labels", alpha=0.0, **FULL)
    fit("strange", teacher=toys.folder("tiny"), teacher_name="tiny")
    child("recipe", by_recipe)
    child("encoder", lambda: distill.function(
        Dataset.from_list(small_models.pairs(8)), base=Path("chat"), teacher=Path("t5"), output=Path("x"), checkpoints=Path("x"),
        progress=lambda done, total, note: None))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
