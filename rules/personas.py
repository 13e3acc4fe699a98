"""Who a text is by or for, who knows them, and rows drawn by chance: what makes prompts differ from each other."""

import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, StoredRows, Written
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.columns import added, free, need
from ddmake.rules.growing import check_used, drawn, grown
from ddmake.rules.questions import filled
from ddmake.rules.texts import each, texts
from ddmake.rules.wording import Turn, Wording

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]
INTEGER, LARGEST = 2**63 - 1, sys.float_info.max  # the greatest numbers that a column of whole numbers, or of others, holds
RELATED = {"origin": "string", "round": "int64"}  # what `related_personas` adds


def _described(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `personas`."""
    columns = inputs["rows"]
    need(columns, arguments["text"], "to tell a persona from")
    free(columns, [arguments["persona"]], "personas")
    Wording.of(arguments).check(added(columns, "text"))
    Taking.of(arguments, arguments["persona"]).check(columns)
    return Taking.of(arguments, arguments["persona"]).told(columns)


def _asking(inputs: Mapping[str, Any], arguments: Arguments) -> Iterator[Asking]:
    """Tell what `personas` asks: each text, as often as it is to be answered."""
    rows, wording, name = filled(inputs["rows"], {"text": arguments["text"]}), Wording.of(arguments), arguments["text"]
    columns = list(dict.fromkeys([*wording.reads(rows.column_names), name]))
    turns = (wording.turns({**row, "text": row[name]}) for row in each(rows, columns))
    yield Asking(arguments["llm"], (one for one in turns for _ in range(arguments["samples"] or 1)))


@step(version="1", columns=_described, asks=_asking, by_row="rows")
def personas(rows: StoredRows, *, llm: LLM, text: str = "text", persona: str = "persona", samples: int | None = None,
             prompt: Prompt = "personas.j2", system: Prompt | None = None, variables: Mapping[str, Any] | None = None,
             meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm who is likely to read, write or care about each text, and add that persona as a column.

    The prompt sees the text as `text`, whatever its column is called, and the row's other columns. A text that is null or blank
    is left out. `samples` gives so many rows for each text.

    Text-to-persona of Ge et al. 2024, Scaling Synthetic Data Creation with 1,000,000,000 Personas, arXiv 2406.20094.
    """
    arguments = locals()
    asking = next(_asking({"rows": rows}, arguments))
    return answered(filled(rows, {"text": text}), asking, Taking.of(arguments, arguments["persona"]))


def _relating(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `related_personas`."""
    columns = inputs["rows"]
    for name in ("rounds", "samples"):
        if arguments[name] < 1:
            raise DdfileError(f"{name} is a number of at least 1, not {arguments[name]}.")
    need(columns, arguments["persona"], "to find relations of")
    free(columns, RELATED, "related_personas")
    Wording.of(arguments).check(added(columns, "persona"))
    return added(columns, *RELATED)


@step(version="1", columns=_relating)
def related_personas(rows: StoredRows, *, llm: LLM, persona: str = "persona", rounds: int = 1, samples: int = 1,
                     prompt: Prompt = "related_personas.j2", system: Prompt | None = None,
                     variables: Mapping[str, Any] | None = None, accept: Collection[str] = ()) -> "Batches":
    """Ask an llm for personas who are close to those that there are, and, so many rounds over, for some who are close to these.

    Each persona is asked about in the round after its own, `samples` times. There is a row for every persona with the
    columns of the row that it goes back to: first that row's own, in round 0, then the others by their rounds. `origin` is the
    persona that one is close to. Where there is no usable answer, there is no row. The prompt sees `persona`, and the
    row's other columns. dedupe and dedupe_similar leave out those who are alike.

    Persona-to-persona of Ge et al. 2024, Scaling Synthetic Data Creation with 1,000,000,000 Personas, arXiv 2406.20094, which
    goes on for six rounds.
    """
    arguments = locals()
    grew = [[_one(text, None, 0)] for text in texts(rows, persona)]
    for number in range(1, rounds + 1):
        last = [(row, one["persona"]) for row, ones in enumerate(grew) for one in ones
                if one["round"] == number - 1 and (one["persona"] or "").strip() for _ in range(samples)]
        prompts, used = _about(rows, last, Wording.of(arguments)), 0
        for (row, origin), answer in zip(last, drawn(llm, prompts, [row for row, _ in last], accept)):
            used += answer.wrong is None
            if answer.wrong is None and answer.strip():
                grew[row].append(_one(answer.strip(), origin, number))
        if number == 1:
            check_used(llm, used, len(last), number)
    found = ([{persona: one["persona"], "origin": one["origin"], "round": one["round"]} for one in ones] for ones in grew)
    return grown(rows, found, {persona: "string", **RELATED})


def _one(persona: str | None, origin: str | None, number: int) -> dict[str, Any]:
    return {"persona": persona, "origin": origin, "round": number}


def _about(rows: Any, asked: Sequence[tuple[int, str]], wording: Wording) -> Iterator[list[Turn]]:
    """Yield the chat messages about personas, each with the number of its row, in the order of the rows."""
    shown = enumerate(each(rows, wording.reads(rows.column_names)))
    at, row = -1, {}
    for number, persona in asked:
        while at < number:
            at, row = next(shown)
        yield wording.turns({**row, "persona": persona})


def _sampled(inputs: Mapping[str, Any], arguments: Arguments) -> list[str]:
    """Tell the columns of `sampled`."""
    if arguments["n"] < 1:
        raise DdfileError(f"n is the number of rows, at least 1, not {arguments['n']}.")
    if not isinstance(arguments["columns"], dict) or not arguments["columns"]:
        raise DdfileError('columns names nothing to draw. Write columns={"topic": ["a", "b"]}.')
    for name, of in arguments["columns"].items():
        wrong = _wrong(of)
        if wrong:
            raise DdfileError(f"columns: {name!r} {wrong}. A column is a list of values, a dict of values and their weights, or "
                              "a range: (18, 90).")
    return list(arguments["columns"])


@step(version="1", columns=_sampled)
def sampled(*, columns: Written, n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Make n rows of values that are drawn by chance, each column by itself.

    A column is drawn from a list, all values being equally likely; from a dict of values and their weights; or from a range of
    whole numbers, both ends included, or of numbers: `(18, 90)`, `(0.0, 1.0)`. Each has a generator of its own, seeded by
    `seed` and its name: another column leaves the draws of the others as they were, and a greater n the first rows.
    """
    draws = {name: _draw(of, random.Random(f"{seed} {name}")) for name, of in columns.items()}
    for _ in range(n):
        yield {name: draw() for name, draw in draws.items()}


def _wrong(of: Any) -> str | None:
    """Return what is wrong with what a column is to be drawn from; None if nothing is."""
    if isinstance(of, tuple):
        numbers = len(of) == 2 and all(type(end) in (int, float) for end in of)
        most = LARGEST / 2 if float in map(type, of) else INTEGER
        return None if numbers and -most <= of[0] <= of[1] <= most else (
            f"is {of}, which is no range from a number to another that is not below it, or too wide a one")
    if isinstance(of, dict):
        sound = all(type(weight) in (int, float) and 0 <= weight <= LARGEST for weight in of.values()) and (
            0 < sum(of.values()) <= LARGEST)
        return None if sound else "has weights that are no numbers of 0 or more with one above"
    if not isinstance(of, list):
        return f"is {of!r}"
    return None if of else "is empty"


def _draw(of: Any, chance: random.Random) -> Callable[[], Any]:
    """Return what draws a value. It takes one number of `random()` a draw, which Python promises to stay as it is."""
    if isinstance(of, tuple):
        low, high = of
        if isinstance(low, int) and isinstance(high, int):
            return lambda: low + int(chance.random() * (high - low + 1))
        return lambda: low + chance.random() * (high - low)
    values = list(of)
    ends = list(accumulate(of.values() if isinstance(of, dict) else [1] * len(values)))
    last = max(number for number, end in enumerate(ends) if end > (ends[number - 1] if number else 0))
    return lambda: values[min(bisect_right(ends, chance.random() * ends[-1]), last)]
