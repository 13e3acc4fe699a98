"""`ddmake show`: what lies at a target, and the rows that failed when it was made. Nothing of the Ddfile is run."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from ddmake.artifacts.digest import kind_of
from ddmake.calls import search
from ddmake.calls.search import Which
from ddmake.cli.listing import when
from ddmake.cli.room import amount
from ddmake.cli.show import count, few, table
from ddmake.cli.terminal import fitted, one_line, printable, screen
from ddmake.ddfile.binding import normal
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.store import FOLDER, Store, failed, open_store, results
from ddmake.store.failed import Failed
from ddmake.store.files import walk
from ddmake.store.traces import Trace

HEAD = 65536  # bytes of a file that tell whether it is text
LEFT = 2  # columns of a terminal that indented lines begin with


@dataclass(frozen=True)
class Wanted:
    """What of a target is to be shown: the first `most` rows, one `row` in full, or those that `failed`; of some `columns`."""

    most: int
    row: int | None
    failed: bool
    as_json: bool
    columns: str = ""  # names with commas between them; all, unless said


@dataclass(frozen=True)
class Lying:
    """What lies at a target's path, and the result that was last put there."""

    path: str
    place: Path
    trace: Trace | None
    edited: bool
    lost: int  # rows that failed

    @property
    def title(self) -> str:
        """Return what is said of it beside what it is."""
        made = "not made by ddmake" if self.trace is None else f"made {when(self.trace.made)}"
        facts = [made, *(["edited since"] if self.edited else []), *([f"{self.lost:,} failed (--failed)"] if self.lost else [])]
        return "; ".join(facts)


def show(file: Path, names: list[str], into: str, wanted: Wanted) -> int:
    """Print what lies at a target, and return the exit code. Raises DdfileError for what isn't there."""
    root = file.absolute().parent
    if len(names) != 1:
        raise DdfileError(f"ddmake show takes one target, not {len(names)}. What there is: ddmake list")
    if not (root / FOLDER / "traces.db").exists():
        raise DdfileError(f"{names[0]} isn't made yet. Do: ddmake {names[0]}")
    with closing(open_store(root)) as store:
        path = _path(store, names[0], into)
        placed = store.traces.at(path)
        if wanted.failed:
            lines = _failed(store, path, placed[0] if placed else None, wanted)
        else:
            lines = _shown(_lying(store, path, placed), wanted)
        click.echo("\n".join(lines))
    return 0


def _path(store: Store, name: str, into: str) -> str:
    """Return the one path that is named: a result's, or of what somebody else may have put there."""
    found = results.named(results.paths(store), name, into) or [normal(name)]
    if len(found) != 1:
        raise DdfileError(f"ddmake show takes one target, and {name} stands for {len(found)}: {few(found)}.")
    return found[0]


def _lying(store: Store, path: str, placed: tuple[Trace, str] | None) -> Lying:
    place, trace = store.root / path, placed[0] if placed else None
    if not place.exists():
        near = "" if placed else did_you_mean(path, results.paths(store))
        raise DdfileError(f"{path} isn't {'there any more' if placed else 'made yet'}.{near or f' Do: ddmake {path}'}")
    edited = placed is not None and store.files.manifest(path) != placed[0].outputs[placed[1]]["manifest"]
    return Lying(path, place, trace, edited, failed.count(store.traces.db, trace.id) if trace else 0)


def _shown(lying: Lying, wanted: Wanted) -> list[str]:
    from ddmake.artifacts import table as tables

    found = tables.table(lying.place)
    if found is not None:
        return _rows(lying, found, _chosen(lying.path, found.columns, wanted.columns), wanted)
    if wanted.row is not None or wanted.columns:
        raise DdfileError(f"{'--columns' if wanted.row is None else '--row'}: {lying.path} holds no rows.")
    kind = kind_of(lying.place)
    if wanted.as_json:
        told = {**_facts(lying, kind), "bytes": sum(_sizes(lying.place).values()), "files": _sizes(lying.place)}
        return [_json({**told, "about": dict(_of_model(lying)) if kind == "model" else {}})]
    if kind == "files" and len(names := [*_sizes(lying.place)]) == 1:  # as `publish` leaves: it is what the folder is for
        return _file(replace(lying, path=f"{lying.path}/{names[0]}", place=lying.place / names[0]), wanted)
    return _file(lying, wanted) if kind == "file" else _folder(lying, kind)


def _chosen(path: str, columns: Mapping[str, str], names: str) -> dict[str, str]:
    """Return the columns that are named, or all, with their types. Raises DdfileError for one that isn't there."""
    chosen = [names] if names in columns else [name for part in names.split(",") if (name := part.strip())]
    for name in chosen:
        if name not in columns:
            raise DdfileError(f"--columns: {path} has no column {name!r}.{did_you_mean(name, columns)} It has: {few(columns)}.")
    return {name: columns[name] for name in chosen or columns}


def _rows(lying: Lying, found: Any, columns: dict[str, str], wanted: Wanted) -> list[str]:
    """Return the lines on a table: its first rows, or one of them in full, of these columns."""
    start, most = (0, wanted.most) if wanted.row is None else (wanted.row, 1)
    rows = list(found.rows(start, most))
    if not rows and wanted.row is not None:
        raise DdfileError(f"{lying.path} has no row {start}; it has {count(found.count, 'rows')}"
                          f"{', the first is 0' if found.count else ''}.")
    if wanted.as_json:
        shown = [{"number": number, "row": {name: row.get(name) for name in columns}} for number, row in enumerate(rows, start)]
        return [_json({**_facts(lying, "rows"), "rows": found.count, "columns": columns, "shown": shown})]
    title = f"{lying.path}: {count(found.count, 'rows')}; {lying.title}"
    if wanted.row is not None:
        return [f"{lying.path}, row {start} of {found.count:,}", *_wide(rows[0], columns)]
    return [title, "", *_grid(rows, columns), *_more(found.count - len(rows), len(columns))]


def _grid(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Return rows as a table as wide as the screen, under the columns' names and types."""
    wide = screen()
    head = [("", *(one_line(name, wide) for name in columns)), ("", *(one_line(kind, wide) for kind in columns.values()))]
    body = [(str(number), *(one_line(_text(row.get(name)), wide) for name in columns)) for number, row in enumerate(rows)]
    lines = fitted([*head, *body], wide)
    return [lines[0], click.style(lines[1], dim=True), *lines[2:]]


def _more(rows: int, columns: int) -> list[str]:
    fits = (screen() + 2) // 10 - 1
    told = [f"{rows:,} more rows (-n)"] if rows > 0 else []
    told += [f"{columns - fits} more columns (--row 0)"] if columns > fits else []
    return [f"… {', '.join(told)}"] if told else []


def _wide(row: dict[str, Any], columns: dict[str, str]) -> list[str]:
    """Return a row's values in full, a paragraph each."""
    lines = []
    for name, kind in columns.items():
        lines += ["", f"{click.style(printable(name), bold=True)} ({kind})", *_indented(_text(row.get(name)))]
    return lines


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in printable(text).splitlines() or [""]]


def _text(value: Any) -> str:
    """Return a value as it is shown."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return f"{amount(len(value))}, binary"
    if isinstance(value, (dict, list)):
        return json.dumps(_plain(value), ensure_ascii=False)
    return "null" if value is None else str(value)


def _failed(store: Store, path: str, trace: Trace | None, wanted: Wanted) -> list[str]:
    """Return the lines on the rows that failed when what lies at a path was made."""
    if trace is None:
        lost = next(search.found(store.folder, Which(rule=path, failed=True), 1), None)
        asked = f" Answers to it that can't be used: ddmake calls --failed --rule {path}" if lost is not None else ""
        raise DdfileError(f"{path} isn't made yet. Do: ddmake {path}{'.' if asked else ''}{asked}")
    number = failed.count(store.traces.db, trace.id)
    shown = [one for at, one in zip(range(wanted.most), failed.of(store.traces.db, trace.id, wanted.row))]
    if wanted.columns:
        shown = [_picked(path, one, wanted.columns) for one in shown]
    if wanted.as_json:
        return [_json({"target": path, "failed": number, "shown": [{**asdict(one), "row": one.values} for one in shown]})]
    if not number:
        return [f"{path}: no row failed."]
    if not shown:
        raise DdfileError(f"{path}: row {wanted.row} didn't fail. Those that did: ddmake show {path} --failed")
    them = "it" if number == 1 else "them"
    lines = [f"{path}: {count(number, 'rows')} failed. Send {them} again: ddmake --retry-failed {path}"]
    for one in shown:
        lines += ["", *_of_failed(one, whole=wanted.row is not None)]
    return [*lines, *(["", f"… {number - len(shown):,} more (-n)"] if number > len(shown) and wanted.row is None else [])]


def _picked(path: str, one: Failed, names: str) -> Failed:
    """Return a failed row with only those of the values that it was asked about which are named."""
    values = one.values
    chosen = _chosen(f"a failed row of {path}", dict.fromkeys(values, ""), names) if values else {}
    return replace(one, row=json.dumps({name: values[name] for name in chosen}))


def _of_failed(one: Failed, whole: bool) -> list[str]:
    """Return the lines on a failed row: why, what was answered, and its values; each on a line, unless they are wanted whole."""
    wide = screen() - LEFT
    lines = [click.style(one_line(f"row {one.number}: {one.reason}", wide), bold=True) + f"  ({printable(one.llm)})"]
    told = {**one.values, **({"answered": one.answer} if one.answer else {})}
    if not whole:
        names = [one_line(name, wide // 4) for name in told]
        return lines + [f"  {line}" for line in fitted([(name, one_line(_text(value), wide)) for name, value in
                                                        zip(names, told.values())], wide)] if told else lines
    for name, value in told.items():
        lines += [f"  {printable(name)}", *(f"  {line}" for line in _indented(_text(value)))]
    return lines


def _file(lying: Lying, wanted: Wanted) -> list[str]:
    """Return the first lines of a text, or what a binary file is."""
    size = lying.place.stat().st_size
    with lying.place.open("rb") as file:
        head = file.read(HEAD)
    try:
        text = head.decode("utf-8") if len(head) == size else head.rpartition(b"\n")[0].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return [f"{lying.path}: binary, {amount(size)}; {lying.title}"]
    lines = text.splitlines()
    more = [f"… more (-n), {amount(size)} in all"] if len(lines) > wanted.most or len(head) < size else []
    return [f"{lying.path}: text, {amount(size)}; {lying.title}", "", *map(printable, lines[:wanted.most]), *more]


def _folder(lying: Lying, kind: str) -> list[str]:
    """Return the lines on a model, or on a folder of files."""
    sizes = _sizes(lying.place)
    title = f"{lying.path}: {kind}, {count(len(sizes), 'files')}, {amount(sum(sizes.values()))}; {lying.title}"
    about = list(_of_model(lying)) if kind == "model" else []
    files = [(printable(name), amount(size)) for name, size in sizes.items()]
    return [title, *(["", *table(about, indent=1)] if about else []), "", *table(files[:20], indent=1),
            *([f"… {len(files) - 20:,} more"] if len(files) > 20 else [])]


def _of_model(lying: Lying) -> Iterator[tuple[str, str]]:
    """Yield what a model's configs and the record of its training tell."""
    config, adapter = (_config(lying.place / name) for name in ("config.json", "adapter_config.json"))
    for name, value in (("architecture", ", ".join(config.get("architectures") or [])), ("adapter", adapter.get("peft_type")),
                        ("base", adapter.get("base_model_name_or_path"))):
        if value:
            yield name, printable(str(value))
    for name, value in _metrics(lying).items():
        yield printable(name), f"{value:.4g}" if isinstance(value, float) else str(value)


def _metrics(lying: Lying) -> dict[str, Any]:
    try:
        return lying.trace.record.get("metrics") or {} if lying.trace else {}
    except DdmakeError:  # a damaged record
        return {}


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sizes(place: Path) -> dict[str, int]:
    names = [""] if place.is_file() else walk(str(place), follow=True)
    return {name or place.name: (place / name).stat().st_size for name in names}


def _facts(lying: Lying, kind: str) -> dict[str, Any]:
    return {"target": lying.path, "kind": kind, "made": lying.trace.made if lying.trace else None, "edited": lying.edited,
            "failed": lying.lost}


def _json(told: dict[str, Any]) -> str:
    return json.dumps(_plain(told), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes in base64, what is no number as null, dates as text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
