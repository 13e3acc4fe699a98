"""`ddmake status` and `ddmake cancel`: what of a project is on a cluster. They run nothing of its Ddfile."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from ddmake.errors import DdfileError, DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import Commands, NoAnswer, Refused, State
from ddmake.executors.slurm.detaching import forget, heads, log
from ddmake.executors.slurm.fates import UNSEEN, why_it_waits
from ddmake.executors.slurm.waves import Wave
from ddmake.store import FOLDER

NOTHING = "Nothing of this project is on a cluster."
SHOWN = 5  # targets of a wave that are named
OUTCOME = re.compile(r"(made|stopped: made) \d")  # with what a run's summary begins
ENDING = 20.0  # seconds that heads which were cancelled may take to end


def status(file: Path) -> int:
    """Print what of a project is on the cluster."""
    store = _store(file)
    found, known = list(waves.every(store)), heads(store)
    queue, why = _queue(Commands()) if found or known else ({}, "")
    for head in known:
        click.echo("\n".join(_head(store.parent, head, queue)))
    for wave in found:
        click.echo("\n".join(_told(wave, queue)))
    if queue is None:
        click.echo(f"What runs and what waits isn't known: {why}")
    if not found and queue is not None and queue.keys().isdisjoint(known):
        click.echo(NOTHING)
    if any(_left(wave) for wave in found):
        click.echo("Nobody listens to these. To take them up: ddmake --executor slurm. To end them: ddmake cancel.")
    return 0


def cancel(file: Path) -> int:
    """Cancel what of a project is on the cluster, and forget it."""
    store, commands = _store(file), Commands()
    found = list(waves.every(store))
    known = heads(store)
    queue, why = _queue(commands) if found or known else ({}, "")
    if queue is None:
        raise DdmakeError(f"Nothing was cancelled: {why}")
    try:
        ids = commands.by_token() if any(wave.id is None for wave in found) else {}  # of a head that was gone too early
        mine = {job for wave in found if (job := wave.id or ids.get(wave.token)) is not None} | set(known)
        alive = sorted({task.partition("_")[0] for task in queue} & mine, key=int)
        commands.cancel(alive)
    except NoAnswer as error:
        raise DdmakeError(f"{error}: some may not be cancelled. Try again in a while.") from None
    if not set(known).isdisjoint(alive):
        _wait_for(found)
    for wave in found:
        if _left(wave):
            wave.remove()
    for head in known:
        forget(store, head)
    click.echo(f"cancelled {len(alive)} {'job' if len(alive) == 1 else 'jobs'} ({', '.join(alive)})" if alive else NOTHING)
    return 0


def _wait_for(found: Sequence[Wave]) -> None:
    """Wait until heads that were cancelled have let go of their waves."""
    until = time.monotonic() + ENDING
    while time.monotonic() < until and not all(_left(wave) for wave in found if wave.folder.exists()):
        time.sleep(0.2)


def _store(file: Path) -> Path:
    store = file.absolute().parent / FOLDER
    if not store.is_dir():
        raise DdfileError(f"{os.path.relpath(store)} isn't there: nothing was made here yet.")
    return store


def _queue(commands: Commands) -> tuple[dict[str, State] | None, str]:
    """Return the user's tasks in the queue, None and the reason where Slurm doesn't tell."""
    try:
        return commands.queue(), ""
    except NoAnswer as error:
        return None, f"Slurm doesn't answer ({error}). Try again in a while."
    except Refused as error:
        return None, str(error)


def _head(root: Path, head: str, queue: dict[str, State] | None) -> list[str]:
    """Return what is said of a head that is a job: where it is, or how it has ended."""
    file = log(root, head)
    if queue is None or head in queue:
        state = queue[head] if queue is not None else None
        return [f"head {head}: {_where(state) if state else 'was detached'}; log: {os.path.relpath(file)}"]
    if not file.exists():
        return [f"head {head}: it isn't in the queue any more, and left no log; {UNSEEN}."]
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if OUTCOME.match(line)), lines[-1] if lines else "it printed nothing")
    return [f"head {head}: has ended; log: {os.path.relpath(file)}", f"  {last}"]


def _told(wave: Wave, queue: dict[str, State] | None) -> list[str]:
    """Return what is said of a wave."""
    done, count = len(wave.ended()), len(wave.jobs)
    names = [task.label for task in wave.jobs]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    states = [state for task, state in (queue or {}).items() if task.partition("_")[0] == wave.id]
    running = [state for state in states if state.word == "RUNNING"]
    waiting = Counter(state.reason for state in states if state.word == "PENDING")
    parts = [f"{done} of {count} done" if count > 1 else "done" if done else "not done yet"]
    if running:
        parts.append(f"{_tasks(len(running))} running on {', '.join(sorted({state.node for state in running}))}")
    parts += [f"{_tasks(number)} waiting ({why_it_waits(reason)})" for reason, number in waiting.most_common()]
    if queue is not None and not states and done < count:
        parts.append("gone from the queue")
    return [f"job {wave.id or 'of unknown id'}: {'; '.join(parts)}", f"  {', '.join(names[:SHOWN])}{more}"]


def _tasks(count: int) -> str:
    return f"{count} {'task' if count == 1 else 'tasks'}"


def _where(state: State) -> str:
    return f"running on {state.node}" if state.word == "RUNNING" else f"waiting ({why_it_waits(state.reason)})"


def _left(wave: Wave) -> bool:
    """Tell whether no head listens to a wave."""
    lock = wave.own()
    if lock is not None:
        os.close(lock)
    return lock is not None


def on_cluster(store: Path) -> list[str]:
    """Return the targets that jobs of a head that is gone may still be making."""
    return [task.label for wave in waves.every(store) if _left(wave)
            for number, task in enumerate(wave.jobs) if number not in wave.ended()]
