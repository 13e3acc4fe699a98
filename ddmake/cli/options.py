"""What several commands of `ddmake` are given: the options that they share, and the words after these."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import click


def quiet_exit(code: int) -> NoReturn:
    """End without waiting for threads or atexit hooks of libraries: all that counts is committed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed before ddmake began
            stream.flush()
    sys.exit(code)


file_option = click.option("-f", "--file", default="Ddfile", show_default=True, metavar="FILE", help="The Ddfile to use.")
into_option = click.option("--into", metavar="FOLDER", help="Put all targets under a folder, such as trial/.")
config_option = click.option("--config", metavar="FILE", help="Read knobs from a YAML file; those on the command line win.")
last_option = click.option("--last", is_flag=True, help="Use the last run's knobs again, but for those that are given.")


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from ddmake.cli import completion

    return completion.words(ctx, incomplete)


words_argument = click.argument("words", nargs=-1, metavar="[TARGET | KNOB=VALUE]...", shell_complete=_complete)
json_option = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
dry_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


def looking(command: Any) -> Any:
    """Give a command the options that say which workflow it looks at."""
    for option in (words_argument, last_option, config_option, into_option, file_option):
        command = option(command)
    return command


def asked_for(file: str, words: tuple[str, ...], into: str | None, config: str | None, last: bool) -> tuple[Path, list[str], Any]:
    """Return the Ddfile, targets and knobs that a command was given."""
    from ddmake.cli.given import given, split_words

    targets, typed = split_words(words)
    return Path(file), targets, given(Path(file), typed, into, config, last)


def lying(file: str, words: tuple[str, ...], into: str | None, config: str | None, last: bool) -> tuple[Path, list[str], str]:
    """Return the Ddfile, targets and folder that a command was given which speaks of what lies there, whatever today's knobs."""
    from ddmake.cli.given import split_words

    targets, typed = split_words(words)
    if typed or config or last:
        click.echo("Knobs count for nothing here: this speaks of what lies there, whatever they were.", err=True)
    return Path(file), targets, into or ""
