"""What is asked of Slurm: by flags, by rules, by a profile, by `[tool.ddmake.slurm]`, the first that says something counting."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from ddmake.errors import DdfileError
from ddmake.executors.base import Task

OWN = {  # options that ddmake sets itself, and how a user says the same
    "cpus-per-task": "cpus=", "mem": "mem=", "time": "time=", "gpus": "gpus=", "requeue": "retries=", "array": "", "output": "",
    "error": "", "comment": "", "parsable": "", "wrap": "", "no-requeue": "", "signal": "", "chdir": "", "export": "",
    "input": "", "kill-on-invalid-dep": "", "wait": "", "test-only": "",
}
MEGABYTE, MINUTE, HOUR = 2**20, 60, 3600
WARNING = 120  # seconds before its end in which a training can write a checkpoint, where nobody says how many

Asks = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What holds for all jobs: options of sbatch, those that flags have set, how many tasks may run at once, and packing."""

    asks: Asks = field(default_factory=dict)
    flags: Asks = field(default_factory=dict)
    head: Asks = field(default_factory=dict)  # of a head that is a job itself; it may say `time` and `mem`, too
    jobs: int | None = None
    pack: bool = True  # several small jobs after one another in one task
    warning: int = WARNING


def settings(root: Path, profile: Path | None, flags: Sequence[str], jobs: int | None) -> Settings:
    """Return what files and flags say. Raises DdfileError for what can't be read, or isn't for users to set."""
    project = root / "pyproject.toml"
    told = _table(project, ("tool", "ddmake", "slurm")) if project.is_file() else {}
    told |= _table(profile, ()) if profile is not None else {}
    jobs = jobs if jobs is not None else told.pop("jobs", None)
    told.pop("jobs", None)
    pack = told.pop("pack", True)
    if not isinstance(pack, bool):
        raise DdfileError(f"[tool.ddmake.slurm]: pack={pack!r}; it is true or false.")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise DdfileError(f"[tool.ddmake.slurm]: jobs={jobs!r}; it is a number from 1 on.")
    warning = told.pop("warning", WARNING)
    if isinstance(warning, bool) or not isinstance(warning, int) or warning < 1:
        raise DdfileError(f"[tool.ddmake.slurm]: warning={warning!r}; it is a number of seconds from 1 on.")
    head, given = told.pop("head", {}), dict(_flag(flag) for flag in flags)
    if not isinstance(head, dict):
        raise DdfileError("[tool.ddmake.slurm]: head is a table of options.")
    return Settings(checked(told, "[tool.ddmake.slurm]"), checked(given, "--slurm"), head, jobs, pack, warning)


def checked(asks: Asks, where: str) -> dict[str, Any]:
    """Return options by the names that sbatch has for them. Raises DdfileError for those that aren't for users to set."""
    found = {name.replace("_", "-"): value for name, value in asks.items()}
    for name, value in found.items():
        if name in OWN:
            raise DdfileError(f"{where}: {name} is set by ddmake itself.{f' Say {OWN[name]}… of the rule.' if OWN[name] else ''}")
        if not isinstance(value, (str, int)):
            raise DdfileError(f"{where}: {name}={value!r} is no option of Slurm's. Give a text, a number, or true for one that "
                              "takes no value.")
    return found


def arguments(task: Task, settings: Settings) -> list[str]:
    """Return the options of sbatch for a task."""
    needs = task.needs
    asks = {**settings.asks, **checked(dict(task.asks), task.label), **settings.flags}
    if str(asks.get("nodes", 1)) != "1" and (task.foreign or not task.trains):
        raise DdfileError(f"{task.label}: nodes={asks['nodes']} is for ddmake's own trainings, which alone run on several nodes.")
    told = written(asks)
    if needs.cpus:
        told.append(f"--cpus-per-task={needs.cpus}")
    if needs.gpus:
        told.append(f"--gres=gpu:{needs.gpus}")
    if needs.memory:
        told.append(f"--mem={ceil(needs.memory / MEGABYTE)}M")
    if needs.seconds:
        told.append(f"--time={_clock(needs.seconds)}")
    if task.trains:
        lead = min(settings.warning, max(MINUTE, needs.seconds) // 2) if needs.seconds else settings.warning
        told.append(f"--signal=B:USR1@{lead:.0f}")
    return told


def written(asks: Asks) -> list[str]:
    """Return options as sbatch takes them."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in sorted(asks.items()) if value is not False]


def _clock(seconds: float) -> str:
    whole = max(MINUTE, ceil(seconds))
    return f"{whole // HOUR}:{whole % HOUR // MINUTE:02}:{whole % MINUTE:02}"


def _flag(told: str) -> tuple[str, Any]:
    name, equals, value = told.partition("=")
    return name.strip().lstrip("-"), value if equals else True


def _table(file: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
        for name in names:
            told = told.get(name, {})
        return dict(told)
    except FileNotFoundError:
        raise DdfileError(f"{file} isn't there.") from None
    except ValueError as error:
        raise DdfileError(f"{file}: {error}") from None
