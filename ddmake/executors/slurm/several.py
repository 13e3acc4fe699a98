"""One training on several nodes of a task: a step of srun does the same job on the others, which meet the first.

What they make besides the training goes to rooms of their own, and nobody asks for it.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from ddmake.executors.base import Task
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.waves import Wave

MACHINES = "DDMAKE_MACHINES"  # what the launcher of trainings reads
PARTING = 5.0  # seconds that the step has to end

Step = subprocess.Popen[bytes] | None


@contextmanager
def with_others(wave: Wave, number: int, task: Task) -> Iterator[tuple[Task, Step]]:
    """Start a training on the other nodes of this task; give it as this node does it, and the step that runs on the others."""
    count = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if count == 1 or not task.trains:
        yield task, None
        return
    machines = {"count": count, "at": f"{socket.gethostname()}:{_free_port()}", "run": uuid4().hex[:12]}
    step = _start(wave, number, task, machines)
    try:
        yield replace(task, env={**task.env, MACHINES: json.dumps({**machines, "number": 0})}), step
    finally:
        assert step.stdin is not None
        step.stdin.close()  # which ends what runs there
        try:
            step.wait(PARTING)
        except subprocess.TimeoutExpired:
            step.kill()
            step.wait()


def join(folder: Path, number: int, told: str) -> NoReturn:
    """Do a job of a wave as one of several nodes, which isn't the first."""
    task, mine = waves.read(folder).jobs[number], int(os.environ["SLURM_PROCID"]) + 1
    command = list(named(task, f"{task.apart}-{mine}").command)
    command[command.index("--result") + 1] += f"-{mine}"
    os.chdir(task.folder)
    env = {**os.environ, **task.env, MACHINES: json.dumps({**json.loads(told), "number": mine})}
    os.execve(sys.executable, [sys.executable, "-m", "ddmake", "job", *command], env)


def named(task: Task, trial: str) -> Task:
    """Return a task as another try, which has a room of its own: a try that was given up may still write to its."""
    command = list(task.command)
    command[command.index("--apart") + 1] = trial
    return replace(task, command=command, apart=trial)


def _start(wave: Wave, number: int, task: Task, machines: dict[str, object]) -> subprocess.Popen[bytes]:
    others, cpus = int(str(machines["count"])) - 1, os.environ.get("SLURM_CPUS_PER_TASK")
    command = ["srun", f"--nodes={others}", f"--ntasks={others}", "--ntasks-per-node=1", "--relative=1", "--kill-on-bad-exit=1",
               *([f"--cpus-per-task={cpus}"] if cpus else []),  # which srun doesn't take from its environment any more
               sys.executable, "-m", "ddmake.executors.slurm", str(wave.folder), str(number), json.dumps(machines)]
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
