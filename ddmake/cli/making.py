"""`ddmake` and `ddmake -n`: plan, print, run."""

import os
import time
from contextlib import closing
from pathlib import Path

import click

from ddmake.cli import show
from ddmake.cli.progress import observer
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Plan, Planner
from ddmake.engine.run import Run
from ddmake.executors.local import Local
from ddmake.store import Store, open_store


def make(file: Path, targets: list[str], knobs: dict[str, str], dry_run: bool, jobs: int | None, keep_going: bool,
         verbose: bool, as_json: bool) -> int:
    """Make or plan targets, and return the exit code."""
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        planner = Planner(flow, store)
        plan = planner.plan(targets)
        if dry_run:
            last = store.traces.last_knobs(flow.file.name)
            click.echo(show.plan_json(flow, plan) if as_json else show.plan(flow, plan, last, verbose))
        elif plan.todo:
            return _run(flow, store, planner, plan, jobs, keep_going)
        else:
            click.echo(show.nothing_to_do(plan, verbose))
        return 1 if _edited(plan) else 0


def _edited(plan: Plan) -> bool:
    return any(verdict.word == "edited" for verdict in plan.verdicts)


def _run(flow: Workflow, store: Store, planner: Planner, plan: Plan, jobs: int | None, keep_going: bool) -> int:
    """Run a plan on this machine, and return the exit code."""
    cores = os.cpu_count() or 1
    slots = jobs or cores
    store.traces.start_run(flow.file.name, flow.knobs)
    started = time.monotonic()
    with observer(len(plan.todo)) as watching:
        run = Run(flow, store, planner, plan, Local(slots), watching, keep_going, max(1, cores // slots))
        try:
            run.go()
            stopped = False
        except KeyboardInterrupt:
            stopped = True
    click.echo(show.summary(flow, run.results, time.monotonic() - started, stopped))
    return 130 if stopped else max((done.exit_code for done in run.results), default=0)
