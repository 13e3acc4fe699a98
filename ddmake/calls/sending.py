"""Sending a call: tries that may help, within limits and budget, and answers that are sent back to be mended."""

import asyncio
import random
from dataclasses import dataclass

from ddmake.backends import structured
from ddmake.backends.base import Answer, Request, Retry, Unreachable
from ddmake.calls import prices
from ddmake.calls.budget import Budget, worst_case
from ddmake.calls.flow import retry_delay
from ddmake.calls.passes import Call, Pass, stopped
from ddmake.errors import ProviderError

RETRIES = 8  # further tries, where the llm doesn't say
UNREACHABLE = 3  # further tries, where nobody answers at the address
REPAIRS = 2  # how often an answer that breaks the schema is sent back
LONGEST_WAIT = 3600.0  # seconds that a service may ask to wait: nobody sits through more
REFUSED = 400  # a status that says nothing of limits
CHARACTERS = 4  # a token, roughly: for limits by tokens
MEND = "That isn't what was asked for: {problem}. Answer again, with nothing but JSON that fits the schema."


class Sender:
    """Sends calls, and counts them. `closing` is set where nothing is to be tried again."""

    def __init__(self, budget: Budget):
        self.budget, self.sent, self.closing = budget, 0, False
        self._reached: set[str] = set()  # accounts that have replied

    async def answer(self, call: Call) -> Answer:
        """Return the answer to a call; one that breaks the schema is sent back to be mended.

        Raises ProviderError, or OverBudget, for what concerns more than this call.
        """
        request, paid = call.request, Paid()
        for _ in range(REPAIRS + 1):
            answer = paid.add(await self._tries(call, request))
            if call.request.schema is None or answer.error or answer.finish_reason == "length" or answer.tool_calls:
                return answer
            problem = structured.read(str(answer), call.request.schema)[1]
            if problem is None or call.over:
                break
            call.billed = answer
            request = Request((*request.messages, {"role": "assistant", "content": str(answer)},
                               {"role": "user", "content": MEND.format(problem=problem)}),
                              request.schema, request.tools, request.sample)
        if problem is not None:
            answer.error = f"breaks the schema: {problem}"
        return answer

    async def _tries(self, call: Call, request: Request) -> Answer:
        """Return the answer to one request, tried again after what may pass."""
        retries = RETRIES if call.by.spec.retries is None else call.by.spec.retries
        for attempt in range(retries + 1):
            if attempt and (call.over or self.closing):
                return stopped()
            try:
                return await self._try(call, request)
            except Retry as error:
                reason, wait = str(error), error.wait
                if wait is not None and wait > LONGEST_WAIT:
                    raise ProviderError(f"{call.by.spec.name} asks to wait {wait / 3600:,.1f} hours: {reason}") from None
                absent = isinstance(error, Unreachable) and call.by.service.account not in self._reached
                if absent and attempt >= min(retries, UNREACHABLE):
                    raise ProviderError(f"{call.by.spec.name} {reason}") from None
                if attempt == retries:
                    break
            await asyncio.sleep(retry_delay(attempt, wait, random))
        return Answer(error=f"no answer after {retries + 1} tries: {reason}")

    async def _try(self, call: Call, request: Request) -> Answer:
        """Try once, within budget and limits."""
        worst = 0.0 if self.budget.limit is None else worst_case(call.by.spec, request)
        await self.budget.reserve(worst)
        cost: float | None = 0.0
        status: int | None = None
        tokens, wait = characters(request) // CHARACTERS, None
        try:
            await call.by.flow.enter(tokens + (call.by.spec.max_tokens or 0), call.by)
            cost = paid = prices.cost(call.by.price, None, None)  # of a try that is broken off: it may be paid for
            try:
                call.sent = True
                self.sent += 1
                answer = await call.by.service.ask(request, call.by.flow.heard)
                self._reached.add(call.by.service.account)
                status, cost = 200, self._price(call, answer)
                tokens = (answer.tokens_in or 0) + (answer.tokens_out or 0) or tokens
                return answer
            except Retry as error:
                status, wait = error.status, error.wait
                self._reached.update([call.by.service.account] if status is not None else [])
                cost = paid if error.paid else 0.0
                raise
            except ProviderError:
                status, cost = REFUSED, 0.0
                raise
            finally:
                call.sent = False
                call.by.flow.leave(status, tokens, wait)
        finally:
            self.budget.settle(worst, cost)

    def _price(self, call: Call, answer: Answer) -> float | None:
        """Work out what an answer has cost, and note it there; a refusal that counts no tokens has cost nothing."""
        if answer.error is not None and answer.tokens_in is None:
            return 0.0
        price(call.by, answer)
        return answer.cost


def price(by: Pass, answer: Answer) -> None:
    """Note on an answer what it has cost."""
    if answer.cost is None and by.price is not None:
        answer.cost = prices.cost(by.price, answer.tokens_in, answer.tokens_out, bool(by.spec.batch), answer.tokens_cached)


def characters(request: Request) -> int:
    """Return how much text a request holds."""
    contents = (message.get("content") for message in request.messages)
    parts = (part for content in contents for part in (content if isinstance(content, list) else [content]))
    return sum(len(part.get("text") or "" if isinstance(part, dict) else str(part)) for part in parts)


@dataclass
class Paid:
    """What several answers to one call have cost together."""

    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = 0.0
    any: bool = False

    def add(self, answer: Answer) -> Answer:
        """Add an answer, and return it with the sums in it; a refusal that counts no tokens adds nothing."""
        free = answer.error is not None and answer.tokens_in is None and answer.cost is None
        if free and not self.any:
            return answer
        self.any = True
        for name in ("tokens_in", "tokens_out", "cost"):
            before, now = getattr(self, name), 0 if free else getattr(answer, name)
            total = None if before is None or now is None else before + now
            setattr(self, name, total)
            setattr(answer, name, total)
        return answer
