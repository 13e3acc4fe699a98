"""A rule made in shards, as its head sees it: a job for each, on other machines, and one that joins what they have made.

    scratch/KEY/shards/3-of-16/            the room of a shard: its calls, by whichever try they were asked
    scratch/KEY/shards/3-of-16/TRY/        where a try works
    scratch/KEY/shards/3-of-16/part.json   what it has made: there once that lies on the disk, and good for any later head
"""

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source, View
from ddmake.engine.resources import HERE, needs
from ddmake.executors.base import Needs, Task, Told

TOLD = "part.json"
SMALL = 64 * 2**20  # bytes of parts that are joined beside the head

Shard = tuple[int, int]  # the number, from 0 on, and of how many


@dataclass(frozen=True)
class Part:
    """What came of a shard's rows. `place` is the dataset that holds it, "" where there is no row."""

    place: str
    size: int  # bytes
    lost: str  # the file that holds the rows without a usable answer
    given: int  # rows of the input
    columns: list[str]  # of the input
    failed: int  # rows without a usable answer, and others, of those that an llm was asked about
    usable: int
    why: str  # the first one failed
    record: dict[str, Any]


def room(folder: Path, shard: Shard) -> Path:
    """Return the room of a shard in its job's folder."""
    return folder / "shards" / f"{shard[0]}-of-{shard[1]}"


def keep(folder: Path, shard: Shard, part: Part) -> None:
    """Write down what a shard has made, whole or not at all."""
    file = room(folder, shard) / TOLD
    scratch = Path(part.lost).with_name(TOLD)
    with scratch.open("w") as opened:
        json.dump(asdict(part), opened)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(scratch, file)


def found(folder: Path, of: int) -> dict[int, Part]:
    """Return the parts that are there, by their numbers."""
    if not (folder / "shards").is_dir():
        return {}
    os.utime(folder / "shards")  # has a network file system look again, and not tell what it remembers
    files = {number: room(folder, (number, of)) / TOLD for number in range(of)}
    for file in (file for file in files.values() if file.parent.is_dir()):
        os.utime(file.parent)
    return {number: Part(**json.loads(file.read_text())) for number, file in files.items() if file.is_file()}


def forget(folder: Path) -> None:
    """Forget the parts that are there: all are to be made again."""
    for file in folder.glob(f"shards/*/{TOLD}"):
        file.unlink(missing_ok=True)


def stated(rule: Rule) -> int:
    """Return in how many shards a rule is made where jobs run elsewhere; 1 for what runs beside the head all the same."""
    return 1 if needs(rule).here else rule.options.shards or 1


def count(rule: Rule, digest: Callable[[Source], Mapping[str, Any]]) -> int:
    """Return in how many shards a rule is made of an input that is there: no more than that has rows."""
    if stated(rule) == 1:
        return 1
    given = rule.inputs[cut_input(rule)]
    steps = given.steps if isinstance(given, View) else ()
    rows = digest(given.of if isinstance(given, View) else given).get("rows")
    return stated(rule) if rows is None or any(verb == "explode" for verb, _ in steps) else max(1, min(stated(rule), rows))


def cut_input(rule: Rule) -> str:
    """Return the input that shards cut."""
    return rule.recipe.by_row or next(name for name, value in rule.inputs.items() if isinstance(value, (Source, View)))


@dataclass
class Shards:
    """A rule under way in shards. None stands for what joins them; `run.Done` is what became of a job."""

    folder: Path  # in which the rule's job works
    of: int
    ready: deque[int | None] = field(default_factory=deque)  # to be started
    missing: set[int] = field(default_factory=set)  # not ended yet
    failed: dict[int, Any] = field(default_factory=dict)
    numbers: dict[str, int | None] = field(default_factory=dict)  # of tasks, by name
    done: dict[str, int] = field(default_factory=dict)  # how far tasks have come

    def __post_init__(self) -> None:
        self.missing = set(range(self.of)) - found(self.folder, self.of).keys()
        self.ready.extend(sorted(self.missing) or [None])

    def task(self, whole: Task, number: int | None) -> Task:
        """Return the task that makes a shard, or the one that joins them, given that which would make the rule in one piece."""
        if number is not None:
            name, alike, more = f"{number}-of-{self.of}", replace(whole, alone=True), ["--shard", f"{number}/{self.of}"]
        else:
            small = sum(part.size for part in found(self.folder, self.of).values()) <= SMALL
            name, more = f"joins-{self.of}", ["--joins", str(self.of)]
            alike = replace(whole, models=frozenset(), foreign=False, needs=HERE if small else Needs(),
                            apart="" if small else whole.apart)
        own = f"{whole.name}-{name}"
        self.numbers[own] = number
        return replace(alike, name=own, command=[*_with_result(whole, own), *more], result=whole.result.with_name(f"{own}.json"),
                       log=whole.log.with_stem(f"{whole.log.stem}-{name}") if number is not None else whole.log,
                       key=f"{whole.key} {name}", label=f"{whole.label} ({name})")

    def take(self, number: int | None, done: Any) -> Any:
        """Take in what became of a task; return what became of the rule, None while there is more to be done for it."""
        if number is None:
            return done
        self.missing.discard(number)
        if done.word != "part":
            which = f"shard {number + 1} of {self.of}"
            told = done.told if done.word != "failed" or done.told.startswith(which) else f"{which}: {done.told}"
            self.failed[number] = replace(done, told=told)
        if not self.missing and not self.failed:
            self.ready.append(None)
        return None if self.missing or not self.failed else self._first_failed()

    def _first_failed(self) -> Any:
        failed = [number for number in sorted(self.failed) if self.failed[number].word == "failed"]
        first = self.failed[min(failed or self.failed)]
        return replace(first, told=f"{first.told} ({len(failed)} of {self.of} shards failed)") if len(failed) > 1 else first

    def heard(self, told: Told) -> tuple[int, int, str]:
        """Return how far the rule has come, as one of its tasks tells how far it is itself."""
        if not told.done and not told.total:
            return 0, 0, told.note
        self.done[told.task.name] = told.done
        return sum(self.done.values()), 0, f"{told.note}, {self.of - len(self.missing)} of {self.of} shards"


def _with_result(whole: Task, name: str) -> list[str]:
    """Return the command of a task with a result of another name."""
    return [str(whole.result.with_name(f"{name}.json")) if word == str(whole.result) else word for word in whole.command]
