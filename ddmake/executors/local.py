"""Jobs in workers on this machine: processes that are kept warm, and that die with the head.

A job goes to an idle worker of its environment (threads, GPUs), first to one that has the job's models loaded, then to one
that has others: it keeps them beside the new ones, if its memory holds them all. A training goes to one that has trained, and
lets go of all models; it takes none in which a recipe of the user's ran, and one that failed ends its worker.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from ddmake.executors.base import Ended, Needs, Task, Told
from ddmake.executors.machine import Machine, Room
from ddmake.executors.processes import Start, spawned
from ddmake.executors.worker import Worker

GRACE = 10.0  # seconds that a job has to stop, beyond its requests in flight
PARTING = 2.0  # seconds that idle workers have to end by themselves


class Local:
    """An Executor of worker processes; `slots` is how many jobs run at once, `beside` how many more that mostly wait.

    `start` is how a process is started.
    """

    away = False

    def __init__(self, slots: int, machine: Machine, beside: int = 0, start: Start = spawned):
        self.slots, self._start = slots + beside, start
        self._room = Room(machine, slots, beside)
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []
        self._ears = selectors.DefaultSelector()

    def fits(self, needs: Needs) -> bool:
        """Tell whether a task with these needs could start now."""
        return self._room.fits(needs)

    def submit(self, task: Task) -> None:
        """Hand a task to a worker."""
        gpus = self._gpus(task)
        shown = ",".join(gpus)
        as_is = task.needs.gpus is None or os.environ.get("CUDA_VISIBLE_DEVICES") == shown  # so that it takes any worker
        env = task.env if as_is else {**task.env, "CUDA_VISIBLE_DEVICES": shown}
        worker = self._worker(task, env)
        worker.gpus = set(gpus)
        self._room.take(task.needs, worker.gpus)
        worker.deadline = time.monotonic() + task.needs.seconds if task.needs.seconds else None
        worker.give(task)

    def poll(self, seconds: float) -> list[Told | Ended]:
        """Return what the workers said, and which of them ended."""
        until = [at for worker in self._workers for at in (worker.deadline, worker.grace) if at is not None]
        heard = self._ears.select(max(0.0, min([seconds, *(at - time.monotonic() for at in until)])))
        told = [event for key, _ in heard for event in self._hear(key.data)]
        if not heard:  # a process that a job has left behind may hold a dead worker's pipe open
            gone = [worker for worker in self._workers if worker.process.poll() is not None]
            told += [event for worker in gone for event in [*self._hear(worker), *self._lost(worker)]]
        self._stop_overdue()
        return told

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Ask the tasks' process groups to stop, and stop them after a while unless they wait for answers."""
        names = {task.name for task in tasks}
        for worker in self._workers:
            if worker.task is not None and worker.task.name in names:
                worker.grace = time.monotonic() + GRACE
                worker.signal(signal.SIGTERM)

    def close(self, at_once: bool = True) -> None:
        """Stop what runs; idle workers end by themselves, and soon."""
        for worker in self._workers:
            if worker.task is not None:
                worker.signal(signal.SIGKILL)
            worker.let_go()
        deadline = time.monotonic() + PARTING
        for worker in [*self._workers, *self._leaving]:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            worker.bury()
        self._workers, self._leaving = [], []
        self._ears.close()

    def _gpus(self, task: Task) -> list[str]:
        """Pick GPUs for a task: those of an idle worker that has its models loaded, else the first that are free."""
        free, count = self._room.gpus if task.needs.gpus else [], task.needs.gpus or 0
        for worker in self._workers:
            fitting = len(worker.gpus) == count and worker.gpus <= set(free)
            if worker.task is None and worker.models & task.models and fitting:
                return [number for number in free if number in worker.gpus]
        return free[:count]

    def _worker(self, task: Task, env: Mapping[str, str]) -> Worker:
        """Return an idle worker for a task, a new one where none fits."""
        idle = [worker for worker in self._workers if worker.task is None]
        fitting = [worker for worker in idle
                   if worker.env == env and not task.alone and not (task.trains and worker.foreign)]
        more = 1 if task.models or task.trains else -1  # whoever loads nothing leaves those alone that have
        taken = max(fitting, default=None, key=lambda worker: (
            len(worker.models & task.models), more * (worker.loaded + len(worker.models))))
        if task.models or task.trains:  # what it loads needs the memory of what nobody uses
            self._dismiss([worker for worker in idle if worker.models and worker is not taken
                           and (task.trains or not worker.models & task.models)])
            idle = [worker for worker in idle if worker in self._workers]
        if taken is not None:
            return taken
        if len(self._workers) >= self.slots:
            self._dismiss(idle[:1])
        worker = Worker(env, task.folder, task.log, self._start)
        self._workers.append(worker)
        self._ears.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _dismiss(self, workers: Sequence[Worker]) -> None:
        for worker in [worker for worker in self._leaving if worker.process.poll() is not None]:
            worker.bury()
            self._leaving.remove(worker)
        for worker in workers:
            self._forget(worker)
            worker.let_go()
            self._leaving.append(worker)

    def _forget(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._ears.unregister(worker.answers)

    def _hear(self, worker: Worker) -> Iterator[Told | Ended]:
        for said in worker.hear():
            if said is None:
                yield from self._lost(worker)
            elif "result" in said:
                last = said["last"] or worker.task is not None and _ends(worker.task, said["result"])
                yield self._end(worker, "", said["result"])
                if last:
                    self._dismiss([worker])
            elif worker.task is not None and "note" in said:
                yield Told(worker.task, said["done"], said["total"], said["note"])
            elif "finishing" in said:
                worker.grace = None  # it waits for answers that are paid for

    def _lost(self, worker: Worker) -> Iterator[Ended]:
        """Take leave of a worker that is gone; a job that it had in hand is lost."""
        if worker in self._workers:
            self._forget(worker)
            how = worker.bury()
            if worker.task is not None:
                yield self._end(worker, how, None)

    def _end(self, worker: Worker, how: str, result: Mapping[str, object] | None) -> Ended:
        task = worker.task
        assert task is not None, "a worker without a task told a result"
        self._room.give_back(task.needs, worker.gpus)
        worker.task, worker.deadline, worker.grace = None, None, None
        return Ended(task, how, result, "time" if worker.late else "")

    def _stop_overdue(self) -> None:
        """Kill the groups of jobs that ran longer than their time, or didn't stop when they were asked to."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline is not None and now >= worker.deadline:
                worker.late, worker.deadline = True, None
                worker.signal(signal.SIGKILL)
            elif worker.grace is not None and now >= worker.grace:
                worker.grace = None
                worker.signal(signal.SIGKILL)


def _ends(task: Task, result: Mapping[str, object]) -> bool:
    """Tell whether a task's process does nothing more; of a training that failed nobody knows what it has left."""
    return task.alone or task.trains and result["word"] == "failed"
