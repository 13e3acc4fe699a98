"""What is submitted for a wave: the options of its array, and the script that each of its tasks runs."""

import sys
from collections.abc import Sequence
from shlex import quote

from ddmake.executors.slurm.commands import COMMENT
from ddmake.executors.slurm.waves import Wave


def of_wave(wave: Wave, share: int, bad: Sequence[str]) -> list[str]:
    """Return the options of sbatch for a wave of which `share` tasks may run at once, and none on `bad` nodes."""
    return [*wave.options, *([f"--exclude={','.join(bad)}"] if bad else []), "--no-requeue", "--kill-on-invalid-dep=yes",
            f"--array=0-{wave.tasks - 1}%{share}", f"--comment={COMMENT}{wave.token}",
            f"--output={wave.folder}/task-%a.log", f"--chdir={wave.jobs[0].folder}",
            *([] if any(told.startswith("--job-name") for told in wave.options) else ["--job-name=ddmake"])]


def script(wave: Wave) -> str:
    """Return what a task runs."""
    command = f"{quote(sys.executable)} -P -m ddmake.executors.slurm {quote(str(wave.folder))}"
    return f"#!/bin/sh\ntrap '' USR1\nexec {command}\n"  # a warning that comes before somebody listens would end it
