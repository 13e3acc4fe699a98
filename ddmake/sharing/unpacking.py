"""Unpacking a bundle: all of it is checked first, nothing of it is executed, and nothing here is overwritten.

The order makes a kill harmless: results' files, calls, traces, results at their places, and the Ddfile last. Each step finds
what an earlier try has done, so that unpacking again goes on from there.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ddmake.calls import exchange as calls
from ddmake.ddfile.facts import Said
from ddmake.engine.ingredients import Keys
from ddmake.engine.keeping import busy
from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes
from ddmake.sharing import bundle as bundles
from ddmake.sharing.bundle import OBJECTS, PROJECT, RECORDS, Bundle, Part
from ddmake.sharing.packing import SETTINGS
from ddmake.store import FOLDER, Store, exchange, open_store, paths, ran, said
from ddmake.store.exchange import Row
from ddmake.store.files import Manifest, Unfit, manifest_of
from ddmake.store.traces import Trace

SHOWN = 5  # differences that are named
ROOM = 1.1  # of the bytes of a bundle: what has to be free for it


@dataclass(frozen=True)
class Result:
    """What lies at a path by a bundle: an output of one of its traces."""

    path: str
    number: int
    output: str
    manifest: Manifest


@dataclass(frozen=True)
class Checked:
    """A bundle all of which was checked: forms, hashes, and that its traces are what their keys say."""

    bundle: Bundle
    traces: list[Row]
    results: list[Result]


def check(bundle: Bundle) -> Checked:
    """Return a bundle once all of it was looked at. Raises DdmakeError for the first thing that isn't as it should be."""
    bundles.check_contents(bundle)
    for name, look in (("calls", calls.check), ("vectors", calls.check_vector)):
        for _ in _rows(bundle, name, look):
            pass
    return check_records(bundle)


def check_records(bundle: Bundle) -> Checked:
    """Return a bundle once what it tells of results was looked at, and the results themselves weren't. Raises as `check` does."""
    bundles.check_contents(bundle, RECORDS)
    traces = list(_rows(bundle, "traces", exchange.check))
    numbers = set[int]()
    for row in traces:
        _check_trace(bundle, row, numbers)
        numbers.add(row["number"])
    for _ in _rows(bundle, "texts", _check_text):
        pass
    _said(bundle)
    return Checked(bundle, traces, _results(bundle, {row["number"]: row for row in traces}))


def unpack(checked: Checked, to: Path) -> int:
    """Unpack a bundle into a folder, and return how many calls are new there.

    Raises DdmakeError, before anything is written, where something else lies at a path, a job is under way, or there is no room.
    """
    _refuse(checked, to)
    to.mkdir(parents=True, exist_ok=True)
    store = open_store(to)
    try:
        if busy(store):
            raise DdmakeError(f"A job is under way in {to}. Unpack when it is done.")
        return _unpack(checked, store)
    finally:
        store.close()


def _unpack(checked: Checked, store: Store) -> int:
    bundle, scratch = checked.bundle, store.folder / "scratch" / f"unpack-{uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        for part in bundle.parts.values():
            if part.name.startswith(OBJECTS) and not store.objects.place(part.sha).exists():
                _write(bundle, part, store.objects.place(part.sha), scratch)
        os.sync()  # traces tell of these files
        new = calls.take_in(store.folder, bundle.lines(f"{RECORDS}calls.jsonl"))
        if f"{RECORDS}vectors.jsonl" in bundle.parts:
            calls.take_in_vectors(store.folder, bundle.lines(f"{RECORDS}vectors.jsonl"))
        numbers = _take_in_traces(checked, store)
        for result in checked.results:
            _place(store, result, numbers, scratch)
        _note_run(bundle, store)
        ran.forget(store.folder)  # what lies beside the Ddfile is now somebody else's, too
        _write_files(bundle, store, scratch)
        return new
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def files(bundle: Bundle) -> Iterator[tuple[str, Part]]:
    """Yield the files of the project by their paths, the Ddfile last: without it nobody runs what is half there."""
    found = [(part.name.removeprefix(PROJECT), part) for part in bundle.parts.values() if part.name.startswith(PROJECT)]
    yield from sorted(found, key=lambda one: (one[0] == bundle.told.get("ddfile"), one[0]))


def absent(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the sources that a bundle holds by their digests alone, by path. Raises DdmakeError for what can't be any."""
    found = bundle.told.get("absent", {})
    kinds = {"files": int, "size": int, "sha256": str}
    for one in found.values() if isinstance(found, dict) else [None]:
        if not isinstance(one, dict) or one.keys() != kinds.keys() or not all(type(one[name]) is kinds[name] for name in kinds):
            raise _wrong(bundle, "tells of sources in a form that ddmake doesn't know")
    return found


def is_there(to: Path, path: str, told: dict[str, Any]) -> bool | None:
    """Tell whether what lies at a source's path is what was packed by its digest alone; None where nothing lies there.

    Outside of the folder nothing is looked at: somebody else has chosen the path.
    """
    if paths.wrong(path) is not None:
        return None
    store = open_store(to)
    try:
        manifest = store.files.manifest(path)
    except DdmakeError:  # no plain files
        return False
    finally:
        store.close()
    return None if manifest is None else hashes.of_value(manifest) == told["sha256"]


def _rows(bundle: Bundle, name: str, look: Callable[[Any], None]) -> Iterator[Any]:
    """Yield the rows of a record, each checked."""
    for number, row in enumerate(bundle.lines(f"{RECORDS}{name}.jsonl"), 1):
        try:
            look(row)
        except (ValueError, RecursionError) as error:
            told = f"line {number} of {RECORDS}{name}.jsonl"
            raise _wrong(bundle, f"{told} {error}" if type(error) is ValueError else f"{told} can't be read") from None
        yield row


def _check_trace(bundle: Bundle, row: Row, before: set[int]) -> None:
    """Raise DdmakeError for a trace whose key isn't the hash of what it says it was made of, or that comes before its inputs."""
    made_of, keys = row["record"]["ingredients"], Keys()
    label = next(output["path"] for output in row["outputs"].values())
    try:
        holds = keys.of(made_of) == row["key"] and keys.of(made_of, epoch=0) == row["base"]
    except (AttributeError, TypeError, RecursionError):  # ingredients of another form
        holds = False
    if not holds:
        raise _wrong(bundle, f"the trace of {label} was made of something else than its key {row['key'][:16]} says")
    if row["number"] in before or not before.issuperset(exchange.before(row)):
        raise _wrong(bundle, f"the trace of {label} doesn't come after those of its inputs")


def _check_text(row: Any) -> None:
    if not isinstance(row, dict) or row.keys() != {"sha", "text"} or not all(isinstance(one, str) for one in row.values()):
        raise ValueError("isn't a text")
    "".join(row.values()).encode()


def _results(bundle: Bundle, traces: dict[int, Row]) -> list[Result]:
    """Return what lies where. Raises DdmakeError for what isn't in the bundle, and for paths that would overwrite each other."""
    placed, epochs = bundle.told.get("placed"), bundle.told.get("epochs")
    known = isinstance(placed, dict) and isinstance(epochs, dict)
    if not known or not all(type(one) is int and 0 <= one < exchange.MOST for one in epochs.values()):
        raise _wrong(bundle, f"{bundles.MANIFEST} doesn't tell what lies where")
    found = [_result(bundle, path, place, traces) for path, place in placed.items()]
    inner = [f"{one.path}/{name}" if name else one.path for one in found for name in one.manifest]
    if (both := paths.clash([*inner, *(path for path, _ in files(bundle))])) is not None:
        raise _wrong(bundle, f"{both[0]} and {both[1]} would overwrite each other")
    return found


def _result(bundle: Bundle, path: str, place: Any, traces: dict[int, Row]) -> Result:
    if why := paths.wrong(path):
        raise _wrong(bundle, f"{path!r} {why}")
    row = traces.get(place[0]) if isinstance(place, list) and len(place) == 2 and isinstance(place[0], int) else None
    if row is None or not isinstance(place[1], str) or place[1] not in row["outputs"]:
        raise _wrong(bundle, f"it holds no trace of {path}")
    manifest = row["outputs"][place[1]]["manifest"]
    lacking = next((sha for sha in manifest.values() if OBJECTS + sha not in bundle.parts), None)
    if lacking is not None:
        raise _wrong(bundle, f"the file {lacking} of {path} isn't in it")
    return Result(path, place[0], place[1], manifest)


def _refuse(checked: Checked, to: Path) -> None:
    """Raise DdmakeError for a folder that a bundle can't be unpacked to."""
    unlike = [*_unlike_files(checked.bundle, to), *_unlike_results(checked, to)]
    if unlike:
        named = ", ".join(unlike[:SHOWN]) + (f" and {len(unlike) - SHOWN} more" if len(unlike) > SHOWN else "")
        verb = "differ" if len(unlike) > 1 else "differs"
        raise DdmakeError(f"{to}: {named} {verb} from what the bundle holds. Nothing is overwritten, so nothing was unpacked. "
                          "Name another folder with --to; ddmake diff tells what differs.")
    there = next(folder for folder in (to.absolute(), *to.absolute().parents) if folder.exists())
    size, free = sum(part.size for part in checked.bundle.parts.values()), shutil.disk_usage(there).free
    if size * ROOM > free:
        raise DdmakeError(f"{to}: the bundle needs {size:,} bytes, and {free:,} are free there. Name another folder.")


def _unlike_files(bundle: Bundle, to: Path) -> Iterator[str]:
    """Yield the paths at which something else lies than the bundle has; settings that are there stay."""
    for path, part in files(bundle):
        place = to / path
        if path != SETTINGS and not _is_free(place) and not (place.is_file() and hashes.of_file(place) == part.sha):
            yield path


def _unlike_results(checked: Checked, to: Path) -> Iterator[str]:
    """Yield the targets that hold another result, or held one last."""
    placed: dict[str, tuple[Trace, str]] = {}
    if (to / FOLDER / "traces.db").exists():
        store = open_store(to)
        placed = store.traces.all_placed()
        store.close()
    for result in checked.results:
        here = placed.get(result.path)
        if here is not None and here[0].outputs[here[1]]["manifest"] != result.manifest or not _is_like(to, result):
            yield result.path


def _is_like(to: Path, result: Result) -> bool:
    """Tell whether nothing or the very same lies at a result's path."""
    try:
        return _is_free(to / result.path) or manifest_of(to / result.path) == result.manifest
    except (Unfit, OSError):
        return False


def _is_free(place: Path) -> bool:
    """Tell whether something can be put at a path: nothing is there, and folders or nothing above it."""
    above = next(folder for folder in place.absolute().parents if os.path.lexists(folder))
    return above.is_dir() and not os.path.lexists(place)


def _take_in_traces(checked: Checked, store: Store) -> dict[int, int]:
    epochs, here = checked.bundle.told["epochs"], store.traces.epochs()
    texts = ((row["sha"], row["text"]) for row in checked.bundle.lines(f"{RECORDS}texts.jsonl"))
    with store.traces.transaction():
        numbers = exchange.take_in(store.traces, checked.traces)
        store.traces.db.executemany("INSERT OR IGNORE INTO texts (sha, text) VALUES (?, ?)", texts)
    store.traces.raise_epochs({path: epoch for path, epoch in epochs.items() if path not in here})
    return numbers


def _place(store: Store, result: Result, numbers: dict[int, int], scratch: Path) -> None:
    """Put a result at its path, and note that it lies there."""
    place = store.root / result.path
    if not os.path.lexists(place):
        new = scratch / "result"
        store.objects.get(result.manifest, new)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(new, place)
    trace = store.traces.by_id(numbers[result.number])
    assert trace is not None, "a trace that was taken in is gone"
    if store.traces.at(result.path) is None:
        with store.traces.transaction():
            store.traces.place(trace, {result.output: result.path})
            store.files.note(result.path, result.manifest)


def _note_run(bundle: Bundle, store: Store) -> None:
    """Note the knobs that results were made with, for `--last`, and what the Ddfile says, for cards, unless it was run here."""
    name, knobs, folder = (bundle.told.get(part) for part in ("ddfile", "knobs", "folder"))
    known = isinstance(name, str) and isinstance(knobs, dict) and isinstance(folder, str)
    if known and store.traces.last_knobs(name) is None:
        store.traces.start_run(name, knobs, folder)
        said.keep(store.traces.db, name, folder, _said(bundle))


def _said(bundle: Bundle) -> dict[str, Said]:
    """Return what the Ddfile says of data and models, for cards. Raises DdmakeError for what it can't have said."""
    found = bundle.told.get("said", {})
    try:
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair, which no database takes
        told = {name: Said(**one) for name, one in found.items()}
        known = all(isinstance(text, str | None) for one in told.values() for text in astuple(one))
    except (AttributeError, TypeError, ValueError, RecursionError):
        known = False
    if not known:
        raise _wrong(bundle, "tells what the Ddfile says in a form that ddmake doesn't know")
    return told


def _write_files(bundle: Bundle, store: Store, scratch: Path) -> None:
    for path, part in files(bundle):
        place = store.root / path
        if not os.path.lexists(place):
            _write(bundle, part, place, scratch)


def _write(bundle: Bundle, part: Part, place: Path, scratch: Path) -> None:
    """Write a member to a path where nothing is, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = scratch / "file"
    with new.open("wb") as stream:
        for data in bundle.chunks(part.name):
            stream.write(data)
    if part.executable:
        new.chmod(new.stat().st_mode | 0o111)
    os.replace(new, place)


def _wrong(bundle: Bundle, what: str) -> DdmakeError:
    return DdmakeError(f"{bundle.file}: {what}. It was tampered with; nothing of it was unpacked. Get it anew.")
