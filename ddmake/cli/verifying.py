"""`ddmake verify`: whether everything is as recorded, by reading every byte."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from ddmake.cli.show import count, duration, table
from ddmake.ddfile.load import load
from ddmake.engine.audit import Report, audit
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Verdict
from ddmake.errors import DdfileError
from ddmake.store import FOLDER, Store, open_store, ran, results

ASIDE = ("fresh", "manual", "edited")  # verdicts that aren't told as stale; what was edited is told as wrong


def verify(file: Path, targets: list[str], knobs: dict[str, str], as_json: bool, verdicts: bool | None) -> int:
    """Verify targets, or these and all that is kept where none is named, and return the exit code.

    The Ddfile is run for `verdicts`; None: if it was before. Else what is recorded is looked at, whoever wrote the Ddfile.
    """
    root = file.absolute().parent
    unrun = ran.why_not(file, root / FOLDER, verdicts)
    flow = None if unrun else load(file, **knobs)
    if flow is None and not (root / FOLDER / "traces.db").exists():
        raise DdfileError(f"Nothing is recorded in {root}. Name the Ddfile of a folder where something was made with -f FILE.")
    os.chdir(root)
    started = time.monotonic()
    with closing(open_store(root)) as store:
        rules = [] if flow is None else flow.select(targets) if targets else flow.rules
        paths = _recorded(store, targets, knobs) if flow is None else [path for rule in rules for path in rule.outputs.values()]
        report = audit(store, paths, whole=not targets)
        found = [] if flow is None else Planner(flow, store).survey(rules).verdicts
    click.echo(_json(report, found) if as_json else "\n".join(_lines(report, found, time.monotonic() - started)))
    if unrun and verdicts is None:
        click.echo(f"{unrun} So it isn't told what is stale.", err=True)
    return 1 if report.wrong else 0


def _recorded(store: Store, names: list[str], knobs: dict[str, str]) -> list[str]:
    """Return the paths that results were put at, all or those named. Raises DdfileError for a name of none."""
    return results.chosen(store, names, knobs.get("into", "")) if names else results.paths(store)


def _lines(report: Report, verdicts: Sequence[Verdict], seconds: float) -> list[str]:
    counts = ", ".join(count(number, what) for what, number in report.counts.items())
    lines = [f"read {counts} in {duration(seconds)}"]
    for wrong in report.wrong:
        lines.append(f"  {wrong.where} {wrong.what}." + (f" {wrong.remedy}" if wrong.remedy else ""))
    stale = [(v.word, v.rule.label, v.reason) for v in verdicts if v.listed not in ASIDE]
    if stale:
        lines += ["stale, which is no damage:", *table(stale, indent=1)]
    return [*lines, f"{len(report.wrong)} not as recorded." if report.wrong else "All is as recorded."]


def _json(report: Report, found: Sequence[Verdict]) -> str:
    verdicts = [{"target": v.rule.label, "verdict": v.word, "why": v.reason} for v in found]
    return json.dumps({"read": report.counts, "wrong": [asdict(one) for one in report.wrong], "verdicts": verdicts},
                      indent=2, ensure_ascii=False)
