"""What a report tells of one rule: facts of its trace, code, curves, results, and its rows to leaf through."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddmake.artifacts import table as tables
from ddmake.artifacts.table import Row, Table
from ddmake.calls import search
from ddmake.calls.search import Call
from ddmake.cards import placed
from ddmake.cards.lineage import Lineage
from ddmake.errors import DdmakeError
from ddmake.fingerprint.values import dicts
from ddmake.report.chart import Point, chart
from ddmake.report.entries import PAST, Entry
from ddmake.report.packed import LONG, SMALL, packed
from ddmake.report.words import amount, count, shortened
from ddmake.store import Store, failed, secrets
from ddmake.store.traces import Trace

RESULTS = ("evaluate", "evaluate_retrieval", "table", "win_rate", "agreement")  # recipes whose rows are results
POINTS = 500  # of a curve that are drawn
MOST = 200  # characters of a constant that are shown

Facts = dict[str, Any]


@dataclass(frozen=True)
class Browser:
    """Rows that the page's script shows; `pieces` are theirs, packed, and can be read once."""

    kind: str  # "rows", "file", "calls" or "failed"
    name: str
    title: str
    pieces: Iterator[str]


@dataclass(frozen=True)
class Section:
    """What is told of an entry; without a trace nothing but that it isn't made."""

    entry: Entry
    facts: Facts = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    damaged: str = ""
    holds: str = ""
    code: list[tuple[str, str]] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    browsers: list[Browser] = field(default_factory=list)


@dataclass(frozen=True)
class Sections:
    """Tells entries one after the other. `calls` are the numbers of calls to show by rule, with how many there are."""

    store: Store
    lineage: Lineage
    most: int  # rows of each dataset
    calls: Mapping[str, tuple[list[int], int]]
    clean: Callable[[str], str]

    def of(self, entry: Entry) -> Section:
        """Return what is told of an entry."""
        if entry.trace is None:
            return Section(entry)
        try:
            facts, record = self.lineage.facts(entry.trace), entry.trace.record
        except DdmakeError as error:
            return Section(entry, damaged=str(error))
        return Section(entry, facts, record, holds=", ".join(_holds(entry.trace)), code=_code(self.store, record),
                       charts=list(self._charts(entry)), browsers=list(self._browsers(entry, entry.trace)))

    def results(self, entry: Entry) -> Iterator[tuple[str, placed.Rows]]:
        """Yield the tables of an entry whose rows are results, by path."""
        for path, out in _outputs(entry) if entry.recipe in RESULTS else ():
            rows = placed.rows(self.store, path, out["manifest"]) if self._ours(entry, path) else None
            if rows:
                yield path, rows

    def _charts(self, entry: Entry) -> Iterator[str]:
        for path, out in _outputs(entry):
            metrics = placed.config(self.store, path, out["manifest"], "metrics.json") if self._ours(entry, path) else {}
            yield from (chart(what, "step", lines) for what, lines in curves(metrics).items())

    def _browsers(self, entry: Entry, trace: Trace) -> Iterator[Browser]:
        for path in (path for path, _ in _outputs(entry) if self._ours(entry, path)):
            table = self._table(path)
            if table is not None:
                title = _title("Rows", min(table.count, self.most), table.count, path)
                pieces = packed(table.columns, self._given(trace), _rows(table, self.most), self.clean)
                yield Browser("rows", path, title, pieces)
            elif (self.store.root / path).is_file():
                yield self._file(path)
        numbers, total = self.calls.get(entry.label, ([], 0))
        if numbers:
            columns = {"prompt": "as sent", "answer": "as given", "call": "tokens and cost"}
            asked = ((call.id, _asked(call)) for call in search.numbered(self.store.folder, numbers))
            yield Browser("calls", entry.label, _title("Prompts and answers", len(numbers), total),
                          packed(columns, ["prompt"], asked, self.clean))
        lost = failed.count(self.store.traces.db, trace.id)
        if lost:
            yield self._failed(entry, trace, lost)

    def _file(self, path: str) -> Browser:
        """Return a file that is no table as the one row of its content."""
        place = self.store.root / path
        return Browser("file", path, f"File {path}: {amount(place.stat().st_size)}",
                       packed({"content": ""}, [], [(0, [_content(place)])], self.clean))

    def _failed(self, entry: Entry, trace: Trace, lost: int) -> Browser:
        rows = (one for _, one in zip(range(self.most), failed.of(self.store.traces.db, trace.id)))
        columns = {"row": "", "answer": "as given", "reason": "", "llm": ""}
        found = ((one.number, (one.values, one.answer, one.reason, one.llm)) for one in rows)
        return Browser("failed", entry.label, _title("Failed rows", min(lost, self.most), lost),
                       packed(columns, ["row"], found, self.clean))

    def _ours(self, entry: Entry, path: str) -> bool:
        """Tell whether a path is to be read: what no rule of today's makes, only in the project's own folder."""
        inside = (self.store.root / path).resolve().is_relative_to(self.store.root.resolve())
        return (self.store.root / path).exists() and (inside or entry.word not in ("", PAST))

    def _table(self, path: str) -> Table | None:
        """Return the table at a path; None for what is no table, or is damaged, which `verify` tells."""
        try:
            return tables.table(self.store.root / path)
        except (OSError, ValueError, KeyError):
            return None

    def _given(self, trace: Trace) -> set[str]:
        """Return the columns of the datasets that a job read."""
        before = [(self.lineage.trace(given["trace"]), given) for given in trace.record["inputs"] if given["trace"] is not None]
        return {column for made, given in before if made is not None for out in made.outputs.values()
                if out["digest"]["sha"] == given["digest"] for column in out["digest"].get("columns", ())}


def curves(metrics: Any) -> dict[str, dict[str, list[Point]]]:
    """Return the curves of a metrics.json by what they show: of training and validation in one chart."""
    found: dict[str, dict[str, list[Point]]] = {}
    for name, points in metrics.items() if isinstance(metrics, dict) else ():
        line = _line(points) if name.endswith("_curve") else []
        if line:
            what = name.removesuffix("_curve")
            series = "validation" if what.startswith("eval_") else "training"
            found.setdefault(what.removeprefix("eval_"), {})[series] = line
    return found


def _line(points: Any) -> list[Point]:
    """Return the points of a curve that can be drawn, of very many as many as can be seen."""
    pairs = [point for point in points if isinstance(point, list) and len(point) == 2] if isinstance(points, list) else []
    line = [(float(x), float(y)) for x, y in pairs if _finite(x) and _finite(y)]
    step = math.ceil(len(line) / POINTS)
    return line[::step] + line[-1:] if step > 1 else line


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _outputs(entry: Entry) -> list[tuple[str, Facts]]:
    """Return the paths of an entry's outputs, each with what its trace tells of it."""
    told = entry.trace.outputs if entry.trace is not None else {}
    return [(path, told[name]) for name, path in entry.outputs.items() if name in told]


def _holds(trace: Trace) -> Iterator[str]:
    for name, out in trace.outputs.items():
        yield out["digest"]["kind"] if (rows := trace.rows(name)) is None else count(rows, "rows")


def _code(store: Store, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the code that a job was made of, by name: of the user's own its text, of a packaged recipe its version."""
    made_of = record["ingredients"]
    beside = [part["code"] for name in ("inputs", "arguments") for part in dicts(made_of.get(name, {}))
              if part.keys() == {"value", "code"}]
    found: dict[str, str] = {}
    for pieces in (made_of.get("code", {}), *beside):
        for label, piece in pieces.items():
            text = store.traces.text(piece["text"]) if isinstance(piece, dict) and piece.get("text") else None
            if text is not None:
                found.setdefault(label, "\n".join([text.rstrip("\n"), *_reads(piece)]))
    return [(record["recipe"]["name"] if label == "recipe" else label, text) for label, text in found.items()]


def _reads(piece: Facts) -> Iterator[str]:
    """Yield the constants that a piece of code reads, a line each; what is named like a secret is left out."""
    for name, value in piece.get("reads", {}).items():
        if not isinstance(value, dict) and not secrets.is_named(name, value):
            yield f"# {name} = {shortened(json.dumps(value, ensure_ascii=False), MOST)}"


def _rows(table: Table, most: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield the first rows of a table with their numbers; where one can't be read, a last one that says so."""
    names, number = list(table.columns), -1
    try:
        for number, row in enumerate(table.rows(0, most)):
            yield number, _values(row, names)
    except (OSError, ValueError) as error:
        yield number + 1, [f"(from here on it can't be read: {error})"]


def _content(place: Path) -> str | bytes:
    """Return a file's text, or as much of it as can be shown; of another one its bytes, or what it is where they are many."""
    size, most = place.stat().st_size, max(SMALL, 4 * LONG)
    with place.open("rb") as file:
        head = file.read(most)
    text = head.decode("utf-8", "replace")
    if "\0" in text or "\ufffd" in text[:LONG]:
        return head if size <= most else f"{amount(size)}, binary"
    return text if size <= most else f"{text[:LONG]}…"


def _values(row: Row, names: Iterable[str]) -> list[Any]:
    return [row.get(name) for name in names]


def _asked(call: Call) -> list[Any]:
    tokens = [f"{number:,} {way}" for number, way in ((call.tokens_in, "in"), (call.tokens_out, "out")) if number is not None]
    facts = [call.model or call.llm or "", f"{', '.join(tokens)} tokens" if tokens else "",
             f"${call.cost:.6f}" if call.cost else "", "cut" if call.finish_reason == "length" else ""]
    return [call.asked.get("messages"), call.answer if call.error is None else call.error, "; ".join(filter(None, facts))]


def _title(what: str, shown: int, total: int, path: str = "") -> str:
    part = f"first {shown:,} of {total:,}" if shown < total else f"{total:,}"
    return f"{what}{f' of {path}' if path else ''}: {part}"
