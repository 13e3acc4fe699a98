"""What an llm says of some of the rows, as columns beside all of them: rows with nothing to judge aren't asked about."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.asking import Asking
from ddmake.ddfile.structure import Kind
from ddmake.errors import DdfileError
from ddmake.rules.answering import CUT, META, Taking, answered
from ddmake.rules.columns import Columns, added, free, need
from ddmake.rules.texts import beside, each, those
from ddmake.rules.wording import Turn, Wording

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]
Row = Mapping[str, Any]

MOST = 101  # numbers of a scale


@dataclass(frozen=True)
class Judging:
    """How rows are judged.

    `shows(row)` returns what the prompt sees besides the row's columns, once for each answer that the row takes; nothing for a
    row that isn't asked about. `read(answer)` returns what an answer says, None where it says nothing. `makes(row, said)`
    returns the columns `adds`, given what each of the row's answers says; nothing where none was asked for.
    """

    arguments: Arguments  # the recipe's
    looks: Sequence[str]  # columns that are looked at
    shows: Callable[[Row], Sequence[Row]]
    shown: Sequence[str]  # the names of what is shown
    adds: Mapping[str, Kind]
    makes: Callable[[Row, Sequence[Any]], Row]
    read: Callable[[Any], Any] = lambda answer: answer.value
    schema: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    hides: Sequence[str] = ()  # columns that the prompt must not see
    answers: Sequence[str] = ("verdict",)  # what a row's answers are called

    @property
    def wording(self) -> Wording:
        """Return how rows are worded."""
        return Wording.of(self.arguments)

    @property
    def taking(self) -> Taking:
        """Return what is made of answers: each is held as JSON until its row comes by."""
        on_error = "raise" if self.arguments["on_error"] == "raise" else "keep"
        taking = Taking.of(self.arguments, *self.answers, schema=None, parse=self._parse, samples=None, on_error=on_error)
        halves = "length" in taking.accept and self.schema is not None  # half of an object is none, and "cut" says why
        return replace(taking, accept=[one for one in taking.accept if one != "length"]) if halves else taking

    @property
    def metas(self) -> list[str]:
        """Return the columns that tell more of answers."""
        return [f"{name}_meta" for name in self.answers] if self.arguments["meta"] else []

    @property
    def all_added(self) -> dict[str, Kind]:
        """Return all columns that are added, with their kinds."""
        return {**self.adds, **dict.fromkeys(self.metas, META)}

    def check(self, columns: Columns, recipe: str) -> list[str] | None:
        """Return all columns of the result. Raises DdfileError for what doesn't go together."""
        free(columns, self.all_added, recipe)
        self.taking.check(columns)
        self.wording.check(None if columns is None else added(self._seen(columns), *self.shown))
        return added(columns, *self.all_added)

    def asking(self, rows: Any) -> Asking:
        """Tell what is asked about rows."""
        return Asking(self.arguments["llm"], self._turns(rows), self.schema, labels=self.labels)

    def _turns(self, rows: Any) -> Iterator[list[Turn]]:
        wording, seen = self.wording, self._seen(rows.column_names)
        reads = wording.reads(seen)
        for row in each(rows, list(dict.fromkeys([*reads, *self.looks]))):
            for shown in self.shows(row):
                yield wording.turns({**{name: row[name] for name in reads}, **shown})

    def _seen(self, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name not in self.hides]

    def _parse(self, answer: Any, row: Row) -> str | None:
        """Return what an answer says, as JSON; one that says nothing is of no use, and asking again would cost as much again."""
        said = self.read(answer)
        if said is None:
            answer.wrong = CUT if answer.finish_reason == "length" else f"no verdict in {str(answer)[:80]!r}"
        return None if said is None else json.dumps(said)


def make(rows: Any, judging: Judging) -> "Batches":
    """Return rows with the columns that a judge's answers make."""
    import pyarrow as pa

    from ddmake.artifacts.arrays import typed
    from ddmake.artifacts.rows import Batches, features_of, schema_of

    asked = [bool(judging.shows(row)) for row in each(rows, judging.looks)]
    found = answered(those(rows, asked), judging.asking(rows), judging.taking)
    new = [pa.field(name, typed(name, [], kind, 0).type) for name, kind in judging.all_added.items()]
    schema = pa.schema([*schema_of(rows), *new])
    features = features_of(rows)
    return Batches(_beside(rows, asked, found, judging), features, schema)


def _beside(rows: Any, asked: Sequence[bool], found: "Batches", judging: Judging) -> Iterator["pa.RecordBatch"]:
    """Yield batches of all rows with what was said of them; under "drop" without those of which nothing was."""
    import pyarrow.compute as pc

    from ddmake.artifacts.arrays import typed
    from ddmake.artifacts.rows import read

    names = [*judging.answers, *judging.metas]
    told = (row for batch in found for row in batch.select(names).to_pylist())
    given, there = each(rows, judging.looks), iter(asked)
    for batch in read(rows):
        made = [_made(judging, row, next(told) if next(there) else {}) for _, row in zip(range(batch.num_rows), given)]
        new = {name: typed(name, [one.get(name) for one in made], kind, 0) for name, kind in judging.all_added.items()}
        whole = beside(batch, new)
        drops = judging.arguments["on_error"] == "drop"
        yield whole.filter(pc.is_valid(whole.column(next(iter(judging.adds))))) if drops else whole
    next(told, None)  # which raises where too few answers were of use


def _made(judging: Judging, row: Row, told: Row) -> Row:
    """Return the new columns of one row."""
    said = [told[name] and json.loads(told[name]) for name in judging.answers] if told else []
    return {**judging.makes(row, said), **{name: told.get(name) for name in judging.metas}}


def score_fields(arguments: Arguments, name: str, reason: str) -> dict[str, Any]:
    """Return the fields of one score, its reason first."""
    low, high = arguments["scale"]
    score = {"type": "integer", "enum": list(range(low, high + 1))}
    return {**({reason: reason_field(arguments)} if arguments["reason"] else {}), name: score}


def reason_field(arguments: Arguments) -> dict[str, Any]:
    """Return the field of a reason."""
    longest = arguments["longest"]
    return {"type": "string"} if longest is None else {"type": "string", "maxLength": longest}


def bounds(arguments: Arguments) -> dict[str, Any]:
    """Return what a prompt is told of a scale."""
    low, high = arguments["scale"]
    return {"lowest": low, "highest": high, "reason": arguments["reason"]}


def check_scale(scale: Sequence[int]) -> None:
    """Raise DdfileError for what is no scale."""
    if len(scale) != 2 or not all(type(one) is int for one in scale) or not scale[0] < scale[1] < scale[0] + MOST:
        raise DdfileError(f"scale is the lowest and the highest number, as in (1, 5), not {tuple(scale)}; "
                          f"it has at most {MOST} numbers.")


def an_object(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with all of these fields and no others."""
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}


def question_of(arguments: Arguments, row: Row) -> Any:
    """Return a row's question, None where there is none to be."""
    return row[arguments["question"]] if arguments["question"] is not None else None


def is_asked(arguments: Arguments, question: Any) -> bool:
    """Tell whether a row has the question that its recipe looks for."""
    return arguments["question"] is None or question is not None


def looked_at(arguments: Arguments, *columns: str) -> list[str]:
    """Return columns, and that of the question."""
    return list(dict.fromkeys([*columns, *([arguments["question"]] if arguments["question"] is not None else [])]))


def need_question(columns: Columns, arguments: Arguments) -> None:
    """Raise DdfileError where the column of the question isn't there."""
    if arguments["question"] is not None:
        need(columns, arguments["question"], "to judge by (question=None: there is none)")
