"""Tells trackers of a training that isn't transformers'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ddmake.trainers import trackers


@dataclass(frozen=True)
class Tracking:
    """What tells trackers, perhaps none."""

    callbacks: Sequence[TrainerCallback]
    args: TrainingArguments | None = None
    state: TrainerState = field(default_factory=TrainerState)
    control: TrainerControl = field(default_factory=TrainerControl)

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Tell what was noted of a step."""
        self.state.global_step = step
        for callback in self.callbacks:
            callback.on_log(self.args, self.state, self.control, logs=dict(noted))

    def end(self) -> None:
        """Tell that nothing more comes."""
        for callback in self.callbacks:
            callback.on_train_end(self.args, self.state, self.control)


def begun(names: Sequence[str], arguments: Mapping[str, Any], model: torch.nn.Module, output: Path,
          checkpoints: Path) -> Tracking:
    """Return what tells these trackers, once they know that a training begins."""
    args = TrainingArguments(**arguments)
    found = Tracking(list(trackers.callbacks(names, args, output, checkpoints)), args)
    for callback in found.callbacks:
        callback.on_train_begin(args, found.state, found.control, model=model)
    return found
