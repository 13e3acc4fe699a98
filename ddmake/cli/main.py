"""`ddmake`: make by default, commands by name."""

import re
import sqlite3
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from ddmake.errors import DdfileError, DdmakeError
from ddmake.store.database import told

KNOB = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.DOTALL)
WITH_VALUE = ("-f", "--file", "-j", "--jobs", "--executor", "--to")  # options whose next word is their value
DEFAULT = "make"


class Commands(click.Group):
    """A group whose default command is `make`; options may stand before a command's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name first, `make` where there is none."""
        at = _first_word(args)
        if at is not None and args[at] in self.commands:
            args = [args[at], *args[:at], *args[at + 1:]]
        elif not {"--version", "--help"} & set(args[:1]):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the default command's options, too."""
        super().format_options(ctx, formatter)
        records = (parameter.get_help_record(ctx) for parameter in self.commands[DEFAULT].get_params(ctx))
        with formatter.section("Options of make, the default"):
            formatter.write_dl([record for record in records if record])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what ddmake means to say of an error is one sentence."""
        try:
            return super().invoke(ctx)
        except DdmakeError as error:
            _fail(str(error), error.exit_code)
        except sqlite3.DatabaseError as error:
            _fail(f".ddmake: {told(error)}", 1)
        except OSError as error:
            _fail(f"{error.filename or 'ddmake'}: {error.strerror or error}", 1)


def _fail(words: str, code: int) -> NoReturn:
    click.echo(words, err=True)
    sys.exit(code)


def _first_word(args: list[str]) -> int | None:
    """Return where the first argument stands that is neither an option nor an option's value."""
    for at, arg in enumerate(args):
        if not arg.startswith("-") and (at == 0 or args[at - 1] not in WITH_VALUE):
            return at
    return None


def split_words(words: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Part targets from knobs (`n=10`). Raises DdfileError for a knob that is given twice."""
    targets, knobs = [], {}
    for word in words:
        found = KNOB.fullmatch(word)
        if word.startswith("=") or word.endswith("=") and found is None:
            raise DdfileError("A knob is written without spaces: n=3.")
        if found is None:
            targets.append(word)
        elif found[1] in knobs:
            raise DdfileError(f"The knob {found[1]!r} is given twice.")
        else:
            knobs[found[1]] = found[2]
    return targets, knobs


def quiet_exit(code: int) -> NoReturn:
    """End without waiting for threads or atexit hooks of libraries: all that counts is committed."""
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


file_option = click.option("-f", "--file", default="Ddfile", show_default=True, metavar="FILE", help="The Ddfile to use.")
words_argument = click.argument("words", nargs=-1, metavar="[TARGET | KNOB=VALUE]...")


@click.group(cls=Commands, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(package_name="ddmake", message="ddmake %(version)s")
def main() -> None:
    """Make for LLM workflows.

    `ddmake` makes what is missing or stale of everything a Ddfile declares; `ddmake -n` says what and why.
    Name targets to make only these, and turn knobs by `n=10`.
    """


@main.command(name=DEFAULT)
@file_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be made and why; make nothing.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Jobs at once; the number of cores by default.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, go on with what doesn't depend on it.")
@click.option("-v", "--verbose", is_flag=True, help="List what is fresh, too.")
@click.option("--json", "as_json", is_flag=True, help="With -n: print the plan as JSON.")
@words_argument
def make(file: str, dry_run: bool, jobs: int | None, keep_going: bool, verbose: bool, as_json: bool,
         words: tuple[str, ...]) -> None:
    """Make targets: all of them, or those named."""
    from ddmake.cli import making

    if as_json and not dry_run:
        raise DdfileError("--json prints a plan: use it with -n.")
    targets, knobs = split_words(words)
    quiet_exit(making.make(Path(file), targets, knobs, dry_run, jobs, keep_going, verbose, as_json))


@main.command(hidden=True)
@file_option
@click.option("--key", required=True)
@click.option("--result", required=True, type=click.Path(path_type=Path))
@words_argument
def job(file: str, key: str, result: Path, words: tuple[str, ...]) -> None:
    """Do one job of a run. ddmake calls this by itself."""
    from ddmake.cli import worker

    targets, knobs = split_words(words)
    quiet_exit(worker.work(Path(file), targets[0], knobs, key, result))


@main.command()
@file_option
@click.option("--to", "folder", default="cards", show_default=True, metavar="FOLDER", help="Where the cards are written.")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON lines and write nothing.")
@words_argument
def cards(file: str, folder: str, as_json: bool, words: tuple[str, ...]) -> None:
    """Write the data cards and model cards of what lies there."""
    from ddmake.cli import carding

    targets, knobs = split_words(words)
    quiet_exit(carding.write(Path(file), targets, knobs, folder, as_json))
