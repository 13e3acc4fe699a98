"""Scores of answers by a reward model, and the best of several by its score."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Free, Model, Prompt, StoredRows
from ddmake.ddfile.specs import DTYPES
from ddmake.ddfile.target import ModelName
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.columns import Columns, added, free, need

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
ROWS = 1000  # that are rendered, and sorted by length, at once


def _rewarded(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `score`."""
    columns, prompt = inputs["rows"], arguments["prompt"]
    if prompt is not None:
        prompt.need(columns)
    for name in [*([] if prompt else ["prompt"]), *_names(arguments["answer"])]:
        need(columns, name, "to score" if name != "prompt" else "to show")
    for name in ("batch_size", "max_length"):
        if arguments[name] is not None and arguments[name] < 1:
            raise DdfileError(f"{name}={arguments[name]}; it is at least 1.")
    if arguments["dtype"] not in (None, *DTYPES[1:]):
        raise DdfileError(f"dtype={arguments['dtype']!r} is none of {', '.join(DTYPES[1:])}."
                          f"{did_you_mean(arguments['dtype'], DTYPES[1:])}")
    if arguments["revision"] is not None and not isinstance(arguments["model"], ModelName):
        raise DdfileError("revision= is of a model on the Hub, and this one is a folder. Leave it out.")
    free(columns, _adds(arguments).values(), "score")
    return added(columns, *_adds(arguments).values())


@step(version="1", columns=_rewarded, by_row="rows")
def score(rows: StoredRows, *, model: Model, prompt: Prompt | None = None, answer: str | Sequence[str] = "answer",
          column: str = "score", max_length: int | None = None, revision: str | None = None, dtype: str | None = None,
          batch_size: Free = 32) -> "Batches":
    """Add the score that a reward model gives to each row's answer.

    The model is one that `reward_model` made, or another sequence classifier with one output, whole or an adapter. It is shown
    prompt and answer as it was in training: by its chat template, or else as prompt, separator, answer and end token; an encoder
    reads them as a pair. Of several columns in `answer` each has its score in `<answer>_<column>`. An answer that is null, or
    longer than the model reads with its prompt (or than `max_length` tokens), has none.
    """
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, features_of, schema_of

    arguments = locals()
    schema = pa.schema([*schema_of(rows), *(pa.field(name, pa.float64()) for name in _adds(arguments).values())])
    return Batches(_scored(rows, arguments), features_of(rows), schema)


def _names(answer: str | Sequence[str]) -> list[str]:
    return [answer] if isinstance(answer, str) else list(answer)


def _adds(arguments: Arguments) -> dict[str, str]:
    """Return the column that is added for each column of answers."""
    answer, column = arguments["answer"], arguments["column"]
    return {answer: column} if isinstance(answer, str) else {name: f"{name}_{column}" for name in answer}


def _scored(rows: Any, arguments: Arguments) -> "Iterator[pa.RecordBatch]":
    """Yield batches of rows with their scores, and tell of answers that are too long."""
    import pyarrow as pa

    from ddmake.artifacts.rows import read, texts_in
    from ddmake.backends.rewards import load, rewards
    from ddmake.rules.texts import beside

    rewarder = load(arguments["model"], arguments["dtype"], arguments["max_length"], arguments["batch_size"])
    long = 0
    for batch in read(rows, size=ROWS):
        prompts, found = _prompts(batch, arguments["prompt"]), {}
        for name, column in _adds(arguments).items():
            texts = texts_in(batch.column(name), name)
            there = [number for number, text in enumerate(texts) if text is not None and prompts[number] is not None]
            scores = dict(zip(there, rewards(rewarder, [prompts[one] for one in there], [texts[one] for one in there])))
            long += sum(score is None for score in scores.values())
            found[column] = pa.array([scores.get(number) for number in range(len(texts))], pa.float64())
        yield beside(batch, found)
    if long:
        print(f"score: no score for {long} of the answers: with the prompt longer than {rewarder.max_length} tokens", flush=True)


def _prompts(batch: "pa.RecordBatch", prompt: Any) -> list[Any]:
    """Return what the model is shown before each answer: messages; None where the prompt is null."""
    if prompt is not None:
        return [prompt.messages(**row) for row in batch.to_pylist()]
    from ddmake.artifacts.rows import texts_in

    texts = texts_in(batch.column("prompt"), "prompt")
    return [None if text is None else ({"role": "user", "content": text},) for text in texts]


def _best(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `best_of`."""
    columns = inputs["rows"]
    if not _names(arguments["by"]):
        raise DdfileError("best_of: by= names the columns in which the samples of one question are alike: at least one.")
    for name in _names(arguments["by"]):
        need(columns, name, "to tell apart by")
    need(columns, arguments["score"], "of scores")
    return columns


@step(version="1", columns=_best)
def best_of(rows: StoredRows, *, by: str | Sequence[str], score: str = "score") -> Any:
    """Keep, of the rows that are alike in the columns `by`, the one with the highest score: the best of n samples.

    `score` names the column of scores, as `score` and `rate` add it. Of equals the first is kept; rows stay in their order. A
    row without a score is never the best, and where no row has one none is kept.
    """
    from ddmake.rules.texts import those

    best: dict[str, tuple[float, int]] = {}
    groups = set()
    for number, (key, value) in enumerate(_keyed(rows, _names(by), score)):
        groups.add(key)
        if value is not None and (key not in best or value > best[key][0]):
            best[key] = (value, number)
    if len(best) < len(groups):
        print(f"best_of: {len(groups) - len(best)} of {len(groups)} are left out: none of their rows has a {score}", flush=True)
    kept = {number for _, number in best.values()}
    return those(rows, [number in kept for number in range(len(rows))])


def _keyed(rows: Any, by: Sequence[str], score: str) -> Iterator[tuple[str, float | None]]:
    """Yield what tells a row's group, and its score. Raises DdmakeError for a score that is no number."""
    from ddmake.artifacts.rows import read

    for batch in read(rows, list(dict.fromkeys([*by, score]))):
        for row in batch.to_pylist():
            value = row[score]
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value)):
                raise DdmakeError(f"best_of: column {score!r} holds {value!r}, and a score is a number.")
            yield json.dumps([row[name] for name in by], default=str), value
