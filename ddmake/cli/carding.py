"""`ddmake cards`: the cards of what lies there, not of today's knobs; nothing is asked whether it is stale."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from uuid import uuid4

import click

from ddmake.cards.card import Card, card
from ddmake.cards.lineage import Lineage
from ddmake.cards.readme import readme
from ddmake.cli.show import rows, table
from ddmake.ddfile import facts
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError
from ddmake.store import FOLDER, open_store, said

Made = tuple[str, Card]


def write(file: Path, targets: list[str], knobs: dict[str, str], folder: str, as_json: bool) -> int:
    """Write the cards of targets, all that were made or those named, and return the exit code.

    `folder` is seen from the current directory, as paths on a command line are.
    Raises DdfileError for a target that isn't made, and for a folder inside of an artifact.
    """
    flow = load(file, **knobs)
    wanted = _wanted(flow, targets)
    made = _made(flow, wanted, targets)
    lines = _print(made) if as_json else _write(flow, made, _outside(flow, Path(folder), wanted))
    if not lines:
        what = ", ".join(targets) or flow.file.name
        click.echo(f"Nothing of {what} is made yet, so there is no card to write. Do: {' '.join(['ddmake', *targets])}", err=True)
        return 1
    if not as_json:
        click.echo("\n".join(table(lines)))
    return 0


def _wanted(flow: Workflow, names: list[str]) -> list[str]:
    """Return the paths of targets by name, an output of several by its own; nothing named means all, manual ones too."""
    if not names:
        return list(flow.targets)
    found = [[name] if name in flow.targets else [path for rule in flow.select([name]) for path in rule.outputs.values()]
             for name in (_path(flow, name) for name in names)]
    return list(dict.fromkeys(path for paths in found for path in paths))


def _path(flow: Workflow, name: str) -> str:
    """Return a target's path as the Ddfile has it ("./cards" is cards); an alias and a folder's name stay as they are."""
    plain = PurePosixPath(name).as_posix()
    return plain if plain in flow.targets else name


def _made(flow: Workflow, wanted: list[str], names: list[str]) -> Iterator[Made]:
    """Yield the cards of those targets that were made. Raises DdfileError for one that was named and wasn't."""
    if not (flow.root / FOLDER / "traces.db").exists():
        _refuse_unmade(flow, wanted, names)
        return
    with closing(open_store(flow.root)) as store:
        said.keep(store.traces.db, flow.file.name, flow.into, facts.told(flow))
        _refuse_unmade(flow, [path for path in wanted if store.traces.placed_at(path) is None], names)
        lineage = Lineage(store.traces)
        for path in wanted:
            found = card(store, lineage, path)
            if found is not None:
                yield path, found


def _refuse_unmade(flow: Workflow, unmade: list[str], names: list[str]) -> None:
    for path in (_path(flow, name) for name in names):
        if path in unmade:
            raise DdfileError(f"{path} isn't made yet. Do: ddmake {path}")


def _outside(flow: Workflow, folder: Path, wanted: list[str]) -> Path:
    """Return the folder to write to. Raises DdfileError where a card would lie in an artifact, which would change it."""
    artifacts = {(flow.root / path).resolve(): path for path in flow.targets}
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


def _write(flow: Workflow, made: Iterator[Made], folder: Path) -> list[tuple[str, ...]]:
    """Write cards, and return what is said of each: target, kind, what it came from, file."""
    lines = []
    for path, found in made:
        place = folder / _below(path)
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "card.json", json.dumps(found, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
        _replace(place / "README.md", readme(found))
        lines.append((path, found["type"], _summary(flow, path, found), (place / "README.md").as_posix()))
    return lines


def _summary(flow: Workflow, path: str, found: Card) -> str:
    steps = len(found["steps"])
    facts = {
        rows(found.get("rows", 0)): "rows" in found,
        f"{steps} step{'s' * (steps != 1)}": True,
        "synthetic": found["synthetic"],
        "toy": bool(found["toys"]),
        "deleted since": not (flow.root / path).exists(),
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
