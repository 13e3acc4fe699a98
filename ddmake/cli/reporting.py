"""`ddmake report`: what lies there, as one HTML page; verdicts are those of today's Ddfile, where it was run before and loads."""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Planner
from ddmake.errors import DdfileError, DdmakeError
from ddmake.report import entries, page
from ddmake.report.entries import Entry
from ddmake.report.page import About, Sums
from ddmake.report.words import amount, count
from ddmake.store import FOLDER, Store, open_store, paths, ran


@dataclass(frozen=True)
class Wanted:
    """Where the page goes, how many rows of each dataset are in it, and whether the Ddfile is run; None: if it was before."""

    to: Path
    rows: int
    verdicts: bool | None


def report(file: Path, targets: list[str], knobs: dict[str, Any], wanted: Wanted) -> int:
    """Write a report of targets and what they were made of, all where none is named, and return the exit code.

    Raises DdfileError where nothing was made, and for a file inside of an artifact.
    """
    root, to = file.absolute().parent, wanted.to.absolute()
    if not (root / FOLDER / "traces.db").exists():
        raise DdfileError(f"Nothing was made in {file.parent} yet, so there is nothing to report. Do: ddmake")
    flow, unplanned = _loaded(file, knobs, wanted)
    os.chdir(root)
    with closing(open_store(root)) as store:
        found, unplanned = _entries(flow, store, targets, unplanned)
        _refuse_inside(to, root, found)
        _refuse_other(to)
        sums = _write(to, store, found, About(_title(root), file.name, flow.knobs if flow else {}, unplanned, wanted.rows))
    if unplanned and wanted.verdicts is not False:
        click.echo(f"{unplanned} So the report has no verdicts.", err=True)
    click.echo(f"{wanted.to}: {count(len(found), 'rules')}, {count(sums.rows, 'rows')}, {amount(to.stat().st_size)}")
    return 0


def _loaded(file: Path, knobs: dict[str, Any], wanted: Wanted) -> tuple[Workflow | None, str]:
    """Return the Ddfile's workflow, or why there is none; a mistake in the knobs that are given is raised."""
    if why := ran.why_not(file, file.absolute().parent / FOLDER, wanted.verdicts):
        return None, why
    try:
        return load(file, **knobs), ""
    except DdmakeError as error:
        if knobs:
            raise
        return None, str(error)


def _entries(flow: Workflow | None, store: Store, targets: list[str], unplanned: str) -> tuple[list[Entry], str]:
    """Return what the report is about, by today's plan where there can be one; and why there is none."""
    if flow is None:
        return entries.recorded(store, targets), unplanned
    rules = flow.select(targets) if targets else flow.rules
    try:
        plan = Planner(flow, store).survey(rules)
    except DdmakeError as error:
        return entries.recorded(store, targets), str(error)
    return entries.planned(store, plan, whole=not targets), ""


def _title(root: Path) -> str:
    """Return what a project is called: its folder; a home folder's name would be its owner's."""
    return "ddmake" if root == Path.home() else root.name


def _refuse_other(to: Path) -> None:
    """Raise DdfileError where something lies that is no page."""
    try:
        why = paths.in_the_way(to, page.BEGINNING)
    except OSError as error:
        why = f"can't be read: {error.strerror}"
    if why:
        raise DdfileError(f"-o {to.name} {why}: only an HTML page is written over. Name another file.")


def _refuse_inside(to: Path, root: Path, found: list[Entry]) -> None:
    """Raise DdfileError for a file in an artifact, which would count as edited."""
    artifacts = {(root / path).resolve(): path for entry in found for path in entry.outputs.values()}
    inside = next((artifacts[place] for place in (to.resolve(), *to.resolve().parents) if place in artifacts), None)
    if inside is not None:
        raise DdfileError(f"-o {to.name}: the report would lie in {inside}, which would count as edited. Name another place.")


def _write(to: Path, store: Store, found: list[Entry], about: About) -> Sums:
    try:
        return page.write(to, store, found, about)
    except OSError as error:
        raise DdfileError(f"-o {to.name}: {error.strerror}. Name a file in a folder that is there.") from None
