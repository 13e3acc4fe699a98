"""The command line of `ddmake job`, which heads write, read without click: that would take longer than some jobs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ddmake.cli.given import given, split_words
from ddmake.cli.worker import Job, serve
from ddmake.engine.job import Order

FLAGS = ("--force", "--retry")
VALUES = ("-f", "--key", "--result", "--caller", "--edited", "--apart", "--shard", "--joins", "--into", "--config")


def main() -> NoReturn:
    """Be a worker: do jobs as their command lines come on standard input."""
    serve(read)


def read(args: Sequence[str]) -> Job:
    """Return the job of a command line. Raises DdfileError for what knobs can't be."""
    told, words = _parted(args)
    targets, typed = split_words(tuple(words))
    file, (number, _, of) = Path(told.get("-f", "Ddfile")), told.get("--shard", "").partition("/")
    order = Order(told["--key"], "--force" in told, "--retry" in told, told.get("--caller"), told.get("--edited", "tell"),
                  told.get("--apart"), (int(number), int(of)) if number else None, int(told.get("--joins", 0)))
    return Job(file, given(file, typed, told.get("--into"), told.get("--config")), targets[0], order)


def result_of(args: Sequence[str]) -> Path:
    """Return where the result of a command line's job is to be written."""
    return Path(_parted(args)[0]["--result"])


def _parted(args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Part options, by name, from words."""
    told, words, rest = dict[str, Any](), list[str](), iter(args)
    for arg in rest:
        if arg in FLAGS or arg in VALUES:
            told[arg] = arg in FLAGS or next(rest)
        else:
            words.append(arg)
    return told, words
