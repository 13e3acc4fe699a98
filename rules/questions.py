"""Questions and answers made of texts, and whether an answer follows from its text."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError
from ddmake.rules.answering import META, Taking, answered
from ddmake.rules.columns import added, free, need
from ddmake.rules.judged import an_object, reason_field
from ddmake.rules.texts import beside, texts, those
from ddmake.rules.wording import FEW, Turn, Wording

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

PAIR = ("question", "answer")
ROLES = ("text", *PAIR)  # what `faithful` is told, as its template names it

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Roles = Mapping[str, str]  # columns by the names that a template has for them


def _questioned(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `questions`."""
    columns, meta = inputs["rows"], ["question_meta"] if arguments["meta"] else []
    if arguments["n"] < 1:
        raise DdfileError(f"n is the most questions to a text, at least 1, not {arguments['n']}.")
    need(columns, arguments["text"], "to ask about")
    free(columns, (*PAIR, "pairs"), "questions")
    _pairing(arguments).check(columns)
    Wording.of(arguments).check(added(columns, "text", "n"))
    return added(columns, *meta, *PAIR)


def _judged(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `faithful`."""
    columns, mark = inputs["rows"], arguments["mark"]
    for role in ROLES:
        need(columns, arguments[role], "to judge")
    if arguments["meta"] and mark is None:
        raise DdfileError('meta=True adds a column beside the verdicts: say mark="faithful", too.')
    free(columns, _marks(arguments), "faithful")
    _judging(arguments).check(columns)
    Wording.of(arguments).check(added(columns, *ROLES))
    return added(columns, *_marks(arguments))


def _asking_questions(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `questions` asks: each text once."""
    roles = {"text": arguments["text"]}
    asked = _turns(filled(inputs["rows"], roles), Wording.of(arguments), roles, {"n": arguments["n"]})
    yield Asking(arguments["llm"], asked, _pairs(arguments))


def _asking_verdicts(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `faithful` asks: each row once."""
    roles = _roles(arguments)
    yield Asking(arguments["llm"], _turns(filled(inputs["rows"], roles), Wording.of(arguments), roles, {}), _verdict(arguments))


@step(version="1", columns=_questioned, asks=_asking_questions, by_row="rows")
def questions(rows: StoredRows, *, llm: LLM, n: int = 3, text: str = "text", prompt: Prompt = "questions.j2",
              system: Prompt | None = None, variables: Mapping[str, Any] | None = None, longest: int | None = None,
              meta: bool = False, accept: Collection[str] = (), on_error: Literal["drop", "raise"] = "drop") -> "Batches":
    """Ask an llm for one to n questions that each text answers, with their answers, in the language of the text.

    Each pair is a row: the columns of its text, then `question` and `answer`. The prompt sees the text as `text`, whatever its
    column is called, `n`, and the row's other columns. A text that is null or blank isn't asked about; one without a usable
    answer has no rows, and a pair of which a side is blank is left out. `meta` adds `question_meta`, the same for all pairs of
    a text. `longest` is the most characters of a question and of an answer; not every service takes a schema that says so.
    """
    from ddmake.artifacts.rows import Batches

    arguments = locals()
    asking = next(_asking_questions({"rows": rows}, arguments))
    found = answered(filled(rows, {"text": text}), asking, _pairing(arguments))
    return Batches(_spread(found), found.features)


@step(version="1", columns=_judged, asks=_asking_verdicts, by_row="rows")
def faithful(rows: StoredRows, *, llm: LLM, text: str = "text", question: str = "question", answer: str = "answer",
             mark: str | None = None, prompt: Prompt = "faithful.j2", system: Prompt | None = None,
             variables: Mapping[str, Any] | None = None, longest: int | None = None, meta: bool = False,
             accept: Collection[str] = (), on_error: Literal["keep", "raise"] = "keep") -> "Batches":
    """Keep the rows whose answer follows from their text, as an llm judges that gives its reason first.

    With `mark` all rows are kept, and a column of that name says true or false, `<mark>_reason` why. The prompt sees `text`,
    `question` and `answer`, whatever these columns are called, and the row's other columns. A row of which one is null or blank
    isn't judged; it has no verdict, as a row without a usable answer has none. Rows without a verdict are left out, or marked
    null. `longest` is the most characters of a reason. The judge may be wrong: measure it on rows that a human has judged.
    """
    from ddmake.artifacts.rows import Batches, features_of

    arguments = locals()
    asking = next(_asking_verdicts({"rows": rows}, arguments))
    judged = answered(filled(rows, _roles(arguments)), asking, _judging(arguments))
    features = features_of(rows)
    return Batches(_with_verdicts(rows, judged, arguments), features)


def _pairing(arguments: Arguments) -> Taking:
    return Taking.of(arguments, "question", schema=_pairs(arguments))


def _judging(arguments: Arguments) -> Taking:
    return Taking.of(arguments, "verdict", schema=_verdict(arguments))


def _pairs(arguments: Arguments) -> dict[str, Any]:
    """Return the schema of one to n pairs."""
    pair = an_object({name: reason_field(arguments) for name in PAIR})
    return an_object({"pairs": {"type": "array", "items": pair, "minItems": 1, "maxItems": arguments["n"]}})


def _verdict(arguments: Arguments) -> dict[str, Any]:
    """Return the schema of a verdict, the reason first."""
    return an_object({"reason": reason_field(arguments), "verdict": {"type": "string", "enum": ["yes", "no"]}})


def _roles(arguments: Arguments) -> Roles:
    return {role: arguments[role] for role in ROLES}


def _marks(arguments: Arguments) -> list[str]:
    """Return the columns that `faithful` adds."""
    mark = arguments["mark"]
    return [] if mark is None else [mark, f"{mark}_reason", *([f"{mark}_meta"] if arguments["meta"] else [])]


def _turns(rows: Any, wording: Wording, roles: Roles, more: Mapping[str, Any]) -> Iterator[list[Turn]]:
    """Yield the chat messages for each row, which see some columns by other names."""
    from ddmake.artifacts.rows import read

    names = rows.column_names
    wording.check(added(names, *roles, *more))
    columns = list(dict.fromkeys([*wording.reads(names), *roles.values()]))
    for batch in read(rows, columns, FEW):
        for row in batch.to_pylist():
            yield wording.turns({**row, **more, **{role: row[column] for role, column in roles.items()}})


def filled(rows: Any, roles: Roles) -> Any:
    """Return the rows that have text in each of some columns; all of them as they are."""
    return those(rows, _filled(texts(rows, column) for column in roles.values()))


def _filled(columns: Iterable[Iterable[str | None]]) -> list[bool]:
    """Tell of each row whether it has text in each of some columns."""
    return [all(one is not None and one.strip() for one in row) for row in zip(*columns)]


def _spread(found: "Batches") -> Iterator["pa.RecordBatch"]:
    """Yield batches with a row for each pair, of which both sides have text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in found:
        pairs = batch.column("pairs")
        sides = {name: pc.struct_field(pc.list_flatten(pairs), name) for name in PAIR}
        there = pa.array(_filled(side.to_pylist() for side in sides.values()), pa.bool_())
        yield beside(batch.drop_columns(["pairs"]).take(pc.list_parent_indices(pairs)), sides).filter(there)


def _with_verdicts(rows: Any, judged: "Batches", arguments: Arguments) -> Iterator["pa.RecordBatch"]:
    """Yield batches of the faithful rows, or of all with their verdicts, which come for those that could be judged."""
    import pyarrow as pa

    from ddmake.artifacts.rows import read

    names = ["verdict", "reason", *(["verdict_meta"] if arguments["meta"] else [])]
    told = (row for batch in judged for row in batch.select(names).to_pylist())
    unjudged: dict[str, Any] = dict.fromkeys(names)
    for batch in read(rows):
        filled = _filled(batch.column(column).to_pylist() for column in _roles(arguments).values())
        found = [next(told) if there else unjudged for there in filled]
        verdicts = pa.array([one["verdict"] and one["verdict"] == "yes" for one in found], pa.bool_())
        yield batch.filter(verdicts) if arguments["mark"] is None else beside(batch, _marked(verdicts, found, arguments))
    next(told, None)  # which raises where too few answers were of use


def _marked(verdicts: "pa.Array", found: list[dict[str, Any]], arguments: Arguments) -> dict[str, "pa.Array"]:
    """Return the columns that tell of verdicts."""
    from ddmake.artifacts.arrays import typed

    mark = arguments["mark"]
    columns = {mark: verdicts, f"{mark}_reason": typed(f"{mark}_reason", [one["reason"] for one in found], "string", 0)}
    if arguments["meta"]:
        columns[f"{mark}_meta"] = typed(f"{mark}_meta", [one["verdict_meta"] for one in found], META, 0)
    return columns
