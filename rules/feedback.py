"""Several answers to the same question: rated side by side, and made pairs of a better and a worse one."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError
from ddmake.fingerprint import hashes
from ddmake.rules import judged
from ddmake.rules.answering import OnError
from ddmake.rules.columns import Columns, added, free, need
from ddmake.rules.judged import Arguments, Judging, Row
from ddmake.rules.texts import beside

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Inputs = Mapping[str, Any]

PAIRED = ("chosen", "rejected", "chosen_from", "rejected_from", "chosen_score", "rejected_score")


def _several(answers: Sequence[str]) -> None:
    """Raise DdfileError for fewer columns than two."""
    if isinstance(answers, str) or len(set(answers)) < max(2, len(answers)):
        raise DdfileError(f"answers names the columns of two or more answers, not {answers!r}.")


def _rated_together(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `rate_together`."""
    columns, answers = inputs["rows"], arguments["answers"]
    judged.check_scale(arguments["scale"])
    _several(answers)
    for name in answers:
        need(columns, name, "to rate")
    judged.need_question(columns, arguments)
    return _rating_together(arguments).check(columns, "rate_together")


def _asking_together(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `rate_together` asks: each row once."""
    yield _rating_together(arguments).asking(inputs["rows"])


def _binarized(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `binarize`."""
    columns = inputs["rows"]
    _several(arguments["answers"])
    for answer in arguments["answers"]:
        need(columns, answer, "to make pairs of")
        for name in _scores(arguments, answer):
            need(columns, name, f"to tell how good {answer!r} is")
    free(columns, PAIRED, "binarize")
    return added(columns, *PAIRED)


@step(version="1", columns=_rated_together, asks=_asking_together, by_row="rows")
def rate_together(rows: StoredRows, *, llm: LLM, rubric: str, answers: Sequence[str], question: str | None = "question",
                  scale: Sequence[int] = (1, 5), reason: bool = True, column: str = "score", prompt: Prompt = "ultrafeedback.j2",
                  system: Prompt | None = None, variables: Mapping[str, Any] | None = None, longest: int | None = None,
                  seed: int = 0, meta: bool = False, accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Ask an llm to rate several answers to the same question side by side, each by the rubric.

    `answers` names their columns. Each gets `<answer>_<column>`, a whole number of the scale, and `<answer>_<column>_reason`. The
    order in which the judge sees them is drawn for each row, from the seed and the texts, and undone. An answer that is null has
    no score; a row is asked about if it has one answer or more. This is how UltraFeedback rates (Cui et al. 2023, arXiv
    2310.01377), an aspect at a time. `longest` is the most characters of a reason; not every service takes a schema that says so.

    The prompt sees `texts`, the answers in the order in which they are shown, `question`, `rubric`, `lowest`, `highest`,
    `reason` and the row's other columns.
    """
    return judged.make(rows, _rating_together(locals()))


@step(version="1", columns=_binarized, by_row="rows")
def binarize(rows: StoredRows, *, answers: Sequence[str], aspects: Sequence[str] = ("score",),
             rest: Literal["random", "worst"] = "random", seed: int = 0) -> "Batches":
    """Make a pair of each row with several rated answers: the best one is chosen, and one of the others rejected.

    An answer's score is the mean of its columns `<answer>_<aspect>`, as `rate_together` adds them. Rejected is one that is drawn
    from those with a lower score than the best (Tunstall et al. 2023, arXiv 2310.16944), or with `rest="worst"` the lowest;
    equals are drawn from, too. An answer that is null or lacks a score doesn't count. A row without two answers that are unlike,
    in text and in score, is left out. Adds `chosen`, `rejected`, the columns that they come from as `chosen_from` and
    `rejected_from`, and `chosen_score` and `rejected_score`. All columns stay.
    """
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, features_of, read, schema_of

    arguments, schema = locals(), schema_of(rows)
    kinds = dict(zip(PAIRED, [schema.field(answers[0]).type] * 2 + [pa.string()] * 2 + [pa.float64()] * 2))
    looks = [*answers, *(name for answer in answers for name in _scores(arguments, answer))]

    def pairs() -> Iterator[pa.RecordBatch]:
        for batch in read(rows):
            found = [_pair(arguments, row) for row in batch.select(looks).to_pylist()]
            kept = batch.filter(pa.array([pair is not None for pair in found], pa.bool_()))
            columns = list(zip(*filter(None, found))) or [()] * len(PAIRED)
            yield beside(kept, {name: pa.array(values, kind) for (name, kind), values in zip(kinds.items(), columns)})

    features = features_of(rows)
    return Batches(pairs(), features, pa.schema([*schema, *(pa.field(name, kind) for name, kind in kinds.items())]))


def _rating_together(arguments: Arguments) -> Judging:
    """Return how answers are rated side by side."""
    answers, column = arguments["answers"], arguments["column"]
    kinds = {f"_{column}": "int64", **({f"_{column}_reason": "string"} if arguments["reason"] else {})}
    score = judged.an_object(judged.score_fields(arguments, "score", "reason"))
    schema = judged.an_object({f"text_{at}": score for at in range(1, len(answers) + 1)})
    told = {"rubric": arguments["rubric"], **judged.bounds(arguments)}

    def shows(row: Row) -> list[Row]:
        texts, question = [row[answers[at]] for at in _shuffled(arguments, row)], judged.question_of(arguments, row)
        there = any(text is not None for text in texts) and judged.is_asked(arguments, question)
        return [{"texts": texts, "question": question, **told}] if there else []

    def makes(row: Row, said: Sequence[Any]) -> Row:
        found = {}
        for place, at in enumerate(_shuffled(arguments, row) if said and said[0] else [], 1):
            if row[answers[at]] is not None:
                told = said[0][f"text_{place}"]
                found |= {f"{answers[at]}_{column}": told["score"], f"{answers[at]}_{column}_reason": told.get("reason")}
        return found

    return Judging(arguments, judged.looked_at(arguments, *answers), shows, ("texts", "question", *told),
                   {f"{answer}{name}": kind for answer in answers for name, kind in kinds.items()}, makes, schema=schema,
                   hides=answers, answers=(column,))


def _shuffled(arguments: Arguments, row: Row) -> list[int]:
    """Return the numbers of answers in the order in which they are shown."""
    answers = arguments["answers"]
    order = list(range(len(answers)))
    texts = [row[name] for name in answers]
    random.Random(hashes.of_value([arguments["seed"], judged.question_of(arguments, row), *texts])).shuffle(order)
    return order


def _scores(arguments: Arguments, answer: str) -> list[str]:
    """Return the columns that hold an answer's scores."""
    return [f"{answer}_{aspect}" for aspect in arguments["aspects"]]


def _pair(arguments: Arguments, row: Row) -> tuple[Any, ...] | None:
    """Return what `binarize` adds to a row; None where there is no better and worse."""
    scored = {answer: _score(arguments, row, answer) for answer in arguments["answers"] if row[answer] is not None}
    scores = {answer: score for answer, score in scored.items() if score is not None}
    if not scores:
        return None
    drawn = random.Random(hashes.of_value([arguments["seed"], *(row[answer] for answer in arguments["answers"])]))
    best = max(scores.values())
    chosen = drawn.choice([answer for answer, score in scores.items() if score == best])
    lower = {answer: score for answer, score in scores.items() if score < best and row[answer] != row[chosen]}
    if arguments["rest"] == "worst":
        lower = {answer: score for answer, score in lower.items() if score == min(lower.values())}
    if not lower:
        return None
    rejected = drawn.choice(list(lower))
    return row[chosen], row[rejected], chosen, rejected, scores[chosen], scores[rejected]


def _score(arguments: Arguments, row: Row, answer: str) -> float | None:
    """Return the mean of an answer's scores, None where one is missing. Raises DdmakeError for what is no number."""
    found = {name: row[name] for name in _scores(arguments, answer)}
    for name, score in found.items():
        if not isinstance(score, (int, float, type(None))):
            raise DdmakeError(f"column {name!r} holds {score!r}, and a score is a number.")
    return None if None in found.values() else fmean(found.values())
