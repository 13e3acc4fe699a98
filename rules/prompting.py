"""Recipes that ask an llm."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, Schema, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.wording import Wording, prompts

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]
Parse = Callable[..., Any]  # (text, row) -> a value, or a dict of columns


def _taking(arguments: Arguments) -> Taking:
    column = arguments["column"]
    return Taking.of(arguments, *([column] if isinstance(column, str) else column))


def _generated(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `generate`."""
    if arguments["n"] < 1:
        raise DdfileError(f"n is the number of rows, at least 1, not {arguments['n']}.")
    return _told([], arguments)


def _transformed(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `transform`, whose prompt reads those of its input."""
    return _told(inputs["rows"], arguments)


def _told(columns: list[str] | None, arguments: Arguments) -> list[str] | None:
    taking = _taking(arguments)
    Wording.of(arguments).check(columns)
    taking.check(columns)
    return taking.told(columns)


def _generating(inputs: Mapping[str, Any], arguments: Arguments) -> Iterator[Asking]:
    """Tell what `generate` asks: n times the same."""
    turns = Wording.of(arguments).turns({})
    yield Asking(arguments["llm"], repeat(turns, arguments["n"]), arguments["schema"])


def _transforming(inputs: Mapping[str, Any], arguments: Arguments) -> Iterator[Asking]:
    """Tell what `transform` asks: each row's prompt, as often as it is to be answered."""
    asked = prompts(inputs["rows"], Wording.of(arguments), _taking(arguments).draws)
    yield Asking(arguments["llm"], asked, arguments["schema"], arguments["tools"])


@step(version="2", columns=_generated, asks=_generating)
def generate(*, llm: LLM, prompt: Prompt, n: int, column: str = "text", system: Prompt | None = None,
             schema: Schema | None = None, parse: Parse | None = None, variables: Mapping[str, Any] | None = None,
             meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm for n texts by one prompt: n samples of the same request, unless the temperature is 0.

    Under a schema an answer is JSON, and its fields are columns; `parse` makes a value or columns of an answer's text.
    """
    arguments = locals()
    asking = next(_generating({}, arguments))
    return answered(n, asking, _taking(arguments))


@step(version="2", columns=_transformed, asks=_transforming, by_row="rows")
def transform(rows: StoredRows, *, llm: LLM, prompt: Prompt | None = None, messages: str | None = None,
              images: str | Sequence[str] | None = None, tools: Sequence[Mapping[str, Any]] | None = None,
              column: str | Sequence[str] = "text", system: Prompt | None = None, schema: Schema | None = None,
              parse: Parse | None = None, variables: Mapping[str, Any] | None = None, samples: int | None = None,
              meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm about each row, by a prompt over its columns, and add the answer as a column.

    Under a schema an answer is JSON, and its fields are columns; `parse` makes a value or columns of an answer's text.
    Several columns are as many answers; `samples` gives so many rows for each one.
    """
    arguments = locals()
    asking = next(_transforming({"rows": rows}, arguments))
    return answered(rows, asking, _taking(arguments))
