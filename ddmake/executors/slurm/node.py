"""A task of an array, on a node: it does jobs of its wave in a worker, one after another, and writes how each ended.

A job that was killed from outside gets no result: Slurm knows why, and tells the head.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ddmake.executors.base import Ended
from ddmake.executors.local import Local
from ddmake.executors.machine import this_machine
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.waves import Wave

LOOK = 1.0  # seconds between two looks at what the worker says
TELL = 2.0  # seconds between two tellings of progress
OUTSIDE = "killed by SIGKILL"  # by Slurm, most likely
KILLED = 137  # what a shell makes of that


def serve(folder: Path) -> int:
    """Do jobs of a wave until none is left, and return the exit code."""
    wave, number = waves.read(folder), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    me = {"task": number, "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(), "pid": os.getpid()}
    local = Local(1, this_machine())
    try:
        return 0 if all(_do(wave, job, local) for job in _mine(wave, number) if wave.take(job, me)) else KILLED
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
    local.submit(replace(task, needs=replace(task.needs, seconds=None)))  # Slurm itself sees to the time
    ended = _heard(local, wave, number)
    result = ended.result
    if result is None and not asked and ended.how != OUTSIDE:
        told = f"its process ended without a result ({ended.how})"
        result = {"word": "failed", "told": told, "exit_code": 1, "again": True}
    if result is None:
        print(f"{task.log}: {ended.how}", flush=True)
        return False
    wave.end(number, result)
    return True


def _heard(local: Local, wave: Wave, number: int) -> Ended:
    """Return the end of a job; until then write how far it is."""
    last = 0.0
    while True:
        for told in local.poll(LOOK):
            if isinstance(told, Ended):
                return told
            if time.monotonic() - last >= TELL:
                last = time.monotonic()
                wave.tell(number, {"done": told.done, "total": told.total, "note": told.note})
