"""The progress of a run: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import click

from ddmake.ddfile.rule import Rule
from ddmake.engine.run import Done, Observer
from ddmake.report.words import duration, shortened

if TYPE_CHECKING:
    from ddmake.calls.switch import Switch

STARTING = {"make": "making", "restore": "restoring", "adopt": "adopting"}
ALIKE = 5  # lines that one remark gets
WAITS = "waits"  # with what the remarks of jobs begin that somebody else doesn't let start
QUIET = ("fresh", "not run", "manual")
ENDING = "Finishing what is in flight; Ctrl-C again stops now."
LEAVING = "What runs on the cluster goes on, for a later ddmake to take up; Ctrl-C again within 5 s cancels it."


@contextmanager
def observer(jobs: int, caller: "Switch | None", away: bool) -> Iterator[Observer]:
    """Give an observer of a run that fits where the output goes; `caller` knows what was spent; jobs may run `away`."""
    ending = LEAVING if away else ENDING
    if sys.stdout is None or not sys.stdout.isatty():
        yield Lines(ending)
        return
    from rich.console import Console
    from rich.live import Live

    display = Display(jobs, caller, ending)
    with Live(display, console=Console(highlight=False), refresh_per_second=8, transient=True):
        yield display


class Lines:
    """A line when a job starts and when it ends, and what it remarks between."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.remarks: dict[str, str] = {}
        self.alike: Counter[str] = Counter()  # how many jobs have had a remark

    def started(self, rule: Rule, word: str) -> None:
        """Print that a job starts."""
        _say(f"{STARTING[word]} {', '.join(rule.outputs.values())}")

    def progress(self, rule: Rule, done: int, total: int, note: str) -> None:
        """Print a remark, once; one that many jobs have isn't told of all of them."""
        if note and not done and not total and self.remarks.get(rule.label) != note:
            self.remarks[rule.label] = note
            self.alike[note] += 1
            if self.alike[note] <= ALIKE:
                _say(f"{rule.label if self.alike[note] < ALIKE else 'others, too'}: {note}")

    def again(self, rule: Rule, told: str) -> None:
        """Print that a job is tried again."""
        _say(f"trying again {', '.join(rule.outputs.values())}: {told}")

    def stopping(self) -> None:
        """Print that the run ends."""
        _say(self.ending)

    def ended(self, done: Done) -> None:
        """Print what became of a rule, unless it is nothing new."""
        if done.word not in QUIET:
            _say(f"{done.word} {', '.join(done.rule.outputs.values())}")


def _say(line: str) -> None:
    """Print a line; a run goes on though nobody reads it any more."""
    try:
        click.echo(line)
    except OSError:
        pass


class Display:
    """The jobs that run, each with its progress; what has ended scrolls by above."""

    def __init__(self, jobs: int, caller: "Switch | None", ending: str):
        self.jobs, self.ended_jobs, self.caller, self.ending = jobs, 0, caller, ending
        self.running: dict[str, tuple[float, str]] = {}
        self.note = ""

    def started(self, rule: Rule, word: str) -> None:
        """Show a job."""
        self.running[rule.label] = (time.monotonic(), "")

    def progress(self, rule: Rule, done: int, total: int, note: str) -> None:
        """Show how far a job is."""
        if rule.label in self.running:
            count = f"{done:,}" + (f" of {total:,}" if total else "") if done or total else ""
            self.running[rule.label] = (self.running[rule.label][0], " ".join(filter(None, [count, note])))

    def again(self, rule: Rule, told: str) -> None:
        """Show that a job is tried again, and why."""
        self.running.pop(rule.label, None)
        self.note = f"trying again {rule.label}: {told}"

    def stopping(self) -> None:
        """Show that the run ends."""
        self.note = self.ending

    def ended(self, done: Done) -> None:
        """Take a job from the display."""
        started = self.running.pop(done.rule.label, None)
        self.ended_jobs += done.word not in QUIET or started is not None

    def _spent(self) -> str:
        """Return the running total of what the run has paid."""
        spent = self.caller.spent if self.caller else None
        if spent is None or not spent.sent:
            return ""
        dollars = f"${spent.dollars:,.2f}" if not spent.unknown else f"at least ${spent.dollars:,.2f}" if spent.dollars else "$?"
        return f"  {spent.sent:,} sent, {dollars}"

    def __rich_console__(self, console, options):  # type: ignore[no-untyped-def]
        """Draw: a line for the run, a line a job."""
        from rich.table import Column, Table
        from rich.text import Text

        waits = sum(told.startswith(WAITS) for _, told in self.running.values())
        waiting = f", {waits:,} waiting" if waits else ""
        yield Text(f"{self.ended_jobs} of {self.jobs} done{waiting}{self._spent()}", style="bold")
        if self.note:
            yield Text(self.note, style="yellow")
        rows = Table.grid(Column(no_wrap=True), Column(no_wrap=True), "", padding=(0, 2))  # notes are cut where it is narrow
        shown = max(1, options.max_height - 4)  # a cluster may run more than a screen has lines
        for label, (since, told) in islice(sorted(self.running.items(), key=lambda job: job[1][1].startswith(WAITS)), shown):
            passed = Text(duration(time.monotonic() - since), style="dim")
            note = Text(told, style="cyan", no_wrap=True, overflow="ellipsis")
            rows.add_row(Text("  " + shortened(label, options.max_width // 2)), passed, note)
        yield rows
        if len(self.running) > shown:
            yield Text(f"  and {len(self.running) - shown:,} more", style="dim")
