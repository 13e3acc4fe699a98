"""Rows kept, or put in order, by what an llm says of them."""

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError
from ddmake.rules.answering import META, OnError, Taking, answered
from ddmake.rules.columns import added, free
from ddmake.rules.texts import beside
from ddmake.rules.wording import Wording, prompts

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]

SAID, SAID_META, KEPT = "\0said", "\0said_meta", "\0kept"  # columns while a rule runs: no user's has such a name
TOGETHER = 1000  # rows that are gathered at once
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?")
BEFORE = r"<(?!\W*yes\b)[^<>]*+>|\d+[.):]|(?:(?:final\s+)?answer|a)(?=[\s*_]*:)|[\W_]"  # a tag, a list's number, a label, signs
YES = re.compile(rf"(?:{BEFORE})*+yes(?![^\W_])", re.IGNORECASE)


def _kept(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `keep_if`."""
    if arguments["meta"] and arguments["column"] is None:
        raise DdfileError('meta=True adds a column beside the answers: say column="answer", too.')
    free(inputs["rows"], _adds(arguments), "keep_if")
    return _checked(inputs["rows"], arguments, _adds(arguments))


def _ranked(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `rank`."""
    threshold = arguments["threshold"]
    if threshold is not None and not math.isfinite(threshold):
        raise DdfileError(f"threshold is a number, not {threshold}.")
    free(inputs["rows"], _adds(arguments), "rank")
    return _checked(inputs["rows"], arguments, _adds(arguments))


def _checked(columns: list[str] | None, arguments: Arguments, adds: Sequence[str]) -> list[str] | None:
    Wording.of(arguments).check(columns)
    Taking([SAID], accept=_accepted(arguments)).check(columns)
    return added(columns, *adds)


def _asking(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what is asked: each row once."""
    yield Asking(arguments["llm"], prompts(inputs["rows"], Wording.of(arguments)))


def begins_with_yes(answer: str) -> bool:
    """Tell whether an answer begins with the word yes, in any case and width; signs, tags and "1. Answer:" may precede it."""
    return YES.match(unicodedata.normalize("NFKC", answer)) is not None


def first_number(answer: str) -> float:
    """Return the first number in an answer. Raises ValueError where there is none."""
    found = NUMBER.search(answer)
    if found is None:
        raise ValueError(f"there is no number in {answer[:80]!r}")
    return float(found[0].replace("−", "-").replace(",", ""))


@step(version="1", columns=_kept, asks=_asking, by_row="rows")
def keep_if(rows: StoredRows, *, llm: LLM, prompt: Prompt, when: Callable[[str], Any] | None = None, column: str | None = None,
            system: Prompt | None = None, variables: Mapping[str, Any] | None = None, meta: bool = False,
            accept: Collection[str] = ("length",), on_error: Literal["drop", "raise"] = "drop") -> "Batches":
    """Keep the rows of which an llm says so: those for whose answer `when` gives true, or whose answer begins with "yes".

    The prompt sees the row's columns. Where `when` raises, the row is asked about again, three times in all. A row without
    a usable answer is left out, and counted as failed. An answer that was cut counts, as far as it goes. The answers are kept
    in `column`, if that is given.
    """
    arguments = locals()
    says = begins_with_yes if when is None else when
    told = _told(rows, arguments, lambda text, row: {SAID: str(text), KEPT: bool(says(text))})
    return _whole(rows, _those_kept(rows, told, arguments), arguments, "string")


@step(version="2", columns=_ranked, asks=_asking)
def rank(rows: StoredRows, *, llm: LLM, prompt: Prompt, score: Callable[[str], float] | None = None, column: str = "score",
         descending: bool = True, threshold: float | None = None, system: Prompt | None = None,
         variables: Mapping[str, Any] | None = None, meta: bool = False, accept: Collection[str] = (),
         on_error: OnError = "keep") -> "Batches":
    """Put rows in the order of the scores that an llm gives them, the highest first, and add the score as a column.

    The prompt sees the row's columns. The score is what `score` makes of an answer, or the first number in it; where there is
    none, the row is asked about again, three times in all. Rows of equal scores stay in their order. A row without a usable
    answer has no score, and comes last. With `threshold` rows with a lower score are left out (a higher one, where the order
    is ascending), and those without. Scores are held in memory, rows aren't.
    """
    arguments = locals()
    finds = first_number if score is None else score
    told = _told(rows, arguments, lambda text, row: _finite(finds(text)))
    return _whole(rows, _in_order(rows, told, arguments), arguments, "float64")


def _accepted(arguments: Arguments) -> Sequence[str]:
    return [arguments["accept"]] if isinstance(arguments["accept"], str) else list(arguments["accept"])


def _adds(arguments: Arguments) -> list[str]:
    """Return the columns that are added."""
    column = arguments["column"]
    return [] if column is None else [column, f"{column}_meta"] if arguments["meta"] else [column]


def _finite(score: Any) -> float:
    """Return a score as a number. Raises ValueError for one that has no place in an order."""
    found = float(score)
    if not math.isfinite(found):
        raise ValueError(f"a score is a number, not {found}")
    return found


def _told(rows: Any, arguments: Arguments, parse: Callable[[Any, Any], Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what is said of each row, by the names above; nothing under them where there is no usable answer."""
    on_error = "raise" if arguments["on_error"] == "raise" else "keep"
    taking = Taking([SAID], parse=parse, meta=arguments["meta"], accept=_accepted(arguments), on_error=on_error)
    for batch in answered(rows, next(_asking({"rows": rows}, arguments)), taking):
        yield from batch.select([name for name in (SAID, KEPT, SAID_META) if name in batch.schema.names]).to_pylist()


def _those_kept(rows: Any, told: Iterator[Mapping[str, Any]], arguments: Arguments) -> "Iterator[pa.RecordBatch]":
    """Yield batches of the rows whose answers say so."""
    import pyarrow as pa

    from ddmake.artifacts.rows import read

    for batch in read(rows):
        some = list(islice(told, batch.num_rows))
        kept = pa.array([one.get(KEPT) for one in some], pa.bool_())
        yield beside(batch, _columns(some, arguments, "string")).filter(kept)
    next(told, None)  # which raises where too few answers were of use


def _in_order(rows: Any, told: Iterator[Mapping[str, Any]], arguments: Arguments) -> "Iterator[pa.RecordBatch]":
    """Yield batches of rows in the order of their scores."""
    said = list(told)
    order = _order([one[SAID] for one in said], arguments)
    for start in range(0, len(order), TOGETHER):
        numbers = order[start:start + TOGETHER]
        yield beside(_gathered(rows, numbers), _columns([said[number] for number in numbers], arguments, "float64"))


def _order(scores: Sequence[float | None], arguments: Arguments) -> list[int]:
    """Return the numbers of rows in the order of their scores, those without one last or left out."""
    sign, threshold = -1 if arguments["descending"] else 1, arguments["threshold"]
    there = [number for number, score in enumerate(scores)
             if score is not None and (threshold is None or sign * score <= sign * threshold)]
    left_out = threshold is not None or arguments["on_error"] == "drop"
    without = [] if left_out else [number for number, score in enumerate(scores) if score is None]
    return [*sorted(there, key=lambda number: sign * scores[number]), *without]


def _gathered(rows: Any, numbers: Sequence[int]) -> "pa.RecordBatch":
    """Return some of the rows, one at least, in any order; none but these is read."""
    import pyarrow as pa

    if hasattr(rows, "select"):
        found = rows.select(numbers).with_format("arrow")[0:len(numbers)]
    else:
        found = pa.concat_tables([rows[number:number + 1] for number in numbers])
    return found.combine_chunks().to_batches()[0]


def _columns(told: Sequence[Mapping[str, Any]], arguments: Arguments, kind: str) -> dict[str, "pa.Array"]:
    """Return the columns that are added to some rows."""
    from ddmake.artifacts.arrays import typed

    names = zip(_adds(arguments), ((SAID, kind), (SAID_META, META)))
    return {name: typed(name, [one.get(held) for one in told], of, 0) for name, (held, of) in names}


def _whole(rows: Any, batches: "Iterator[pa.RecordBatch]", arguments: Arguments, kind: str) -> "Batches":
    """Return batches with the columns that they have, whether there are rows or not."""
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, features_of, schema_of

    new = [pa.field(name, values.type) for name, values in _columns([], arguments, kind).items()]
    features = features_of(rows)
    return Batches(batches, features, pa.schema([*schema_of(rows), *new]))
