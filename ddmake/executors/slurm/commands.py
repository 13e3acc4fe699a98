"""Slurm's commands. A query that isn't answered tells nothing: neither that a job runs, nor that it has ended.

Formats and states: https://slurm.schedmd.com/squeue.html, sbatch.html, scontrol.html, job_state_codes.html.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ddmake.errors import DdmakeError

PATIENCE = 60.0  # seconds that a command may take
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")  # of the variables that Slurm knows: where a cluster is reached
CHUNK = 500  # jobs that are cancelled by one command
SMALLEST = 1001  # Slurm's own MaxArraySize
COMMENT = "ddmake "  # before the token in a job's comment, by which it is found again
PASSING = ("timed out", "Unable to contact", "Connection refused", "Zero Bytes", "temporarily", "connection failure",
           "Slurm controller not respond", "backup controller", "standby mode", "receive failure", "send failure",
           "Unexpected message received", "authentication error", "unge ")  # munge, which signs what commands say
FULL = re.compile(r"\b\w*(?:MaxSubmit|GrpSubmit)\w*")  # limits on how many jobs may be in the queue
LONG = "Invalid job array specification"  # where an array is longer than it may be
UNKNOWN = "Invalid job id"  # of a job that Slurm has forgotten
ID = re.compile(r"^(\d+)(;\S+)?$", re.MULTILINE)  # as sbatch tells it, on a federation with its cluster, among warnings
SPEAKER = re.compile(r"^(\w+: )?(error: )?")
PAIR = re.compile(r"(\w+)=(\S*)")


@dataclass(frozen=True)
class State:
    """How Slurm sees a task: its state ("RUNNING", "TIMEOUT"), why it waits, its node and exit code, where it tells them."""

    word: str
    reason: str = ""
    node: str = ""
    code: str = ""


class NoAnswer(Exception):
    """Slurm didn't answer, or not in time."""


class Full(Exception):
    """No more jobs may be in the queue for now, or not so many in one array."""


class Refused(DdmakeError):
    """Slurm doesn't take a job as it is."""


class Commands:
    """The commands of the cluster that this machine belongs to; `calls` counts them."""

    def __init__(self) -> None:
        self.calls = 0

    @cached_property
    def most(self) -> int:
        """Return how many tasks an array may have."""
        try:
            found = re.search(r"^MaxArraySize\s*=\s*(\d+)", self._ask("scontrol", "show", "config"), re.MULTILINE)
        except (NoAnswer, Refused):
            found = None
        return max(1, int(found[1]) - 1) if found else SMALLEST - 1

    def submit(self, options: Sequence[str], script: str) -> str:
        """Submit a script, and return the job's id. Raises NoAnswer, after which it may run all the same, Full, and Refused."""
        try:
            told = self._ask("sbatch", "--parsable", *options, script=script)
        except Refused as why:
            limit = FULL.search(str(why))
            if limit is not None or LONG in str(why) and not any(told.startswith("--array=0-0%") for told in options):
                raise Full(limit[0] if limit is not None else LONG) from None
            raise
        found = ID.findall(told)
        if not found:
            raise NoAnswer("sbatch told no job's id")
        return found[-1][0]

    def throttle(self, job: str, tasks: int) -> None:
        """Have so many tasks of a job run at once. Raises NoAnswer and Refused."""
        self._ask("scontrol", "update", f"JobId={job}", f"ArrayTaskThrottle={tasks}")

    def queue(self) -> dict[str, State]:
        """Return the user's tasks that wait or run, by their ids, such as "12_3". Raises NoAnswer."""
        told = self._ask("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%N")
        fields = (line.split("|", 3) for line in told.splitlines() if line.count("|") >= 3)
        return {task: State(word, reason, node) for task, word, reason, node in fields}

    def by_token(self) -> dict[str, str]:
        """Return the ids of the user's jobs that Slurm remembers, by the tokens that ddmake gave them. Raises NoAnswer."""
        told = self._ask("squeue", "--me", "--noheader", "--format=%F|%k", "--states=all")
        fields = (line.partition("|") for line in told.splitlines())
        return {comment.removeprefix(COMMENT): job for job, _, comment in fields if comment.startswith(COMMENT)}

    def ended(self, job: str) -> dict[str, State]:
        """Return the tasks of a job as Slurm remembers them; it forgets those that ended minutes ago. Raises NoAnswer."""
        try:
            told = self._ask("scontrol", "--oneliner", "show", "job", job)
        except Refused as why:
            if UNKNOWN not in str(why):
                raise NoAnswer(str(why)) from None
            return self._accounted(job)
        found = dict(_shown(told))
        if not found:
            raise NoAnswer("scontrol tells nothing of a job that it knows")
        return found

    def cancel(self, jobs: Iterable[str]) -> None:
        """Cancel jobs or tasks, some hundreds at once. Raises NoAnswer."""
        ids = list(jobs)
        for at in range(0, len(ids), CHUNK):
            self._ask("scancel", *ids[at:at + CHUNK], refused=False)

    def _accounted(self, job: str) -> dict[str, State]:
        """Return the tasks of a job as the accounting has them, where there is one."""
        try:
            told = self._ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,NodeList,ExitCode")
        except Refused:  # there is none
            return {}
        fields = (line.split("|") for line in told.splitlines() if line.count("|") == 3)
        return {task: State(word.partition(" ")[0], "", node, code) for task, word, node, code in fields}

    def _ask(self, *command: str, script: str | None = None, refused: bool = True) -> str:
        self.calls += 1
        try:
            done = subprocess.run(command, input=script, capture_output=True, encoding="utf-8", errors="replace",
                                  timeout=PATIENCE, env=outside(os.environ),
                                  start_new_session=True)  # so that a Ctrl-C is ours alone
        except FileNotFoundError:
            raise Refused(f"{command[0]} isn't here, so there is no Slurm to run jobs. Run ddmake where jobs are submitted, or "
                          "leave out --executor slurm.") from None
        except OSError as error:
            raise NoAnswer(f"{command[0]}: {error.strerror or error}") from None
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"{command[0]} didn't answer in {PATIENCE:.0f} s") from None
        if done.returncode < 0:
            raise NoAnswer(f"{command[0]} was killed by {signal.Signals(-done.returncode).name}")
        if done.returncode and _passing(done.stderr):
            raise NoAnswer(f"{command[0]}: {_said(done.stderr)}")
        if done.returncode and refused:
            raise Refused(_said(done.stderr) or f"{command[0]} ended with exit code {done.returncode}")
        return done.stdout


def outside(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what Slurm has told an outer job, which an inner one would take for its own."""
    return {name: value for name, value in env.items() if not name.startswith("SLURM_") or name in KEPT}


def _passing(told: str) -> bool:
    """Tell whether Slurm's controller is away for a while, and not that it has refused something."""
    return any(words in told for words in PASSING)


def _said(told: str) -> str:
    """Return in one line why Slurm has refused something."""
    lines = [SPEAKER.sub("", line.strip()) for line in told.splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith("Try "))


def _shown(told: str) -> Iterator[tuple[str, State]]:
    """Yield what `scontrol show job` tells of each task."""
    for line in told.splitlines():
        found = dict(PAIR.findall(line))
        if found.keys() >= {"JobState", "JobId"}:
            array, task = found.get("ArrayJobId"), found.get("ArrayTaskId")
            name = f"{array}_{task}" if array and task else found["JobId"]
            yield name, State(found["JobState"], found.get("Reason", ""), found.get("NodeList", ""), found.get("ExitCode", ""))
