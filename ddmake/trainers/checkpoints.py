"""Checkpoints that a killed training goes on from, to the weights it would have had.

The libraries' checkpoints aren't atomic: the newest may be torn, and one without its optimizer's or random state
resumes silently to other weights. So each is sealed with a manifest once it is whole, and only a sealed one whose
files are as the manifest says is ever used.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ddmake.fingerprint import hashes

SEAL = "COMPLETE"
KEEP = 2
SECONDS = 60.0  # between two checkpoints, at least
SHARE = 20  # and so many times as long as a save takes: saving costs 5 % at most


class Saver(TrainerCallback):
    """Asks for a checkpoint about once a minute, seals it, and keeps the newest two.

    Only a step that logs is saved after, so that the loss curve of a resumed run is that of one that wasn't killed.
    When a checkpoint is made says nothing about the weights, so the clock may decide.
    """

    def __init__(self, folder: Path, circumstances: Mapping[str, int], before: float):
        self.folder, self.circumstances, self.before = folder, dict(circumstances), before
        self.begun = self.last = time.monotonic()
        self.pause = SECONDS

    def seconds(self) -> float:
        """Return how long the training has taken, with the attempts that it goes on from."""
        return self.before + time.monotonic() - self.begun

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Ask for a checkpoint if one is due."""
        due = time.monotonic() - self.last >= self.pause
        if control.should_log and state.global_step < state.max_steps and agreed(due):
            self.last, control.should_save = time.monotonic(), True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Seal the checkpoint that was just written, then let go of the older ones."""
        if state.is_world_process_zero:
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle that no resume reads
            seal(checkpoint, {"circumstances": self.circumstances, "seconds": round(self.seconds(), 1)})
            for older in numbered(self.folder)[KEEP:]:
                shutil.rmtree(older)
        now = time.monotonic()
        self.last, self.pause = now, max(SECONDS, SHARE * (now - self.last))


def agreed(due: bool) -> bool:
    """Return rank 0's verdict, so that all ranks save after the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return due
    verdict = [due]
    torch.distributed.broadcast_object_list(verdict, src=0)
    return verdict[0]


def seal(checkpoint: Path, notes: Mapping[str, object]) -> None:
    """Write a checkpoint's manifest, durable and all at once: its files' names, sizes and sha256, and some notes."""
    files = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL):
        sync(path)
        size = path.stat().st_size
        files[path.relative_to(checkpoint).as_posix()] = {"size": size, "sha256": hashes.of_file(path)}
    scratch = checkpoint / f"{SEAL}.new"
    scratch.write_text(json.dumps({"files": files, **notes}, indent=1), encoding="utf-8")
    sync(scratch)
    scratch.rename(checkpoint / SEAL)
    sync(checkpoint)
    sync(checkpoint.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if all its files are as its manifest says."""
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return "it was not finished"
    for name, known in files.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != known["size"] or hashes.of_file(path) != known["sha256"]:
            return f"{name} is not what was written"
    return None


def newest_sound(folder: Path) -> Path | None:
    """Return the newest checkpoint that checks out, deleting newer ones that don't, each with a printed line."""
    for checkpoint in numbered(folder):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        print(f"{checkpoint.name} left out: {reason}", flush=True)
        shutil.rmtree(checkpoint)
    return None


def notes_of(checkpoint: Path | None, circumstances: Mapping[str, int]) -> float:
    """Return the seconds that a checkpoint took to reach; print a line if it was made under other circumstances.

    Threads, processes and the cut of the batch change the low bits of sums, so the weights may differ in them.
    """
    if checkpoint is None:
        return 0.0
    notes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    changed = [f"{name} {notes['circumstances'].get(name)}, now {value}" for name, value in circumstances.items()
               if notes["circumstances"].get(name) != value]
    if changed:
        print(f"{checkpoint.name} was made with {'; '.join(changed)}: low bits may differ", flush=True)
    return float(notes["seconds"])
