"""Tells trackers of a training as it goes on. It never waits for them, but for a moment when it ends, and never fails by them."""

import json
import math
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ddmake.trainers.tokens import shared
from ddmake.trainers.trackers import TRACKERS, Noted, Run, need_key

IDENTITY = "tracked.json"  # beside the checkpoints: how trackers know this training
ENDING, FAILING = 60.0, 5.0  # seconds that trackers have at the end for what they haven't taken, and where a training fails
# how names end that say nothing of what is learned, or something else once a training has gone on after a kill
UNTOLD = ("runtime", "per_second", "total_flos", "step", "rounds", "num_tokens", "train_loss")


class Telling(threading.Thread):
    """Tells one tracker, in the order that it is told."""

    def __init__(self, name: str, run: Run):
        super().__init__(daemon=True, name=f"tells {name}")
        self.tracker, self.about, self.well = name, run, True
        self.noted: queue.Queue[Noted | None] = queue.Queue()

    def run(self) -> None:
        """Begin, pass on what is noted, and end; what goes wrong is told in the log."""
        try:
            tracker = TRACKERS[self.tracker](self.about)
            while (noted := self.noted.get()) is not None:
                tracker.note(*noted)
            tracker.end(self.well)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            print(f"trackers: {self.tracker} failed ({told}); the training goes on without it", flush=True)


class Tracking:
    """Tells some trackers, perhaps none, of one training."""

    def __init__(self, names: Sequence[str], made_of: Mapping[str, Any], output: Path, checkpoints: Path):
        self.names, self.made_of, self.output, self.checkpoints = names, made_of, output, checkpoints
        self.tellings: list[Telling] = []

    def begin(self, history: Sequence[Mapping[str, float]]) -> None:
        """Tell that a training begins, or goes on after what is in its history. Raises DdmakeError for a key that isn't there."""
        if not self.names:
            return
        need_key(self.names)
        goes_on, identity = self._identity()
        name = f"{self.output.name}-{self.checkpoints.resolve().parent.name[:8]}"
        past = [(int(entry["step"]), shown(entry)) for entry in history]
        for tracker in self.names:
            folder = shared(self.checkpoints, tracker)
            folder.mkdir(parents=True, exist_ok=True)
            telling = Telling(tracker, Run(name, identity, Path.cwd().name, folder, self.made_of, past, goes_on))
            telling.start()
            self.tellings.append(telling)

    def _identity(self) -> tuple[bool, str]:
        """Return whether this training was begun before, and its identity."""
        file = self.checkpoints / IDENTITY
        if file.is_file():
            return True, json.loads(file.read_text(encoding="utf-8"))["id"]
        found = uuid4().hex[:16]
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps({"id": found}), encoding="utf-8")
        scratch.rename(file)
        return False, found

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Tell what was noted of a step."""
        told = shown(noted)
        if told.keys() <= {"train/epoch"}:  # what a trainer logs last holds nothing else
            return
        for telling in self.tellings:
            telling.noted.put((step, told))

    def end(self, well: bool) -> None:
        """Tell that nothing more comes, and wait a moment for what isn't taken yet."""
        for telling in self.tellings:
            telling.well = well
            telling.noted.put(None)
        for telling in self.tellings:
            telling.join(ENDING if well else FAILING)
            if telling.is_alive():
                print(f"trackers: {telling.tracker} hasn't taken all of it; the training doesn't wait", flush=True)


@contextmanager
def tracked(names: Sequence[str], made_of: Mapping[str, Any], output: Path, checkpoints: Path) -> Iterator[Tracking]:
    """Give what tells these trackers of a training, and tell them how it ended."""
    tracking = Tracking(names, made_of, output, checkpoints)
    try:
        yield tracking
    except BaseException:
        tracking.end(False)
        raise
    tracking.end(True)


class Heard(TrainerCallback):
    """Passes on what a trainer of transformers logs."""

    def __init__(self, tracking: Tracking):
        self.tracking = tracking

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Tell that it begins."""
        self.tracking.begin(state.log_history)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: Mapping[str, float] | None = None, **kwargs) -> None:
        """Tell what is logged."""
        self.tracking.note(state.global_step, logs or {})


def shown(noted: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that say something of what is learned, named as trackers group them."""
    told = {name: value for name, value in noted.items()
            if isinstance(value, (int, float)) and math.isfinite(value) and not name.endswith(UNTOLD)}
    return {f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}": value for name, value in told.items()}
