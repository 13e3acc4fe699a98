"""What a Ddfile is loaded with: knobs from the command line, from `--config`, and from the last run, the first that says so."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ddmake.ddfile.config import TAKEN
from ddmake.errors import DdfileError

KNOB = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.DOTALL)


def split_words(words: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Part targets from knobs (`n=10`). Raises DdfileError for a knob that is given twice."""
    targets, knobs = [], {}
    for word in words:
        found = KNOB.fullmatch(word)
        if word.startswith("=") or word.endswith("=") and found is None:
            raise DdfileError("A knob is written without spaces: n=3.")
        if found is None:
            targets.append(word)
        elif found[1] in knobs:
            raise DdfileError(f"The knob {found[1]!r} is given twice.")
        else:
            knobs[found[1]] = found[2]
    return targets, knobs


def given(file: Path, typed: Mapping[str, str], into: str | None = None, config: str | None = None,
          last: bool = False) -> dict[str, Any]:
    """Return the keywords to load a Ddfile with.

    Raises DdfileError for a config that can't be read, and for `--last` where nothing was run.
    """
    for name in TAKEN:
        if name in typed:
            raise DdfileError(f"There is no knob {name!r}; the option is --{name}.")
    found: dict[str, Any] = {} if config is None else dict(_flat(_read(config)))
    found.update(typed)
    if into is not None:
        found["into"] = into
    if last:
        found["last"] = _last(file)
    return found


def _read(config: str) -> Mapping[str, Any]:
    """Return what stands in a YAML file, or in the JSON that is given in its place."""
    try:
        if config.startswith("{"):
            return json.loads(config)
        import yaml

        with open(config, encoding="utf-8") as lines:
            told = yaml.safe_load(lines)
    except OSError as error:
        raise DdfileError(f"--config {config}: {error.strerror}.") from None
    except ValueError as error:
        raise DdfileError(f"--config {config}: {error}.") from None
    except yaml.YAMLError as error:
        raise DdfileError(f"--config {config}: {' '.join(str(error).split())}.") from None
    if not isinstance(told or {}, Mapping):
        raise DdfileError(f"--config {config}: it holds a {type(told).__name__}; write a knob a line, as in n: 10.")
    return told or {}


def _flat(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield knobs by name; a mapping may be a knob's value, or hold the knobs of an included Ddfile."""
    for name, value in told.items():
        yield f"{above}{name}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")


def _last(file: Path) -> dict[str, Any]:
    from ddmake.store import FOLDER, open_store

    root = file.absolute().parent
    if (root / FOLDER).is_dir():
        with closing(open_store(root)) as store:
            knobs = store.traces.last_knobs(file.name)
        if knobs is not None:
            return knobs
    raise DdfileError(f"--last: {file.name} hasn't been run here yet, so there are no knobs to use again.")
