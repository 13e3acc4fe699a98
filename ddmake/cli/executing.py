"""Which executor runs jobs, and handing a head itself over to a cluster."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from ddmake.ddfile.workflow import Workflow
from ddmake.engine import resources
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError, did_you_mean
from ddmake.executors.base import Executor, Site
from ddmake.executors.local import Local
from ddmake.executors.machine import Machine
from ddmake.store import Store

BESIDE = 8  # jobs that run beside the others, since they mostly wait for a service, where -j doesn't say how many run at once


@dataclass(frozen=True)
class Where:
    """Where jobs are to run: an executor's name, and what is said of it."""

    executor: str = "local"
    flags: Sequence[str] = ()
    profile: Path | None = None

    @property
    def away(self) -> bool:
        """Tell whether jobs run elsewhere than beside the head."""
        return self.executor != "local"


def check(where: Where, store: Store, plan: Plan, machine: Machine, max_cost: float | None) -> None:
    """Raise DdfileError where jobs can't be run as it is asked for."""
    if not where.away and plan.todo and (elsewhere := set(_on_cluster(store)) & {verdict.rule.label for verdict in plan.todo}):
        raise DdfileError(f"{min(elsewhere)} may be made on the cluster at this moment, for a run whose head is gone. Take it up "
                          "by --executor slurm, or end it: ddmake cancel")
    if not where.away and (where.flags or where.profile):
        raise DdfileError("--slurm and --profile say how jobs run on a cluster: use them with --executor slurm.")
    resources.check(plan, machine, where.away)
    if where.executor == "slurm":
        from ddmake.executors.slurm.options import checked

        for verdict in plan.todo:
            checked(verdict.rule.options.slurm, f"{verdict.rule.place}: {verdict.rule.label}")
    for verdict in plan.todo if where.away and max_cost is not None else ():
        if not resources.needs(verdict.rule).here and resources.asks_services(verdict.rule):
            raise DdfileError(f"{verdict.rule.place}: {verdict.rule.label} would ask a service from another machine, where "
                              "nobody keeps to --max-cost. Let it run beside the head by local=True, or leave out --max-cost.")


def executor(where: Where, flow: Workflow, store: Store, machine: Machine, jobs: int | None) -> Executor:
    """Return what runs jobs. Raises DdfileError for a name that nobody has, and for what it can't be asked."""
    if not where.away:
        return Local(jobs or machine.cores, machine, 0 if jobs else BESIDE)
    local = Local(machine.cores, machine, BESIDE)
    site = Site(flow.root, store.folder, local, jobs, where.flags, where.profile)
    if where.executor == "slurm":
        from ddmake.executors.slurm.head import open_on

        return open_on(site)
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="ddmake.executors")}
    if where.executor not in found:
        near = did_you_mean(where.executor, ["local", "slurm", *found])
        raise DdfileError(f"--executor {where.executor}: there is none of that name.{near}")
    return found[where.executor].load()(site)


def left(store: Store) -> list[str]:
    """Return what is to be said of jobs that go on without their head."""
    count = len(_on_cluster(store))
    what = "1 job goes" if count == 1 else f"{count} jobs go"
    return [f"{what} on on the cluster: ddmake --executor slurm takes that up, ddmake cancel ends it."] if count else []


def _on_cluster(store: Store) -> list[str]:
    if not (store.folder / "slurm").is_dir():
        return []
    from ddmake.cli.clustering import on_cluster

    return on_cluster(store.folder)


def detach(where: Where, root: Path) -> str:
    """Submit this command as a job that is the run's head, and return what is to be said of it."""
    if where.executor != "slurm":
        raise DdfileError("--detach runs the head itself as a job: use it with --executor slurm.")
    from ddmake.executors.slurm.detaching import submit

    words = [sys.executable, "-m", "ddmake", *(word for word in sys.argv[1:] if word != "--detach")]
    job, log = submit(root, Path.cwd(), join(words), where.profile, where.flags)
    return f"Job {job} makes it. See: ddmake status · tail -f {os.path.relpath(log)} · ddmake cancel"
