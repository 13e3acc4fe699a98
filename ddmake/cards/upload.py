"""What publishing sends: files by their names on the Hub, with card and lineage. `-n` shows it, and hub.py sends the same."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddmake.artifacts.digest import NO_MEANING
from ddmake.cards.card import Card, card, spent
from ddmake.cards.lineage import Lineage
from ddmake.cards.plain import shown
from ddmake.cards.readme import readme
from ddmake.cards.wanted import Wanted, check
from ddmake.errors import DdfileError, DdmakeError
from ddmake.fingerprint import hashes
from ddmake.store import Store

SPLIT = re.compile(r"\w+(\.\w+)*")
WHOLE = "train"  # what the Hub calls the split of a dataset that has just one

Merge = Callable[[Path, Path], None]  # of an adapter's folder, into another


@dataclass(frozen=True)
class File:
    """A file that is sent."""

    name: str
    place: Path
    size: int
    sha: str


@dataclass(frozen=True)
class Upload:
    """All that is sent, and what it was made of: digests by target."""

    wanted: Wanted
    kind: str  # "dataset" or "model"
    files: tuple[File, ...]
    of: dict[str, str]

    @property
    def message(self) -> str:
        """Return what the commit is called: a line, as the Hub calls a pull request, too."""
        return " ".join((self.wanted.message or "").split()) or f"Publish {', '.join(self.of)} with ddmake"


def prepare(store: Store, parts: Mapping[str, str], wanted: Wanted, results: Sequence[str], scratch: Path,
            merge: Merge) -> Upload:
    """Return what is to be sent of targets, one under "" or several by split; what isn't there yet is written to `scratch`.

    Raises DdmakeError for what can't be published: secrets, paths of this machine, files that are no rows and no model.
    """
    from ddmake.cards import leaks

    check(wanted)
    lineage = Lineage(store.traces)
    cards = {split: _card(store, lineage, path) for split, path in parts.items()}
    kind = _kind(cards)
    private = leaks.folders(store.root)
    if kind == "dataset":
        told, files = _dataset(store, parts, cards, wanted, scratch, private)
    else:
        told, files = _model(store, parts[""], cards[""], wanted, scratch, merge)
    told = _with_results(told, [shown(path) for path in results])
    files |= {name: _written(scratch / name, text) for name, text in (
        ("README.md", readme(told)), ("card.json", json.dumps(told, ensure_ascii=False, allow_nan=False, indent=2) + "\n"))}
    plain = [(name, place) for name, place in sorted(files.items()) if place.suffix != ".parquet"]
    leaks.refuse_files(plain, private)
    digests = {shown(path): cards[split]["version"] for split, path in parts.items()}
    return Upload(wanted, kind, tuple(_file(name, place) for name, place in sorted(files.items())), digests)


def _card(store: Store, lineage: Lineage, path: str) -> Card:
    found = card(store, lineage, path)
    if found is None:
        raise DdmakeError(f"no rule has made {path}, so nothing is known of what it came from. Read it by a rule, "
                          "such as copy(…), and publish that.")
    return found


def _kind(cards: Mapping[str, Card]) -> str:
    """Return what is published: "dataset" or "model". Raises DdmakeError for anything else."""
    kinds = {found["type"] for found in cards.values()}
    if kinds == {"dataset"} or kinds == {"model"} and list(cards) == [""]:
        return kinds.pop()
    other = next(found for found in cards.values() if found["type"] != "dataset")
    raise DdmakeError(f"{other['name']} is of the kind {other['type']}. What can be published is a dataset (a folder, "
                      "or a .jsonl, .csv or .parquet file), several of them as splits, or one model.")


def _dataset(store: Store, parts: Mapping[str, str], cards: Mapping[str, Card], wanted: Wanted, scratch: Path,
             private: list[bytes]) -> tuple[Card, dict[str, Path]]:
    """Write the splits as Parquet, and return their common card and the files. Raises DdmakeError where columns differ."""
    from ddmake.cards import leaks, parquet

    if wanted.merged:
        raise DdfileError("merged makes one model of an adapter and its base, and this is a dataset: leave it out.")
    files, splits, columns = {}, {}, None
    for split, path in parts.items():
        name = split or WHOLE
        if not SPLIT.fullmatch(name):
            raise DdmakeError(f"a split can't be called {name!r} on the Hub: letters, digits, _ and dots.")
        table = parquet.read(store.root / path)
        if columns is not None and table.schema.names != columns:
            raise DdmakeError(f"{path} has the columns {', '.join(table.schema.names)}, and the first split "
                              f"{', '.join(columns)}; splits have the same ones.")
        columns, splits[name] = table.schema.names, table.num_rows
        leaks.refuse_rows(table, path, private)
        files |= {file: scratch / file for file in parquet.write(table, name, scratch)}
    told = {**_joined(list(cards.values())), "rows": sum(splits.values())}
    return {**told, "published": _published(wanted, {"splits": splits})}, files


def _model(store: Store, path: str, told: Card, wanted: Wanted, scratch: Path, merge: Merge) -> tuple[Card, dict[str, Path]]:
    """Return a model's card and files: as it lies there, or made one with its base."""
    place, model = store.root / path, told["model"]
    if not place.is_dir():
        raise DdmakeError(f"{path} stands for a model that a service keeps: there are no weights here to publish.")
    if wanted.merged:
        if model.get("library") != "peft":
            raise DdmakeError(f"{path} is no adapter: its weights are whole already. Leave out merged.")
        place = scratch / "merged"
        place.mkdir(parents=True)
        merge(store.root / path, place)
        told = {**told, "model": {**model, "library": "transformers"}}
    elif model.get("library") == "peft" and not model.get("base_hub") and model.get("base", "") not in told["toys"]:
        raise DdmakeError(f"{path} is an adapter for {model.get('base') or 'a model'}, which isn't on the Hub, and "
                          "of no use without it. Publish both as one: merged=True, or --merged.")
    files = {file.relative_to(place).as_posix(): file for file in sorted(place.rglob("*")) if file.is_file() and _is_sent(file)}
    return {**told, "published": _published(wanted, {"merged": True} if wanted.merged else {})}, files


def _is_sent(file: Path) -> bool:
    """Tell whether a model's file says what it is; logs, states of a trainer and older cards stay here."""
    return file.name not in NO_MEANING and not file.name.startswith("events.out.")


def _published(wanted: Wanted, more: dict[str, Any]) -> dict[str, Any]:
    return {"repo": wanted.repo, **more, **({"license": wanted.license} if wanted.license else {})}


def _joined(cards: Sequence[Card]) -> Card:
    """Return one card of several datasets: the first one's, with the chains of all; a job that made several stands there once."""
    first, *others = cards
    if not others:
        return first
    entries = {step: entry for found in cards for step, entry in {**found["data_card"], **found.get("model_card", {})}.items()}
    jobs: dict[str, str] = {}
    for step, entry in entries.items():
        jobs.setdefault(f"{entry['fingerprint']} {entry['outputs']}", step)
    steps = list(jobs.values())
    licenses = {name: told for found in cards for name, told in found["licenses"].items()}
    shared = {found["license"] for found in cards if found["licenses"]} or {first["license"]}
    return {
        **first,
        "synthetic": any(found["synthetic"] for found in cards),
        "toys": sorted({toy for found in cards for toy in found["toys"]}),
        "license": shared.pop() if len(shared) == 1 else "unknown" if "unknown" in shared else "several",
        "licenses": licenses,
        "spent": spent(entries[step] for step in steps),
        "steps": steps,
        **{kind: {step: entries[step] for step in steps if any(step in found.get(kind, {}) for found in cards)}
           for kind in ("model_card", "data_card")},
    }


def _with_results(told: Card, results: Sequence[str]) -> Card:
    """Return a card with the evaluations that are named, all that there are where none is. Raises DdmakeError for another."""
    if not results:
        return told
    found = {done["name"]: done for done in told.get("evaluations", [])}
    for name in results:
        if name not in found:
            raise DdmakeError(f"{name} isn't what `evaluate` has made of {told['name']}, and a card's results are. "
                              f"Results of it: {', '.join(found) or 'none'}.")
    return {**told, "evaluations": [found[name] for name in results]}


def _written(place: Path, text: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return place


def _file(name: str, place: Path) -> File:
    return File(name, place, place.stat().st_size, hashes.of_file(place))
