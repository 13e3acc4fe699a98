"""How good models are at a task: their answers beside the references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Asked, Prompt, Rows
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
def evaluate(models: Annotated[dict[str, Any], Asked], rows: Rows, *, prompt: Prompt, reference: str,
             metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",), max_tokens: int = 256,
             separator: str = "\n") -> Iterator[dict[str, Any]]:
    """Compare models on the same rows: each answers every prompt greedily, and its answers are scored.

    A model gives one row: its name, the mean of each metric, and how many rows there were. `rouge_l` is the F-measure
    of ROUGE-L (Lin 2004) in points of 100, unstemmed; `exact_match` is in points of 100 too; any function of
    (answer, row) may be a metric, and where it returns None the row isn't counted. Rows whose reference is null are
    left out. A model that is given as an llm() is asked as that says. Answers are kept. A prompt that is too long for a
    model counts as an empty answer. `separator` ends the prompts of models without a chat template whose training has not
    recorded another one.
    """
    chosen = scores.pick(metrics, reference)
    if reference not in rows.column_names:
        raise DdmakeError(f"evaluate: there is no column {reference!r}. Columns: {', '.join(rows.column_names)}.")
    kept = _kept(rows, reference)
    turns = _turns(kept, prompt)
    for name, model in models.items():
        answers = model.complete(turns)
        means = {label: scores.mean([metric(answer, row) for answer, row in zip(answers, kept, strict=True)])
                 for label, metric in chosen.items()}
        yield {"model": name, **means, "rows": len(kept)}
