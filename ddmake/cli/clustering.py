"""`ddmake status` and `ddmake cancel`: what of a project is on a cluster. They run nothing of its Ddfile."""

import os
from collections import Counter
from pathlib import Path

import click

from ddmake.errors import DdfileError, DdmakeError
from ddmake.executors.slurm import waves
from ddmake.executors.slurm.commands import Commands, NoAnswer, Refused, State
from ddmake.executors.slurm.detaching import heads
from ddmake.executors.slurm.waves import Wave
from ddmake.store import FOLDER

NOTHING = "Nothing of this project is on a cluster."
SHOWN = 5  # targets of a wave that are named


def status(file: Path) -> int:
    """Print what of a project is on the cluster."""
    store = _store(file)
    found, known = list(waves.every(store)), heads(store)
    queue = _queue(Commands()) if found or known else {}
    if not found and (queue == {} or queue is not None and not any(head in queue for head in known)):
        click.echo(NOTHING)
        return 0
    for head in known:
        state = (queue or {}).get(head)
        if state is not None:
            click.echo(f"head {head}: {_where(state)}; log: {os.path.relpath(store / waves.FOLDER / f'head-{head}.log')}")
    for wave in found:
        click.echo("\n".join(_told(wave, queue)))
    if queue is None:
        click.echo("Slurm doesn't answer, so what runs and what waits isn't known.")
    if any(_left(wave) for wave in found):
        click.echo("Nobody listens to these. To take them up: ddmake --executor slurm. To end them: ddmake cancel.")
    return 0


def cancel(file: Path) -> int:
    """Cancel what of a project is on the cluster, and forget it."""
    store, commands = _store(file), Commands()
    found = list(waves.every(store))
    queue = _queue(commands)
    if queue is None:
        raise DdmakeError("Slurm doesn't answer: nothing was cancelled. Try again in a while.")
    mine = {wave.id for wave in found} | set(heads(store))
    alive = sorted({task.partition("_")[0] for task in queue} & {job for job in mine if job is not None}, key=int)
    try:
        commands.cancel(alive)
    except NoAnswer as why:
        raise DdmakeError(f"{why}: some may not be cancelled. Try again in a while.") from None
    for wave in found:
        if _left(wave):
            wave.remove()
    for head in heads(store):
        (store / waves.FOLDER / f"head-{head}").unlink(missing_ok=True)
    click.echo(f"cancelled {len(alive)} {'job' if len(alive) == 1 else 'jobs'} ({', '.join(alive)})" if alive else
               "Nothing of this project is on the cluster.")
    return 0


def _store(file: Path) -> Path:
    store = file.absolute().parent / FOLDER
    if not store.is_dir():
        raise DdfileError(f"{os.path.relpath(store)} isn't there: nothing was made here yet.")
    return store


def _queue(commands: Commands) -> dict[str, State] | None:
    """Return the user's tasks in the queue, None where Slurm doesn't answer."""
    try:
        return commands.queue()
    except NoAnswer:
        return None
    except Refused as error:
        raise DdmakeError(str(error)) from None


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
    parts += [f"{_tasks(number)} waiting ({reason})" for reason, number in waiting.most_common()]
    if queue is not None and not states and done < count:
        parts.append("gone from the queue")
    return [f"job {wave.id or 'of unknown id'}: {'; '.join(parts)}", f"  {', '.join(names[:SHOWN])}{more}"]


def _tasks(count: int) -> str:
    return f"{count} {'task' if count == 1 else 'tasks'}"


def _where(state: State) -> str:
    return f"running on {state.node}" if state.word == "RUNNING" else f"{state.word.lower()} ({state.reason})"


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
