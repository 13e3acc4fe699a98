"""What becomes of a job that left no result, by what Slurm says of its task.

States: https://slurm.schedmd.com/job_state_codes.html.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ddmake.executors.slurm.commands import State

ANEW = 10  # times that a job is submitted again for its machine's sake
KILLS = 1  # of these, after being killed by nobody knows whom
MACHINES = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL", "")
BROKEN = ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED")  # of these, for which a node isn't fit
KILLED = ("0:9", "137:0")  # exit codes of what was killed by SIGKILL, itself or its worker, for which Slurm has no word
OVERFULL = "exceeded memory limit"  # what Slurm then prints where the memory was short, and it only looks now and then
SHORT: Mapping[str, Literal["time", "memory"]] = {"TIMEOUT": "time", "DEADLINE": "time", "OUT_OF_MEMORY": "memory"}
OVER = ("COMPLETED", "COMPLETING", "CANCELLED", "FAILED", *MACHINES, *SHORT)


@dataclass(frozen=True)
class Fate:
    """What becomes of a job: it ends, for what it had too little of, or another way, or it is submitted `again`."""

    how: str = ""  # in words
    short: Literal["", "time", "memory"] = ""
    again: bool = False
    counts: bool = True  # among the times that it may be submitted again
    broken: bool = False  # whether its node is to blame


def fate(state: State, node: str, begun: bool, times: int) -> Fate:
    """Return what becomes of a job that left no result; `times` it was submitted again before."""
    word = state.word.partition(" ")[0].rstrip("+")
    if not begun and word == "COMPLETED":
        word = ""
    killed = word == "FAILED" and state.code in KILLED
    if word in SHORT:
        return Fate(short=SHORT[word])
    if killed and times >= KILLS:
        return Fate("it was killed by SIGKILL twice, most likely since ", short="memory")
    if (killed or word in MACHINES) and times < ANEW:
        cause = "SIGKILL" if killed else word
        lost = f"lost{f' with {node}' if node else ''}{f' ({cause})' if cause else ''}"
        return Fate(lost, again=True, counts=word != "PREEMPTED", broken=bool(node) and word in BROKEN)
    how = "it was cancelled" if word == "CANCELLED" else f"Slurm says {word or 'nothing of it'}"
    return Fate(how + (f", exit code {state.code}" if state.code and state.code != "0:0" else ""))


def explained(told: Mapping[str, State], name: str) -> tuple[str, State]:
    """Return the task by this name, and how it is; by the name of an array the one that says most of a job that none took up."""
    there = {task: state for task, state in told.items() if name in (task, task.partition("_")[0])} or {name: State("")}
    return min(there.items(), key=lambda item: (item[1].word in OVER, item[1].word == "COMPLETED"))


def after_printing(state: State, printed: str) -> State:
    """Return how a task is, also by what Slurm has printed into its log."""
    return State("OUT_OF_MEMORY") if state.code in KILLED and OVERFULL in printed else state
