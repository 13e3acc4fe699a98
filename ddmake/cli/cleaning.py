"""`ddmake clean` and `ddmake gc`: say what may go, ask, remove it."""

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from ddmake.cli.listing import when_of
from ddmake.cli.room import amount
from ddmake.cli.show import count, table
from ddmake.ddfile.load import load
from ddmake.engine import keeping, tidy
from ddmake.errors import DdfileError, DdmakeError
from ddmake.store import open_store

SHOWN = 20  # results that are listed before gc drops them


def clean(file: Path, words: list[str], knobs: dict[str, str], baks: bool, dry_run: bool, yes: bool) -> int:
    """Remove what ddmake has left that nothing needs, after asking, and return the exit code."""
    _no_targets(words, "clean")
    root = load(file, **knobs).root
    os.chdir(root)
    with closing(open_store(root)) as store:
        others = tidy.as_run(root, store)
        flow = load(root / file.name, **knobs)  # again, so that the modules that are loaded are its own
        found = tidy.loose(flow, others, store, baks)
        going = [one for one in found if not one.stays]
        for head, some in (("may go:", going), ("stays:", [one for one in found if one.stays])):
            if some:
                click.echo("\n".join([head, *table([(one.path, one.why) for one in some], indent=1)]))
        if not going:
            click.echo("There is nothing to remove.")
            return 0
        if not _agreed(f"Remove {'these' if len(going) > 1 else 'this'}", dry_run, yes):
            return 0 if dry_run else 1
        for one in going:
            tidy.remove(flow, store, one.path)
        click.echo(f"Removed {len(going)}.")
    return 0


def gc(file: Path, words: list[str], knobs: dict[str, str], older_than: str | None, max_size: str | None, dry_run: bool,
       yes: bool) -> int:
    """Drop earlier results from the store by age and size, after asking, and return the exit code."""
    _no_targets(words, "gc")
    age = None if older_than is None else keeping.span(older_than, "--older-than")
    limit = None if max_size is None else keeping.size(max_size, "--max-size")
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        if not dry_run and keeping.busy(store):
            raise DdmakeError("A job is under way here, and may count on what is kept. Run ddmake gc when it is done.")
        kept = keeping.kept(flow, store)
        going = keeping.choose(kept, age, limit)
        free = sum(one.size for one in going) + sum(kept.sizes[sha] for sha in kept.parts)
        click.echo("\n".join(_told(kept, going, free)))
        if not going and not kept.parts:
            return 0
        if not _agreed("Drop these; their records stay, but they can't be restored", dry_run, yes):
            return 0 if dry_run else 1
        keeping.drop(store, [*kept.parts, *(sha for one in going for sha in one.files)])
        click.echo(f"Freed {amount(free)}; {amount(kept.size - free)} are kept.")
    return 0


def _told(kept: keeping.Kept, going: list[keeping.Result], free: int) -> list[str]:
    """Return what is said of the store and of what goes."""
    lines = [f"{count(len(kept.sizes), 'files')} kept, {amount(kept.size)}; "
             f"{amount(sum(one.size for one in kept.results))} of it only for earlier results."]
    lines += table([(one.path, when_of(one.at), amount(one.size)) for one in going[:SHOWN]], indent=1)
    lines += [f"  … and {len(going) - SHOWN} more"] if len(going) > SHOWN else []
    lines += [f"  of no result: {count(len(kept.parts), 'files')}"] if kept.parts else []
    if free:
        return [*lines, f"To be freed: {amount(free)}."]
    return [*lines, *(["Say --older-than 30d or --max-size 10GB to drop some."] if kept.results else [])]


def _agreed(question: str, dry_run: bool, yes: bool) -> bool:
    """Ask, where somebody is there to answer."""
    if dry_run or yes:
        return yes and not dry_run
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo("Nothing was removed: nobody is there to be asked. Say --yes.")
        return False
    return click.confirm(f"{question}?")


def _no_targets(words: list[str], command: str) -> None:
    if words:
        raise DdfileError(f"ddmake {command} takes no targets, but knobs: {words[0]!r} is neither.")
