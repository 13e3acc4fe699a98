"""`ddmake job` and `ddmake worker`, which ddmake calls by itself. What they do is `worker`'s."""

import sys

import click

from ddmake.cli.options import quiet_exit
from ddmake.errors import DdfileError


@click.command(hidden=True, add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def job(args: tuple[str, ...]) -> None:
    """Do one job of a run. ddmake calls this by itself."""
    from ddmake.cli import orders
    from ddmake.cli.worker import work

    quiet_exit(work(orders.read(args), orders.result_of(args)))


@click.command(hidden=True)
def worker() -> None:
    """Do jobs as they come on standard input. ddmake calls this by itself."""
    from ddmake.cli.orders import main

    if sys.stdin.isatty():
        raise DdfileError("ddmake starts its workers by itself; a target of that name is ./worker.")
    main()
