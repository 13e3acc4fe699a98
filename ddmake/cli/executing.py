"""Which executor runs jobs, and handing a head itself over to a cluster."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from ddmake.ddfile.workflow import Workflow
from ddmake.engine import resources
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError, did_you_mean
from ddmake.executors.base import Executor, Site
from ddmake.executors.local import Local
from ddmake.executors.machine import Machine
from ddmake.store import Store

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BESIDE = 8  # jobs that run beside the others, since they mostly wait for a service, where -j doesn't say how many run at once


@dataclass(frozen=True)
class Where:
    """Where jobs are to run: an executor's name, and what is said of it."""

    executor: str = "local"
    flags: Sequence[str] = ()
    profile: Path | None = None
    detach: bool = False  # the head, too
    folder: Path = field(default_factory=Path.cwd)  # in which the command was given

    @property
    def away(self) -> bool:
        """Tell whether jobs run elsewhere than beside the head."""
        return self.executor != "local"


def check(where: Where, store: Store, plan: Plan, machine: Machine, max_cost: float | None) -> None:
    """Raise DdfileError where jobs can't be run as it is asked for."""
    if where.detach and where.executor != "slurm":
        raise DdfileError("--detach runs the head itself as a job: use it with --executor slurm.")
    if not where.away and (where.flags or where.profile):
        raise DdfileError("--slurm and --profile say how jobs run on a cluster: use them with --executor slurm.")
    resources.check(plan, machine, where.away)
    if where.executor not in ("local", "slurm"):
        _brought(where.executor)
    if where.executor == "slurm":
        from ddmake.executors.slurm.options import checked, settings

        settings(store.root, where.profile, where.flags, None)
        for verdict in plan.todo:
            checked(verdict.rule.options.slurm, f"{verdict.rule.place}: {verdict.rule.label}")
    for verdict in plan.todo if where.away and max_cost is not None else ():
        if not resources.needs(verdict.rule).here and resources.asks_services(verdict.rule):
            raise DdfileError(f"{verdict.rule.place}: {verdict.rule.label} would ask a service from another machine, where "
                              "nobody keeps to --max-cost. Let it run beside the head by local=True, or leave out --max-cost.")


def check_alone(where: Where, store: Store, plan: Plan) -> None:
    """Raise DdfileError where a run beside the head would make what jobs on a cluster may be making."""
    if not where.away and plan.todo and (elsewhere := set(_on_cluster(store)) & {verdict.rule.label for verdict in plan.todo}):
        raise DdfileError(f"{min(elsewhere)} may be made on the cluster at this moment, for a run whose head is gone. Take it up "
                          "by --executor slurm, or end it: ddmake cancel")


def executor(where: Where, flow: Workflow, store: Store, machine: Machine, jobs: int | None) -> Executor:
    """Return what runs jobs. Raises DdfileError for a name that nobody has, and for what it can't be asked."""
    if not where.away:
        return Local(jobs or machine.cores, machine, 0 if jobs else BESIDE)
    local = Local(machine.cores, machine, BESIDE)
    site = Site(flow.root, store.folder, local, jobs, where.flags, where.profile)
    if where.executor == "slurm":
        from ddmake.executors.slurm.head import open_on

        return open_on(site)
    return _brought(where.executor).load()(site)


def _brought(name: str) -> "EntryPoint":
    """Return where a package has an executor of a name. Raises DdfileError where none has."""
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="ddmake.executors")}
    if name not in found:
        raise DdfileError(f"--executor {name}: there is none of that name.{did_you_mean(name, ['local', 'slurm', *found])}")
    return found[name]


def left(store: Store, cancelled: bool = False) -> list[str]:
    """Return what is to be said of jobs that go on without their head, or were cancelled with it."""
    count = len(_on_cluster(store))
    if not count:
        return ["What ran on the cluster was cancelled."] if cancelled else []
    what = "1 job goes" if count == 1 else f"{count:,} jobs go"
    return [f"On the cluster {what} on: ddmake --executor slurm takes that up, ddmake cancel ends it."]


def _on_cluster(store: Store) -> list[str]:
    if not (store.folder / "slurm").is_dir():
        return []
    from ddmake.cli.clustering import on_cluster

    return on_cluster(store.folder)


def detach(where: Where, root: Path) -> str:
    """Submit this command as a job that is the run's head, and return what is to be said of it."""
    from ddmake.executors.slurm.detaching import log, submit

    words = [sys.executable, "-m", "ddmake", *(word for word in sys.argv[1:] if word != "--detach")]
    job, others = submit(root, where.folder, join(words), where.profile, where.flags)
    told = f"Job {job} makes it. See: ddmake status · tail -f {os.path.relpath(log(root, job), where.folder)} · ddmake cancel"
    beside = f"Beside it there {'is' if len(others) == 1 else 'are'} {', '.join(others)}: what several are to make is made once."
    return "\n".join([told, *([beside] if others else [])])
