"""Recipes in which an llm judges: which of two answers is better, how good one is, whether it passes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError
from ddmake.fingerprint import hashes
from ddmake.rules import judged
from ddmake.rules.answering import OnError
from ddmake.rules.columns import Columns, added, free, need
from ddmake.rules.judged import Arguments, Judging, Row
from ddmake.rules.texts import beside
from ddmake.rules.winners import winner as winner_in
from ddmake.rules.winners import winners

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Inputs = Mapping[str, Any]

CRITERIA = "more helpful, more correct and more to the point"


def _compared(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `judge_pairs`."""
    columns = inputs["rows"]
    for side in ("a", "b"):
        need(columns, arguments[side], "to compare")
    judged.need_question(columns, arguments)
    if arguments["choose"] and arguments["reason"]:
        raise DdfileError("choose=True reads the winner off the model's probabilities, and gives no reason: leave out one.")
    return _pairing(arguments).check(columns, "judge_pairs")


def _rated(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `rate`."""
    judged.check_scale(arguments["scale"])
    if not arguments["rubric"] and not arguments["aspects"]:
        raise DdfileError("rate takes a rubric=, or aspects={name: rubric}, to rate by.")
    _need_shown(inputs["rows"], arguments, "to rate")
    return _rating(arguments).check(inputs["rows"], "rate")


def _judged(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `judge`."""
    verdicts = arguments["verdicts"]
    if isinstance(verdicts, str) or len(set(verdicts)) < max(2, len(verdicts)):
        raise DdfileError(f'verdicts are two or more words, as in ("pass", "fail"), not {verdicts!r}.')
    _need_shown(inputs["rows"], arguments, "to judge")
    return _deciding(arguments).check(inputs["rows"], "judge")


def _preferred(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `preferences`."""
    for role in ("a", "b", "winner"):
        need(inputs["rows"], arguments[role], "to take preferences from")
    free(inputs["rows"], ("chosen", "rejected"), "preferences")
    return added(inputs["rows"], "chosen", "rejected")


def _asking_pairs(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `judge_pairs` asks: each row once, or in both orders."""
    yield _pairing(arguments).asking(inputs["rows"])


def _asking_scores(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `rate` asks: each row once."""
    yield _rating(arguments).asking(inputs["rows"])


def _asking_verdicts(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `judge` asks: each row once."""
    yield _deciding(arguments).asking(inputs["rows"])


@step(version="2", columns=_compared, asks=_asking_pairs, by_row="rows")
def judge_pairs(rows: StoredRows, *, llm: LLM, question: str | None = "question", a: str = "a", b: str = "b",
                criteria: str = CRITERIA, prompt: Prompt = "judge_pairs.j2", system: Prompt | None = None,
                variables: Mapping[str, Any] | None = None, column: str = "winner", reason: bool = False, ties: bool = True,
                both: bool = False, choose: bool = False, longest: int | None = None, seed: int = 0, meta: bool = False,
                accept: Collection[str] = ("length",), on_error: OnError = "keep") -> "Batches":
    """Ask an llm which of two answers is better, and add the winner: "a", "b", "tie", or null where the judge doesn't say.

    Which answer is shown first is drawn for each row, from the seed and the texts, and undone. `both` asks in both orders, and
    calls it a tie where they disagree (Zheng et al. 2023, arXiv 2306.05685). Equal texts are a tie that nobody is asked about; a
    null text or question has no winner. With `question=None` there is no question to the answers.

    The prompt sees `A` and `B`, the answers in the order in which they are shown, `question`, `criteria`, `ties`, `reason` and
    the row's other columns. The judge writes "A", "B" or "tie", also with words around it; an answer that was cut counts if it
    begins with that. With `reason` it answers by a schema, the reason first: `<column>_reason`, and `<column>_first` says which
    answer the reason calls A. With `choose` a local model's probabilities of the words decide, and nothing is written.
    `longest` is the most characters of a reason; not every service takes a schema that says so.
    """
    return judged.make(rows, _pairing(locals()))


@step(version="1", columns=_preferred, by_row="rows")
def preferences(rows: StoredRows, *, a: str = "a", b: str = "b", winner: str = "winner") -> "Batches":
    """Make pairs for preference training of rows with a winner: `chosen` is the answer that won, `rejected` the other.

    All columns stay. Rows with a tie, without a winner, or without one of the answers are left out.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from ddmake.artifacts.rows import Batches, features_of, read, schema_of

    schema = schema_of(rows)
    kind = schema.field(a).type

    def pairs() -> Iterator[pa.RecordBatch]:
        for batch in read(rows):
            won = winners(batch.column(winner), winner)
            there = pc.and_(pc.and_(batch.column(a).is_valid(), batch.column(b).is_valid()), pc.is_in(won, pa.array(["a", "b"])))
            kept, won = batch.filter(there), won.filter(there)
            one, other, first = kept.column(a), kept.column(b).cast(kind), pc.equal(won, "a")
            yield beside(kept, {"chosen": pc.if_else(first, one, other), "rejected": pc.if_else(first, other, one)})

    features = features_of(rows)
    return Batches(pairs(), features, pa.schema([*schema, pa.field("chosen", kind), pa.field("rejected", kind)]))


@step(version="1", columns=_rated, asks=_asking_scores, by_row="rows")
def rate(rows: StoredRows, *, llm: LLM, rubric: str = "", aspects: Mapping[str, str] | None = None,
         scale: Sequence[int] = (1, 5), question: str | None = "question", answer: str = "answer", reason: bool = True,
         column: str = "score", prompt: Prompt = "rate.j2", system: Prompt | None = None,
         variables: Mapping[str, Any] | None = None, longest: int | None = None, meta: bool = False,
         accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm to rate each answer by a rubric, and add its `score`, a whole number of the scale, and `score_reason`.

    With `aspects`, rubrics by name, there is a column of each name with its reason, all from one request. The judge answers by
    a schema and gives its reason before the number; `reason=False` asks for numbers alone. With `question=None` there is no
    question to the answer. An answer or question that is null isn't rated: its score is null, as that of a row without a usable
    verdict is. `longest` is the most characters of a reason; not every service takes a schema that says so.

    The prompt sees `question`, `answer`, `rubric`, `aspects`, `lowest`, `highest`, `reason` and the row's columns. One that
    doesn't read `question` or `answer` needs no such column.
    """
    return judged.make(rows, _rating(locals()))


@step(version="1", columns=_judged, asks=_asking_verdicts, by_row="rows")
def judge(rows: StoredRows, *, llm: LLM, rubric: str, verdicts: Sequence[str] = ("pass", "fail"),
          question: str | None = "question", answer: str = "answer", reason: bool = True, column: str = "verdict",
          prompt: Prompt = "judge.j2", system: Prompt | None = None, variables: Mapping[str, Any] | None = None,
          longest: int | None = None, meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm for a verdict on each answer by a rubric, and add it: one of `verdicts`, and `<column>_reason`.

    The judge answers by a schema and gives its reason first; `reason=False` asks for the verdict alone. With `question=None`
    there is no question to the answer. An answer or question that is null isn't judged: its verdict is null, as that of a row
    without a usable one is. `longest` is the most characters of a reason; not every service takes a schema that says so.

    The prompt sees `question`, `answer`, `rubric`, `verdicts`, `reason` and the row's columns. One that doesn't read `question`
    or `answer` needs no such column.
    """
    return judged.make(rows, _deciding(locals()))


def _pairing(arguments: Arguments) -> Judging:
    """Return how pairs are judged."""
    a, b, column, reason = (arguments[name] for name in ("a", "b", "column", "reason"))
    words = ["A", "B", *(["tie"] if arguments["ties"] else [])]
    schema = judged.an_object({"reason": judged.reason_field(arguments), "winner": {"type": "string", "enum": words}})
    adds = [column, *([f"{column}_reason", f"{column}_first"] if reason else [])]
    shown = ("A", "B", "question", "criteria", "ties", "reason")
    return Judging(
        arguments, judged.looked_at(arguments, a, b), partial(_pair_shown, arguments), shown, dict.fromkeys(adds, "string"),
        partial(_pair_decided, arguments), partial(_said, arguments), schema if reason else None,
        words if arguments["choose"] else None, (a, b), (column, f"{column}_swapped") if arguments["both"] else (column,))


def _pair_shown(arguments: Arguments, row: Row) -> list[Row]:
    """Return what a judge is shown of a pair, in the order that is drawn for it; in the other one, too, where that is wished."""
    a, b, question = row[arguments["a"]], row[arguments["b"]], judged.question_of(arguments, row)
    if a is None or b is None or a == b or not judged.is_asked(arguments, question):
        return []
    told = {"question": question, **{name: arguments[name] for name in ("criteria", "ties", "reason")}}
    orders = [(b, a), (a, b)] if _swapped(arguments, row) else [(a, b), (b, a)]
    return [{"A": one, "B": other, **told} for one, other in (orders if arguments["both"] else orders[:1])]


def _pair_decided(arguments: Arguments, row: Row, said: Sequence[Any]) -> Row:
    """Return a pair's winner, by the names of its columns' roles, from what was said of it in one order or both."""
    column, a = arguments["column"], row[arguments["a"]]
    if not said:
        return {column: "tie" if a is not None and a == row[arguments["b"]] else None}
    swapped = _swapped(arguments, row)
    names = [{"A": "b", "B": "a"} if at else {"A": "a", "B": "b"} for at in (swapped, not swapped)]
    found = [told and name.get(told["winner"], "tie") for told, name in zip(said, names)]
    won = None if None in found else found[0] if len(set(found)) == 1 else "tie"
    reasons = {f"{column}_reason": said[0]["reason"], f"{column}_first": names[0]["A"]} if said[0] and arguments["reason"] else {}
    return {column: won, **reasons}


def _said(arguments: Arguments, answer: Any) -> Any:
    """Return what a judge says of a pair, None where it doesn't say."""
    if arguments["reason"]:
        return answer.value
    found = str(answer) if arguments["choose"] else winner_in(str(answer), cut=answer.finish_reason == "length")
    return None if found is None or found == "tie" and not arguments["ties"] else {"winner": found}


def _rating(arguments: Arguments) -> Judging:
    """Return how answers are rated, each by itself."""
    fields: dict[str, Any] = {}
    adds: dict[str, str] = {}
    for name in arguments["aspects"] or [arguments["column"]]:
        fields |= judged.score_fields(arguments, name, f"{name}_reason")
        adds |= {name: "int64", **({f"{name}_reason": "string"} if arguments["reason"] else {})}
    told = {"rubric": arguments["rubric"], "aspects": arguments["aspects"] or {}, **judged.bounds(arguments)}
    return _single(arguments, told, judged.an_object(fields), adds)


def _deciding(arguments: Arguments) -> Judging:
    """Return how answers get their verdicts."""
    column, verdicts = arguments["column"], list(arguments["verdicts"])
    reasons = {f"{column}_reason": judged.reason_field(arguments)} if arguments["reason"] else {}
    schema = judged.an_object({**reasons, column: {"type": "string", "enum": verdicts}})
    told = {"rubric": arguments["rubric"], "verdicts": verdicts, "reason": arguments["reason"]}
    return _single(arguments, told, schema, dict.fromkeys([column, *reasons], "string"))


def _single(arguments: Arguments, told: Row, schema: Mapping[str, Any], adds: Mapping[str, str]) -> Judging:
    """Return how answers are judged one by one, under a schema whose fields become columns."""
    roles = {role: arguments[role] for role in ("question", "answer") if role in arguments["prompt"].names and arguments[role]}

    def shows(row: Row) -> list[Row]:
        seen = {role: row[column] for role, column in roles.items()}
        return [] if None in seen.values() else [{"question": None, **told, **seen}]

    def makes(row: Row, said: Sequence[Any]) -> Row:
        return said[0] if said and said[0] else {}

    shown = ["question", *told, *roles]
    return Judging(arguments, list(dict.fromkeys(roles.values())), shows, shown, adds, makes, schema=schema,
                   answers=(arguments["column"],))


def _swapped(arguments: Arguments, row: Row) -> bool:
    """Tell whether b is shown first: drawn from what is compared, so that no other row moves it."""
    drawn = hashes.of_value([arguments["seed"], judged.question_of(arguments, row), row[arguments["a"]], row[arguments["b"]]])
    return int(drawn[:8], 16) % 2 == 1


def _need_shown(columns: Columns, arguments: Arguments, what: str) -> None:
    """Raise DdfileError where a column isn't there that the prompt is to see as question or answer."""
    read = arguments["prompt"].names
    if "question" in read:
        judged.need_question(columns, arguments)
    if "answer" in read:
        need(columns, arguments["answer"], what)
