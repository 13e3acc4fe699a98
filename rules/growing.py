"""Rows of which several things grow, one out of the other: each makes a row, beside the columns of the row that it began with."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from ddmake.errors import DdmakeError
from ddmake.rules.texts import beside

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

FEW = 100  # rows that are made into Python's at once


def grown(rows: Any, found: Iterable[Sequence[Mapping[str, Any]]], kinds: Mapping[str, str]) -> "Batches":
    """Return for each row the things that grew of it, in their order, as columns of these kinds ("string", "int64")."""
    from ddmake.artifacts.rows import Batches, features_of

    features = features_of(rows)
    return Batches(_batches(rows, iter(found), kinds), {name: one for name, one in features.items() if name not in kinds})


def _batches(rows: Any, found: Iterator[Sequence[Mapping[str, Any]]], kinds: Mapping[str, str]) -> Iterator[Any]:
    import pyarrow as pa

    from ddmake.artifacts.arrays import typed
    from ddmake.artifacts.rows import read

    for batch in read(rows):
        its = [list(grew) for grew in islice(found, batch.num_rows)]
        taken = batch.take(pa.array([number for number, grew in enumerate(its) for _ in grew], pa.int64()))
        flat = [one for grew in its for one in grew]
        yield beside(taken, {name: typed(name, [one[name] for one in flat], kind, 0) for name, kind in kinds.items()})


def drawn(llm: Any, prompts: Iterable[Any], numbers: Iterable[int], accept: str | Collection[str] = (), schema: Any = None,
          turn: Literal["assistant", "user"] = "assistant") -> Iterator[Any]:
    """Yield an answer to each prompt; one that can't be used is noted under its number."""
    answers = llm.stream(prompts, schema=schema, accept=[accept] if isinstance(accept, str) else accept, turn=turn)
    for number, answer in zip(numbers, answers, strict=True):
        if answer.wrong is not None:
            llm.note_failed(number, answer.wrong, answer)
        yield answer


def check_used(llm: Any, used: int, asked: int, number: int) -> None:
    """Raise DdmakeError where something was asked in a round, and not one of the answers can be used."""
    if asked and not used:
        raise DdmakeError(f"none of the {asked} answers of round {number} can be used; the first: {llm.usage.first_failure}. "
                          f"What was answered: ddmake calls --failed --rule {llm.payer.rule}")
