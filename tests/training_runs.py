"""Trains small models in child processes, some of which are killed. Run as: python tests/training_runs.py FOLDER

One process imports the libraries, and forks a child for each training: a fork after a backward pass would hang, so
the parent does none. `test_trainers.py` runs this once and looks at what lies in the folder.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import small_models
from datasets import Dataset, load_from_disk

from ddmake.ddfile.specs import Lora
from ddmake.errors import DdmakeError
from ddmake.rules.training import finetune
from ddmake.trainers import causal, checkpoints, seq2seq
from ddmake.trainers.common import Settings

LORA = Lora(4, 8, 0.1, "all-linear")
SETTINGS = Settings(base="", base_name="", learning_rate=3e-3, peft=LORA, epochs=2, batch_size=8, micro_batch=4)
KILLED_AT = (1, 6, 8)  # of 8 steps: before any checkpoint, in the second epoch, at the very end
KINDS = {"causal": (causal, "chat"), "plain": (causal, "plain"), "seq2seq": (seq2seq, "t5")}


def child(name: str, work: Callable[[], object]) -> None:
    """Do something in a forked child; how it ended goes to NAME.status, what it printed to NAME.log."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        log = os.open(f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 0
        try:
            work()
        except DdmakeError as error:
            print(f"DdmakeError: {error}", flush=True)
            code = 2
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    Path(f"{name}.status").write_text(str(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))


def fit(kind: str, name: str, *, killed_at: int = 0, validation: bool = False, rows: Dataset | None = None,
        **changes: object) -> None:
    """Train in a child; SIGKILL hits it once the loss of step `killed_at` is told, which is before that step is saved."""
    trainer, base = KINDS[kind]
    settings = replace(SETTINGS, **{"base": Path(base), "base_name": base, **changes})
    examples = rows or Dataset.from_list(small_models.pairs(32))
    told = []

    def progress(step: int, steps: int, note: str) -> None:
        told.append([step, steps, note])
        if step == killed_at and note.startswith("loss"):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        held = examples.select(range(8)) if validation else None
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        trainer.train(examples, held, settings, Path(name), kept, progress)
        Path(f"{name}.progress").write_text(json.dumps(told))

    child(name, work)


def kill_and_resume(kind: str, step: int, harm: Callable[[Path], object] | None = None, name: str = "") -> None:
    """Kill a training at a step, harm its newest checkpoint perhaps, and train again."""
    name = name or f"{kind}-killed-{step}"
    fit(kind, name, killed_at=step)
    shutil.copy(f"{name}.status", f"{name}.first")
    if harm:
        harm(checkpoints.numbered(Path(f"{name}.checkpoints"))[0])
    fit(kind, name)


def by_recipe() -> None:
    """Train an adapter on a model with an adapter, through the recipe."""
    rows = Dataset.from_list([*small_models.pairs(24), {"prompt": "repeat: x", "completion": None}])
    Path("recipe.checkpoints").mkdir()
    finetune.function({"train": rows, "validation": rows.select(range(4)), "test": rows}, base=Path("causal-whole"),
                      peft=LORA, epochs=1.0, learning_rate=1e-2, output=Path("recipe"),
                      checkpoints=Path("recipe.checkpoints"), progress=lambda done, total, note: None)


def cut_optimizer(checkpoint: Path) -> None:
    """Leave a checkpoint as a crash of the machine may: its optimizer's file is short."""
    os.truncate(checkpoint / "optimizer.pt", 1000)


def main(folder: Path) -> None:
    """Make all runs that test_trainers.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.causal(Path("plain"), chat=False)
    small_models.t5(Path("t5"))
    Dataset.from_list(small_models.pairs(32)).save_to_disk("rows")
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
    for kind in ("causal", "seq2seq"):
        fit(kind, f"{kind}-whole")
        for step in KILLED_AT:
            kill_and_resume(kind, step)
    kill_and_resume("causal", 4, cut_optimizer, "causal-short")
    kill_and_resume("causal", 4, lambda checkpoint: (checkpoint / checkpoints.SEAL).unlink(), "causal-unsealed")
    checkpoints.SECONDS = 60.0
    fit("causal", "causal-watched", validation=True)
    fit("causal", "causal-seed", seed=1)
    fit("causal", "causal-full", peft=None, epochs=8, validation=True, rows=load_from_disk("rows"))
    fit("plain", "plain-whole", separator=" => ")
    fit("seq2seq", "seq2seq-watched", validation=True)
    fit("seq2seq", "seq2seq-full", peft=None)
    child("recipe", by_recipe)
    fit("causal", "causal-too-long", max_length=4)
    fit("causal", "causal-odd", batch_size=8, micro_batch=3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
