"""Fine-tuning of models by a service that has them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ddmake import train
from ddmake.backends import providers
from ddmake.backends.base import Answer, Request
from ddmake.ddfile.asking import Tuning
from ddmake.ddfile.inputs import TUNED, Free, Parts, Progress, Prompt
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.chats import chat
from ddmake.rules.columns import need as need_column
from ddmake.rules.learning import Arguments, Inputs, check, columns_of, named_parts

KNOBS = {"epochs": "n_epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate_multiplier", "beta": "beta"}
ROADS = "Fine-tuning goes through services that speak as OpenAI's does: openai/…, azure/…, or any other with base_url=."
MILLION = 1e6

Row = Mapping[str, Any]


def _hosted(inputs: Inputs, arguments: Arguments) -> None:
    """Check whom `finetune_hosted` asks, the columns of its rows, and what is said of the training."""
    check(inputs, arguments)
    base, prompt, messages = arguments["base"], arguments["prompt"], arguments["messages"]
    if not providers.is_remote(base) or providers.road(providers.like(base)) != "http":
        raise DdfileError(f"finetune_hosted: base llm({str(base.name)!r}) isn't tuned that way. {ROADS}")
    if arguments["method"] == "supervised" and arguments["beta"] is not None:
        raise DdfileError('finetune_hosted: beta= is of method="dpo". Leave it out.')
    if messages and (prompt or arguments["method"] == "dpo" or arguments["completion"] != "completion"):
        raise DdfileError("finetune_hosted learns from messages=, or from a prompt and what follows it, not from both.")
    there = columns_of(inputs["parts"])
    if prompt is not None:
        prompt.need(there)
    for name in Learned(arguments).needed:
        need_column(there, name, "to learn from")


def _tuning(inputs: Inputs, arguments: Arguments) -> Iterator[Tuning]:
    """Tell what `finetune_hosted` has a service learn."""
    lines = Learned(arguments)
    yield Tuning(arguments["base"], map(lines.text, lines.whole(named_parts(inputs["parts"])["train"])), arguments["epochs"],
                 arguments["price"])


@train(version="1", columns=_hosted, asks=_tuning)
def finetune_hosted(parts: Annotated[Any, Parts("train", observed=("validation",))], *, base: Annotated[LLM, TUNED],
                    prompt: Prompt | None = None, completion: str = "completion", messages: str | None = None,
                    method: Literal["supervised", "dpo"] = "supervised", chosen: str = "chosen", rejected: str = "rejected",
                    epochs: int = 3, batch_size: int | None = None, learning_rate_multiplier: float | None = None,
                    beta: float | None = None, seed: int = 0, suffix: Annotated[str | None, Free] = None,
                    price: Annotated[float | None, Free] = None, output: Path, checkpoints: Path, progress: Progress) -> None:
    """Have a service fine-tune a model of its own, through the fine-tuning API that OpenAI's has made known.

    Supervised, it learns to write each row's completion after its prompt; by "dpo", to prefer the chosen answer to the rejected
    one (Rafailov et al. 2023, arXiv 2305.18290). The rows are sent there, and the model stays there: what is made here is a
    folder with its name, by which `llm()` asks it. How the service trains is its own; what it tells of that is kept.
    """
    arguments = locals()
    from ddmake.trainers import hosted as trainer

    shown = Learned(arguments)
    rows = {part: shown.lines(rows, part) for part, rows in named_parts(parts).items()}
    stated = {sent: arguments[name] for name, sent in KNOBS.items() if arguments[name] is not None}
    order = trainer.Order(method, stated, seed, checkpoints.parent.name, suffix)  # the scratch folder goes by the job's key
    files = {part: "".join(f"{line}\n" for line in lines).encode() for part, lines in rows.items()}
    found = trainer.tune(base.backend.spec, order, files, checkpoints, progress)
    _charge(base, found, price)
    told = {"base": found["base"], "examples": len(rows["train"]), "method": method, "seed": found["seed"],
            **{name: found["hyperparameters"].get(sent) for name, sent in KNOBS.items()}}
    trainer.write(found, told, output)


def _charge(base: Any, found: Mapping[str, Any], price: float | None) -> None:
    """Note what a training has cost, once a job: beside the calls, for `ddmake cost`, and in the usage, for cards."""
    tokens = found["trained_tokens"]
    paid = None if price is None or tokens is None else tokens * price / MILLION
    base.usage.sent, base.usage.tokens_in, base.usage.cost = 1, tokens, paid
    told = Request(({"role": "user", "content": f"fine-tuning job {found['job']}"},))
    key = hashlib.blake2b(f"{found['base_url']} {found['job']}".encode(), digest_size=16).digest()
    base.calls.put(key, told, Answer(found["model"], model=found["model"], cost=paid), replace(base.payer, priced="given"))


class Learned:
    """What a service learns of rows, in its own form of JSON lines."""

    def __init__(self, arguments: Arguments):
        self.prompt, self.messages, self.dpo = arguments["prompt"], arguments["messages"], arguments["method"] == "dpo"
        self.texts = [arguments[name] for name in (("chosen", "rejected") if self.dpo else ("completion",))]
        self.needed = [self.messages] if self.messages else [*([] if self.prompt else ["prompt"]), *self.texts]

    def lines(self, rows: Any, part: str) -> Sequence[str]:
        """Return a line for each row without a null, and print how many have one. Raises DdmakeError where none is left."""
        for name in self.needed:
            if name not in rows.column_names:
                raise DdmakeError(f"finetune_hosted: there is no column {name!r}. Columns: {', '.join(rows.column_names)}."
                                  f"{did_you_mean(name, rows.column_names)}")
        lines = [json.dumps(self.line(row), ensure_ascii=False) for row in self.whole(rows)]
        if len(lines) < len(rows):
            print(f"finetune_hosted: {len(rows) - len(lines)} of {len(rows)} rows of {part} left out: null in "
                  f"{', '.join(self.needed)}", flush=True)
        if not lines:
            raise DdmakeError(f"finetune_hosted: no row to learn from in {part}; {len(rows)} given.")
        return lines

    def whole(self, rows: Any) -> Iterator[Row]:
        """Yield the rows that have all that is learned from."""
        return (row for row in rows if all(row[name] is not None for name in self.needed))

    def line(self, row: Row) -> dict[str, Any]:
        """Return a row as the service takes it."""
        if self.messages:
            turns = chat(row[self.messages], f"finetune_hosted: column {self.messages!r}")
            return {"messages": [{name: value for name, value in turn.items() if value is not None} for turn in turns]}
        asked = self.prompt.messages(**row) if self.prompt else [_turn("user", self._text(row, "prompt"))]
        turns = [dict(turn) for turn in asked]
        answers = [_turn("assistant", self._text(row, name)) for name in self.texts]
        if self.dpo:
            return {"input": {"messages": turns}, "preferred_output": answers[:1], "non_preferred_output": answers[1:]}
        return {"messages": [*turns, *answers]}

    def text(self, row: Row) -> str:
        """Return a row's messages as JSON, by which its tokens are reckoned."""
        found = self.line(row)
        if self.dpo:
            found = {"messages": [*found["input"]["messages"], *found["preferred_output"], *found["non_preferred_output"]]}
        return json.dumps(found, ensure_ascii=False)

    def _text(self, row: Row, column: str) -> str:
        if not isinstance(row[column], (str, int, float, bool)):
            raise DdmakeError(f"finetune_hosted: column {column!r} holds {type(row[column]).__name__}; text is needed. "
                              "Make it by .map().")
        return str(row[column])


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
