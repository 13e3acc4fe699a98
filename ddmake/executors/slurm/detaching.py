"""A head that is a job itself, so that nobody has to stay logged in for it.

Under `.ddmake/slurm` each has `head-JOB`, which holds its command line, until it is cancelled or another is submitted after its
end, and `head-JOB.log`, what it prints.
"""

from collections.abc import Sequence
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import COMMENT, Commands, NoAnswer
from ddmake.executors.slurm.options import settings, written
from ddmake.executors.slurm.waves import FOLDER
from ddmake.store import FOLDER as STORE

HEAD = "head"  # in the comment of such a job, where waves have their token


def submit(root: Path, folder: Path, command: str, profile: Path | None, flags: Sequence[str]) -> tuple[str, list[str]]:
    """Submit a command line that is a run's head, and return the job's id and the heads that there are already.

    Raises DdmakeError where one of these does the very same, and where it isn't known whether it was submitted.
    """
    told = settings(root, profile, flags, None)
    commands, store = Commands(), root / STORE
    others = _living(store, commands)
    same = next((job for job in others if _command(store, job) == (command, str(folder))), None)
    if same is not None:
        raise DdmakeError(f"Job {same} makes this already: ddmake status tells how far it is, ddmake cancel ends it.")
    options = [*written({**told.asks, **told.head, **told.flags}), f"--comment={COMMENT}{HEAD}", "--job-name=ddmake-head",
               "--no-requeue", f"--chdir={folder}", f"--output={log(root, '%j')}", "--signal=B:INT@120"]
    try:
        job = commands.submit(options, f"#!/bin/sh\nexec {command}\n")
    except NoAnswer as why:
        raise DdmakeError(f"{why}. It may have been submitted all the same: see squeue --me before you try again.") from None
    waves.write(_mark(store, job), f"{folder}\n{command}")
    return job, others


def heads(store: Path) -> list[str]:
    """Return the jobs that were submitted as heads of a project's runs, the oldest first."""
    names = (file.name.removeprefix("head-") for file in (store / FOLDER).glob("head-*"))
    return sorted((name for name in names if name.isdigit()), key=int)


def log(root: Path, job: str) -> Path:
    """Return where a head prints."""
    return root / STORE / FOLDER / f"head-{job}.log"


def forget(store: Path, job: str) -> None:
    """Forget a head; its log stays."""
    _mark(store, job).unlink(missing_ok=True)


def _living(store: Path, commands: Commands) -> list[str]:
    """Return the heads that wait or run, and forget the others. Raises DdmakeError where that isn't known."""
    (store / FOLDER).mkdir(parents=True, exist_ok=True)
    known = heads(store)
    try:
        queue = commands.queue() if known else {}
    except NoAnswer as why:
        raise DdmakeError(f"{why}, so whether a head makes this already isn't known. Try again in a while.") from None
    for job in known:
        if job not in queue:
            forget(store, job)
    return [job for job in known if job in queue]


def _command(store: Path, job: str) -> tuple[str, str]:
    folder, _, command = _mark(store, job).read_text().partition("\n")
    return command, folder


def _mark(store: Path, job: str) -> Path:
    return store / FOLDER / f"head-{job}"
