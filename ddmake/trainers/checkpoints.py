"""Checkpoints that a killed training goes on from, to the weights it would have had.

The libraries' checkpoints aren't atomic: the newest may be torn, and one without its optimizer's or random state
resumes silently to other weights. So each is sealed with a manifest once it is whole, and only a sealed one whose
files are as the manifest says is ever used. And only the process that has claimed them writes any.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.trainers.claims import claim, need_own
from ddmake.trainers.pausing import Paused
from ddmake.trainers.ranks import all_here
from ddmake.trainers.warned import WARNED, warned

SEAL = "COMPLETE"
BEST = "best.safetensors"  # the weights of the best evaluation so far, beside the checkpoints and in each
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "sentence-transformers")
WRITING = re.compile(r"writ|no space|os error", re.IGNORECASE)  # how libraries say that a file couldn't be written
KEEP = 2
SECONDS = 60.0  # between two checkpoints, at least
SHARE = 20  # and so many times as long as a save takes: saving costs 5 % at most


class Saver(TrainerCallback):
    """Asks for a checkpoint about once a minute, seals it, and keeps the newest two.

    Only a step that logs is saved after, so that the loss curve of a resumed run is that of one that wasn't killed.
    When a checkpoint is made says nothing about the weights, so the clock may decide. Where the job's time is nearly over, that
    comes before the curve, which gets one point more: a checkpoint is made after the step under way, and the training stops.
    """

    def __init__(self, folder: Path, circumstances: Mapping[str, Any], before: float, marks: tuple[str, ...] = ()):
        self.folder, self.circumstances, self.before, self.marks = folder, dict(circumstances), before, marks
        self.begun = self.last = time.monotonic()
        self.pause = SECONDS
        self.first = self.kept = 0  # the step that the training begins after, and the one that was kept last
        self.ends = False  # whether the job's time is nearly over

    def seconds(self) -> float:
        """Return how long the training has taken, with the attempts that it goes on from."""
        return self.before + time.monotonic() - self.begun

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Note where the training begins. Raises Paused where there is no time for a step."""
        self.first = state.global_step
        if ending():
            raise Paused(self.first, 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Ask for a checkpoint if one is due, and have the training stop where it can't go on here."""
        whole = state.global_step % getattr(args, "num_iterations", 1) == 0  # answers that are learned from twice aren't kept
        if not whole or state.global_step >= state.max_steps:
            return
        self.ends = ending()
        due = time.monotonic() - self.last >= self.pause
        if self.ends or control.should_log and agreed(due):
            need_own(self.folder)
            self.last, control.should_save = time.monotonic(), True
        if self.ends:
            control.should_log = control.should_training_stop = True

    def need_whole(self, step: int) -> None:
        """Raise Paused for a training that has stopped after a step because its time is over."""
        if self.ends and self.kept == step:
            raise Paused(step, step - self.first)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Seal the checkpoint that was just written, by all processes, then let go of the older ones."""
        all_here()
        if state.is_world_process_zero:
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle that no resume reads
            with written(checkpoint):
                put_in_place(self.folder / BEST, checkpoint / BEST)
                seal(checkpoint, {"circumstances": self.circumstances, "seconds": round(self.seconds(), 1), "marks": self.marks})
            for older in numbered(self.folder)[KEEP:]:
                drop(older)
        self.kept, now = state.global_step, time.monotonic()
        self.last, self.pause = now, max(SECONDS, SHARE * (now - self.last))


def agreed(due: bool) -> bool:
    """Return rank 0's verdict, so that all ranks save after the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return due
    verdict = torch.tensor(due, device=PartialState().device)
    torch.distributed.broadcast(verdict, src=0)
    return bool(verdict)


def ending() -> bool:
    """Tell whether this job's time is nearly over, in all processes alike; where nobody would warn them, they needn't agree."""
    return WARNED in os.environ and agreed(warned())


def by_first(work: Callable[[], Any]) -> Any:
    """Do something in rank 0 alone, and return in all ranks what it returns."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return work()
    found = [work() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


@contextmanager
def written(checkpoint: Path) -> Iterator[None]:
    """Have a checkpoint that can't be written leave nothing behind, and be told in a sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not WRITING.search(str(error)):
            raise
        need_own(checkpoint.parent)
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink(missing_ok=True)
        older = next((path.name for path in numbered(checkpoint.parent) if path != checkpoint), None)
        after = f"it goes on from {older}" if older else "it begins anew, since no older one is there"
        reason = str(error).splitlines()[0].rstrip(".")
        raise DdmakeError(f"{checkpoint.name} can't be written: {reason}. Make room on the disk, then train again: "
                          f"{after}.") from error


def put_in_place(source: Path, target: Path) -> None:
    """Have a file at another place too, as it is now; have none there if there is none here."""
    target.unlink(missing_ok=True)
    if source.exists():
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copyfile(source, target)


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
    need_own(checkpoint.parent)
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
        drop(checkpoint)
    return None


def drop(checkpoint: Path) -> None:
    """Remove a checkpoint at one stroke: whoever may still write to it finds it gone."""
    gone = checkpoint.with_name(f"gone-{uuid4().hex}")
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True)
class Resumption:
    """Where a training goes on from, what time it had taken, and why it may end in other low bits than one that wasn't killed."""

    checkpoint: Path | None = None
    seconds: float = 0.0
    marks: tuple[str, ...] = ()


def resumption(folder: Path, circumstances: Mapping[str, Any], on_change: str = "mark") -> Resumption:
    """Return where a training goes on from, with a printed line if that was made under other circumstances.

    Threads, processes, the cut of the batch and the libraries' versions change the low bits of sums: where they differ, the
    training goes on and is marked, or begins anew (`on_change`, "mark" or "restart"). It claims the checkpoints.
    """
    claim(folder)
    checkpoint = newest_sound(folder)
    if checkpoint is None:
        (folder / BEST).unlink(missing_ok=True)
        return Resumption()
    notes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    before = notes["circumstances"]
    changed = [f"{name} {before.get(name)}, now {value}" for name, value in circumstances.items() if before.get(name) != value]
    told = f"{checkpoint.name} was made with {'; '.join(changed)}"
    if changed and on_change == "restart":
        print(f"{told}: the training begins anew", flush=True)
        for older in numbered(folder):
            drop(older)
        return resumption(folder, circumstances)
    if changed:
        print(f"{told}: low bits may differ", flush=True)
    put_in_place(checkpoint / BEST, folder / BEST)
    return Resumption(checkpoint, float(notes["seconds"]), (*notes.get("marks", ()), *([told] if changed else [])))


def libraries() -> dict[str, str | None]:
    """Return the versions of what computes."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
