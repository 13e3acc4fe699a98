"""`ddmake pack` and `ddmake unpack`: a workspace as one file, and back."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ddmake.cli.room import amount
from ddmake.cli.show import count, table
from ddmake.cli.terminal import printable
from ddmake.ddfile.load import load
from ddmake.errors import DdmakeError
from ddmake.sharing import bundle as bundles
from ddmake.sharing import unpacking
from ddmake.sharing.bundle import OBJECTS, PROJECT, RECORDS
from ddmake.sharing.packing import Packing, Wanted, gather
from ddmake.store import open_store, paths

SUFFIX = ".tar"
COUNTED = {"targets": "targets", "files": "files", "sources": "sources", "calls": "calls", "vectors": "vectors"}


def pack(file: Path, names: list[str], knobs: dict[str, Any], to: Path | None, wanted: Wanted, dry_run: bool) -> int:
    """Write a bundle of targets, or list what it would hold, and return the exit code."""
    flow, here = load(file, **knobs), Path.cwd()
    to = here / (to or f"{flow.root.name}{SUFFIX}")
    if to.is_dir():
        raise DdmakeError(f"{to} is a folder. Name the file that is to be written with -o.")
    if why := paths.in_the_way(to, bundles.BEGINNING):
        raise DdmakeError(f"{to} {why}: only a bundle is written over. Name another file with -o.")
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        room = store.folder / "scratch"
        room.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="pack-", dir=room) as scratch:
            found = gather(flow, store, names, wanted, Path(scratch))
            if dry_run:
                whole = f"In all {_counts(found)}; {amount(found.size)}."
                click.echo("\n".join([*table(list(_listed(found)), indent=1), *_aside(found), whole]))
                return 0
            sha = bundles.write(to, found.told, found.parts)
    name = os.path.relpath(to, here)
    click.echo("\n".join([f"packed {name}: {_counts(found)}; {amount(to.stat().st_size)}", *_aside(found), f"bundle {sha}"]))
    if found.counts["calls"]:
        click.echo("It holds the prompts and answers of all these calls (--no-calls leaves them out).")
    return 0


def unpack(file: Path, to: Path, dry_run: bool) -> int:
    """Check a bundle and unpack it, or list what it holds, and return the exit code."""
    with bundles.opened(file) as bundle:
        checked = unpacking.check(bundle)
        absent = unpacking.absent(bundle)
        if dry_run:
            lines = table(list(_held(checked)), indent=1)
            click.echo("\n".join([*lines, "All of it is as its manifest says.", f"bundle {bundle.sha}"]))
            return 0
        new = unpacking.unpack(checked, to)
        inner = [path for path, _ in unpacking.files(bundle)]
        click.echo(f"unpacked {file} to {to}: {count(len(checked.results), 'targets')}, {count(len(inner), 'files')}, "
                   f"{count(new, 'new calls')}\nbundle {bundle.sha}")
        for path, told in absent.items():
            click.echo(_absent(path, told, unpacking.is_there(to, path, told)))
    click.echo("Nothing of it was run, and ddmake cards, show, report, verify, log, cost, calls and diff run nothing of it.\n"
               "Its Ddfile is a program: read it before another command runs it, as ddmake -n does. "
               f"Next: cd {to}; ddmake report; ddmake -n")
    return 0


def _absent(path: str, told: dict[str, Any], same: bool | None) -> str:
    """Return what is said of a source that isn't in a bundle, and lies where it belongs or doesn't."""
    what = (f"  not in it: {printable(path)} ({count(told['files'], 'files')}, {amount(told['size'])}, "
            f"sha256 {printable(told['sha256'])[:64]})")
    if same is None:
        return f"{what}. Put it there; unpacking again tells whether it is the same."
    return f"{what}; it lies there, and is the same." if same else \
        f"{what}; what lies there is something else: what reads it would be made again."


def _counts(found: Packing) -> str:
    return ", ".join(count(found.counts[name], noun) for name, noun in COUNTED.items() if found.counts[name])


def _aside(found: Packing) -> list[str]:
    return [f"  {path}: {why}" for path, why in found.aside]


def _listed(found: Packing) -> Iterator[tuple[str, ...]]:
    """Yield what would be packed: files and sources by name, records, and all results as one."""
    objects = [part for part in found.parts if part.name.startswith(OBJECTS)]
    for part in found.parts:
        if part.name.startswith(PROJECT):
            yield "file", part.name.removeprefix(PROJECT), amount(part.size)
        elif part.name.startswith(RECORDS):
            name = part.name.removeprefix(RECORDS).removesuffix(".jsonl")
            yield "records", count(found.counts[name], name), amount(part.size)
    for path in found.told["placed"]:
        yield "target", path, ""
    yield "results", count(len(objects), "files"), amount(sum(part.size for part in objects))


def _held(checked: unpacking.Checked) -> Iterator[tuple[str, ...]]:
    for path, part in unpacking.files(checked.bundle):
        yield "file", path, amount(part.size)
    for result in checked.results:
        yield "target", result.path, amount(sum(checked.bundle.parts[OBJECTS + sha].size for sha in result.manifest.values()))
    for part in checked.bundle.parts.values():
        if part.name.startswith(RECORDS):
            yield "records", part.name.removeprefix(RECORDS), amount(part.size)
