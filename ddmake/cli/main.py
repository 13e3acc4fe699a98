"""`ddmake`: make by default, commands by name."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from ddmake import __version__
from ddmake.cli.handing import diff, pack, publish, unpack
from ddmake.cli.jobs import job, worker
from ddmake.cli.options import (
    asked_for,
    config_option,
    dry_option,
    file_option,
    into_option,
    json_option,
    last_option,
    looking,
    lying,
    quiet_exit,
    words_argument,
    yes_option,
)
from ddmake.errors import DdfileError, DdmakeError

# options whose next word is their value
WITH_VALUE = ("-f", "--file", "-j", "--jobs", "--executor", "--slurm", "--profile", "--to", "--until", "--into", "--config",
              "--format", "-o", "--output", "--result", "--older-than", "--max-size", "--row", "--rule", "--model", "--since",
              "--export", "--id", "--max-cost", "--rows", "--columns", "--repo", "--license", "--revision", "--message")
DEFAULT = "make"
# the options of `make` as the help groups them
SECTIONS = {
    "Look first": ("dry_run", "question", "verbose", "as_json"),
    "Choose": ("only", "until", "force", "resample", "retry_failed"),
    "Run": ("jobs", "keep_going", "max_cost", "frozen"),
    "On a cluster": ("executor", "slurm", "profile", "detach"),
    "Ddfile and knobs": ("file", "config", "last", "into"),
    "Edited outputs, moved names": ("restore", "adopt", "update_hub"),
}


class Commands(click.Group):
    """A group whose default command is `make`; options may stand before a command's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name first, `make` where there is none."""
        at = _first_word(args)
        if at is not None and args[at] in self.commands:
            args = [args[at], *args[:at], *args[at + 1:]]
        elif not {"--version", "--help", "-h"} & set(args[:1]):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the default command's options first, in groups."""
        options = {option.name: option for option in self.commands[DEFAULT].params}
        for title, names in SECTIONS.items():
            records = [record for name in names if (record := options[name].get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl([(f"{option:<16}", told) for option, told in records])
        super().format_options(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what ddmake means to say of an error is one sentence."""
        try:
            return super().invoke(ctx)
        except DdmakeError as error:
            _fail(str(error), error.exit_code)
        except click.UsageError as error:
            name = error.ctx.info_name if error.ctx else DEFAULT
            _fail(f"{error.format_message()} See: ddmake {'' if name == DEFAULT else f'{name} '}--help", error.exit_code)
        except BrokenPipeError:  # `ddmake … | head`: nobody reads on, which is no failure of ours
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(141)
        except UnicodeEncodeError as error:
            _fail(f"{ascii(error.object[error.start:error.end])} can't be printed here. Set LANG to a UTF-8 locale.", 1)
        except OSError as error:
            _fail(f"{error.filename or 'ddmake'}: {error.strerror or error}", 1)
        except Exception as error:
            _fail_if_damaged(error)
            raise


def _fail(words: str, code: int) -> NoReturn:
    click.echo(words, err=True)
    sys.exit(code)


def _fail_if_damaged(error: Exception) -> None:
    """Tell an error of the database in a sentence; a command that has opened none hasn't loaded sqlite3 either."""
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is not None and isinstance(error, sqlite3.DatabaseError):
        from ddmake.store.database import told

        _fail(f".ddmake: {told(error)}", 1)


def _first_word(args: list[str]) -> int | None:
    """Return where the first argument stands that is neither an option nor an option's value."""
    for at, arg in enumerate(args):
        if not arg.startswith("-") and (at == 0 or args[at - 1] not in WITH_VALUE):
            return at
    return None


def _one_of(**given: bool) -> Any:
    """Return the last flag that is given; raises DdfileError for two besides the first."""
    names = [name for name, value in given.items() if value]
    if len(names) > 2:
        raise DdfileError(f"--{names[1]} and --{names[2]} exclude each other.")
    return names[-1]


@click.group(cls=Commands, subcommand_metavar="[COMMAND] [TARGET | KNOB=VALUE]...",
             context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, message="ddmake %(version)s")
def main() -> None:
    """Make for LLM workflows.

    `ddmake` makes what is missing or stale of everything a Ddfile declares; `ddmake -n` says what and why.
    Name targets to make only these, and turn knobs by `n=10`.
    """


for command in (job, worker, publish, pack, unpack, diff):
    main.add_command(command)


@main.command(name=DEFAULT)
@file_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be made and why; make nothing.")
@click.option("-q", "--question", is_flag=True, help="Print nothing; exit 1 if there is something to make.")
@click.option("-v", "--verbose", is_flag=True, help="List what is fresh, too.")
@click.option("--json", "as_json", is_flag=True, help="With -n: print the plan as JSON.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N",
              help="Jobs at once; by default as many as cores, and 8 more that only wait for a service.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, go on with what doesn't depend on it.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="DOLLARS", help="Spend no more than this on llms.")
@click.option("--frozen", is_flag=True, help="Make it from what is stored, with the network off; say what is missing.")
@click.option("--executor", default="local", metavar="NAME", help="Where jobs run: local, slurm.")
@click.option("--slurm", multiple=True, metavar="OPTION=VALUE", help="Ask this of Slurm for every job: partition=gpu.")
@click.option("--profile", type=click.Path(path_type=Path), metavar="FILE", help="Read such options from a TOML file.")
@click.option("--detach", is_flag=True, help="Run the head as a job, too, and don't wait for it.")
@click.option("--only", is_flag=True, help="Make the named targets of what lies there; leave what they need as it is.")
@click.option("--until", multiple=True, metavar="TARGET", help="Make this of what is asked for, and what it needs; no more.")
@click.option("--force", is_flag=True, help="Make the named targets (or all) again, though they are fresh.")
@click.option("--resample", is_flag=True, help="Draw new answers for the named targets (or all), and make what is behind them.")
@click.option("--retry-failed", is_flag=True, help="Send the failed rows of the named targets (or all) again.")
@click.option("--restore", is_flag=True, help="Take edited outputs back to what was made; the edited ones become .bak.")
@click.option("--adopt", is_flag=True, help="Keep edited outputs: what lies there becomes the result.")
@click.option("--update-hub", is_flag=True, help="Ask the Hub anew what names on it stand for; Ddfile.lock holds the answers.")
@into_option
@config_option
@last_option
@words_argument
def make(file: str, words: tuple[str, ...], into: str | None, config: str | None, last: bool, only: bool, until: tuple[str, ...],
         force: bool, resample: bool, retry_failed: bool, restore: bool, adopt: bool, executor: str, slurm: tuple[str, ...],
         profile: Path | None, detach: bool, **asked: Any) -> None:
    """Make targets: all of them, or those named."""
    from ddmake.cli import making
    from ddmake.cli.given import given, split_words

    targets, typed = split_words(words)
    if only and not targets:
        raise DdfileError("--only needs a target: ddmake --only TARGET.")
    knobs = given(Path(file), typed, into, config, last)
    edited = _one_of(tell=True, restore=restore, adopt=adopt)
    wishes = making.Wishes(only, until, force, resample, retry_failed, edited)
    where = making.Where(executor, slurm, profile.absolute() if profile else None, detach)
    quiet_exit(making.make(Path(file), targets, knobs, making.Asked(wishes=wishes, where=where, **asked)))


@main.command()
@click.option("--to", "folder", default="cards", show_default=True, metavar="FOLDER", help="Where the cards are written.")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON lines and write nothing.")
@looking
def cards(folder: str, as_json: bool, **given: Any) -> None:
    """Write the data cards and model cards of what lies there."""
    from ddmake.cli import carding

    quiet_exit(carding.write(*lying(**given), folder, as_json))


@main.command(name="list")
@json_option
@click.option("--fingerprints", is_flag=True, help="Show each target's fingerprint, and one of the whole workflow.")
@looking
def list_(as_json: bool, fingerprints: bool, **given: Any) -> None:
    """List targets with their verdicts and what lies there."""
    from ddmake.cli import listing

    quiet_exit(listing.targets(*asked_for(**given), as_json, fingerprints))


@main.command()
@json_option
@looking
def why(as_json: bool, **given: Any) -> None:
    """Say why a target is stale, and show what changed."""
    from ddmake.cli import why as reasons

    quiet_exit(reasons.why(*asked_for(**given), as_json))


@main.command()
@click.option("-n", "most", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="Show so many rows.")
@click.option("--row", type=click.IntRange(min=0), metavar="N", help="Show one row in full; the first is 0.")
@click.option("--columns", default="", metavar="A,B", help="Show only these columns, in this order.")
@click.option("--failed", is_flag=True, help="Show the rows without a usable answer, with the reason and what was answered.")
@json_option
@looking
def show(most: int, row: int | None, columns: str, failed: bool, as_json: bool, **given: Any) -> None:
    """Show what lies at a target: rows, a model, files."""
    from ddmake.cli import showing

    quiet_exit(showing.show(*lying(**given), showing.Wanted(most, row, failed, as_json, columns)))


@main.command()
@file_option
@click.option("--rule", metavar="TARGET", help="Only those that this target, or those in this folder, paid for.")
@click.option("--model", metavar="NAME", help="Only those whose model's name has this in it.")
@click.option("--since", metavar="2d", help="Only those of the last 12h, 2d, ….")
@click.option("--failed", is_flag=True, help="Only refused and cut ones, and those that broke off.")
@click.option("-n", "most", type=click.IntRange(min=1), metavar="N", help="The newest N; 20 in a table, else all.")
@click.option("--id", "number", type=int, metavar="N", help="Show one call in full.")
@click.option("--export", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Write them to a file of JSON lines.")
@json_option
@click.argument("words", nargs=-1)
def calls(file: str, words: tuple[str, ...], most: int | None, number: int | None, export: Path | None, as_json: bool,
          **which: Any) -> None:
    """Search what was asked and answered; WORDS are looked for in both."""
    from ddmake.cli import calling

    quiet_exit(calling.calls(Path(file), calling.Wanted(words, number=number, **which), most, export, as_json))


@main.command()
@click.option("-n", "most", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Ask so many prompts.")
@json_option
@looking
def preview(most: int, as_json: bool, **given: Any) -> None:
    """Ask the first prompts of a target, and show them answered.

    The answers are kept; nothing is made.
    """
    from ddmake.cli import previewing

    quiet_exit(previewing.preview(*asked_for(**given), most, as_json))


@main.command()
@file_option
@json_option
@click.argument("words", nargs=-1, metavar="[TARGET]...")
def cost(file: str, words: tuple[str, ...], as_json: bool) -> None:
    """Say what was paid, by target, model and day."""
    from ddmake.cli import costing

    quiet_exit(costing.cost(Path(file), words, as_json))


@main.command()
@click.option("--format", "form", type=click.Choice(["mermaid", "dot", "svg"]), default="mermaid", show_default=True)
@click.option("-o", "--output", "to", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@looking
def graph(form: str, to: Path | None, **given: Any) -> None:
    """Draw what is made of what; what is stale is marked."""
    from ddmake.cli import graphing

    quiet_exit(graphing.graph(*asked_for(**given), form, to))


@main.command()
@click.option("-o", "--output", "to", type=click.Path(path_type=Path), default="report.html", show_default=True, metavar="FILE",
              help="Where the page is written.")
@click.option("--rows", type=click.IntRange(min=0), default=200, show_default=True, metavar="N",
              help="Put the first N rows of each dataset into it.")
@click.option("--verdicts/--no-verdicts", default=None,
              help="Run the Ddfile for verdicts, or not: by default if it was run here before.")
@looking
def report(to: Path, rows: int, verdicts: bool | None, **given: Any) -> None:
    """Write all of it as one HTML page that needs no network."""
    from ddmake.cli import reporting

    quiet_exit(reporting.report(*asked_for(**given), reporting.Wanted(to, rows, verdicts)))


@main.command()
@click.option("--result", "number", type=int, metavar="N", help="Show the log of an earlier result, by its number.")
@click.option("--all", "every", is_flag=True, help="List all results, or all runs.")
@json_option
@looking
def log(number: int | None, every: bool, as_json: bool, **given: Any) -> None:
    """Show a target's results and log, or the last runs."""
    from ddmake.cli import logs

    quiet_exit(logs.log(*lying(**given), number, every, as_json))


@main.command()
@click.option("--verdicts/--no-verdicts", default=None,
              help="Run the Ddfile to tell what is stale, or not: by default if it was run here before.")
@json_option
@looking
def verify(as_json: bool, verdicts: bool | None, **given: Any) -> None:
    """Read every byte, and say what isn't as it was made."""
    from ddmake.cli import verifying

    quiet_exit(verifying.verify(*asked_for(**given), as_json, verdicts))


@main.command()
@click.option("--bak", "baks", is_flag=True, help="The .bak files, too, that ddmake has made of what lay in its way.")
@dry_option
@yes_option
@looking
def clean(baks: bool, dry_run: bool, yes: bool, **given: Any) -> None:
    """Remove outputs that no rule makes any more."""
    from ddmake.cli import cleaning

    quiet_exit(cleaning.clean(*asked_for(**given), baks, dry_run, yes))


@main.command()
@click.option("--older-than", metavar="30d", help="Drop results that are older.")
@click.option("--max-size", metavar="50GB", help="Drop the oldest results until the rest fits.")
@dry_option
@yes_option
@looking
def gc(older_than: str | None, max_size: str | None, dry_run: bool, yes: bool, **given: Any) -> None:
    """Drop earlier results that no target needs."""
    from ddmake.cli import cleaning

    quiet_exit(cleaning.gc(*asked_for(**given), older_than, max_size, dry_run, yes))


@main.command()
@file_option
def status(file: str) -> None:
    """Say what of this project is on a cluster."""
    from ddmake.cli import clustering

    quiet_exit(clustering.status(Path(file)))


@main.command()
@file_option
def cancel(file: str) -> None:
    """Cancel what of this project is on a cluster."""
    from ddmake.cli import clustering

    quiet_exit(clustering.cancel(Path(file)))


@main.command()
@json_option
@looking
def lint(as_json: bool, **given: Any) -> None:
    """Find what is likely a mistake in the Ddfile."""
    from ddmake.cli import linting

    quiet_exit(linting.lint(*asked_for(**given), as_json))
