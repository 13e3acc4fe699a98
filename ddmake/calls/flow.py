"""The limits of one account at a provider, shared by all rules that ask it: who may send, and when.

All who wait stand in one queue (turns.py), in which the passes of rules take turns. Four things hold its head back: limits by
the minute that are stated, those that headers tell of (limits.py), how many may be in flight (room.py), and a pause.
"""

import asyncio
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakSet

from ddmake.calls.headers import limits
from ddmake.calls.limits import Learned, Stated
from ddmake.calls.room import Room
from ddmake.calls.turns import Turn, Turns

TOO_MUCH = frozenset({429, 529})  # the service says that it is asked too much
PASSING = frozenset({408, 409, 425})  # the service's own trouble, as from 500 on
LATE = 0.01  # seconds that the clock of an event loop may be late
SOON = 0.001  # seconds: what is due sooner isn't worth a look of its own
FIRST_DELAY, LONGEST_DELAY = 0.25, 10.0  # seconds between two tries of a request; where a service is down, all wait (room.py)
WORTH_TELLING = 2.0  # seconds of waiting
AS_IT_WAS = 10.0  # seconds that nothing else is told than before: where reasons take turns, one is enough


class Draws(Protocol):
    """What draws numbers: the module `random`, or a Random."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between two."""
        ...


def retry_delay(attempt: int, wait: float | None, rng: Draws) -> float:
    """Return the seconds before a request is tried again.

    Never less than the server asks, and little more; where it asks for nothing, anything up to a bound that doubles each time
    ("full jitter": aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    """
    if wait is not None:
        return wait * rng.uniform(1.0, 1.1)
    return rng.uniform(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16)))


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent: when, with how many tokens, and how many requests and tokens that made in all."""

    began: float
    size: int
    requests: int
    tokens: int


class Flow:
    """The limits of one account. A task enters before it sends, and leaves when it has the reply; `name` is the provider's."""

    def __init__(self, name: str = "the provider"):
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._room = Room()
        self._stated: dict[str, Stated] = {}  # by kind: requests, tokens
        self._learned: dict[str, Learned] = {}
        self._inside: dict[asyncio.Task, Sent] = {}  # who is in flight
        self._sent = Sent(0.0, 0, 0, 0)  # the last
        self._queue = Turns()
        self._failed: WeakSet[asyncio.Task] = WeakSet()  # whose last try failed: they have waited, and come first
        self._reached = False  # whether there was a reply
        self._told: tuple[str, float] | None = None  # what was told last, and when
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0  # when the next may be sent

    def state(self, concurrency: int | None = None, rpm: int | None = None, tpm: int | None = None) -> None:
        """Keep to what an llm states; of several, the smallest counts."""
        if concurrency is not None:
            self._room.state(concurrency)
        for kind, per_minute in (("requests", rpm), ("tokens", tpm)):
            known = self._stated.get(kind)
            if per_minute is not None and (known is None or per_minute < known.per_minute):
                self._stated[kind] = Stated(per_minute, self._loop.time())

    async def enter(self, tokens: int = 0, who: Hashable = None) -> None:
        """Wait until a request of about so many tokens may be sent for somebody; one at a time for each task."""
        task, now = asyncio.current_task(), self._loop.time()
        if not self._queue and self._delay(tokens, now) <= 0:
            self._admit(task, tokens, now)
            return
        turn = self._loop.create_future()
        self._queue.add(Turn(turn, task, tokens, now, who), again=task in self._failed)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come just before
                del self._inside[task]
                for _, limit, need in self._limits(tokens):
                    limit.take(-need)
            self._let_in()
            raise

    def heard(self, status: int, headers: Mapping[str, str]) -> None:
        """Hear a reply's headers, as soon as they are there, in the task that has entered."""
        if not (told := limits(headers)):
            return
        now = self._loop.time()
        own = self._inside.get(asyncio.current_task()) or replace(self._sent, began=now)
        since = {"requests": self._sent.requests - own.requests, "tokens": self._sent.tokens - own.tokens}
        for key, one in told.items():
            self._learned.setdefault(key, Learned()).hear(one, since[one.kind], own.began, now)
        self._let_in()

    def leave(self, status: int | None, tokens: int | None = None, wait: float | None = None) -> None:
        """Hear how the task's request ended: its status, None without a reply; its tokens, if known; the wait asked for."""
        task, now = asyncio.current_task(), self._loop.time()
        sent = self._inside.pop(task)
        took = 0 if status in TOO_MUCH else sent.size if tokens is None else tokens
        if "tokens" in self._stated:
            self._stated["tokens"].take(took - sent.size)
        if not task.cancelling():  # what we broke off says nothing of the service
            self._judge(task, status, now - sent.began, wait)
        self._let_in()

    def describe(self) -> str | None:
        """Return what is waited for, for a person; None where nothing is but replies, or not for long."""
        text, now = self._waited_for(), self._loop.time()
        if text is None or self._told is not None and text != self._told[0] and now - self._told[1] < AS_IT_WAS:
            return None
        self._told = (text, now)
        return text

    def _waited_for(self) -> str | None:
        """Return what holds the queue's head back for some seconds."""
        now, head = self._loop.time(), self._queue.first()
        if head is None:
            return None
        if now < self._room.until:
            told = "asks to wait" if self._room.asked else "is down, and tried again after"
            return f"{self.name} {told} {math.ceil(self._room.pause):,} s" if self._room.pause >= WORTH_TELLING else None
        for kind, limit, need in self._limits(head.tokens):
            if 0 < (delay := limit.delay(need, now)) and max(delay, now - head.since) >= WORTH_TELLING:
                return f"waiting for {self.name}'s limit of {limit.describe(kind)}"
        return f"{self.name} refuses to be asked more at once" if self._room.held_back else None

    def _judge(self, task: asyncio.Task, status: int | None, took: float, wait: float | None) -> None:
        """Learn from how a request ended."""
        now, waiting, in_flight = self._loop.time(), bool(self._queue), len(self._inside)
        self._reached = self._reached or status is not None
        if not self._reached:  # nobody is there: who asks gives up soon
            self._failed.add(task)
        elif status in TOO_MUCH:
            self._room.refused(now, wait, in_flight, waiting)
            self._failed.add(task)
        elif status is None or status in PASSING or status >= 500:
            self._room.failed(now, wait, in_flight)
            self._failed.add(task)
        else:
            self._room.answered(now, took, waiting)
            self._failed.discard(task)
        for limit in self._learned.values():
            limit.judge(status in TOO_MUCH)

    def _limits(self, tokens: int) -> Iterator[tuple[str, Stated | Learned, float]]:
        """Yield each limit by the minute with what a request takes of it."""
        for kind, limit in self._stated.items():
            yield kind, limit, tokens if kind == "tokens" else 1
        for learned in self._learned.values():
            yield learned.told.kind, learned, tokens if learned.told.kind == "tokens" else 1

    def _delay(self, tokens: int, now: float) -> float:
        """Return the seconds until a request may be sent; infinite where it takes another's leaving."""
        if len(self._inside) >= self._room.places:
            return float("inf")
        delay = max(self._room.until, self._next) - now
        for _, limit, need in self._limits(tokens):
            delay = max(delay, limit.delay(need, now))
        return delay

    def _admit(self, task: asyncio.Task, tokens: int, now: float) -> None:
        self._inside[task] = self._sent = Sent(now, tokens, self._sent.requests + 1, self._sent.tokens + tokens)
        for _, limit, need in self._limits(tokens):
            limit.take(need)
        if gap := self._room.gap:
            self._next = max(self._next, now - LATE) + gap

    def _let_in(self) -> None:
        """Let in those whose turn it is, and set the clock for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (turn := self._queue.first()) is not None:
            now = self._loop.time()
            if (delay := self._delay(turn.tokens, now)) > 0:
                if delay != float("inf"):
                    self._timer = self._loop.call_later(max(delay, SOON), self._let_in)
                return
            self._admit(turn.task, turn.tokens, now)
            turn.admitted.set_result(None)
            self._queue.pop()
