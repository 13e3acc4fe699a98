"""What a job ran on, as a trace records it: processor, cores, memory, GPUs. Never by the machine's name, and never in a key."""

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ddmake.executors.machine import DRIVER, this_machine

CPUS = Path("/proc/cpuinfo")


def hardware() -> dict[str, Any]:
    """Return what this process runs on."""
    machine = this_machine()
    return {"cpu": _processor(), "cores": machine.cores, "memory": machine.memory, "gpus": _gpus()}


@cache
def _processor() -> str:
    """Return the processor's name, or its kind where it has none."""
    if platform.system() == "Darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or platform.machine()
    text = CPUS.read_text(errors="replace") if CPUS.is_file() else ""
    return _named(text, "model name") or platform.machine()


def _gpus() -> list[str]:
    """Return the names of the GPUs: of those that torch sees, where it has used one, else of all that the driver has."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return _of_driver()


@cache
def _of_driver() -> list[str]:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not DRIVER.is_dir():
        return []
    return [_named(file.read_text(), "Model") for file in sorted(DRIVER.glob("*/information"))]


def _named(text: str, field: str) -> str:
    """Return a field of a list of "field : value"."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")
