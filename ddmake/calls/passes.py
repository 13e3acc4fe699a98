"""Passes over llms as the caller sees them: a worker's connection, what it asks for, and the calls that it waits for."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddmake.backends.base import Answer, Request, Service
from ddmake.calls import frames
from ddmake.calls.cache import Payer
from ddmake.calls.flow import Flow
from ddmake.calls.prices import Price
from ddmake.ddfile.specs import LLM


class Line:
    """A worker's connection: what is told to it is gathered, and written once a turn of the loop."""

    def __init__(self, writer: asyncio.StreamWriter):
        self.writer = writer
        self.passes: dict[int, Pass] = {}
        self._answers: list[Any] = []

    def answer(self, pass_: "Pass", number: int, answer: Answer, cached: bool) -> None:
        """Tell an answer."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._answers.append([pass_.number, number, frames.of_answer(answer), cached])

    def say(self, told: Mapping[str, Any]) -> None:
        """Tell something, after the answers before it."""
        self._flush()
        if not self.writer.is_closing():
            self.writer.write(frames.packed(told))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers and not self.writer.is_closing():
            self.writer.write(frames.packed({"answers": answers}))


@dataclass(eq=False)
class Pass:
    """A worker's pass over an llm."""

    number: int
    line: Line
    spec: LLM
    service: Service
    flow: Flow
    payer: Payer
    price: Price | None
    schema: Mapping[str, Any] | None
    tools: Any
    cache: bool
    over: bool = False  # whether no more is to be sent for it


@dataclass(eq=False)
class Call:
    """A call that is being made, and who waits for it."""

    key: bytes
    request: Request
    anew: bool
    by: Pass  # which pass it is made for
    waiting: list[tuple[Pass, int]] = field(default_factory=list)
    sent: bool = False  # whether a try is in flight: it is paid for, and isn't broken off
    kept: bool = False  # whether its answer is known from now on
    billed: Answer | None = None  # an answer that was paid for while another is asked for in its place
    worst: float = 0.0  # dollars that are set aside for it while it is in a batch
    task: "asyncio.Task[None] | None" = None  # none where it is in a batch

    @property
    def over(self) -> bool:
        """Tell whether nobody waits for it any more."""
        return all(pass_.over for pass_, _ in self.waiting)

    def give(self, answer: Answer, cached: bool = False) -> None:
        """Hand an answer to all who wait for it; only one of them has paid."""
        for place, (pass_, number) in enumerate(self.waiting):
            pass_.line.answer(pass_, number, answer, cached or place > 0)
        self.waiting = []


def stopped() -> Answer:
    """Return the answer to what isn't sent any more."""
    return Answer(error="stopped before it was sent")
