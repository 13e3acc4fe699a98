"""A head that is a job itself, so that nobody has to stay logged in for it."""

from collections.abc import Sequence
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import COMMENT, Commands, NoAnswer
from ddmake.executors.slurm.options import settings, written
from ddmake.executors.slurm.waves import FOLDER

HEAD = "head"  # in the comment of such a job, where waves have their token


def submit(root: Path, folder: Path, command: str, profile: Path | None, flags: Sequence[str]) -> tuple[str, Path]:
    """Submit a command line that is a run's head, and return the job's id and where it prints."""
    told = settings(root, profile, flags, None)
    logs = root / ".ddmake" / FOLDER
    logs.mkdir(parents=True, exist_ok=True)
    options = [*written({**told.asks, **told.head, **told.flags}), f"--comment={COMMENT}{HEAD}", "--job-name=ddmake-head",
               "--no-requeue", f"--chdir={folder}", f"--output={logs}/head-%j.log", "--signal=B:INT@120"]
    try:
        job = Commands().submit(options, f"#!/bin/sh\nexec {command}\n")
    except NoAnswer as why:
        raise DdmakeError(f"{why}. It may have been submitted all the same: see squeue --me before you try again.") from None
    waves.write(logs / f"head-{job}", "")
    return job, logs / f"head-{job}.log"


def heads(store: Path) -> list[str]:
    """Return the jobs that were submitted as heads of a project's runs, the oldest first."""
    names = (file.name.removeprefix("head-") for file in (store / FOLDER).glob("head-*"))
    return sorted((name for name in names if name.isdigit()), key=int)
