"""`ddmake job` and `ddmake worker`, which ddmake calls by itself: how they are written and read. What they do is `worker`'s."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddmake.cli.options import config_option, file_option, into_option, quiet_exit, split_words, words_argument
from ddmake.errors import DdfileError

if TYPE_CHECKING:
    from ddmake.cli.worker import Job


@click.command(hidden=True)
@file_option
@click.option("--key", required=True)
@click.option("--result", required=True, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True)
@click.option("--retry", is_flag=True)
@click.option("--caller")
@click.option("--edited", default="tell")
@click.option("--apart")
@click.option("--shard")
@click.option("--joins", default=0)
@into_option
@config_option
@words_argument
def job(result: Path, **given: Any) -> None:
    """Do one job of a run. ddmake calls this by itself."""
    from ddmake.cli.worker import work

    quiet_exit(work(_job(**given), result))


@click.command(hidden=True)
def worker() -> None:
    """Do jobs as they come on standard input. ddmake calls this by itself."""
    from ddmake.cli.worker import serve

    if sys.stdin.isatty():
        raise DdfileError("ddmake starts its workers by itself; a target of that name is ./worker.")
    serve(_read_job)


def _read_job(args: list[str]) -> "Job":
    """Read the command line of `ddmake job`, as ddmake itself writes it: click would take longer than some jobs."""
    options = {word: parameter for parameter in job.params for word in parameter.opts}
    given = {"file": "Ddfile", "key": "", "force": False, "retry": False, "caller": None, "edited": "tell", "apart": None,
             "shard": None, "joins": 0, "into": None, "config": None}
    words, rest = [], iter(args)
    for arg in rest:
        if arg not in options:
            words.append(arg)
        else:
            given[options[arg].name] = True if options[arg].is_flag else next(rest)
    del given["result"]
    return _job(words=tuple(words), **given)


def _job(file: str, words: tuple[str, ...], key: str, force: bool, retry: bool, caller: str | None, edited: str,
         apart: str | None, shard: str | None, joins: int, into: str | None, config: str | None) -> "Job":
    from ddmake.cli.given import given
    from ddmake.cli.worker import Job
    from ddmake.engine.job import Order

    targets, typed = split_words(words)
    number, _, of = (shard or "").partition("/")
    order = Order(key, force, retry, caller, edited, apart, (int(number), int(of)) if shard else None, int(joins))
    return Job(Path(file), given(Path(file), typed, into, config), targets[0], order)
