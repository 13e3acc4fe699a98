"""What is watched as a training goes on: losses that are no numbers, what can't be written."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ddmake.errors import DdmakeError
from ddmake.trainers import ranks
from ddmake.trainers.checkpoints import written
from ddmake.trainers.evaluating import Evaluating

Progress = Callable[[int, int, str], None]
SHOWN = 3  # texts of a batch that a training stops at, so many letters of each
LETTERS = 200


class Watching(Evaluating):
    """A trainer of transformers that stops where the loss is no number."""

    alike = False  # whether each of several processes must take as many examples
    together = False  # whether the loss compares what is in a batch, which is then drawn for all processes

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches, whose examples are those that one process alone would take."""
        loader = super().get_train_dataloader()
        return ranks.shared(loader) if self.together else ranks.dealt(loader, self.alike)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Take the gradient of some examples. Raises DdmakeError for a loss that is no number."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            show(inputs, self.processing_class)
            stop("loss", loss.item(), self.state.global_step + 1, " What it was taken on is in the log.")
        return loss

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        with written(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)


def show(inputs: Mapping[str, Any], tokenizer: Any) -> None:
    """Print the beginnings of a batch's texts."""
    ids = inputs.get("input_ids")
    for text in tokenizer.batch_decode(ids[:SHOWN], skip_special_tokens=True) if ids is not None else ():
        print(f"in this batch: {text[:LETTERS]}", flush=True)


def stop(what: str, value: float, step: int, more: str = "") -> NoReturn:
    """Raise DdmakeError for a training that came to nothing."""
    raise DdmakeError(f"the {what} is {value} at step {step}.{more} Try a lower learning_rate, a longer warmup, or "
                      "dtype='float32'; what was saved before is kept.")


class Teller(TrainerCallback):
    """Tells the progress, and sees to it that the last step is logged too."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        """Tell where the training begins, or goes on."""
        note = f"resumed after step {state.global_step}" if state.global_step else "begins"
        self.progress(state.global_step, state.max_steps, note)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        """Have the last step's loss logged."""
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs) -> None:
        """Tell the loss. Raises DdmakeError for a loss or a gradient that is no number: nothing of it is saved."""
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                stop(what, logs[name], state.global_step)
        if logs and "loss" in logs:
            self.progress(state.global_step, state.max_steps, f"loss {float(logs['loss']):.3f}")
