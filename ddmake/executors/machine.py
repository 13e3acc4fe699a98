"""What this machine has for jobs, and what of it is free."""

import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ddmake.executors.base import Needs

DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder a GPU, where the driver is loaded
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of the container that this is, if it is one


@dataclass(frozen=True)
class Machine:
    """Cores, memory in bytes and GPUs by their ids. The GPUs are asked for when a job wants some."""

    cores: int
    memory: int

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """Return the ids of the GPUs that ddmake itself may use."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        if given is None:
            return tuple(str(number) for number in range(_count_gpus()))
        ids = [part.strip() for part in given.split(",")]
        return tuple(ids[:next((at for at, part in enumerate(ids) if part in ("", "-1")), len(ids))])


def this_machine() -> Machine:
    """Return what this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        memory = min(memory, int(LIMIT.read_text()))
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return Machine(cores, memory)


def _count_gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        return sum(line.startswith("GPU ") for line in listed.splitlines())
    except (OSError, subprocess.SubprocessError):
        return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0


@dataclass
class Room:
    """What is free of a machine; `slots` is how many jobs may run at once, `beside` how many more that mostly wait."""

    machine: Machine
    slots: int
    beside: int = 0
    cores: int = field(init=False)
    memory: int = field(init=False)
    taken: set[str] = field(default_factory=set)  # ids of GPUs

    def __post_init__(self) -> None:
        self.cores, self.memory = self.machine.cores, self.machine.memory
        self._beside = self.beside

    @property
    def gpus(self) -> list[str]:
        """Return the ids of the GPUs that are free."""
        return [number for number in self.machine.gpus if number not in self.taken]

    def fits(self, needs: Needs) -> bool:
        """Tell whether there is room for a task."""
        if self.slots < 1 and not (needs.waits and self.beside):
            return False
        if (needs.cpus or 0) > self.cores or (needs.memory or 0) > self.memory:
            return False
        return not needs.gpus or needs.gpus <= len(self.gpus)

    def take(self, needs: Needs, gpus: set[str]) -> None:
        """Hand out what a task needs, and these GPUs."""
        self._change(needs, -1)
        self.taken |= gpus

    def give_back(self, needs: Needs, gpus: set[str]) -> None:
        """Take back what a task had."""
        self._change(needs, 1)
        self.taken -= gpus

    def _change(self, needs: Needs, sign: int) -> None:
        if needs.waits and (self.beside if sign < 0 else self.beside < self._beside):
            self.beside += sign
        else:
            self.slots += sign
        self.cores += sign * (needs.cpus or 0)
        self.memory += sign * (needs.memory or 0)
