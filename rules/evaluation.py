"""How good models are at a task: their answers beside the references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Model, Prompt, Rows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules import metrics as scores


def _scored(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """Tell the columns of `evaluate`, whose prompt and reference are among those of its rows."""
    columns, reference = inputs["rows"], arguments["reference"]
    arguments["prompt"].need(columns)
    if columns is not None and reference not in columns:
        raise DdfileError(f"there is no column {reference!r} to compare with. There are: {', '.join(columns)}."
                          f"{did_you_mean(reference, columns)}")
    return ["model", *scores.names(arguments["metrics"]), "rows"]


def _asked(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Asking]:
    """Tell what `evaluate` asks those of its models that are llms."""
    turns = _turns(_kept(inputs["rows"], arguments["reference"]), arguments["prompt"])
    yield from (Asking(model, turns) for model in inputs["models"].values() if isinstance(model, LLM) or hasattr(model, "look"))


def _kept(rows: Any, reference: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row[reference] is not None]


def _turns(rows: Sequence[Mapping[str, Any]], prompt: Any) -> list[Sequence[Mapping[str, str]]]:
    return [prompt.messages(**row) for row in rows]


@step(version="1", columns=_scored, asks=_asked)
def evaluate(models: Annotated[dict[str, Any], Model], rows: Rows, *, prompt: Prompt, reference: str,
             metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",), max_tokens: int = 256,
             separator: str = "\n") -> Iterator[dict[str, Any]]:
    """Compare models on the same rows: each answers every prompt greedily, and its answers are scored.

    A model gives one row: its name, the mean of each metric, and how many rows there were. `rouge_l` is the F-measure
    of ROUGE-L (Lin 2004) in points of 100, unstemmed; `exact_match` is in points of 100 too; any function of
    (answer, row) may be a metric, and where it returns None the row isn't counted. Rows whose reference is null are
    left out. A model that is given as an llm() is asked as that says, and its answers are kept. A prompt that is too
    long for a model counts as an empty answer.
    """
    chosen = scores.pick(metrics, reference)
    if reference not in rows.column_names:
        raise DdmakeError(f"evaluate: there is no column {reference!r}. Columns: {', '.join(rows.column_names)}.")
    kept = _kept(rows, reference)
    turns = _turns(kept, prompt)
    for name, model in models.items():
        answers = ask(model, turns, max_tokens, separator)
        means = {label: scores.mean([metric(answer, row) for answer, row in zip(answers, kept, strict=True)])
                 for label, metric in chosen.items()}
        yield {"model": name, **means, "rows": len(kept)}


def ask(model: Any, turns: Sequence[Sequence[Mapping[str, str]]], max_tokens: int, separator: str) -> list[str]:
    """Return the answers of an opened llm, or the greedy ones of a model's folder or Hub name, to chat messages in order."""
    if hasattr(model, "complete"):
        return [str(answer) for answer in model.complete(turns)]
    from ddmake.backends.base import Request
    from ddmake.backends.models import need

    need("transformers", "local", "evaluate")
    from ddmake.backends.hf import LocalModel

    backend = LocalModel(model, separator=separator, sampling={"temperature": 0, "max_tokens": max_tokens})
    requests = ((number, 0, Request(tuple(messages))) for number, messages in enumerate(turns))
    answers = dict(backend.answers(requests))
    backend.close()
    return [answers[number] for number in range(len(turns))]
