"""What lies under `.ddmake/slurm` and nobody needs any more: waves whose jobs no run asks for, and heads that have ended."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from ddmake.errors import DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import Commands, NoAnswer, Refused, State

LISTENED = "a run is under way"
THERE = "its jobs are on the cluster; ddmake cancel ends them"
UNKNOWN = "Slurm doesn't tell whether its jobs are over"
TAKEN_UP = "jobs that a run takes up"

Queue = Callable[[], Mapping[str, State] | None]  # what is in it; None where Slurm doesn't tell


def leftovers(store: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[Path, str]]:
    """Yield what lies there and why it has to stay, "" where nobody needs it; jobs are `wanted` by their keys."""

    @cache
    def queue() -> Mapping[str, State] | None:
        try:
            return Commands().queue()
        except (NoAnswer, Refused):
            return None

    for token in sorted(waves.tokens(store)):
        yield store / waves.FOLDER / token, _of_wave(store, token, queue, wanted)
    for file in sorted((store / waves.FOLDER).glob("head-*")):
        yield file, _on_cluster(file.name.removeprefix("head-").removesuffix(".log"), queue)


def _of_wave(store: Path, token: str, queue: Queue, wanted: Callable[[str], bool]) -> str:
    folder = store / waves.FOLDER / token
    try:
        wave = waves.read(folder)
    except FileNotFoundError:  # it is being written down, unless its head was killed
        return "" if waves.abandoned(store, token) else LISTENED
    except DdmakeError:
        return "it can't be read"
    lock = wave.own()
    if lock is None:
        return LISTENED if folder.exists() else ""
    os.close(lock)
    why = _on_cluster(wave.id, queue)
    settled = wave.settled()
    if not why and any(wanted(job.key) for number, job in enumerate(wave.jobs) if number not in settled):
        return TAKEN_UP
    return why


def _on_cluster(job: str | None, queue: Queue) -> str:
    """Return why what belongs to a job has to stay as long as it may be on the cluster, "" where it isn't."""
    there = queue()
    if job is None or there is None:
        return UNKNOWN
    return THERE if any(task.partition("_")[0] == job for task in there) else ""
