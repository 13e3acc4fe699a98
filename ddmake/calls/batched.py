"""Calls that go through a provider's batch API: what batching.py needs of the caller, and what the caller asks of it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddmake.backends import structured
from ddmake.backends.base import Answer, Request
from ddmake.backends.batches import open_batches
from ddmake.calls.batchbook import Book
from ddmake.calls.batching import Batcher
from ddmake.calls.budget import worst_case
from ddmake.calls.cache import Payer
from ddmake.calls.passes import Call
from ddmake.calls.prices import cost, price_of
from ddmake.calls.sending import price
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from ddmake.calls.caller import Caller

LOOK = 0.05  # seconds between two looks whether what has come is on disk


class Batched:
    """The batches of one llm, for a caller."""

    def __init__(self, caller: "Caller", spec: LLM, session: Any):
        self.caller, self.spec = caller, spec
        self.batcher = Batcher(Book(caller.calls.path), open_batches(spec, session), self, spec.name)
        self._budget = caller.sender.budget
        self._fresh: set[bytes] = set()  # delivered, and perhaps not on disk yet
        self._adding: set[asyncio.Task[None]] = set()

    def add(self, call: Call) -> None:
        """Ask for an answer, in the next batch."""
        task = asyncio.create_task(self._add(call))
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)

    async def flush(self) -> None:
        """Hand over what was asked for so far."""
        await asyncio.gather(*self._adding)
        await self.batcher.flush()

    def drop(self, key: bytes) -> None:
        """Leave out a call that nobody waits for any more, if its batch isn't handed over yet."""
        self.batcher.drop(key)

    async def close(self) -> None:
        """Let go of the batches: they stay open at the provider, for the next run to collect."""
        await self.batcher.stop()

    def deliver(self, key: bytes, request: Request, answer: Answer, rule: str) -> None:
        """Take an answer: keep it, and give it to who waits for it."""
        call = self.caller.under_way.pop(key, None)
        self._fresh.add(key)
        if call is None:
            self._keep_unasked(key, request, answer, rule)
            return
        price(call.by, answer)
        self._budget.settle(call.worst, answer.cost)
        if answer.error is None and answer.finish_reason != "length" and request.schema is not None and not answer.tool_calls:
            problem = structured.read(str(answer), request.schema)[1]
            answer.error = f"breaks the schema: {problem}" if problem else None
        if not self.caller.keep(call, answer):
            self.caller.claims.release([key])
        call.give(answer)

    def _keep_unasked(self, key: bytes, request: Request, answer: Answer, rule: str) -> None:
        """Keep an answer that an earlier run has asked for, and nobody waits for now."""
        known = price_of(self.spec)
        answer.cost = cost(known, answer.tokens_in, answer.tokens_out, True, answer.tokens_cached)
        payer = Payer(self.spec.name, rule, known and known.told)
        if answer.error is None:
            self.caller.answered[key] = answer
            self.caller.calls.put(key, request, answer, payer)

    def refuse(self, keys: Iterable[bytes], error: DdmakeError) -> None:
        """Take word that these calls get no answer in this run."""
        for key in keys:
            call = self.caller.under_way.pop(key, None)
            if call is not None:
                self._budget.settle(call.worst, 0.0)
                self.caller.claims.release([key])
                self.caller.refuse(call, error)

    async def kept(self) -> None:
        """Return once all that was delivered is on disk."""
        while self._fresh & self.caller.answered.keys():
            await asyncio.sleep(LOOK)
        self._fresh.clear()

    def known(self, keys: Iterable[bytes]) -> Mapping[bytes, Answer]:
        """Return the answers that are known and count: none to a call that is made anew."""
        under_way = self.caller.under_way
        wanted = [key for key in keys if not (key in under_way and under_way[key].anew)]
        found = {key: self.caller.answered[key] for key in wanted if key in self.caller.answered}
        with self.caller.calls.writing:
            return {**self.caller.calls.get(wanted), **found}

    def tell(self, note: str) -> None:
        """Tell those who wait how far a batch is."""
        for line in self.caller.lines:
            for pass_ in line.passes.values():
                if pass_.spec == self.spec and not pass_.over:
                    line.say({"note": pass_.number, "told": note})

    async def _add(self, call: Call) -> None:
        try:
            if self._budget.limit is not None:
                worst = worst_case(self.spec, call.request)
                self._budget.take(worst)
                call.worst = worst
            await self.batcher.add(call.key, call.request, call.by.payer.rule)
            self.caller.sender.sent += 1
        except DdmakeError as error:
            self.refuse([call.key], error)
