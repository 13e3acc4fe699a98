"""`ddmake log`: what the jobs of a target have printed, and which results lay there; without a target, the last runs.

Nothing of the Ddfile is run: what was made, and the logs that lie there, tell what there is.
"""

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
from ddmake.ddfile.binding import normal
from ddmake.errors import DdfileError, DdmakeError
from ddmake.store import FOLDER, Store, open_store, results
from ddmake.store.traces import Placement, RunNote

SHOWN = 10  # results, or runs, that are listed without --all
LOGS = "logs"
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


def log(file: Path, names: list[str], into: str, number: int | None, every: bool, as_json: bool) -> int:
    """Print the log of a target's last job, or of the job of an earlier result, and return the exit code."""
    root = file.absolute().parent
    if not (root / FOLDER).exists() and not file.exists():
        raise DdfileError(f"Nothing was run in {root} yet. Name the Ddfile of a folder where something was with -f FILE.")
    os.chdir(root)
    with closing(open_store(root)) as store:
        if not names:
            return _runs(store, every, as_json)
        found = list(dict.fromkeys(label for name in names for label in _labels(store, name, into)))
        if len(found) > 1:
            raise DdfileError(f"ddmake log takes one target, and {' '.join(names)} stands for {len(found)}.")
        return _target(store, found[0], number, every, as_json)


def _labels(store: Store, name: str, into: str) -> list[str]:
    """Return what the rules are called that a name stands for: their logs lie by that, also of one that only ever failed."""
    made = [results.first_of(store, path) for path in results.named(results.paths(store), name, into)]
    return made or results.named(_logged(store), name, into) or [normal(name)]


def _logged(store: Store) -> list[str]:
    """Return what the rules are called whose jobs have left logs."""
    folder = store.folder / LOGS
    return sorted({log.parent.relative_to(folder).as_posix() for log in folder.glob("**/*.log")})


def _target(store: Store, label: str, number: int | None, every: bool, as_json: bool) -> int:
    found, logs = _results(store, label), _logs(store, label)
    text = _chosen(label, found, logs, number)
    if as_json:
        told = {"target": label, "results": [asdict(one) for one in found],
                "log": text.as_posix() if text else None, "text": _read(text)}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    if not found and text is None:
        click.echo(f"{label} was never made. Do: ddmake {label}")
        return 0
    if found and number is None:
        click.echo("\n".join([*_table(found if every else found[:SHOWN]), *_more(len(found), every), ""]))
    told = [(log, _read(log).rstrip()) for log in _of_its_shards(text, logs)] if text else []
    for log, printed in [one for one in told if one[1]] or told[-1:]:
        click.echo(f"{log}:\n{printed or '(it printed nothing)'}")
    if text is None:
        click.echo("Its log is gone.")
    return 0


def _of_its_shards(log: Path, logs: Sequence[Path]) -> list[Path]:
    """Return the logs of a job that was cut into shards, all of which begin with when it was started and its key."""
    start = "-".join(log.stem.split("-")[:3])
    return [one for one in logs if one.stem == start or one.stem.startswith(f"{start}-")] or [log]


def _results(store: Store, label: str) -> list[Result]:
    """Return the results that lay at a target, the newest first."""
    history = store.traces.history(label)
    placed = store.traces.placed_at(label)
    logs = _logs(store, label)
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
    return Result(number, place.at, trace.key, what(trace, place.output), seconds,
                  ", ".join(note for note, holds in notes.items() if holds), log.as_posix() if log else None)


def _logs(store: Store, label: str) -> list[Path]:
    """Return the logs of a target's jobs, oldest first; their names begin with when they were started."""
    return sorted(path.relative_to(store.root) for path in (store.folder / LOGS / label).glob("*.log"))


def _log_of(key: str, made: str, logs: Sequence[Path]) -> Path | None:
    """Return the log of the job that ended with a result: the last one under its key that was started before."""
    ended = datetime.fromisoformat(made).astimezone().strftime("%Y%m%d-%H%M%S")
    return next((log for log in reversed(logs) if log.stem.endswith(f"-{key[:8]}") and log.name[:len(ended)] <= ended), None)


def _chosen(label: str, made: Sequence[Result], logs: Sequence[Path], number: int | None) -> Path | None:
    if number is None:
        return logs[-1] if logs else None
    found = next((one for one in made if one.number == number), None)
    if found is None:
        has = f"It has 1 to {len(made)}." if made else "It was never made."
        raise DdfileError(f"{label} has no result {number}. {has}")
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
