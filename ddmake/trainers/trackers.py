"""Where a training's curves are shown besides: TensorBoard, Weights & Biases, Trackio.

None of it is part of a model. TensorBoard's files lie in `.ddmake/tensorboard`, those that wandb writes in `.ddmake/wandb`;
keys are read by the trackers themselves, from the environment or where they keep them, and are written nowhere.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ddmake.trainers.tokens import shared


def callbacks(names: Sequence[str], args: TrainingArguments, output: Path, checkpoints: Path) -> Iterator[TrainerCallback]:
    """Yield what tells trackers, by name; a run is named by the model and its key."""
    args.run_name = f"{output.name}-{checkpoints.resolve().parent.name[:8]}"
    args.project = Path.cwd().name
    for name in names:
        folder = shared(checkpoints, name)
        folder.mkdir(parents=True, exist_ok=True)
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            yield TensorBoardCallback(SummaryWriter(str(folder / args.run_name)))
        elif name == "wandb":
            os.environ.setdefault("WANDB_PROJECT", args.project)
            os.environ.setdefault("WANDB_DIR", str(folder.parent))
            yield WandbCallback()
        else:
            yield TrackioCallback()
