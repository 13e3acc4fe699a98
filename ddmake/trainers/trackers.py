"""Where a training's curves are shown besides: TensorBoard, Weights & Biases, Trackio.

They are told what `metrics.json` is told: numbers, and the settings. What they would find out by themselves about this machine
is switched off: folders, the command, the repository, the packages, what is printed. Keys are read by the trackers themselves,
from the environment or where they keep them, and are written nowhere.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ddmake.errors import DdmakeError

Noted = tuple[int, Mapping[str, float]]
KEPT_HERE = ("offline", "dryrun", "disabled")  # wandb's modes without a service
SECONDS = 20  # for wandb's service to answer
# nothing that this machine would tell of itself; and no run that other code would take for its own
OURS = dict(console="off", disable_code=True, disable_git=True, disable_job_creation=True, host="", program="ddmake",
            save_code=False, x_disable_machine_info=True, x_disable_meta=True, x_save_requirements=False,
            reinit="create_new", silent=True, init_timeout=SECONDS, finish_timeout=SECONDS)


@dataclass(frozen=True)
class Run:
    """One training, as trackers know it: its `id` stays the same when it goes on after a kill."""

    name: str
    id: str
    project: str
    folder: Path  # that a tracker's files lie in
    made_of: Mapping[str, Any]
    past: Sequence[Noted]  # what a checkpoint knows of it
    goes_on: bool


class Tracker(Protocol):
    """What shows curves."""

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def end(self, well: bool) -> None:
        """Write what isn't written, and let go of everything."""


class TensorBoard:
    """Writes a file for each attempt; what an attempt before told of steps that come again is not shown."""

    def __init__(self, run: Run):
        from torch.utils.tensorboard import SummaryWriter

        again = run.past[-1][0] + 1 if run.past else 0
        self.writer = SummaryWriter(str(run.folder / run.name), purge_step=again)
        self.writer.add_text("settings", json.dumps(dict(run.made_of), indent=1), again)

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        for name, value in noted.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, well: bool) -> None:
        """Close the file."""
        self.writer.close()


class Wandb:
    """Sends to Weights & Biases; where that isn't reached, writes what `wandb sync` sends later."""

    def __init__(self, run: Run):
        import wandb

        self.wandb, self.settings = wandb, wandb.Settings(**OURS)
        try:
            self.run = self._begin(run)
        except wandb.errors.Error as error:
            wandb.teardown()
            self.run = self._begin(run, mode="offline")
            why = " ".join(str(error).split())
            print(f"trackers: wandb isn't reached ({why}). Send it later: wandb sync {Path(self.run.dir).parent}", flush=True)
        for step, noted in run.past:  # each attempt's file tells all; the service leaves out what it knows
            self.note(step, noted)

    def _begin(self, run: Run, mode: str | None = None) -> Any:
        return self.wandb.init(project=os.environ.get("WANDB_PROJECT", run.project), name=run.name, id=run.id, resume="allow",
                               config=dict(run.made_of), dir=os.environ.get("WANDB_DIR", str(run.folder.parent)), mode=mode,
                               settings=self.settings)

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self.run.log(dict(noted), step=step)

    def end(self, well: bool) -> None:
        """End the run, and wandb's own process, which the next training would find as this one left it."""
        self.run.finish(exit_code=0 if well else 1)
        self.wandb.teardown()


class Trackio:
    """Writes to Trackio's folder, or to where Trackio is told to send it."""

    def __init__(self, run: Run):
        import trackio

        self.run = trackio.init(run.project, name=run.name, config=dict(run.made_of), resume="allow" if run.goes_on else "never",
                                embed=False)

    def note(self, step: int, noted: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        self.run.log(dict(noted), step=step)

    def end(self, well: bool) -> None:
        """Write what isn't written yet."""
        self.run.finish()


TRACKERS: dict[str, Callable[[Run], Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}


def need_key(names: Sequence[str]) -> None:
    """Raise DdmakeError where wandb would send and has no key, for which it would ask at a terminal."""
    if "wandb" not in names:
        return
    import wandb

    if wandb.setup().settings.mode in KEPT_HERE:
        return
    try:
        known = wandb.login(prompt=False)
    except wandb.errors.Error:
        known = True  # there is one; the service refused it, or isn't reached
    if not known:
        raise DdmakeError("trackers='wandb': there is no key of Weights & Biases here. Give one by `wandb login` or by "
                          "WANDB_API_KEY, or set WANDB_MODE=offline to send later.")
