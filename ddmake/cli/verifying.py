"""`ddmake verify`: whether everything is as recorded, by reading every byte."""

import json
import os
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from ddmake.cli.show import count, duration, table
from ddmake.ddfile.load import load
from ddmake.engine.audit import Report, audit
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Plan
from ddmake.store import open_store

ASIDE = ("fresh", "manual", "edited")  # verdicts that aren't told as stale; what was edited is told as wrong


def verify(file: Path, targets: list[str], knobs: dict[str, str], as_json: bool) -> int:
    """Verify targets, or these and all that is kept where none is named, and return the exit code."""
    flow = load(file, **knobs)
    os.chdir(flow.root)
    started = time.monotonic()
    with closing(open_store(flow.root)) as store:
        rules = flow.select(targets) if targets else flow.rules
        report = audit(store, rules, whole=not targets)
        plan = Planner(flow, store).survey(rules)
    click.echo(_json(report, plan) if as_json else "\n".join(_lines(report, plan, time.monotonic() - started)))
    return 1 if report.wrong else 0


def _lines(report: Report, plan: Plan, seconds: float) -> list[str]:
    counts = ", ".join(count(number, what) for what, number in report.counts.items())
    lines = [f"read {counts} in {duration(seconds)}"]
    for wrong in report.wrong:
        lines.append(f"  {wrong.where} {wrong.what}." + (f" {wrong.remedy}" if wrong.remedy else ""))
    stale = [(v.word, v.rule.label, v.reason) for v in plan.verdicts if v.listed not in ASIDE]
    if stale:
        lines += ["stale, which is no damage:", *table(stale, indent=1)]
    return [*lines, f"{len(report.wrong)} not as recorded." if report.wrong else "All is as recorded."]


def _json(report: Report, plan: Plan) -> str:
    verdicts = [{"target": v.rule.label, "verdict": v.word, "why": v.reason} for v in plan.verdicts]
    return json.dumps({"read": report.counts, "wrong": [asdict(one) for one in report.wrong], "verdicts": verdicts},
                      indent=2, ensure_ascii=False)
