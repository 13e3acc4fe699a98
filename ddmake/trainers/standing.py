"""Where a training of our own stands, as a checkpoint holds it: weights, optimiser, schedule, and some numbers."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from ddmake.trainers import checkpoints
from ddmake.trainers.claims import need_own
from ddmake.trainers.pausing import Paused

WEIGHTS, OPTIMIZER, NUMBERS = "weights.safetensors", "optimizer.pt", "standing.json"


@dataclass
class Standing:
    """The numbers: rounds done, the divergence's coefficient, tokens seen, and what was noted."""

    kl: float
    round: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Moving:
    """What changes as a model is trained."""

    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler


class Keeper:
    """Writes a checkpoint about once a minute, seals it, keeps the newest two, and goes on from the newest sound one."""

    def __init__(self, folder: Path, moving: Moving, circumstances: Mapping[str, Any], on_change: str):
        self.folder, self.moving, self.circumstances = folder, moving, dict(circumstances)
        self.found = checkpoints.by_first(lambda: checkpoints.resumption(folder, circumstances, on_change))
        self.begun = self.last = time.monotonic()
        self.pause = checkpoints.SECONDS
        self.first = 0  # the step that the training begins after

    def seconds(self) -> float:
        """Return how long the training has taken, with the attempts that it goes on from."""
        return self.found.seconds + time.monotonic() - self.begun

    def marks(self) -> dict[str, Any]:
        """Return what the metrics say of a training that may have ended in other low bits than one that wasn't killed."""
        return {"reproducible": False, "why_not": "; ".join(self.found.marks)} if self.found.marks else {}

    def resume(self) -> Standing | None:
        """Take up the newest sound checkpoint and return where it stands; None where there is none."""
        sound = self.found.checkpoint
        if sound is None:
            return None
        self.first = int(sound.name.rpartition("-")[2])
        weights = load_file(sound / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.moving.parameters.items():
                parameter.copy_(weights[name])
        kept = torch.load(sound / OPTIMIZER, weights_only=True)
        self.moving.optimizer.load_state_dict(kept["optimizer"])
        self.moving.schedule.load_state_dict(kept["schedule"])
        return Standing(**json.loads((sound / NUMBERS).read_text(encoding="utf-8")))

    def need_time(self, step: int) -> None:
        """Raise Paused where there is no time for another step."""
        if checkpoints.ending():
            raise Paused(step, 0)

    def keep_if_due(self, standing: Standing, step: int, ends: bool) -> None:
        """Write a checkpoint if it is time for one. Raises Paused where the training `ends` with that."""
        if not (ends or checkpoints.agreed(time.monotonic() - self.last >= self.pause)):
            return
        began = time.monotonic()
        if PartialState().is_main_process:
            self._write(standing, self.folder / f"checkpoint-{step}")
        if ends:
            raise Paused(step, step - self.first)
        self.last = time.monotonic()
        self.pause = max(checkpoints.SECONDS, checkpoints.SHARE * (self.last - began))

    def _write(self, standing: Standing, checkpoint: Path) -> None:
        moving = self.moving
        need_own(self.folder)
        with checkpoints.written(checkpoint):
            checkpoint.mkdir(parents=True)
            weights = {name: value.detach().cpu().contiguous() for name, value in moving.parameters.items()}
            save_file(weights, checkpoint / WEIGHTS)
            torch.save({"optimizer": moving.optimizer.state_dict(), "schedule": moving.schedule.state_dict()},
                       checkpoint / OPTIMIZER)
            (checkpoint / NUMBERS).write_text(json.dumps(asdict(standing)), encoding="utf-8")
            checkpoints.seal(checkpoint, {"circumstances": self.circumstances, "seconds": round(self.seconds(), 1),
                                          "marks": self.found.marks})
        for older in checkpoints.numbered(self.folder)[checkpoints.KEEP:]:
            checkpoints.drop(older)
