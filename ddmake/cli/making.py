"""`ddmake` and `ddmake -n`: plan, print, run."""

import gc
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddmake.backends import offline
from ddmake.cli import executing, show
from ddmake.cli.executing import Where
from ddmake.cli.progress import observer
from ddmake.ddfile import facts
from ddmake.ddfile.load import load
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import heads, hub, resources
from ddmake.engine.estimate import estimates
from ddmake.engine.plan import Planner
from ddmake.engine.run import Done, Run
from ddmake.engine.verdicts import Plan, Wishes
from ddmake.errors import DdfileError
from ddmake.executors.machine import Machine, this_machine
from ddmake.store import Store, open_store, ran, said

if TYPE_CHECKING:
    from ddmake.calls.money import Spent
    from ddmake.calls.switch import Switch


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
    max_cost: float | None = None
    frozen: bool = False
    where: Where = Where()


def make(file: Path, targets: list[str], knobs: dict[str, str], asked: Asked) -> int:
    """Make or plan targets, with the network off if that is asked for, and return the exit code."""
    with offline.frozen(asked.frozen):
        return _make(file, targets, knobs, asked)


def _make(file: Path, targets: list[str], knobs: dict[str, str], asked: Asked) -> int:
    if asked.as_json and not asked.dry_run:
        raise DdfileError("--json prints a plan: use it with -n.")
    gc.disable()  # planning makes much that stays and no cycles that matter; looking for them is a fifth of its time
    flow = load(file, **knobs)
    os.chdir(flow.root)
    if asked.update_hub:
        moved = hub.look_again(flow)
        click.echo("\n".join(moved or ["On the Hub nothing has moved."]), err=asked.as_json)
    with closing(open_store(flow.root)) as store:
        ran.note(store.folder)
        planner = Planner(flow, store)
        plan = planner.plan(targets, asked.wishes)
        machine = this_machine()
        executing.check(asked.where, store, plan, machine, asked.max_cost)
        if store.traces.damaged:
            click.echo(show.damaged(len(store.traces.damaged)), err=True)
        if asked.question:
            return 1 if plan.todo or plan.edited else 0
        if asked.frozen:
            from ddmake.engine import frozen  # what other runs needn't load

            frozen.check(flow, store, plan)
        if not asked.dry_run:
            executing.check_alone(asked.where, store, plan)
            hub.keep(flow, [verdict.rule for verdict in plan.todo])
            said.keep(store.traces.db, flow.file.name, flow.into, facts.told(flow))
        if asked.dry_run:
            last = store.traces.last_knobs(flow.file.name)
            found = estimates(flow, store, plan, planner.retried)
            click.echo(show.plan_json(flow, plan, found) if asked.as_json else
                       show.plan(flow, plan, last, asked.verbose, found, asked.max_cost, asked.where.away))
            if not asked.as_json and any(verdict.rule.options.effect for verdict in plan.todo):
                from ddmake.cli.publishing import announced

                for line in announced(store, plan):
                    click.echo(line)
            for line in () if asked.as_json else executing.left(store):
                click.echo(line)
        elif asked.where.detach:
            click.echo(executing.detach(asked.where, flow.root) if plan.todo else show.nothing_to_do(flow, plan, asked.verbose))
        elif plan.todo:
            _check_asked(flow, store, plan)
            store.traces.raise_epochs(plan.epochs)
            with heads.shown(store):
                return _run(flow, store, planner, plan, machine, asked)
        else:
            click.echo(show.nothing_to_do(flow, plan, asked.verbose))
        return 1 if plan.edited else 0


def _run(flow: Workflow, store: Store, planner: Planner, plan: Plan, machine: Machine, asked: Asked) -> int:
    """Run a plan, and return the exit code."""
    from ddmake.cli import room  # what a project at rest needn't load

    limit = room.before_run(flow, store)
    left = _left(flow, store, plan, asked.max_cost)
    store.traces.start_run(flow.file.name, flow.knobs, flow.into)
    started, began = time.monotonic(), time.time()
    with _caller(store, plan, left) as caller, observer(len(plan.todo), caller, asked.where.away) as watching:
        threads = 1 if asked.where.away else max(1, machine.cores // (asked.jobs or machine.cores))
        address = caller.address if caller else None
        runs = executing.executor(asked.where, flow, store, machine, asked.jobs)
        run = Run(flow, store, planner, plan, runs, watching, asked.keep_going, threads, address)
        with _stoppable(run) as stopped:
            run.go()
        if len(stopped) > 1 and caller is not None:
            caller.hurry()
    seconds = time.monotonic() - started
    spent = _spent(store, caller, run.results, began) if caller is not None else None
    kept = _kept(flow, store, planner, run.results, began)
    click.echo(show.summary(flow, run.results, seconds, bool(stopped), spent, kept))
    for line in executing.left(store, len(stopped) > 1) if stopped and asked.where.away else ():
        click.echo(line)
    for line in room.after_run(flow, store, plan, limit):
        click.echo(line)
    return 128 + stopped[0] if stopped else max((done.exit_code for done in run.results), default=0)


def _check_asked(flow: Workflow, store: Store, plan: Plan) -> None:
    """Try the prompts of services on their first rows, before anything is paid. Raises DdfileError."""
    if any(resources.asks_services(verdict.rule) for verdict in plan.todo):
        from ddmake.engine.asked import check  # what a project at rest needn't load

        check(flow, store, plan)


def _left(flow: Workflow, store: Store, plan: Plan, limit: float | None) -> float | None:
    """Return what calls may spend, besides what trainings at services will. Raises DdfileError where these may take more."""
    if limit is None:
        return None
    from ddmake.engine.tuned import left  # what a run without a limit needn't load

    return left(flow, store, plan, limit)


def _spent(store: Store, caller: "Switch", results: Iterable[Done], since: float) -> "tuple[Spent, Spent]":
    """Return what this run has spent, as its caller tells and on trainings at services, and what the project has in all."""
    from ddmake.calls.money import Spent, in_all
    from ddmake.engine.tuned import paid

    tuned, told = paid(store, [done.rule for done in results if done.word == "made"], since), caller.spent
    now = Spent(told.dollars + tuned.dollars, told.unknown + tuned.unknown, told.sent + tuned.calls)
    return now, in_all(store.folder, now)


def _kept(flow: Workflow, store: Store, planner: Planner, results: Iterable[Done], since: float) -> dict[Rule, str]:
    """Return what is left of the work of rules that failed over a service, in words."""
    failed = [done.rule for done in results if done.word == "failed" and resources.asks_services(done.rule)]
    if not failed:
        return {}
    from ddmake.engine.kept import kept

    return {rule: told for rule in failed if (told := kept(flow, store, planner.decide(rule), since))}


@contextmanager
def _caller(store: Store, plan: Plan, limit: float | None) -> Iterator["Switch | None"]:
    """Give a place where jobs reach the process that asks services; None where no rule asks one."""
    if not any(resources.asks_services(verdict.rule) for verdict in plan.todo):
        yield None
        return
    from ddmake.calls.switch import switch

    with switch(store.folder, limit) as caller:
        yield caller


@contextmanager
def _stoppable(run: Run) -> Iterator[list[int]]:
    """Stop a run softly at the first Ctrl-C or SIGTERM, and at once at the second; give the list of those that came."""
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        run.stop()
        if len(asked) > 1:
            run.at_once = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
