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
UNSEEN = "perhaps its node doesn't see the project's folder, which has to lie on a file system that all nodes share"
NO_PYTHON = "perhaps its node doesn't have the Python that runs ddmake, at the same path: jobs are started by that"
NEVER_BEGUN = {  # exit codes of a task that couldn't begin, Slurm's own for a folder or a log that it can't open and a shell's
    "0:53": UNSEEN,
    "126:0": NO_PYTHON,
    "127:0": NO_PYTHON,
}
SAID = {"JobArrayTaskLimit": "as many run as may"}  # what reasons mean that go by
FOR_NOTHING = {  # reasons that waiting alone doesn't end: https://slurm.schedmd.com/job_reason_codes.html
    "PartitionConfig": "no node of its partition has what it asks for",
    "BadConstraints": "no node has what it asks for",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "DependencyNeverSatisfied": "what it depends on has failed",
    "JobHeldUser": "it is held: scontrol release",
    "JobHeldAdmin": "it is held by an administrator",
    "InvalidAccount": "there is no such account",
    "InvalidQOS": "there is no such QOS",
}
OVER = ("COMPLETED", "CANCELLED", "FAILED", *MACHINES, *SHORT)


@dataclass(frozen=True)
class Fate:
    """What becomes of a job: it ends, for what it had too little of, or another way, or it is submitted `again`."""

    how: str = ""  # in words
    short: Literal["", "time", "memory"] = ""
    again: bool = False
    counts: bool = True  # among the times that it may be submitted again
    broken: bool = False  # whether its node is to blame
    killed: bool = False  # by nobody knows whom
    alone: bool = False  # whether it is submitted as a task of its own, for what many had too little of together


def fate(state: State, node: str, times: int, kills: int, begun: bool = True, shared: bool = False) -> Fate:
    """Return what becomes of a job that left no result; `times` it was submitted again before, of these after `kills`.

    Where it shared its task with others, one of these may have had too much of what the task had too little of.
    """
    word = state.word.partition(" ")[0].rstrip("+")
    if word == "COMPLETED":  # a task that found nothing to do: it was begun by one that is lost, or itself, before a requeue
        word = ""
    killed = word == "FAILED" and state.code in KILLED
    if not begun and (killed or word in SHORT):
        return Fate("its task ended before it was begun", again=True, counts=False)
    if shared and SHORT.get(word) == "time":
        return Fate("the time of its task, which had done others before, was over", again=True, alone=True)
    if word in SHORT:
        return Fate(short=SHORT[word])
    if killed and kills >= KILLS:
        return Fate("it was killed by SIGKILL twice, most likely since ", short="memory")
    if (killed or word in MACHINES) and times < ANEW:
        cause = "SIGKILL" if killed else word
        lost = f"lost{f' with {node}' if node else ''}{f' ({cause})' if cause else ''}"
        return Fate(lost, again=True, counts=word != "PREEMPTED", broken=bool(node) and word in BROKEN, killed=killed)
    how = "it was cancelled" if word == "CANCELLED" else f"Slurm says {word or 'nothing of it'}"
    hint = NEVER_BEGUN.get(state.code)
    return Fate(how + (f", exit code {state.code}" if state.code and state.code != "0:0" else "") + (f"; {hint}" if hint else ""))


def why_it_waits(reason: str) -> str:
    """Return why a task waits, and what that means where it waits for nothing."""
    return f"{reason}: {FOR_NOTHING[reason]}" if reason in FOR_NOTHING else SAID.get(reason, reason)


def explained(told: Mapping[str, State], name: str) -> tuple[str, State]:
    """Return the task by this name, and how it is; by the name of an array the one that says most of a job that none took up."""
    there = {task: state for task, state in told.items() if name in (task, task.partition("_")[0])} or {name: State("")}
    return min(there.items(), key=lambda item: (item[1].word in OVER, item[1].word == "COMPLETED"))


def after_printing(state: State, printed: str) -> State:
    """Return how a task is, also by what Slurm has printed into its log."""
    return State("OUT_OF_MEMORY") if state.code in KILLED and OVERFULL in printed else state
