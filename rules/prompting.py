"""Recipes that ask an llm."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ddmake import step
from ddmake.ddfile.inputs import Prompt, Rows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError

OnError = Literal["keep", "drop", "raise"]


def _generated(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """Tell the columns of `generate`."""
    if arguments["n"] < 1:
        raise DdfileError(f"n is the number of rows, at least 1, not {arguments['n']}.")
    _need(arguments, [])
    return [arguments["column"]]


def _transformed(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str] | None:
    """Tell the columns of `transform`, whose prompt reads those of its input."""
    columns = inputs["rows"]
    _need(arguments, columns)
    return None if columns is None else list(dict.fromkeys([*columns, arguments["column"]]))


def _need(arguments: Mapping[str, Any], columns: Sequence[str] | None) -> None:
    known = None if columns is None else [*columns, *(arguments["variables"] or ())]
    for template in (arguments["prompt"], arguments["system"]):
        if template is not None:
            template.need(known)


@step(version="1", columns=_generated)
def generate(*, llm: LLM, prompt: Prompt, n: int, column: str = "text", system: Prompt | None = None,
             variables: Mapping[str, Any] | None = None, accept: Sequence[str] = (),
             on_error: OnError = "keep") -> Iterator[dict[str, Any]]:
    """Ask an llm for n texts by one prompt: n samples of the same request, unless the temperature is 0."""
    messages = _messages(prompt, system, dict(variables or {}))
    yield from _answered(({} for _ in range(n)), (messages for _ in range(n)), llm, column, accept, on_error)


@step(version="1", columns=_transformed)
def transform(rows: Rows, *, llm: LLM, prompt: Prompt, column: str = "text", system: Prompt | None = None,
              variables: Mapping[str, Any] | None = None, accept: Sequence[str] = (),
              on_error: OnError = "keep") -> Iterator[dict[str, Any]]:
    """Ask an llm once per row, by a prompt over the row's columns, and add its answer as a column."""
    prompts = (_messages(prompt, system, {**(variables or {}), **row}) for row in rows)
    yield from _answered(iter(rows), prompts, llm, column, accept, on_error)


def _messages(prompt: Any, system: Any, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the chat messages for one row."""
    turns = list(prompt.messages(**row))
    return turns if system is None else [{"role": "system", "content": system.render(**row)}, *turns]


def _answered(rows: Iterator[dict[str, Any]], prompts: Iterable[Any], llm: Any, column: str, accept: Sequence[str],
              on_error: OnError) -> Iterator[dict[str, Any]]:
    """Yield each row with its answer; what becomes of a row without a usable one is for `on_error` to say.

    A cut answer counts as none, unless "length" is accepted. Raises DdmakeError at the end, where `on_error` is "raise" or
    not one row has a usable answer.
    """
    failed, usable = [], 0
    for row, answer in zip(rows, llm.stream(prompts)):
        wrong = answer.error or ("cut at max_tokens" if answer.finish_reason == "length" and "length" not in accept else None)
        if wrong:
            failed.append(wrong)
        usable += not wrong
        if not wrong or on_error == "keep":
            yield {**row, column: None if wrong else str(answer)}
    if failed and (on_error == "raise" or not usable):
        raise DdmakeError(f"{len(failed)} of {len(failed) + usable} rows have no usable answer; the first: {failed[0]}")
