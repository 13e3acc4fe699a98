"""Prompts that show examples: `few_shot`."""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking, Embedding, NotYet
from ddmake.ddfile.inputs import Prompt, Schema, StoredRows
from ddmake.ddfile.specs import LLM, Embedder
from ddmake.errors import DdfileError, DdmakeError
from ddmake.fingerprint import hashes
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.columns import added, need
from ddmake.rules.fitting import Fitting, nearest
from ddmake.rules.texts import each
from ddmake.rules.wording import Turn, Wording

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Parse = Callable[..., Any]  # (text, row) -> a value, or a dict of columns
Row = Mapping[str, Any]

SEEN = ("instruction", "examples", "inputs", "output", "row")  # what the prompt sees beside the row's columns
NEAREST = 5  # examples that are sought for a row, where k doesn't say


def _shown(inputs: Inputs, arguments: Arguments) -> list[str] | None:
    """Tell the columns of `few_shot`."""
    for name in ("k", "context"):
        if arguments[name] is not None and arguments[name] < 1:
            raise DdfileError(f"{name} is a number of at least 1, not {arguments[name]}.")
    if not 0 <= arguments["min_examples"] <= (arguments["k"] or arguments["min_examples"]):
        raise DdfileError(f"min_examples is a number from 0 to k, not {arguments['min_examples']}.")
    if arguments["shuffle"] and arguments["embedder"] is not None:
        raise DdfileError("with embedder= the nearest examples are shown, in their order: leave out shuffle=.")
    for name in _inputs(arguments):
        need(inputs["rows"], name, "to show")
        need(inputs["examples"], name, "in the examples")
    need(inputs["examples"], arguments["answer"], "of answers in the examples")
    Wording.of(arguments).check(added(inputs["rows"], *SEEN))
    taking = Taking.of(arguments, arguments["column"])
    taking.check(inputs["rows"])
    return taking.told(inputs["rows"])


def _asking(inputs: Inputs, arguments: Arguments) -> Iterator[Asking | Embedding]:
    """Tell what `few_shot` asks: each row once. Which examples are nearest isn't known before all have their vectors."""
    rows, examples = inputs["rows"], inputs["examples"]
    if arguments["embedder"] is None:
        yield Asking(arguments["llm"], _prompts(rows, _usable(examples, arguments), arguments), arguments["schema"])
        return
    usable = _usable(examples, arguments)
    for texts, of in (((_text(one, arguments) for one in usable), examples), (_texts(rows, arguments), rows)):
        yield Embedding(arguments["embedder"], (text for text in texts if text is not None), of)
    yield Asking(arguments["llm"], _unknown(), arguments["schema"])


def _unknown() -> Iterator[list[Turn]]:
    raise NotYet("which examples are nearest isn't known before it runs.")
    yield


@step(version="1", columns=_shown, asks=_asking, by_row="rows")
def few_shot(rows: StoredRows, examples: StoredRows, *, llm: LLM, instruction: str = "", inputs: str | Sequence[str] = "text",
             answer: str = "answer", k: int | None = None, min_examples: int = 1, shuffle: bool = False, seed: int = 0,
             embedder: Embedder | None = None, context: int | None = None, prompt: Prompt = "few_shot.j2",
             system: Prompt | None = None, variables: Mapping[str, Any] | None = None, column: str = "answer",
             schema: Schema | None = None, parse: Parse | None = None, meta: bool = False, accept: Collection[str] = (),
             on_error: OnError = "keep") -> "Batches":
    """Ask an llm about each row after showing it examples, and add the answer as a column.

    `inputs` names the columns that are shown of a row and of an example, `answer` the examples' column of answers; an example
    that lacks one of these is left out. The first k examples are shown, in their order, or as many of them as the llm's context
    has room for; with `shuffle` they are drawn for each row, from the seed and the row. With an embedder the k examples nearest
    to the row are shown (5, unless k is given), the nearest last. `min_examples` are shown even where there is no room: the
    model then refuses the row, which fails. `context` is the number of tokens that the llm takes, where ddmake doesn't know it.

    The prompt sees `instruction`, `examples`, a list of rows, `inputs` and `output`, the names of the columns, `row`, which has
    the row's inputs by name, and the row's columns. A null is shown as nothing, and without any text no example is nearer
    than another. This is few-shot prompting (Brown et al. 2020, arXiv 2005.14165), with an embedder as Liu et al. 2021 (arXiv
    2101.06804) choose examples.
    """
    arguments = locals()
    usable = _usable(examples, arguments)
    if len(usable) < min_examples:
        raise DdmakeError(f"min_examples={min_examples}, and {len(usable)} of {len(examples)} examples have "
                          f"{', '.join(_needed(arguments))}. Give more examples, or lower min_examples.")
    found = None if embedder is None else _nearest(rows, usable, arguments)
    asking = Asking(llm, _prompts(rows, usable, arguments, found), schema)
    return answered(rows, asking, Taking.of(arguments, arguments["column"]))


def _inputs(arguments: Arguments) -> Sequence[str]:
    return [arguments["inputs"]] if isinstance(arguments["inputs"], str) else arguments["inputs"]


def _usable(examples: Any, arguments: Arguments) -> list[Row]:
    """Return the examples that have all that is shown."""
    needed = _needed(arguments)
    return [row for row in each(examples, examples.column_names) if all(row[name] is not None for name in needed)]


def _needed(arguments: Arguments) -> list[str]:
    return [*_inputs(arguments), arguments["answer"]]


def _text(row: Row, arguments: Arguments) -> str | None:
    """Return what a row's nearest examples are sought by; None where it has no text."""
    texts = [str(row[name]) for name in _inputs(arguments) if row[name] is not None]
    return "\n".join(texts) if any(text.strip() for text in texts) else None


def _texts(rows: Any, arguments: Arguments) -> Iterator[str | None]:
    return (_text(row, arguments) for row in each(rows, _inputs(arguments)))


def _nearest(rows: Any, usable: Sequence[Row], arguments: Arguments) -> list[list[int]]:
    """Return for each row the numbers of the examples that are nearest to it, the nearest first; none for one without text."""
    import pyarrow as pa

    from ddmake.artifacts.stored import Stored

    queries, known = ([*texts] for texts in (_texts(rows, arguments), (_text(one, arguments) for one in usable)))
    stored = [Stored(pa.table({"text": pa.array(texts, pa.string())}), {}) for texts in (queries, known)]
    return nearest(*stored, embedder=arguments["embedder"], k=arguments["k"] or NEAREST).column("ids").to_pylist()


def _prompts(rows: Any, usable: Sequence[Row], arguments: Arguments, found: Sequence[list[int]] | None = None
             ) -> Iterator[list[Turn]]:
    """Yield the chat messages for each row, with as many examples as there is room for."""
    from ddmake.calls.context import context_of

    wording, names = Wording.of(arguments), _inputs(arguments)
    wording.check(added(rows.column_names, *SEEN))
    fitting = Fitting(context_of(arguments["llm"], arguments["context"]), arguments["min_examples"])
    told = {"instruction": arguments["instruction"], "inputs": names, "output": arguments["answer"]}
    for number, row in enumerate(each(rows, list(dict.fromkeys([*wording.reads(rows.column_names), *names])))):
        near = found and found[number]
        chosen = _chosen(row, usable, arguments, near)

        says = partial(_worded, wording, {**row, **told, "row": {name: row[name] for name in names}}, chosen, bool(near))
        yield says(fitting.most(says, len(chosen)))


def _worded(wording: Wording, seen: Row, chosen: Sequence[Row], turned: bool, count: int) -> list[Turn]:
    """Return the chat messages for one row with so many examples; `turned`, the first stands last."""
    return wording.turns({**seen, "examples": chosen[:count][::-1] if turned else chosen[:count]})


def _chosen(row: Row, usable: Sequence[Row], arguments: Arguments, near: list[int] | None) -> Sequence[Row]:
    """Return the examples that a row is shown if there is room, those to be kept the longest first."""
    count = min(len(usable), arguments["k"] or len(usable))
    if near:
        return [usable[number] for number in near]
    if arguments["embedder"] is not None:
        return usable[:min(count, arguments["k"] or NEAREST)]
    if arguments["shuffle"]:
        values = [row[name] for name in _inputs(arguments)]
        return random.Random(hashes.of_value([arguments["seed"], *values])).sample(usable, count)
    return usable[:count]
