"""`ddmake` and `ddmake -n`: plan, print, run."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from ddmake.cli import show
from ddmake.cli.progress import observer
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub, resources
from ddmake.engine.plan import Planner
from ddmake.engine.run import Run
from ddmake.engine.verdicts import Plan, Wishes
from ddmake.errors import DdfileError
from ddmake.executors.local import Local
from ddmake.executors.machine import Machine, this_machine
from ddmake.store import Store, open_store


@dataclass(frozen=True)
class Asked:
    """What the options of `ddmake` ask for."""

    wishes: Wishes
    dry_run: bool
    question: bool
    jobs: int | None
    keep_going: bool
    verbose: bool
    as_json: bool
    update_hub: bool


def make(file: Path, targets: list[str], knobs: dict[str, str], asked: Asked) -> int:
    """Make or plan targets, and return the exit code."""
    if asked.as_json and not asked.dry_run:
        raise DdfileError("--json prints a plan: use it with -n.")
    gc.disable()  # planning makes much that stays and no cycles that matter; looking for them is a fifth of its time
    flow = load(file, **knobs)
    os.chdir(flow.root)
    if asked.update_hub:
        moved = hub.look_again(flow)
        click.echo("\n".join(moved or ["On the Hub nothing has moved."]), err=asked.as_json)
    with closing(open_store(flow.root)) as store:
        planner = Planner(flow, store)
        plan = planner.plan(targets, asked.wishes)
        machine = this_machine()
        resources.check(plan, machine)
        if store.traces.damaged:
            click.echo(show.damaged(len(store.traces.damaged)), err=True)
        if asked.question:
            return 1 if plan.todo or plan.edited else 0
        if not asked.dry_run:
            hub.keep(flow, [verdict.rule for verdict in plan.todo])
        if asked.dry_run:
            last = store.traces.last_knobs(flow.file.name)
            click.echo(show.plan_json(flow, plan) if asked.as_json else show.plan(flow, plan, last, asked.verbose))
        elif plan.todo:
            store.traces.raise_epochs(plan.epochs)
            return _run(flow, store, planner, plan, machine, asked.jobs, asked.keep_going)
        else:
            click.echo(show.nothing_to_do(flow, plan, asked.verbose))
        return 1 if plan.edited else 0


def _run(flow: Workflow, store: Store, planner: Planner, plan: Plan, machine: Machine, jobs: int | None, keep_going: bool) -> int:
    """Run a plan on this machine, and return the exit code."""
    from ddmake.cli import room  # what a project at rest needn't load

    slots, limit = jobs or machine.cores, room.before_run(flow, store)
    store.traces.start_run(flow.file.name, flow.knobs, flow.into)
    started = time.monotonic()
    with observer(len(plan.todo)) as watching:
        threads = max(1, machine.cores // slots)
        run = Run(flow, store, planner, plan, Local(slots, machine), watching, keep_going, threads)
        with _stoppable(run) as asked:
            run.go()
    click.echo(show.summary(flow, run.results, time.monotonic() - started, bool(asked)))
    for line in room.after_run(flow, store, plan, limit):
        click.echo(line)
    return 128 + asked[0] if asked else max((done.exit_code for done in run.results), default=0)


@contextmanager
def _stoppable(run: Run) -> Iterator[list[int]]:
    """Stop a run softly at the first Ctrl-C or SIGTERM, and at once at the second; give the list of those that came."""
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        run.stop()
        if len(asked) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
