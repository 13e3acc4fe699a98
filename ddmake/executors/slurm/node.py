"""A task of an array, on a node: it does jobs of its wave in a worker, one after another, and writes how each ended.

A job that was killed from outside gets no result: Slurm knows why, and tells the head. A training is warned before its time is
over, and ends with a result that has it go on in another job.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from ddmake.executors.base import Ended, Task
from ddmake.executors.local import Local
from ddmake.executors.machine import this_machine
from ddmake.executors.processes import forked
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.several import Step, with_others
from ddmake.executors.slurm.waves import Wave
from ddmake.trainers.warned import WARNED

LOOK = 1.0  # seconds between two looks at what the worker says
TELL = 2.0  # seconds between two tellings of progress
ALONE = 15.0  # seconds that the first of several nodes has to end, once another has failed
OUTSIDE = ("killed by SIGKILL", "killed by SIGTERM", "exit code 143")  # by Slurm, most likely
KILLED = 137  # what a shell makes of that


def serve(folder: Path) -> int:
    """Do jobs of a wave until none is left, and return the exit code."""
    try:
        wave, number = waves.read(folder), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    except FileNotFoundError:
        return 0  # the others have done all that was to be done, and the head has cleared it away
    me = {"task": number, "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(), "pid": os.getpid()}
    local = Local(1, this_machine(), start=forked)
    try:
        return 0 if all(_do(wave, job, local) for job in _mine(wave, number) if wave.take(job, me)) else KILLED
    except FileNotFoundError:
        if wave.folder.exists():
            raise
        return 0  # all that was to be done was, or nobody asks for it any more
    finally:
        local.close()


def _mine(wave: Wave, number: int) -> Iterator[int]:
    """Yield the jobs that a task may take up: its share, and then what the others haven't begun."""
    yield from range(number, len(wave.jobs), wave.tasks)
    if wave.packed:
        yield from sorted(set(range(len(wave.jobs))) - wave.taken().keys())


def _do(wave: Wave, number: int, local: Local) -> bool:
    """Do one job, and tell whether there is a result of it."""
    task, asked = wave.jobs[number], []
    signal.signal(signal.SIGTERM, lambda *_: (asked.append(True), local.cancel([task])))
    with _warned(task), with_others(wave, number, task) as (given, step):
        local.submit(replace(given, needs=replace(given.needs, seconds=None)))  # Slurm itself sees to the time
        ended = _heard(local, wave, number, step)
    result = ended.result
    if result is None and not asked and ended.how not in OUTSIDE:
        told = f"its process ended without a result ({ended.how})"
        result = {"word": "failed", "told": told, "exit_code": 1, "again": True}
    if result is None:
        print(f"{task.log}: {ended.how}", flush=True)
        return False
    wave.end(number, result)
    return True


@contextmanager
def _warned(task: Task) -> Iterator[None]:
    """Have a training learn that its time is nearly over: the signal becomes a file, which its processes look for."""
    if not task.trains:
        yield
        return
    with TemporaryDirectory(prefix="ddmake-") as folder:
        file = Path(folder) / "warned"
        os.environ[WARNED] = str(file)  # on other nodes it is never there: the first process of all looks for it
        signal.signal(signal.SIGUSR1, lambda *_: file.touch())
        yield
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _heard(local: Local, wave: Wave, number: int, step: Step) -> Ended:
    """Return the end of a job; until then write how far it is. Where one of its other nodes fails, it is stopped."""
    last, until = 0.0, inf  # until when it may go on by itself
    while True:
        if step is not None and step.poll() and until == inf:
            until = time.monotonic() + ALONE
        if time.monotonic() >= until:
            until = -inf
            local.cancel([wave.jobs[number]])
        for told in local.poll(LOOK):
            if isinstance(told, Ended):
                return replace(told, how="another of its nodes failed") if until == -inf else told
            if time.monotonic() - last >= TELL:
                last = time.monotonic()
                wave.tell(number, {"done": told.done, "total": told.total, "note": told.note})
