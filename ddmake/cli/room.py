"""Room on the disk: the warning before a run, and what is dropped after it by `keep=N` and the store's `max_size`."""

from collections.abc import Iterator

import click

from ddmake.cli.show import count
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import keeping
from ddmake.engine.verdicts import Plan
from ddmake.report.words import amount
from ddmake.store import Store


def before_run(flow: Workflow, store: Store) -> int | None:
    """Warn where the disk is nearly full, and return the size that the store may have."""
    limit = keeping.max_size(flow.root)
    free = keeping.low(flow.root)
    if free is not None:
        may_go = sum(one.size for one in keeping.kept(flow, store).results)
        remedy = f"ddmake gc frees up to {amount(may_go)}." if may_go else "make room before it is full."
        click.echo(f"only {amount(free)} are free on the disk of {flow.root}; {remedy}", err=True)
    return limit


def after_run(flow: Workflow, store: Store, plan: Plan, limit: int | None) -> Iterator[str]:
    """Drop what rules and the store's size leave no room for, and yield a line on each."""
    dropped = keeping.prune(flow, store, plan.graph.order)
    if dropped:
        yield f"keep: {count(dropped, 'earlier results')} dropped from the store"
    freed = keeping.shrink(flow, store, limit) if limit is not None else 0
    if freed:
        yield f"max_size {amount(limit or 0)}: {amount(freed)} of earlier results dropped from the store"
