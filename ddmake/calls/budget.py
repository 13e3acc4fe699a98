"""`--max-cost`: what may be spent, reserved by the worst case of each request before it is sent.

Kept by the caller process alone, on its event loop, so that what is in flight at once can't exceed the limit together.
"""

import asyncio
import json
import unicodedata
from collections import deque

from ddmake.backends.base import Request
from ddmake.backends.embedders import API
from ddmake.calls.money import dollars
from ddmake.calls.prices import cost, price_of
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdmakeError, ProviderError

# Tokens that a provider adds to what it is sent: marks of turns, a system prompt of its own, how it tells of tools and schemas
A_REQUEST, A_MESSAGE, FOR_TOOLS, FOR_SCHEMA = 256, 16, 1024, 1024
AN_IMAGE = 50_000  # tokens; the most that is known is 48,169, for a large picture in full detail (gpt-4o-mini)
KEPT = 2  # times the price of input that the provider is to keep (Anthropic's cache_control, for an hour)
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # fields of `extra` that bound an answer
SEVERAL = ("n", "best_of")  # that ask for more than one
UNPRICED = ("service_tier", "web_search_options", "plugins", "audio", "modalities", "prediction")  # that change the price
ROUNDING = 1e-9  # dollars by which sums may be off


class OverBudget(DdmakeError):
    """A request doesn't fit into what may be spent."""


class Budget:
    """What may be spent, in dollars; where the limit is None, all may be, and is only counted."""

    def __init__(self, limit: float | None):
        self.limit = limit
        self.spent = 0.0  # answers of unknown cost at their most among it
        self.known = 0.0  # without these
        self.reserved = 0.0  # for requests in flight
        self.unknown = 0  # requests of which nobody knows what they cost
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    async def reserve(self, worst: float) -> None:
        """Set aside what a request may cost; where others in flight may leave room for it, wait for them, in turn.

        Raises OverBudget where it can't fit any more.
        """
        if self._never(worst):
            raise self._over(worst)
        if not self._waiting and self._fits(worst):
            self.reserved += worst
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((worst, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # its turn had come just before
                self._release(worst)
            raise

    def take(self, worst: float) -> None:
        """Set aside what a request may cost, without waiting for others. Raises OverBudget where it doesn't fit now."""
        if not self._fits(worst):
            raise self._over(worst)
        self.reserved += worst

    def settle(self, worst: float, actual: float | None) -> None:
        """Count what a request cost in place of what was set aside for it; where that isn't known, the worst counts."""
        self.spent += worst if actual is None else actual
        self.known += actual or 0.0
        self.unknown += actual is None
        self._release(worst)

    def _release(self, worst: float) -> None:
        """Give back what was set aside, and let those in whose turn it is."""
        self.reserved -= worst
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.done():  # it doesn't wait any more
                pass
            elif self._never(wanted):
                turn.set_exception(self._over(wanted))
            elif self._fits(wanted):
                self.reserved += wanted
                turn.set_result(None)
            else:
                return
            self._waiting.popleft()

    def _fits(self, worst: float) -> bool:
        return self.limit is None or self.spent + self.reserved + worst <= self.limit + ROUNDING

    def _never(self, worst: float) -> bool:
        return self.limit is not None and self.spent + worst > self.limit + ROUNDING

    def _over(self, worst: float) -> OverBudget:
        told = f"{dollars(self.spent)} of --max-cost {self.limit:g} are spent, and the next request could cost {dollars(worst)}"
        counted = f" ({self.unknown:,} answers of unknown cost count at their most)" if self.unknown else ""
        return OverBudget(f"{told}{counted}. What was answered is kept: raise --max-cost, or state a smaller max_tokens.")


def worst_case(spec: LLM, request: Request) -> float:
    """Return the most dollars that a request can cost.

    A token stands for at least one byte of text, so a request has no more tokens than bytes, besides what the provider adds.
    Raises ProviderError where no bound is known, saying what to state.
    """
    price = price_of(spec)
    if price is None:
        raise _unbounded(spec, "its price isn't known. State price=(in, out), dollars for a million tokens")
    if not price.tokens_in and not price.tokens_out:
        return 0.0
    if spec.api == API:
        return cost(price, _most_tokens(spec, request), 0) or 0.0
    extra = spec.extra or {}
    odd = next((name for name in UNPRICED if name in extra), None)
    if odd is not None:
        raise _unbounded(spec, f"nobody can tell beforehand what {odd!r} in extra= costs. Leave it out")
    lengths = [extra[name] for name in LENGTHS if name in extra] or [spec.max_tokens or price.max_output]
    if lengths[0] is None:
        raise _unbounded(spec, "its answers can have any length. State max_tokens")
    answers = max(int(extra.get(name) or 1) for name in SEVERAL)
    return cost(price, _most_tokens(spec, request), answers * max(lengths), bool(spec.batch)) or 0.0


def _unbounded(spec: LLM, why: str) -> ProviderError:
    return ProviderError(f"--max-cost needs to know what a request to {spec.name} can cost at most, and {why} on the llm.")


def _most_tokens(spec: LLM, request: Request) -> int:
    """Return a bound of a request's tokens. Raises ProviderError for a message that holds more than text and images."""
    images = 0
    messages = []
    for message in request.messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        images += sum(part.get("type") == "image_url" for part in parts)
        odd = next((part.get("type") for part in parts if part.get("type") not in ("text", "image_url")), None)
        if odd is not None:
            raise _unbounded(spec, f"nobody can tell beforehand what a part of type {odd!r} costs. Send text and images only")
        messages.append({**message, "content": [part for part in parts if part["type"] == "text"] or content})
    text = json.dumps([messages, request.schema, request.tools, spec.extra], ensure_ascii=False)
    added = A_REQUEST + A_MESSAGE * len(messages) + FOR_TOOLS * bool(request.tools) + FOR_SCHEMA * bool(request.schema)
    return (_bytes(text) + added) * (KEPT if "cache_control" in text else 1) + AN_IMAGE * images


def _bytes(text: str) -> int:
    """Return the bytes of a text, or of its normal form if that has more: some tokenizers bring it into that first."""
    if text.isascii():
        return len(text)
    return max(len(form.encode("utf-8", "surrogatepass")) for form in (text, unicodedata.normalize("NFKC", text)))
