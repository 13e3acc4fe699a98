"""`ddmake cards`: the cards of what lies there, by its traces alone. Nothing of the Ddfile is run, or even read."""

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from uuid import uuid4

import click

from ddmake.cards.card import Card, card
from ddmake.cards.lineage import Lineage
from ddmake.cards.readme import readme
from ddmake.cli.lines import table
from ddmake.errors import DdfileError
from ddmake.report.words import count
from ddmake.store import FOLDER, Store, open_store, results

Made = tuple[str, Card]


def write(file: Path, names: Sequence[str], into: str, folder: str, as_json: bool) -> int:
    """Write the cards of targets, all that lie there or those named, and return the exit code.

    `folder` is seen from the current directory, as paths on a command line are.
    Raises DdfileError for a target that isn't made, and for a folder inside of an artifact.
    """
    gc.disable()  # cards hold no cycles, and looking for them is a tenth of the time
    root, lines = file.absolute().parent, []
    if (root / FOLDER / "traces.db").exists():
        with closing(open_store(root)) as store:
            wanted = results.chosen(store, names, into)
            made = _made(store, wanted)
            lines = _print(made) if as_json else _write(store, made, _outside(store, Path(folder), wanted))
    if not lines:
        what = ", ".join(names) or into or file.name
        click.echo(f"Nothing of {what} is made yet, so there is no card to write. Do: {' '.join(['ddmake', *names])}", err=True)
        return 1
    if not as_json:
        click.echo("\n".join(table(lines)))
    return 0


def _made(store: Store, wanted: Iterable[str]) -> Iterator[Made]:
    """Yield the cards of targets."""
    lineage = Lineage(store.traces)
    for path in wanted:
        found = card(store, lineage, path)
        if found is not None:
            yield path, found


def _outside(store: Store, folder: Path, wanted: Iterable[str]) -> Path:
    """Return the folder to write to. Raises DdfileError where a card would lie in an artifact, which would change it."""
    artifacts = {(store.root / path).resolve(): path for path in results.paths(store)}
    for path in wanted:
        place = (folder / _below(path)).resolve()
        inside = next((artifacts[part] for part in (place, *place.parents) if part in artifacts), None)
        if inside is not None:
            raise DdfileError(f"--to {folder}: the cards would lie in {inside}, which would count as edited. "
                              "Name another folder.")
    return folder


def _below(path: str) -> Path:
    """Return a target's path so that it lies below any folder that it is joined to."""
    return Path(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))


def _print(made: Iterator[Made]) -> list[tuple[str, ...]]:
    lines = []
    for path, found in made:
        click.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
        lines.append((path,))
    return lines


def _write(store: Store, made: Iterator[Made], folder: Path) -> list[tuple[str, ...]]:
    """Write cards, and return what is said of each: target, kind, what it came from, file."""
    lines = []
    for path, found in made:
        place = folder / _below(path)
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "card.json", json.dumps(found, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
        _replace(place / "README.md", readme(found))
        lines.append((path, found["type"], _summary(store, path, found), (place / "README.md").as_posix()))
    return lines


def _summary(store: Store, path: str, found: Card) -> str:
    steps = len(found["steps"])
    facts = {
        count(found.get("rows", 0), "rows"): "rows" in found,
        f"{steps} step{'s' * (steps != 1)}": True,
        "synthetic": found["synthetic"],
        "toy": bool(found["toys"]),
        "edited by hand": "edited" in found,
        "deleted since": not (store.root / path).exists(),
    }
    return "; ".join(fact for fact, holds in facts.items() if holds)


def _replace(file: Path, text: str) -> None:
    """Write a file so that there is the old one or the new one and never a part."""
    scratch = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
