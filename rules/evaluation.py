"""How good models are at a task: their answers beside the references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from ddmake import step
from ddmake.backends.providers import is_remote
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Asked, Prompt, Rows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules import metrics as named
from ddmake.rules.columns import free, need
from ddmake.rules.scoring import Part, Score, check_share, columns, stored
from ddmake.rules.varied import varied

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]


def _parts(answers: bool) -> list[str]:
    """Return the names of what `evaluate` makes, where it is more than scores."""
    return ["scores", "answers"] if answers else []


def _scored(inputs: Inputs, arguments: Arguments) -> None:
    """Check the columns of `evaluate`'s rows; its own aren't known before, since what was varied is among them."""
    if not isinstance(inputs["models"], Mapping) or not inputs["models"]:
        raise DdfileError('evaluate: give a dict of names to models, and at least one, as {"base": "tiny-base"}.')
    there = inputs["rows"]
    arguments["prompt"].need(there)
    need(there, arguments["reference"], "to compare with")
    found = named.names(arguments["metrics"])
    check_share(arguments["interval"])
    if arguments["answers"]:
        free(there, ("model", "answer", *found), "evaluate(…, answers=True)")


def _asked(inputs: Inputs, arguments: Arguments) -> Iterator[Asking]:
    """Tell what `evaluate` asks those of its models that are llms."""
    _check_local(inputs["models"], arguments["metrics"])
    if not _writes(arguments["metrics"], arguments["answers"]):
        return
    turns = _turns(_kept(inputs["rows"], arguments["reference"]), arguments["prompt"])
    yield from (Asking(model, turns) for model in inputs["models"].values() if isinstance(model, LLM) or hasattr(model, "look"))


def _writes(metrics: Sequence[Any], answers: bool) -> bool:
    """Tell whether models have to answer: not for the perplexity alone."""
    return answers or any(metric != "perplexity" for metric in metrics)


def _check_local(models: Mapping[str, Any], metrics: Sequence[Any]) -> None:
    """Raise DdmakeError for a perplexity of a model that tells none."""
    for name, model in models.items():
        spec = getattr(model, "spec", model)
        if "perplexity" in metrics and isinstance(spec, LLM) and (is_remote(spec) or spec.name == "echo"):
            raise DdmakeError(f"evaluate: perplexity takes models that run here, and {name!r} is llm({str(spec.name)!r}), which "
                              "doesn't tell how likely a given text is. Leave the metric out, or evaluate that model by itself.")


def _kept(rows: Any, reference: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if named.read(row[reference])]


def _turns(rows: Sequence[Mapping[str, Any]], prompt: Any) -> list[Sequence[Mapping[str, str]]]:
    return [prompt.messages(**row) for row in rows]


@dataclass(frozen=True)
class _Asked:
    """A model and the prompts of all rows; it answers when the first score asks for the texts."""

    model: Any
    turns: list[Sequence[Mapping[str, str]]]

    @cached_property
    def texts(self) -> list[str]:
        return self.model.complete(self.turns)


@step(version="3", names=_parts, columns=_scored, asks=_asked)
def evaluate(models: Annotated[dict[str, Any], Asked], rows: Rows, *, prompt: Prompt, reference: str,
             metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",), answers: bool = False, interval: float | None = None,
             seed: int = 0, max_tokens: int = 256, separator: str = "\n") -> Any:
    """Compare models on the same rows: each answers every prompt greedily, and its answers are scored.

    A model gives one row: its name in `model`, each metric, how many `rows` there were, and what was varied: those settings of
    their trainings, and parameters of llms, in which the models differ. In points of 100, as means over rows: `exact_match`,
    `accuracy` (of labels, without case, space and punctuation around them), `f1` (of words, as SQuAD's: Rajpurkar et al. 2016,
    arXiv 1606.05250), `rouge_1`, `rouge_2` and `rouge_l` (F-measures, unstemmed, Lin 2004). Of all rows together: `macro_f1` (of
    labels), `bleu` and `chrf` (by sacrebleu, whose signature stands beside them: Papineni et al. 2002, Popović 2015, Post 2018,
    arXiv 1804.08771), and `perplexity` of the references given their prompts, per token of the model's own, the end not counted;
    local models alone tell it. Any function of (answer, row) may be a metric, whose mean is taken; where it returns None the row
    isn't counted. A reference may be a list of several. Rows whose reference is null are left out. With `interval`, as 0.95,
    `<metric>_low` and `<metric>_high` hold the bootstrap's interval by `seed`. With `answers` there are two outputs, `scores`
    and `answers`: a row for each model and row, with the `answer` and its own scores.

    A model that is given as an llm() is asked as that says. Answers are kept. A prompt that is too long for a model counts as an
    empty answer. `separator` ends the prompts of models without a chat template whose training has not recorded another one.
    """
    _check_local(models, metrics)
    kept = _kept(rows, reference)
    scores = named.pick(metrics, kept, [named.read(row[reference]) for row in kept])
    turns, settings = _turns(kept, prompt), varied(models)
    table, said = [], []
    for name, model in models.items():
        asked = _Asked(model, turns)
        parts = {metric: score.parts(asked) for metric, score in scores.items()}
        found = {key: value for metric, score in scores.items()
                 for key, value in {**columns(metric, score.of_sums, parts[metric], interval, seed), **score.remarks}.items()}
        table.append({"model": name, **found, "rows": len(kept), **{k: v for k, v in settings[name].items() if k not in found}})
        said += _answers(name, asked, kept, scores, parts) if answers else []
    made = stored(table, [f"{metric}{end}" for metric in scores for end in ("", "_low", "_high")])
    return {"scores": made, "answers": said} if answers else made


def _answers(name: str, asked: _Asked, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Score],
             parts: Mapping[str, Sequence[Part]]) -> Iterator[dict[str, Any]]:
    """Yield a model's answers, each with its row and with what it scores by itself."""
    own = [metric for metric, score in scores.items() if score.rowwise]
    for number, (row, text) in enumerate(zip(rows, asked.texts, strict=True)):
        given = {metric: part and part[0] for metric in own for part in [parts[metric][number]]}
        yield {"model": name, **row, "answer": str(text), **given}
