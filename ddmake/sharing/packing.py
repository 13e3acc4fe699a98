"""What goes into a bundle: of chosen targets and all they were made of the files, the traces, the calls, the results."""

import ast
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddmake.calls import exchange as calls
from ddmake.ddfile import facts
from ddmake.ddfile.lock import FILE as LOCK
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.ingredients import Keys
from ddmake.engine.plan import Planner
from ddmake.engine.watched import watched
from ddmake.errors import DdfileError, DdmakeError
from ddmake.fingerprint import hashes
from ddmake.sharing.bundle import OBJECTS, PROJECT, RECORDS, Part
from ddmake.store import Store, exchange, paths, secrets
from ddmake.store.files import Manifest
from ddmake.store.traces import Trace, written

LARGE = 100_000_000  # bytes of a source from which on its digest is packed in its place, unless all sources are asked for
SETTINGS = "pyproject.toml"
HASH = re.compile(r"[0-9a-f]{16,64}")
TABLE = re.compile(r"\s*\[+\s*tool\s*\.\s*ddmake\s*[.\]]")

Sources = bool | None  # all of them, none of them, or None: those that aren't large


@dataclass(frozen=True)
class Wanted:
    """What is to be packed beside traces and results."""

    sources: Sources = None
    calls: bool = True


@dataclass
class Packing:
    """What a bundle will hold. `told` goes into its manifest; `aside` is what was left out, or isn't as it might be, and why."""

    told: dict[str, Any]
    members: dict[str, Part] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    aside: list[tuple[str, str]] = field(default_factory=list)

    @property
    def parts(self) -> list[Part]:
        """Return the members as they follow each other: what tells of the others first."""
        return sorted(self.members.values(), key=lambda part: (part.name.startswith(OBJECTS), part.name))

    @property
    def size(self) -> int:
        """Return the bytes of all members."""
        return sum(part.size for part in self.members.values())

    def add(self, name: str, sha: str, place: Path, executable: bool = False) -> None:
        """Add a member that isn't there yet."""
        if name not in self.members:
            self.members[name] = Part(name, place.stat().st_size, sha, executable, place)


def gather(flow: Workflow, store: Store, names: list[str], wanted: Wanted, scratch: Path) -> Packing:
    """Return what a bundle of targets holds, all where none is named; records are written to the folder `scratch`.

    Raises DdmakeError for secrets, for what lies outside of the project, and where nothing is made yet.
    """
    chosen = flow.select(names) if names else flow.rules
    verdicts = Planner(flow, store).survey(chosen).verdicts
    rules = [verdict.rule for verdict in verdicts]
    found = Packing({"ddfile": flow.file.relative_to(flow.root).as_posix(), "knobs": flow.knobs, "folder": flow.into,
                     "said": {name: asdict(one) for name, one in sorted(facts.told(flow).items())}})
    placed = _placed(store, rules)
    if not placed:
        raise DdmakeError(f"Nothing of {', '.join(names) or flow.file.name} is made yet, so there is nothing to pack. Do: ddmake")
    found.aside += [(path, "isn't made yet") for rule in rules for path in rule.outputs.values()
                    if path not in placed and not rule.options.manual]
    found.aside += [(v.rule.label, f"{v.word}, {v.reason}: what was last made of it is packed") for v in verdicts
                    if v.rule.label in placed and v.listed not in ("fresh", "manual")]
    _add_files(found, flow, store)
    _add_settings(found, flow, scratch)
    _add_sources(found, flow, store, rules, wanted.sources)
    _refuse_clashes(found)
    _add_records(found, store, placed, wanted, {rule.label for rule in rules} if names else None, scratch)
    _add_objects(found, store, placed)
    _refuse_secrets(found)
    return found


def _placed(store: Store, rules: Iterable[Rule]) -> dict[str, tuple[Trace, str]]:
    every = store.traces.all_placed()
    return {path: every[path] for rule in rules for path in rule.outputs.values() if path in every}


def _add_files(found: Packing, flow: Workflow, store: Store) -> None:
    """Add the files that the workflow is read from, the lock beside it, and its settings."""
    files = [*map(Path, watched(flow, store)), *_imported(flow), flow.root / LOCK]
    for file in [file for file in dict.fromkeys(files) if file.is_file()]:
        path = _inside(flow, file)
        if path is None:
            raise DdfileError(f"{file} is part of the workflow and lies outside of {flow.root}, where no bundle can put it. "
                              "Move it beside the Ddfile, or pack from a Ddfile above both.")
        _add(found, store, path, store.files.sha(path))
    found.counts["files"] = len(found.members)


def _add_settings(found: Packing, flow: Workflow, scratch: Path) -> None:
    """Add what pyproject.toml says of ddmake, and nothing else of it."""
    file = flow.root / SETTINGS
    own, kept = False, []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        own = TABLE.match(line) is not None if line.lstrip().startswith("[") else own
        kept += [line] if own else []
    if kept:
        place = scratch / SETTINGS
        place.write_text("\n".join(kept).rstrip() + "\n", encoding="utf-8")
        found.add(PROJECT + SETTINGS, hashes.of_file(place), place)


def _imported(flow: Workflow) -> Iterator[Path]:
    """Yield the modules beside the Ddfiles that these import, wherever in them, and so on; nothing of them is run."""
    folders = list(dict.fromkeys(file.parent for file in flow.files))
    waiting, seen = [*flow.files], set(flow.files)
    while waiting:
        for file in _imports(waiting.pop(), folders):
            if file not in seen:
                seen.add(file)
                waiting.append(file)
                yield file


def _imports(file: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the files in these folders that one may import."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # it is told where it is loaded
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield from _modules(folders, one.name)
        elif isinstance(node, ast.ImportFrom):
            within = [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else folders
            for one in node.names:
                yield from _modules(within, f"{node.module}.{one.name}" if node.module else one.name)


def _modules(folders: Iterable[Path], name: str) -> Iterator[Path]:
    """Yield the files of a module and of the packages that it is in."""
    parts = name.split(".")
    for folder in folders:
        for end in range(1, len(parts) + 1):
            place = folder.joinpath(*parts[:end])
            yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def _add_sources(found: Packing, flow: Workflow, store: Store, rules: Iterable[Rule], wanted: Sources) -> None:
    """Add what rules read and none makes, or its digest: with that it can be told whether what is put there is the same."""
    count, absent = 0, {}
    for path in sorted({source.path for rule in rules for source in flow.sources(rule) if source.target is None}):
        manifest = store.files.manifest(path)
        if manifest is None:
            found.aside.append((path, "a source that isn't there"))
            continue
        size = sum(os.stat(_place(flow, path, name)).st_size for name in manifest)
        inside = _inside(flow, flow.root / path) is not None
        if inside and (wanted or wanted is None and size < LARGE):
            count += 1
            for name, sha in manifest.items():
                _add(found, store, f"{path}/{name}" if name else path, sha)
        else:
            absent[path] = {"files": len(manifest), "size": size, "sha256": hashes.of_value(manifest)}
            why = "left out" if wanted is False else "large; --sources takes it in" if inside else "outside of the project"
            found.aside.append((path, f"{why}: its digest alone is packed"))
    found.counts["sources"], found.told["absent"] = count, absent


def _add(found: Packing, store: Store, path: str, sha: str) -> None:
    """Add a file of the project."""
    place = store.root / path
    if place.name == ".env" or place.name.startswith(".env."):
        raise DdmakeError(f"{path} is where secrets are kept, and is never packed. Take it out of what rules read.")
    found.add(PROJECT + path, sha, place, os.access(place, os.X_OK))


def _add_records(found: Packing, store: Store, placed: dict[str, tuple[Trace, str]], wanted: Wanted,
                 payers: Collection[str] | None, scratch: Path) -> None:
    """Add traces and all before them, what lies where, the texts of code, and the calls that `payers` paid for, or all."""
    traces = [_told(store, trace) for trace in _closure(store, placed)]
    numbers = {row["number"]: number for number, row in enumerate(traces)}  # a store's own numbers would tell bundles apart
    found.told["placed"] = {path: [numbers[trace.id], output] for path, (trace, output) in sorted(placed.items())}
    found.told["epochs"] = {path: epoch for path, epoch in sorted(store.traces.epochs().items()) if path in placed}
    texts = {sha: text for row in traces for sha in _words(row["record"]["ingredients"]) if HASH.fullmatch(sha)
             if (text := store.traces.text(sha)) is not None}
    records: dict[str, Iterable[Any]] = {
        "traces": (_renumbered(row, numbers) for row in traces),
        "texts": ({"sha": sha, "text": texts[sha]} for sha in sorted(texts)),
        "calls": calls.told(store.folder, payers) if wanted.calls else (),
        "vectors": calls.vectors_told(store.folder) if wanted.calls else (),
    }
    for name, rows in records.items():
        place = scratch / f"{name}.jsonl"
        count = _write(place, rows)
        found.counts[name] = count
        if count:
            found.add(f"{RECORDS}{name}.jsonl", hashes.of_file(place), place)


def _told(store: Store, trace: Trace) -> exchange.Row:
    """Return a trace as it is packed. Raises DdmakeError for one that isn't what its key says: nobody would take it."""
    row = exchange.told(store.traces, trace)
    if Keys().of(row["record"]["ingredients"]) != trace.key:
        label = next(output["path"] for output in trace.outputs.values())
        raise DdmakeError(f"The trace of {label} isn't what its key says; an older ddmake may have written it. Make it again: "
                          f"ddmake --force {label}")
    return row


def _closure(store: Store, placed: dict[str, tuple[Trace, str]]) -> list[Trace]:
    """Return traces and those of all that they came from, in the order in which they were made."""
    found = {trace.id: trace for trace, _ in placed.values()}
    waiting = list(found.values())
    while waiting:
        for given in waiting.pop().record["inputs"]:
            before = store.traces.by_id(given["trace"]) if given["trace"] is not None else None
            if before is not None and before.id not in found:
                found[before.id] = before
                waiting.append(before)
    return [found[number] for number in sorted(found)]


def _renumbered(row: exchange.Row, numbers: dict[int, int]) -> exchange.Row:
    inputs = [{**given, "trace": numbers.get(given["trace"])} for given in row["record"]["inputs"]]
    return {**row, "number": numbers[row["number"]], "record": {**row["record"], "inputs": inputs}}


def _words(value: Any) -> Iterator[str]:
    """Yield all strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _words(part)


def _write(place: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSON lines, and return how many there are."""
    count = 0
    with place.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(written(row) + "\n")
            count += 1
    return count


def _add_objects(found: Packing, store: Store, placed: dict[str, tuple[Trace, str]]) -> None:
    """Add the files of results: as they are kept, or as they lie there where they aren't kept any more."""
    for path, (trace, output) in placed.items():
        manifest: Manifest = trace.outputs[output]["manifest"]
        for name, sha in manifest.items():
            kept, lies = store.objects.place(sha), store.root / path / name if name else store.root / path
            if not kept.exists() and (not lies.is_file() or hashes.of_file(lies) != sha):
                raise DdmakeError(f"{path} is gone, and isn't kept any more, so it can't be packed. Do: ddmake {path}")
            found.add(OBJECTS + sha, sha, kept if kept.exists() else lies)
    found.counts["targets"] = len(placed)


def _refuse_clashes(found: Packing) -> None:
    """Raise DdmakeError for names that some system can't hold beside each other, or at all."""
    names = [name.removeprefix(PROJECT) for name in found.members if name.startswith(PROJECT)]
    for name in names:
        if why := paths.wrong(name):
            raise DdmakeError(f"{name!r} {why}, so it can't be packed. Give it another place.")
    if (both := paths.clash(names)) is not None:
        raise DdmakeError(f"{both[0]} and {both[1]} are the same name where upper and lower case are. Rename one of them.")


def _refuse_secrets(found: Packing) -> None:
    """Raise DdmakeError for what holds a secret, and tell where it stands; objects are results, and aren't looked into."""
    for part in found.parts:
        secret = secrets.in_file(part.place) if not part.name.startswith(OBJECTS) else None
        if secret is not None and part.name.startswith(RECORDS):
            what = part.name.removeprefix(RECORDS).removesuffix(".jsonl")
            remedy = "Leave them out: --no-calls." if what == "calls" else "Make it again without that: ddmake --force."
            raise DdmakeError(f"The {what} hold {secret.what}, and a bundle holds no secrets. {remedy}")
        if secret is not None:
            place = f"{part.name.removeprefix(PROJECT)}:{secret.line}"
            raise DdmakeError(f"{place} holds {secret.what}, and a bundle holds no secrets. Take it out, "
                              "into an environment variable; a source may be left out: --no-sources.")
    for name, value in found.told["knobs"].items():
        if secrets.is_named(name, value) and len(str(value)) >= secrets.SHORTEST:
            raise DdmakeError(f"The knob {name} is named like a secret, and a bundle holds none. "
                              "Give it by an environment variable.")
    secret = secrets.in_bytes(json.dumps(found.told).encode())
    if secret is not None:
        raise DdmakeError(f"The knobs, or what facts() says, hold {secret.what}, and a bundle holds no secrets. "
                          "Give it by an environment variable.")


def _inside(flow: Workflow, file: Path) -> str | None:
    """Return a file's path from the project's folder, None for one outside of it."""
    path = os.path.relpath(file, flow.root)
    return None if path.startswith("../") else path


def _place(flow: Workflow, path: str, name: str) -> Path:
    return flow.root / path / name if name else flow.root / path
