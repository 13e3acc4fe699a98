"""A training in one process or in many, without torchrun: torch's elastic launcher starts them from inside of a job.

They are forked where there is no GPU and this process hasn't computed yet: `engine/run.py` gives a training in many processes
a worker that did nothing before. Else they are spawned, and load the Ddfile for its functions. There
are no restarts: a process that fails ends all of them, and the job with its own message.

On several machines each does the same job, and meets the others here; the first goes on with what they have made.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ddmake.backends.stopping import Stopped
from ddmake.ddfile.load import load
from ddmake.errors import DdmakeError
from ddmake.trainers.common import Progress, Settings
from ddmake.trainers.pausing import Paused
from ddmake.trainers.warm import computes, untouched

GRANTED = "DDMAKE_GPUS"  # how many GPUs the executor gave to this job
LOADED = "DDMAKE_LOADED"  # the Ddfile that this job is of, and its knobs
MACHINES = "DDMAKE_MACHINES"  # on which the job is done at the same time, where there are several: `Machines`
LOOK = 0.1  # seconds between two looks at the processes
GRACE = 10  # seconds that they have to end
AFTER = 1.0  # seconds that a process which fails stays on: one that was killed, for want of which it does, is seen first then
WORD = 20.0  # seconds in which another machine may tell why it failed

Train = Callable[..., dict[str, float]]


def launch(train: Train, rows: Any, validation: Any, settings: Settings, output: Path, checkpoints: Path,
           progress: Progress) -> dict[str, float]:
    """Train in so many processes, by default one a GPU that the rule asks for, and return the metrics.

    Raises DdmakeError for what a process raises, or if one of them dies, and Paused where the job's time is over.
    """
    machines, devices = Machines(**json.loads(os.environ.get(MACHINES, "{}"))), torch.cuda.device_count()
    count = settings.processes or (int(os.environ.get(GRANTED, "0")) or 1) * machines.count
    here, rest = divmod(count, machines.count)
    if rest or not here:
        raise DdmakeError(f"processes={count} can't be spread evenly over {machines.count} nodes.")
    if devices and here > devices:
        raise DdmakeError(f"processes={count}, and this job has {devices} of the GPUs. Give the rule gpus={here}, or ask for "
                          "fewer processes.")
    if count == 1 and devices < 2 and not settings.sharded:
        computes()
        return train(rows, validation, settings, output, checkpoints, progress)
    if settings.sharded and not devices:
        raise DdmakeError("sharded=True needs GPUs, and there is none here.")
    reader, writer = connection.Pipe(duplex=False)
    with _relayed(reader, writer, progress), _noting(machines, checkpoints) as folder, _signals():
        work = Work(train, (rows, validation, settings, output, checkpoints), max(1, torch.get_num_threads() // here))
        metrics = _launched(work, count, folder, writer, machines)
    if machines.number:
        sys.stdout.flush()
        os._exit(0)  # the rest of the job is the first machine's
    return metrics


@dataclass(frozen=True)
class Machines:
    """On how many machines a training runs, which of them this is, and where they meet."""

    count: int = 1
    number: int = 0
    at: str = "localhost:0"  # an address of the first and a port that is free there
    run: str = ""


@dataclass(frozen=True)
class Work:
    """What each process does: a training, with so many threads."""

    train: Train
    given: tuple[Any, ...]
    threads: int


def _launched(work: Work, count: int, folder: Path, writer: connection.Connection,
              machines: Machines = Machines()) -> dict[str, float] | None:
    """Start the processes, wait for them, and return what the first of all returned, if it is here. Raises Paused if it did."""
    alone = machines.count == 1
    config = LaunchConfig(
        min_nodes=machines.count, max_nodes=machines.count, nproc_per_node=count // machines.count,
        run_id=machines.run or uuid4().hex, rdzv_backend="c10d" if alone else "static", rdzv_endpoint=machines.at,
        rdzv_configs={} if alone else {"rank": machines.number}, local_addr="localhost" if alone else None,
        max_restarts=0, monitor_interval=LOOK, start_method="fork" if untouched() else "spawn", shutdown_timeout=GRACE,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / f"logs-{machines.number}")),
    )
    sys.stdout.flush()
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told here
    try:
        told = elastic_launch(config, _rank)(Ddfile(), work, folder, writer).get(0)
    except ChildFailedError as error:
        raise DdmakeError(_reason(error.failures, folder, count, alone)) from None
    except SignalException as error:
        raise Stopped from error
    except Exception as error:
        if "pickle" not in str(error):
            raise
        raise DdmakeError(f"many processes on GPUs take functions by their names, at the Ddfile's top level: {error}.") from None
    if isinstance(told, Paused):
        raise told
    return told


class Ddfile:
    """Has the Ddfile loaded in a process that is spawned, before the functions that come after it are looked for by name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_there, (os.environ.get(LOADED),)


def _load_there(told: str | None) -> Ddfile:
    if told is not None:
        found = json.loads(told)
        load(Path(found["file"]), **found["given"])
    return Ddfile()


def _rank(ddfile: Ddfile, work: Work, folder: Path, writer: connection.Connection) -> dict[str, float] | Paused | None:
    """Do the work as one process of several; the first tells its progress and returns the metrics, or how far it came."""
    _end_with_parent()
    rank = int(os.environ["RANK"])
    if rank:
        sys.stdout = open(os.devnull, "w")  # what all of them would say is said once
    torch.set_num_threads(work.threads)
    try:
        told = work.train(*work.given, _telling(writer) if rank == 0 else _silent)
    except Paused as paused:  # all of them, after the same step
        told = paused
    except BaseException as error:
        _note(error, folder, rank)
        sys.stderr.flush()
        time.sleep(AFTER)
        os._exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return told if rank == 0 else None


def _telling(writer: connection.Connection) -> Progress:
    return lambda done, total, note: writer.send((done, total, note))


def _silent(done: int, total: int, note: str) -> None:
    """Tell nobody."""


def _end_with_parent() -> None:
    """End this process at once when it is asked to, and when the one that started it has gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None, "a rank was started by nobody"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _note(error: BaseException, folder: Path, rank: int) -> None:
    """Leave word of why this process ends; the traceback goes to the log unless it is a user's mistake."""
    mistake = isinstance(error, DdmakeError)
    if not mistake:
        traceback.print_exception(error)
    told = str(error) if mistake else f"{type(error).__name__}: {error}"
    _leave_word(folder, rank, told, mistake)


def _leave_word(folder: Path, rank: int, told: str, final: bool) -> None:
    scratch = folder / f"{rank}.part"
    scratch.write_text(json.dumps({"told": told, "mistake": final, "at": time.time()}), encoding="utf-8")
    scratch.rename(folder / f"{rank}.json")


def _reason(failures: Mapping[int, ProcessFailure], folder: Path, count: int, alone: bool) -> str:
    """Return why a training failed: who was killed, else who failed first, since the others then fail for want of it."""
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # which the launcher sends to the others
            told = f"process {rank} of {count} was killed by {failure.signal_name()}."
            _leave_word(folder, rank, told, True)
            return told
    noted, until = _noted(folder), time.monotonic() + (0 if alone else WORD)
    while not any(word["mistake"] for word in noted.values()) and time.monotonic() < until:
        time.sleep(LOOK)
        noted = _noted(folder)
    if not noted:
        rank, failure = next(iter(sorted(failures.items())))
        return f"process {rank} of {count} ended with exit code {failure.exitcode}."
    rank, first = min(noted.items(), key=lambda item: (not item[1]["mistake"], item[1]["at"]))
    return first["told"] if first["mistake"] else f"process {rank} of {count} failed: {first['told']}"


def _noted(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the word that processes have left, by their numbers."""
    return {int(file.stem): json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}


@contextmanager
def _noting(machines: Machines, checkpoints: Path) -> Iterator[Path]:
    """Give a folder in which processes leave word of why they end: on several machines one that all of them see."""
    if machines.count == 1:
        with TemporaryDirectory(prefix="ddmake-") as folder:
            yield Path(folder)
        return
    shared = checkpoints / f"processes-{machines.run}"
    shared.mkdir(parents=True, exist_ok=True)
    yield shared  # for the others to read; it goes with the checkpoints


@contextmanager
def _relayed(reader: connection.Connection, writer: connection.Connection, progress: Progress) -> Iterator[None]:
    """Pass on the progress that the first process tells."""
    def listen() -> None:
        while (told := reader.recv()) is not None:
            progress(*told)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        writer.send(None)
        listener.join()
        reader.close()
        writer.close()


@contextmanager
def _signals() -> Iterator[None]:
    """Put back the signal handlers that the launcher sets."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
