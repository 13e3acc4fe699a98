"""Trains small models in two processes, some of which are killed. Run as: python tests/process_runs.py FOLDER

`test_processes.py` runs this once and looks at what lies in the folder.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import small_models
import torch
from datasets import Dataset
from preference_runs import KINDS as PREFERENCES
from preference_runs import pairs, shown
from training_runs import SETTINGS, child

from ddmake.backends import stopping
from ddmake.ddfile.specs import Lora
from ddmake.trainers import causal, checkpoints, classes, dpo, seq2seq, warm
from ddmake.trainers.launch import GRANTED, LOADED, Work, _launched, launch

LORA = Lora(4, 8, 0.0, "all-linear")  # dropout would draw in each process
ROWS = 31  # the last step of an epoch has an odd number
GIVEN = replace(SETTINGS, peft=LORA)
KINDS = {
    "causal": (causal, replace(GIVEN, base=Path("chat"), base_name="chat"), small_models.pairs(ROWS)),
    "seq2seq": (seq2seq, replace(GIVEN, base=Path("t5"), base_name="t5"), small_models.pairs(ROWS)),
    "dpo": (dpo, replace(PREFERENCES["dpo"][1], peft=LORA), pairs(32)),
}
DROPOUT = replace(LORA, dropout=0.1)
ONCE = dict(peft=LORA, learning_rate=5e-3, epochs=1)
HELD = 9  # rows to evaluate on: three batches of four, of which two processes don't take as many
EVALUATED = {
    "causal": (causal, replace(KINDS["causal"][1], **ONCE)), "seq2seq": (seq2seq, replace(KINDS["seq2seq"][1], **ONCE)),
    **{kind: (trainer, replace(settings, **ONCE)) for kind, (trainer, settings) in PREFERENCES.items()},
    # what it learns depends on how a batch is cut
    "sft": (dpo, replace(PREFERENCES["dpo"][1], peft=LORA, epochs=1, learning_rate=1e-9, losses=("sigmoid", "sft"), weights=(1.0, 0.5))),
    "classes": (classes, classes.Labelled(base=Path("bert"), base_name="bert", batch_size=8, micro_batch=4, labels=("a", "b"), **ONCE)),
}
DDFILE = """
from ddmake import config
cfg = config(least=1)

def enough(rows):
    return len(rows) >= cfg.least
"""


def fit(kind: str, name: str, processes: int, at: Callable[[int], object] = lambda step: None, **changes: object) -> None:
    """Train in a child and in so many processes of its own; `at` is called with each step whose loss is told."""
    trainer, settings, rows = KINDS[kind]
    examples = Dataset.from_list(rows)

    def progress(step: int, steps: int, note: str) -> None:
        if note.startswith("loss"):
            at(step)

    def work() -> None:
        kept = Path(f"{name}.checkpoints")
        kept.mkdir(exist_ok=True)
        made_of = replace(settings, processes=processes, **changes)
        launch(trainer.train, examples, examples.select(range(5)), made_of, Path(name), kept, progress)

    child(name, work)


def uneven(kind: str, count: int, seed: int) -> Dataset:
    """Return rows of a few words and of many."""
    draw = random.Random(seed)

    def words() -> str:
        return " ".join(draw.choices(small_models.WORDS, k=draw.choice([1, 2, 25])))

    if kind == "classes":
        return Dataset.from_list([{"text": words(), "labels": draw.randrange(2)} for _ in range(count)])
    if kind in ("causal", "seq2seq"):
        return Dataset.from_list([{"prompt": f"say {number}", "completion": words()} for number in range(count)])
    return shown(kind, [{"prompt": f"say {number}", "chosen": words(), "rejected": words()} for number in range(count)])


def evaluate(kind: str, name: str, **changes: object) -> None:
    """Train for one step, and evaluate."""
    trainer, settings = EVALUATED[kind]

    def work() -> None:
        Path(f"{name}.checkpoints").mkdir()
        launch(trainer.train, uneven(kind, 4 if kind == "kto" else 8, 0), uneven(kind, HELD, 1), replace(settings, **changes),
               Path(name), Path(f"{name}.checkpoints"), lambda step, steps, note: None)

    child(name, work)


def ranks() -> list[int]:
    """Return the processes that this one has started."""
    return sorted(process.pid for process in multiprocessing.active_children())


def kill_one(step: int) -> None:
    """Kill the second process."""
    if step == 5:
        os.kill(ranks()[1], signal.SIGKILL)


def kill_parent(step: int) -> None:
    """Kill the process that has started the others, which aren't told."""
    if step == 5:
        Path("orphans").write_text(json.dumps(ranks()))
        os.kill(os.getpid(), signal.SIGKILL)


def stop(step: int) -> None:
    """Have a head ask this process to end."""
    if step == 2:
        Path("stopped").write_text(json.dumps(ranks()))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


def stopped() -> None:
    """Train as a worker does, which is asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: stopping.ask(lambda: None))
    trainer, settings, rows = KINDS["causal"]
    Path("stopped.checkpoints").mkdir()
    launch(trainer.train, Dataset.from_list(rows), None, replace(settings, processes=2), Path("stopped-model"),
           Path("stopped.checkpoints"), lambda step, steps, note: stop(step))


def boom(rows: object, validation: object, settings: object, output: Path, checkpoints: Path, progress: object) -> dict:
    """Fail in the second process, for which the first waits."""
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        raise ValueError("boom")
    torch.distributed.barrier()
    return {}


def many_told(rows: object, enough: Callable, settings: object, output: Path, checkpoints: Path, progress: Callable) -> dict:
    """Return what a process that was spawned finds: a function of the Ddfile, and its threads."""
    progress(1, 1, "here")
    return {"enough": enough(rows), "threads": torch.get_num_threads(), "processes": int(os.environ["WORLD_SIZE"])}


def spawned() -> None:
    """Start a process that shares no memory with this one."""
    Path("Ddfile").write_text(DDFILE)
    from ddmake.ddfile.load import load

    load(Path("Ddfile"), least=3)
    os.environ[LOADED] = json.dumps({"file": "Ddfile", "given": {"least": 3}})
    warm.computes()
    enough = sys.modules["Ddfile"].enough
    reader, writer = multiprocessing.Pipe(duplex=False)
    folder = Path("spawned")
    folder.mkdir()
    found = _launched(Work(many_told, ([1, 2, 3], enough, None, folder, folder), 3), 1, folder, writer)
    Path("spawned.json").write_text(json.dumps([found, reader.recv()]))
    _launched(Work(many_told, ([], lambda rows: True, None, folder, folder), 3), 1, folder, writer)


def main(folder: Path) -> None:
    """Make all runs that test_processes.py looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    small_models.causal(Path("chat"), chat=True)
    small_models.t5(Path("t5"))
    small_models.bert(Path("bert"))
    for file in (Path("t5/config.json"), Path("bert/config.json")):
        still = {name: 0.0 for name in ("dropout_rate", "hidden_dropout_prob", "attention_probs_dropout_prob")}
        file.write_text(json.dumps(json.loads(file.read_text()) | still))
    for kind in KINDS:
        fit(kind, f"{kind}-1", 1)
        fit(kind, f"{kind}-2", 2)
    for kind in EVALUATED:
        evaluate(kind, f"{kind}-evaluated")
        evaluate(kind, f"{kind}-cut", processes=2, micro_batch=4 if kind == "kto" else 1)
    os.environ[GRANTED] = "2"
    fit("causal", "granted", None)
    del os.environ[GRANTED]
    checkpoints.SECONDS = checkpoints.SHARE = 0  # a checkpoint after every step
    fit("causal", "whole", 2, peft=DROPOUT)
    for name, kill in (("one", kill_one), ("parent", kill_parent)):
        fit("causal", name, 2, kill, peft=DROPOUT)
        for file in (f"{name}.status", f"{name}.log"):
            shutil.copy(file, f"{file}.first")
        shutil.copytree(f"{name}.checkpoints", f"other-{name}.checkpoints")
        fit("causal", name, 2, peft=DROPOUT)
    fit("causal", "other-one", 1, peft=DROPOUT)
    child("stopping", stopped)
    child("boom", lambda: launch(boom, None, None, replace(GIVEN, processes=2), Path("boom"), Path("boom"), print))
    fit("causal", "sharded", 2, sharded=True)
    fit("causal", "odd", 2, batch_size=7)
    child("spawning", spawned)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
