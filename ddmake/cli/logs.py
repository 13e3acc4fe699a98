"""`ddmake log`: what the jobs of a target have printed, and which results lay there; without a target, the last runs."""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import click

from ddmake.cli.listing import what, when
from ddmake.cli.show import duration, table
from ddmake.ddfile.load import load
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, DdmakeError
from ddmake.store import Store, open_store
from ddmake.store.traces import Placement, RunNote

SHOWN = 10  # results, or runs, that are listed without --all
NOW = "here"  # said of the result that lies at its path


@dataclass(frozen=True)
class Result:
    """A result that lay, or lies, at a target; numbers count from the first one."""

    number: int
    at: str
    key: str
    holds: str
    seconds: float | None
    note: str
    log: str | None


def log(file: Path, names: list[str], knobs: dict[str, str], number: int | None, every: bool, as_json: bool) -> int:
    """Print the log of a target's last job, or of the job of an earlier result, and return the exit code."""
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        if not names:
            return _runs(store, every, as_json)
        rules = flow.select(names)
        if len(rules) > 1:
            raise DdfileError(f"ddmake log takes one target, and {' '.join(names)} stands for {len(rules)}.")
        return _target(flow, store, rules[0], number, every, as_json)


def _target(flow: Workflow, store: Store, rule: Rule, number: int | None, every: bool, as_json: bool) -> int:
    results, logs = _results(flow, store, rule), _logs(flow, rule)
    text = _chosen(rule, results, logs, number)
    if as_json:
        told = {"target": rule.label, "results": [asdict(one) for one in results],
                "log": text.as_posix() if text else None, "text": _read(text)}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    if not results and text is None:
        click.echo(f"{rule.label} was never made. Do: ddmake {rule.label}")
        return 0
    if results and number is None:
        click.echo("\n".join([*_table(results if every else results[:SHOWN]), *_more(len(results), every), ""]))
    click.echo(f"{text}:\n{_read(text).rstrip() or '(it printed nothing)'}" if text else "Its log is gone.")
    return 0


def _results(flow: Workflow, store: Store, rule: Rule) -> list[Result]:
    """Return the results that lay at a target, the newest first."""
    history = store.traces.history(rule.label)
    placed = store.traces.placed_at(rule.label)
    logs = _logs(flow, rule)
    return [_result(len(history) - at, place, history, placed is not None and at == 0, logs)
            for at, place in enumerate(history)]


def _result(number: int, place: Placement, history: Sequence[Placement], last: bool, logs: Sequence[Path]) -> Result:
    trace = place.trace
    again = any(other.trace.id == trace.id for other in history[len(history) - number + 1:])
    try:
        seconds, adopted = trace.record["seconds"], trace.record.get("adopted", False)
    except DdmakeError:
        seconds, adopted = None, False
    notes = {NOW: last, "restored": again, "adopted": adopted, f"sample {trace.epoch}": bool(trace.epoch)}
    log = None if adopted else _log_of(trace.key, trace.made, logs)
    return Result(number, place.at, trace.key, what(trace.outputs[place.output]["digest"]), seconds,
                  ", ".join(note for note, holds in notes.items() if holds), log.as_posix() if log else None)


def _logs(flow: Workflow, rule: Rule) -> list[Path]:
    """Return the logs of a target's jobs, oldest first; their names begin with when they were started."""
    return sorted(path.relative_to(flow.root) for path in (flow.root / ".ddmake" / "logs" / rule.label).glob("*.log"))


def _log_of(key: str, made: str, logs: Sequence[Path]) -> Path | None:
    """Return the log of the job that ended with a result: the last one under its key that was started before."""
    ended = datetime.fromisoformat(made).astimezone().strftime("%Y%m%d-%H%M%S")
    return next((log for log in reversed(logs) if log.stem.endswith(f"-{key[:8]}") and log.name[:len(ended)] <= ended), None)


def _chosen(rule: Rule, results: Sequence[Result], logs: Sequence[Path], number: int | None) -> Path | None:
    if number is None:
        return logs[-1] if logs else None
    found = next((one for one in results if one.number == number), None)
    if found is None:
        has = f"It has 1 to {len(results)}." if results else "It was never made."
        raise DdfileError(f"{rule.label} has no result {number}. {has}")
    return Path(found.log) if found.log else None


def _read(log: Path | None) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log is not None else ""


def _table(results: Sequence[Result]) -> list[str]:
    rows = [(str(one.number), when(one.at), one.key[:8], one.holds, duration(one.seconds) if one.seconds is not None else "",
             one.note) for one in results]
    return table([("", "since", "key", "holds", "took", ""), *rows])


def _more(count: int, every: bool) -> list[str]:
    return [f"… {count - SHOWN} more (--all)"] if count > SHOWN and not every else []


def _runs(store: Store, every: bool, as_json: bool) -> int:
    runs = store.traces.runs()
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=2, ensure_ascii=False))
        return 0
    rows = [(when(run.started), run.ddfile, _knobs(run)) for run in (runs if every else runs[:SHOWN])]
    click.echo("\n".join([*table([("run", "Ddfile", "knobs"), *rows]), *_more(len(runs), every)]) if runs else
               "Nothing was run here yet.")
    return 0


def _knobs(run: RunNote) -> str:
    knobs = [f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in run.knobs.items()]
    return " ".join([*knobs, *([f"--into {run.folder}"] if run.folder else [])])
