"""What is asked of Slurm: by flags, by rules, by a profile, by `[tool.ddmake.slurm]`, the first that says something counting."""

import re
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from ddmake.errors import DdfileError, did_you_mean
from ddmake.executors.base import Task

OWN = {  # options that ddmake sets itself, and how a user says the same
    "cpus-per-task": "cpus=", "mem": "mem=", "time": "time=", "gpus": "gpus=", "requeue": "retries=", "array": "", "output": "",
    "error": "", "comment": "", "parsable": "", "wrap": "", "no-requeue": "", "signal": "", "chdir": "", "export": "",
    "input": "", "kill-on-invalid-dep": "", "wait": "", "test-only": "", "help": "", "usage": "", "version": "", "quiet": "",
}
OF_HEADS = ("time", "mem", "cpus-per-task")  # of these, which a head that is a job may be given
KNOWN = frozenset("""
account acctg-freq batch bb bbf begin cluster-constraint clusters constraint container contiguous core-spec cores-per-socket
cpu-freq cpus-per-gpu deadline delay-boot dependency distribution exclude exclusive export-file extra extra-node-info get-user-env
gid gpu-bind gpu-freq gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs job-name licenses mail-type
mail-user mcs-label mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile nodelist nodes ntasks ntasks-per-core
ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode overcommit oversubscribe partition power prefer priority profile
propagate qos reboot reservation segment sockets-per-node spread-job switches thread-spec threads-per-core time-min tmp tres-bind
tres-per-task uid use-min-nodes verbose wckey""".split())  # https://slurm.schedmd.com/sbatch.html, of several versions
SETTINGS = ("jobs", "pack", "warning", "head")  # of ddmake's own, beside those options
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
    said = told.pop("jobs", None)
    jobs = jobs if jobs is not None else said
    pack = told.pop("pack", True)
    if not isinstance(pack, bool):
        raise DdfileError(f"[tool.ddmake.slurm]: pack={pack!r}; it is true or false.")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise DdfileError(f"[tool.ddmake.slurm]: jobs={jobs!r}; it is a number from 1 on.")
    warning = told.pop("warning", WARNING)
    if isinstance(warning, bool) or not isinstance(warning, int) or warning < 1:
        raise DdfileError(f"[tool.ddmake.slurm]: warning={warning!r}; it is a number of seconds from 1 on.")
    head, given = told.pop("head", {}), dict(_flag(flag) for flag in flags)
    if not isinstance(head, dict):
        raise DdfileError("[tool.ddmake.slurm]: head is a table of options.")
    return Settings(checked(told, "[tool.ddmake.slurm]", SETTINGS), checked(given, "--slurm"),
                    checked(head, "[tool.ddmake.slurm] head", may=OF_HEADS), jobs, pack, warning)


def checked(asks: Asks, where: str, beside: Sequence[str] = (), may: Sequence[str] = ()) -> dict[str, Any]:
    """Return options by the names that sbatch has for them; `beside` them there are others, and `may` is allowed.

    Raises DdfileError for those that aren't for users to set, and for what is likely misspelled: sbatch takes a beginning of
    a name for the whole of it, and so it would take another one than was meant.
    """
    found = {name.replace("_", "-"): value for name, value in asks.items()}
    for name, value in found.items():
        if name in OWN and name not in may:
            raise DdfileError(f"{where}: {name} is set by ddmake itself.{f' Say {OWN[name]}… of the rule.' if OWN[name] else ''}")
        _spelled(name, where, beside)
        if not isinstance(value, (str, int)):
            raise DdfileError(f"{where}: {name}={value!r} is no option of Slurm's. Give a text, a number, or true for one that "
                              "takes no value.")
    return found


def _spelled(name: str, where: str, beside: Sequence[str]) -> None:
    """Raise DdfileError for a name that looks like another one, unless this cluster has it."""
    known = [*KNOWN, *OWN, *beside]
    if name in known:
        return
    if len(name) < 2:
        raise DdfileError(f"{where}: {name!r} is no option of sbatch's by its whole name, such as partition=gpu.")
    near = did_you_mean(name, known) or next((f" Did you mean {one!r}?" for one in sorted(known) if one.startswith(name)), "")
    if near and not _here(name):
        raise DdfileError(f"{where}: sbatch has no option {name!r}.{near}")


def _here(name: str) -> bool:
    """Tell whether this cluster's sbatch has an option, which may be a plugin's: those stand in its help, too."""
    try:
        told = subprocess.run(["sbatch", "--help"], capture_output=True, encoding="utf-8", errors="replace", timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(rf"--{re.escape(name)}(?![\w-])", told) is not None


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
        for at, name in enumerate(names):
            told = told.get(name, {})
            if not isinstance(told, dict):
                raise DdfileError(f"{file.name}: [{'.'.join(names[:at + 1])}] is a table.")
        return dict(told)
    except FileNotFoundError:
        raise DdfileError(f"{file} isn't there.") from None
    except IsADirectoryError:
        raise DdfileError(f"{file} is a folder, and no TOML file.") from None
    except (ValueError, OSError) as error:
        raise DdfileError(f"{file} can't be read: {error}") from None
