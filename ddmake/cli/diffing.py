"""`ddmake diff`: where the results of this folder and of another, or of a bundle, differ."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from ddmake.cli.show import count, table
from ddmake.cli.terminal import printable
from ddmake.errors import DdfileError, did_you_mean
from ddmake.sharing.comparing import Difference, compare, read


def diff(file: Path, other: Path, names: Sequence[str], as_json: bool) -> int:
    """Print where results differ, all or those at paths or in folders that are named, and return the exit code: 1 if any do."""
    here, there = read(file.absolute().parent), read(other)
    found = list(compare(here, there))
    for name in names:
        if not any(_is_in(one.path, name) for one in found):
            raise DdfileError(f"Neither side has a result at {name!r}.{did_you_mean(name, [one.path for one in found])}")
    chosen = [one for one in found if not names or any(_is_in(one.path, name) for name in names)]
    unlike = [one for one in chosen if one.word != "same"]
    click.echo(_json(chosen) if as_json else "\n".join(_lines(chosen, unlike, other)))
    return 1 if unlike else 0


def _is_in(path: str, name: str) -> bool:
    plain = name.removeprefix("./").rstrip("/")
    return path == plain or path.startswith(f"{plain}/")


def _lines(chosen: Sequence[Difference], unlike: Sequence[Difference], other: Path) -> Iterator[str]:
    """Yield a line for each result that differs, what differs in it below, and how many don't."""
    if not unlike:
        yield f"The same as {other}: {count(len(chosen), 'targets')} with equal fingerprints and equal data."
        return
    yield f"- {other}  + here"
    rows = [(one.word, printable(one.path), printable(_told(one))) for one in unlike]
    for one, line in zip(unlike, table(rows)):
        yield line
        for change in one.changes:
            yield from (f"  {printable(text)}" for text in ([f"{change.what}: {change.told}"] if change.told else [change.what]))
            yield from (click.style(f"    {printable(text)}", fg={"+": "green", "-": "red", "@": "cyan"}.get(text[:1]))
                        for text in change.diff)
    yield _counted(chosen)


def _told(one: Difference) -> str:
    return f"{one.told}{'; the same result' if one.same_data else ''}"


def _counted(chosen: Sequence[Difference]) -> str:
    same, data = (sum(one.word == word for one in chosen) for word in ("same", "data"))
    told = f"{same} of {count(len(chosen), 'targets')} are the same"
    return f"{told}; {data} more {'have' if data > 1 else 'has'} an equal fingerprint and other data." if data else f"{told}."


def _json(chosen: Sequence[Difference]) -> str:
    return json.dumps({"targets": [asdict(one) for one in chosen]}, indent=2, ensure_ascii=False)
