"""The weights of the best evaluation, and ending where none is better any more.

What was best so far lies in a file beside the checkpoints, and in each of them under its seal. How many evaluations
it is ago is read from the losses that a checkpoint holds, so that a killed training goes on as it would have.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from ddmake.trainers.checkpoints import BEST, written
from ddmake.trainers.claims import need_own

Evaluations = Sequence[Mapping[str, float]]


class Best(TrainerCallback):
    """Keeps the weights of the evaluation with the least loss, and ends after `patience` evaluations without a better one."""

    def __init__(self, folder: Path, patience: int | None):
        self.file, self.patience = folder / BEST, patience

    def on_evaluate(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **kwargs) -> None:
        """Keep the weights if they are the best, else end perhaps."""
        found = evaluations(state.log_history)
        after = len(found) - 1 - place_of_best(found)
        if after == 0:
            keep(model, self.file, state.is_world_process_zero)
        elif self.patience is not None and after >= self.patience:
            control.should_training_stop, control.should_save = True, False  # a checkpoint would be gone on from


def evaluations(history: Evaluations) -> Evaluations:
    """Return the evaluations of a training, one a step."""
    return list({entry["step"]: entry for entry in history if "eval_loss" in entry}.values())


def place_of_best(found: Evaluations) -> int:
    """Return where the evaluation with the least loss stands, the first of equals."""
    losses = [entry["eval_loss"] if math.isfinite(entry["eval_loss"]) else math.inf for entry in found]
    return losses.index(min(losses))


def keep(model: torch.nn.Module, file: Path, writes: bool) -> None:
    """Put the weights that are trained into a file, all at once. Raises DdmakeError where the disk is full."""
    held = {name: whole(weight).detach().cpu().contiguous() for name, weight in trained(model)}
    if not writes:
        return
    scratch = file.with_suffix(".new")
    with written(scratch):
        save_file(held, scratch)
        need_own(file.parent)
        scratch.replace(file)


def put_back(model: torch.nn.Module, file: Path) -> None:
    """Give a model the weights that were kept."""
    with safe_open(file, "pt") as held, torch.no_grad():
        for name, weight in trained(model):
            value = held.get_tensor(name).to(weight.device)
            if isinstance(weight, DTensor):
                value = distribute_tensor(value, weight.device_mesh, weight.placements)
            weight.copy_(value)


def trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the weights that are trained, each once."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as one tensor, also where it is spread over processes."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
