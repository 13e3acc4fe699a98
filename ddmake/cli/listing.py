"""`ddmake list`: every target with its verdict and what lies there."""

import json
import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ddmake.cli.show import rows, table
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store import Store, open_store
from ddmake.store.traces import Trace

SHORT = 12  # characters of a fingerprint in a table


@dataclass(frozen=True)
class Listed:
    """A target: the verdict on its rule, and the result that lies, or last lay, at its path."""

    path: str
    output: str
    verdict: Verdict
    trace: Trace | None

    @property
    def digest(self) -> dict[str, Any]:
        """Return the digest of what lies there, {} for nothing."""
        return self.trace.outputs[self.output]["digest"] if self.trace is not None else {}


def targets(file: Path, names: list[str], knobs: dict[str, str], as_json: bool, fingerprints: bool) -> int:
    """Print targets, all or those named, and return the exit code."""
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        chosen = flow.select(names) if names else flow.rules
        plan = Planner(flow, store).survey(chosen)
        listed = _listed(store, plan, set(chosen))
        named = [] if names else _named(flow)
        whole = _fingerprint(listed)
        click.echo(_json(flow, listed, whole) if as_json else _table(listed, named, fingerprints, whole))
    return 0


def when(iso: str) -> str:
    """Return a moment as a person reads it, in local time."""
    return when_of(datetime.fromisoformat(iso).timestamp())


def when_of(seconds: float) -> str:
    """Return a moment, given in seconds since 1970, as a person reads it, in local time."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def what(trace: Trace, output: str) -> str:
    """Return what an artifact is: its rows, or its kind."""
    number = None
    with suppress(DdmakeError):  # a damaged record, which `verify` tells
        number = trace.rows(output)
    return trace.outputs[output]["digest"]["kind"] if number is None else rows(number)


def _listed(store: Store, plan: Plan, chosen: set[Any]) -> list[Listed]:
    placed = store.traces.all_placed()
    found = []
    for verdict in plan.verdicts:
        for name, path in verdict.rule.outputs.items() if verdict.rule in chosen else ():
            trace = verdict.trace or placed.get(path, (None, ""))[0]
            found.append(Listed(path, name if verdict.trace else placed.get(path, (None, name))[1], verdict, trace))
    return found


def _named(flow: Workflow) -> list[tuple[str, str, str]]:
    """Return what else can be named: patterns, and aliases with what they stand for."""
    patterns = [("pattern", path, pattern.recipe.name) for pattern in flow.patterns.all for path in pattern.outputs.values()]
    return patterns + [("alias", name, ", ".join(paths)) for name, paths in flow.aliases.items()]


def _table(listed: Sequence[Listed], named: Sequence[tuple[str, str, str]], fingerprints: bool, whole: str | None) -> str:
    head = ("", "target", "holds", "made", *(["fingerprint"] if fingerprints else []), "recipe", "about")
    lines = table([head, *(_row(one, fingerprints) for one in listed)])
    lines += ["", *table(named)] if named else []
    if fingerprints:
        lines += ["", f"fingerprint of the whole workflow: {whole}" if whole else
                  "The whole workflow has a fingerprint once all of it is made and fresh."]
    return "\n".join(lines)


def _row(one: Listed, fingerprints: bool) -> tuple[str, ...]:
    rule, trace = one.verdict.rule, one.trace
    mark = [trace.fingerprint[:SHORT] if trace else ""] if fingerprints else []
    about = " ".join((rule.options.about or "").split())
    lies = (what(trace, one.output), when(trace.made)) if trace else ("", "")
    return (one.verdict.listed, one.path, *lies, *mark, rule.recipe.name, about)


def _fingerprint(listed: Sequence[Listed]) -> str | None:
    """Return the fingerprint of all targets, the manual ones aside; None unless each is fresh."""
    counted = [one for one in listed if not one.verdict.rule.options.manual]
    if not counted or any(one.verdict.word != "fresh" for one in counted):
        return None
    return hashes.of_value(sorted([one.trace.fingerprint, one.output] for one in counted if one.trace))


def _json(flow: Workflow, listed: Sequence[Listed], whole: str | None) -> str:
    found = {"ddfile": flow.file.name, "knobs": flow.knobs, "targets": [_entry(one) for one in listed], "aliases": flow.aliases,
             "patterns": [path for pattern in flow.patterns.all for path in pattern.outputs.values()], "fingerprint": whole}
    return json.dumps(found, indent=2, ensure_ascii=False)


def _entry(one: Listed) -> dict[str, Any]:
    rule, trace = one.verdict.rule, one.trace
    return {
        "target": one.path, "verdict": one.verdict.listed, "why": one.verdict.reason, "key": one.verdict.key,
        "kind": one.digest.get("kind"), "rows": one.digest.get("rows"), "made": trace.made if trace else None,
        "fingerprint": trace.fingerprint if trace else None, "recipe": rule.recipe.name, "place": rule.place,
        "about": rule.options.about, "manual": rule.options.manual,
    }
