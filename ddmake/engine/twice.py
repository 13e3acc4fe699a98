"""Whether a Ddfile comes out the same when it is loaded again: in another process, on another day, in another order.

The other process has another hash seed, clocks that are days off, and folders that are listed backwards. What differs
then would differ some day, and its rules would be made again for nothing.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.ingredients import Ingredients, Reader
from ddmake.errors import DdmakeError

DAYS = 10 * 86400
CHILD = "from ddmake.engine.twice import tell; tell()"


def made_of(flow: Workflow) -> dict[str, Ingredients]:
    """Return what each rule is made of, by label, with paths in place of digests: nothing needs to be there for it."""
    reader = Reader(flow, lambda source, columns: {"path": source.path, "read": columns})
    return {rule.label: _of_rule(reader, rule) for rule in flow.rules}


def loaded_again(flow: Workflow) -> dict[str, Ingredients]:
    """Return the same of the Ddfile as another process loads it. Raises DdmakeError where that fails."""
    asked = {"file": str(flow.file), "into": flow.into or None, "last": flow.last, "given": flow.given}
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": _day_off(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = json.dumps(asked, default=str)
    done = subprocess.run([sys.executable, "-c", CHILD], input=told, capture_output=True, text=True, env=env)
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2]
        raise DdmakeError(f"{flow.file.name}: loaded a second time, it fails: {why}")
    return json.loads(done.stdout.rpartition("\n")[2])


def tell() -> None:
    """Load the Ddfile that standard input names, under odd circumstances, and print what its rules are made of."""
    asked = json.load(sys.stdin)
    _mislead()
    try:
        flow = load(asked["file"], into=asked["into"], last=asked["last"], **asked["given"])
        found = made_of(flow)
    except DdmakeError as error:
        sys.exit(str(error))
    print("\n" + json.dumps(found), end="")


def _of_rule(reader: Reader, rule: Any) -> Ingredients:
    try:
        return json.loads(json.dumps(reader.ingredients(rule)))
    except DdmakeError as error:  # it is told when the rule is planned
        return {"error": str(error)}


def _day_off() -> str:
    """Return a time zone in which it is this time of another day."""
    hours = -time.localtime().tm_gmtoff / 3600
    shifted = hours + (24 if hours <= 0 else -24)
    return f"OFF{shifted:+.0f}"


def _mislead() -> None:
    """Make clocks run ahead, and list folders backwards."""
    seconds, nanoseconds, names, entries = time.time, time.time_ns, os.listdir, os.scandir
    time.time = lambda: seconds() + DAYS
    time.time_ns = lambda: nanoseconds() + DAYS * 10**9
    os.listdir = lambda *path: sorted(names(*path), reverse=True)  # type: ignore[assignment]
    os.scandir = lambda *path: Backwards(entries(*path))  # type: ignore[assignment]


class Backwards:
    """What `os.scandir` returns, from its end."""

    def __init__(self, entries: Any):
        with entries:
            self._entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> "Backwards":
        return self

    def __exit__(self, *_: object) -> None:
        """Have nothing left to close."""

    def close(self) -> None:
        """Have nothing left to close."""
