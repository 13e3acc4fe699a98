"""When the jobs ran whose results lie there, run by run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ddmake.report.entries import Entry
from ddmake.store.traces import RunNote

SHOWN = 5  # runs


@dataclass(frozen=True)
class Bar:
    """A job: where its bar begins and how long it is, in percent of the run, and its seconds."""

    entry: Entry
    start: float
    length: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """The jobs of one run, by when they were started, and the seconds from the first one's start to the last one's end."""

    started: str
    bars: list[Bar]
    seconds: float


def timeline(runs: Sequence[RunNote], done: Sequence[tuple[Entry, Mapping[str, Any]]]) -> list[Run]:
    """Return the last runs that made what lies there, the newest first; `runs` too are the newest first."""
    left = sorted(done, key=lambda job: job[1]["started"])
    found = []
    for run in runs:
        began = datetime.fromisoformat(run.started).timestamp()
        jobs = [job for job in left if job[1]["started"] >= began]
        left = left[:len(left) - len(jobs)]
        if jobs and len(found) < SHOWN:
            found.append(_run(run.started, jobs))
    return found


def _run(started: str, jobs: Sequence[tuple[Entry, Mapping[str, Any]]]) -> Run:
    first = jobs[0][1]["started"]
    whole = max(record["started"] + record["seconds"] for _, record in jobs) - first
    scale = 100 / (whole or 1)
    bars = [Bar(entry, (record["started"] - first) * scale, record["seconds"] * scale, record["seconds"])
            for entry, record in jobs]
    return Run(started, bars, whole)
