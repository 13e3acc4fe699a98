"""What becomes of answers: columns beside those of the rows that were asked about."""

import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from ddmake.ddfile import structure
from ddmake.ddfile.asking import Asking
from ddmake.errors import DdfileError, DdmakeError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

OnError = Literal["keep", "drop", "raise"]
CUT = "cut at max_tokens"  # the reason for which an answer that is too long can't be used
FEW = 100  # rows that are made into Python's at once
ACCEPTED = ("length", "content_filter")  # reasons to end an answer for which it may still be used
META = {"model": "string", "finish_reason": "string", "tokens_in": "int64", "tokens_out": "int64", "reasoning": "string",
        "tool_calls": "string", "error": "string"}


@dataclass(frozen=True)
class Taking:
    """What is made of answers: each of `columns` takes one draw a row, each of `samples` a row of its own."""

    columns: Sequence[str]
    schema: Mapping[str, Any] | None = None
    parse: Any = None
    samples: int | None = None
    meta: bool = False
    accept: Collection[str] = ()
    on_error: OnError = "keep"

    @property
    def draws(self) -> int:
        """Return how many answers a row takes."""
        return (self.samples or 1) * len(self.columns)

    @property
    def fields(self) -> dict[str, structure.Kind] | None:
        """Return the columns that the schema's fields become; None where an answer becomes one value."""
        return structure.fields(self.schema) if self.schema is not None and self.parse is None else None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], *columns: str, **more: Any) -> "Taking":
        """Return what a recipe's arguments of these names say; `more` goes before them."""
        named = {name: arguments[name] for name in ("schema", "parse", "samples", "meta", "on_error") if name in arguments}
        accept = arguments["accept"]
        return cls(columns, **{**named, "accept": [accept] if isinstance(accept, str) else list(accept), **more})

    def check(self, columns: Sequence[str] | None) -> None:
        """Raise DdfileError for what doesn't go together, or with the columns that are there."""
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise DdfileError(f"column= names a column, or several for as many draws; not {', '.join(self.columns) or 'none'}.")
        if self.fields and len(self.columns) > 1:
            raise DdfileError("with schema= the fields become the columns, so that two draws would fill the same: "
                              "use samples=, or a rule for each.")
        if self.parse is not None:
            try:
                inspect.signature(self.parse).bind("text", {})
            except TypeError as error:
                raise DdfileError("parse= is called with an answer's text and its row, as in "
                                  f"lambda text, row: …; {error}.") from None
            except ValueError:  # a builtin that doesn't tell
                pass
        if self.samples is not None and self.samples < 1:
            raise DdfileError(f"samples is the number of answers to each row, at least 1, not {self.samples}.")
        if self.samples is not None and columns is not None and "sample" in columns:
            raise DdfileError("samples= adds a column 'sample', and there is one already: .rename() it.")
        for reason in self.accept:
            if reason not in ACCEPTED:
                raise DdfileError(f"accept= takes {' and '.join(map(repr, ACCEPTED))}, not {reason!r}."
                                  f"{did_you_mean(reason, ACCEPTED)}")
        if self.schema is not None:
            from ddmake.backends import structured

            structured.check(self.schema)

    def told(self, columns: Sequence[str] | None) -> list[str] | None:
        """Return all columns of the result, where those before are known and a parser doesn't make its own."""
        if columns is None or self.parse is not None:
            return None
        added = [*(["sample"] if self.samples else []), *(self.fields or self.columns), *self._meta_columns()]
        return list(dict.fromkeys([*columns, *added]))

    def _meta_columns(self) -> list[str]:
        return [f"{column}_meta" for column in self.columns] if self.meta else []


def answered(rows: Any, asking: Asking, taking: Taking) -> "Batches":
    """Return the rows of a Dataset, or so many without columns, with their answers. Columns keep their types, whatever they hold.

    Raises DdmakeError at the end, where `on_error` is "raise" and a row has no usable answer, or not one row has.
    """
    from ddmake.artifacts.rows import Batches

    answers = _Answers(rows, asking, taking)
    return Batches(answers.batches(), answers.features)


class _Answers:
    """One pass over the answers to rows."""

    def __init__(self, rows: Any, asking: Asking, taking: Taking):
        from ddmake.artifacts.rows import features_of

        self.rows, self.asking, self.taking, self.llm = rows, asking, taking, asking.llm
        self.features = {} if isinstance(rows, int) else features_of(rows)  # of columns that stay as they are
        self.failed, self.usable = 0, 0
        self.first_failure: str | None = None
        self.first_failed = 0  # the number of that row
        self._read: tuple[int, list[dict[str, Any]]] = (-1, [])  # rows that were read last, from which on

    def batches(self) -> Iterator["pa.RecordBatch"]:
        """Yield batches of rows with their answers' columns."""
        taking, asking = self.taking, self.asking
        parse = self._parse if taking.parse is not None else None
        answers = self.llm.stream(asking.prompts, schema=asking.schema, tools=asking.tools, parse=parse, accept=taking.accept,
                                  labels=asking.labels)
        first = 0
        for count, batch in self._given():
            found = self._batch(batch, list(islice(answers, count * taking.draws)), first)
            if found.num_rows or not count:  # without rows, they still have columns
                yield found
            first += count
        tally = self.llm.manner.tally
        if tally is not None and taking.on_error != "raise":
            tally(self.failed, self.usable, self._advised())
        elif self.failed and (taking.on_error == "raise" or not self.usable):
            raise DdmakeError(f"{self.failed} of {self.failed + self.usable} rows have no usable answer; {self._advised()}")

    def _advised(self) -> str:
        """Return which row failed first and why, what helps, and where the answers are seen."""
        row = self.llm.before // self.taking.draws + self.first_failed
        reason = self.first_failure or ""
        remedy = ' (raise max_tokens, or accept="length")' if reason == CUT else ""
        which = "" if reason.startswith(("parse raised", "no verdict")) else " --failed"
        return f"the first, row {row}: {reason}{remedy}. What was answered: ddmake calls{which} --rule {self.llm.payer.rule}"

    def _given(self) -> Iterator[tuple[int, "pa.RecordBatch | None"]]:
        """Yield batches of the rows that were asked about, with their numbers of rows."""
        from ddmake.artifacts.rows import BATCH, read

        if isinstance(self.rows, int):
            yield from ((min(BATCH, self.rows - start), None) for start in range(0, self.rows, BATCH))
        else:
            yield from ((batch.num_rows, batch) for batch in read(self.rows))

    def _parse(self, number: int, answer: Any) -> Any:
        return self.taking.parse(answer, dict(self._row(number // self.taking.draws)))

    def _row(self, number: int) -> dict[str, Any]:
        """Return one row; those around it are read with it."""
        if isinstance(self.rows, int):
            return {}
        start = number - number % FEW
        if self._read[0] != start:
            self._read = start, self._stored[start:start + FEW].to_pylist()
        return self._read[1][number - start]

    @cached_property
    def _stored(self) -> Any:
        return self.rows.with_format("arrow")

    def _batch(self, batch: "pa.RecordBatch | None", answers: list[Any], first: int) -> "pa.RecordBatch":
        """Return a batch with its answers' columns; `first` is the number of its first row."""
        import pyarrow as pa

        width, samples = len(self.taking.columns), self.taking.samples or 1
        fine = self._count(answers, first)
        numbers = range(len(fine))
        if self.taking.on_error == "drop" and not all(fine):
            numbers = [number for number in numbers if fine[number]]
            answers = [answer for number in numbers for answer in answers[number * width:(number + 1) * width]]
        if batch is not None and (samples > 1 or len(numbers) < len(fine)):
            batch = batch.take(pa.array([number // samples for number in numbers], pa.int64()))
        columns = {} if batch is None else dict(zip(batch.schema.names, batch.columns))
        if self.taking.samples is not None:
            columns["sample"] = pa.array([number % samples for number in numbers], pa.int64())
        for name, values in self._columns(answers, first).items():
            columns[name] = values
            self.features.pop(name, None)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _count(self, answers: list[Any], first: int) -> list[bool]:
        """Tell of each row to come whether all its answers can be used; the others are noted."""
        width, draws = len(self.taking.columns), self.taking.draws
        fine = [True] * (len(answers) // width)
        for number, answer in enumerate(answers):
            if answer.wrong is not None:
                fine[number // width] = False
                if self.first_failure is None:
                    self.first_failure, self.first_failed = answer.wrong, first + number // draws
                self.llm.note_failed(first * draws + number, answer.wrong, answer, self._row(first + number // draws))
        self.failed += fine.count(False)
        self.usable += fine.count(True)
        return fine

    def _columns(self, answers: list[Any], first: int) -> dict[str, "pa.Array"]:
        """Return the columns that answers make, by name."""
        from ddmake.artifacts.arrays import typed

        names, width = self.taking.columns, len(self.taking.columns)
        found: dict[str, pa.Array] = {}
        for at, name in enumerate(names):
            found |= self._values(name, answers[at::width], first)
        if self.taking.meta:
            found |= {f"{name}_meta": typed(f"{name}_meta", list(map(_meta, answers[at::width])), META, first)
                      for at, name in enumerate(names)}
        return found

    def _values(self, name: str, answers: list[Any], first: int) -> dict[str, "pa.Array"]:
        """Return the columns that one draw of each row makes."""
        from ddmake.artifacts.arrays import array, typed

        values = [None if answer.wrong is not None else answer.value for answer in answers]
        if self.taking.parse is None:
            fields = self.taking.fields
            if fields is None:
                kind = structure.kind(self.taking.schema) if self.taking.schema is not None else "string"
                return {name: typed(name, values, kind, first)}
            return {field: typed(field, [None if value is None else value.get(field) for value in values], kind, first)
                    for field, kind in fields.items()}
        if len(self.taking.columns) > 1 and any(isinstance(value, Mapping) for value in values):
            raise DdmakeError("parse= returns a dict of columns, and column= names several: let it return one value.")
        spread = [value if isinstance(value, Mapping) else {} if value is None else {name: value} for value in values]
        names = dict.fromkeys(column for value in spread for column in value) or [name]
        return {column: array(column, [value.get(column) for value in spread], first) for column in names}


def _meta(answer: Any) -> dict[str, Any]:
    """Return what is known of an answer beside its text."""
    calls = json.dumps(list(answer.tool_calls), ensure_ascii=False) if answer.tool_calls else None
    return {"model": answer.model or None, "finish_reason": answer.finish_reason, "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out, "reasoning": answer.reasoning, "tool_calls": calls, "error": answer.wrong}
