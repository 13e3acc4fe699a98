"""The commands for what others are to have: `publish`, `pack`, `unpack`, and `diff`, which compares with theirs."""

from pathlib import Path
from typing import Any

import click

from ddmake.cli.options import asked_for, file_option, json_option, looking, quiet_exit


@click.command()
@click.option("--repo", metavar="OWNER/NAME", help="Where to, on the Hub.")
@click.option("--private/--public", default=None, help="Who may see it; a new one is private, another stays as it is.")
@click.option("--pr", "pull_request", is_flag=True, help="Propose it as a pull request.")
@click.option("--merged", is_flag=True, help="Make an adapter one with its base.")
@click.option("--revision", metavar="BRANCH", help="The branch that it is put on; by default main.")
@click.option("--license", metavar="NAME", help="The licence that you publish it under.")
@click.option("--message", metavar="TEXT", help="What the commit is called.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be sent; send nothing.")
@looking
def publish(repo: str | None, private: bool | None, pull_request: bool, merged: bool, revision: str | None, license: str | None,
            message: str | None, dry_run: bool, **given: Any) -> None:
    """Send a dataset or model to the Hugging Face Hub, with its card."""
    from ddmake.cards.wanted import Wanted
    from ddmake.cli import publishing

    wanted = None if repo is None else Wanted(repo, private, pull_request, merged, revision, license, message)
    quiet_exit(publishing.publish(*asked_for(**given), wanted, dry_run))


@click.command()
@click.option("-o", "--output", "to", type=click.Path(path_type=Path), metavar="FILE",
              help="Where the bundle is written; by default here, by the folder's name.")
@click.option("--sources/--no-sources", default=None, help="Pack all sources, or none of them; by default those under 100 MB.")
@click.option("--no-calls", is_flag=True, help="Leave out prompts and answers.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be packed; write nothing.")
@looking
def pack(to: Path | None, sources: bool | None, no_calls: bool, dry_run: bool, **given: Any) -> None:
    """Write the Ddfile, results and calls as one file, to be shared."""
    from ddmake.cli import packing

    quiet_exit(packing.pack(*asked_for(**given), to, packing.Wanted(sources, not no_calls), dry_run))


@click.command()
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default=".", metavar="FOLDER",
              help="Where it is unpacked; by default here.")
@click.option("-n", "--dry-run", is_flag=True, help="Check it, and list what it holds; write nothing.")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def unpack(bundle: Path, to: Path, dry_run: bool) -> None:
    """Check a bundle and unpack it; nothing of it is run."""
    from ddmake.cli import packing

    quiet_exit(packing.unpack(bundle, to, dry_run))


@click.command()
@file_option
@json_option
@click.argument("other", type=click.Path(path_type=Path, exists=True))
@click.argument("words", nargs=-1, metavar="[TARGET]...")
def diff(file: str, as_json: bool, other: Path, words: tuple[str, ...]) -> None:
    """Say where results differ from those of another folder or bundle."""
    from ddmake.cli import diffing

    quiet_exit(diffing.diff(Path(file), other, words, as_json))
