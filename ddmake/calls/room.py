"""How many requests may be in flight at once, found out from how a service replies.

A lone refusal concerns its own request. When more are refused than a service would refuse by chance, there may be a limit
that nobody told of, on requests in flight or by time; both are met by having fewer in flight, evenly spaced. That is a trial:
below a limit nearly nothing is refused any more; where as large a share is refused as before, it was by chance, and we go
back. Failures are no limiting: while there are answers between them, they concern their own requests. `size` may be a
fraction: at 0.5, one is sent, and the next after twice the time that an answer takes.
"""

import math
import random

FIRST, MOST = 64, 256  # in flight where nobody says: at first, and at most
LONGEST_PERIOD = 2.0  # seconds between two judgements
LATELY = 50  # replies, of those that aren't refusals
MEMORY = 0.7  # part of a period's replies that counts in the next
WALL = 8  # refusals that answers don't make up for, or failures in a row: all wait
SOME, MOST_OF_THEM = 1 / 3, 1.2  # for each that is in flight: where a limit is known, else; refusals may come long before answers
RARE = 1e-4  # how likely a row of failures is by chance, at most
BY_CHANCE, ONCE_LIMITED = 0.1, 0.03  # share of requests that a service may refuse for no reason of ours, as we assume at first
TELLING = 2 / 3  # a share above that falls hardly when we give way: a trial tells nothing
TRIAL = 20  # replies that tell whether giving way has changed anything
BELOW, PERIODS = 0.15, 6  # after giving way: how far below what was accepted we begin, and how soon we are there again
AHEAD = 1.15  # sends are spaced a little closer than answers come, so that the room stays full
SLOWEST = 60.0  # seconds between two sends, at most
LONGEST = 10.0  # seconds that all wait, unless the service asks for more


class Room:
    """How many may be in flight, and since when not."""

    def __init__(self) -> None:
        self.cap, self.size = MOST, float(FIRST)
        self._stated: int | None = None
        self.limited = False  # whether the service was seen to refuse what is too much for it
        self.latency = 1.0  # seconds that an answer takes
        self._answers = 0
        self.until = 0.0  # all wait until then
        self.pause = 0.0  # seconds
        self.asked = False  # whether it is the service that asks for that
        self._accepted: float | None = None  # the size that the service was seen to accept
        self._periods = 0.0  # since we gave way
        self._chance = BY_CHANCE  # share that is refused even then
        self._trial: tuple[float, float, bool] | None = None  # before we gave way: the share refused, the size, if limited
        self._back_to = 0.0  # the size before the service was down
        self._against = 0  # refusals; an answer makes up for two
        self._failed_since = 0  # failures since the last answer
        self._failing = 0.0  # share of late that failed
        self._walls = 0  # pauses since the last answer came
        self._since = 0.0  # this period's begin
        self._replies = self._refusals = self._seconds = 0.0  # of this period, and a part of those before

    def state(self, concurrency: int) -> None:
        """Keep to a stated number; the smallest counts."""
        if self._stated is None and not self.limited:
            self.size = float(concurrency)
        self._stated = self.cap = min(concurrency, self._stated or concurrency)
        self.size = min(self.size, self.cap)

    @property
    def places(self) -> int:
        """Return how many may be in flight."""
        return max(1, math.ceil(self.size))

    @property
    def gap(self) -> float:
        """Return the seconds between two sends."""
        return min(SLOWEST, self.latency / (AHEAD * self.size)) if self.limited else 0.0

    @property
    def held_back(self) -> bool:
        """Tell whether the service has refused what is too much for it, and not just by chance."""
        return self.limited and self._trial is None

    @property
    def _usual(self) -> float:
        """Return the share that is refused by chance, as far as we know."""
        before = 0.0 if self._trial is None else self._trial[0]
        return max(self._chance, before) if before < TELLING else self._chance

    def answered(self, now: float, took: float, waiting: bool) -> None:
        """Hear of an answer; `waiting` tells whether there is more to send than there is room for."""
        self._answers += 1
        self.latency += (took - self.latency) / min(32, self._answers)
        self._replies += 1
        self._failing -= self._failing / LATELY
        if now < self.until:  # it was sent before
            return
        self._against, self._failed_since, self._walls = max(0, self._against - 2), 0, 0
        if self.size < self._back_to:
            self.size = min(self._back_to, self.cap, self.size + 1)
        elif waiting and not self.limited and self.size < self.cap:
            self.size = min(self.cap, self.size + 1 / self.size)
        self._judge(now, waiting)

    def refused(self, now: float, wait: float | None, in_flight: int, waiting: bool) -> None:
        """Hear that the service refused a request for being asked too much; `in_flight` are those it did not refuse."""
        self._against += 1
        self._replies += 1
        self._refusals += 1
        wall = max(WALL, in_flight * (SOME if self.limited else MOST_OF_THEM))
        if self._against >= wall / (1 - max(0.0, self._usual - BY_CHANCE)) ** 2:
            self._collapse(now, in_flight)
            self._pause(now, wait)
        else:
            self._judge(now, waiting)

    def failed(self, now: float, wait: float | None, in_flight: int) -> None:
        """Hear of a request that failed for a reason of the service's own, or got no reply."""
        self._failed_since += 1
        self._failing += (1 - self._failing) / LATELY
        by_chance = math.log(RARE) / math.log(min(0.9, self._failing))
        if now >= self.until and (self._walls or self._failed_since >= max(WALL, in_flight * MOST_OF_THEM, by_chance)):
            self._back_to = max(self._back_to, self.size)
            self.size = min(self.size, 1.0)
            self._pause(now, wait)

    def _collapse(self, now: float, in_flight: int) -> None:
        """Come down to what the service holds; at the first time, or where that is next to nothing, find out how much it is.

        The share that is refused in such a moment is no measure for a trial.
        """
        before = self._accepted is not None if now < self.until else self.limited
        known = before and 4 * in_flight >= self.size
        self._give_way(in_flight if known else max(float(in_flight), min(1.0, self.size)), 0.0)
        self._accepted = self._accepted if known else None

    def _give_way(self, accepted: float, share: float) -> None:
        """Come down to less than was accepted, and see what that changes."""
        self._trial = (share, self.size, self.limited)
        self._accepted, self._periods, self._back_to = accepted, 0.0, 0.0
        self.size = max((1 - BELOW) * accepted, self.latency / (AHEAD * SLOWEST))
        self._chance = self._chance if self.limited else ONCE_LIMITED
        self.limited = True

    def _pause(self, now: float, wait: float | None) -> None:
        """Let all wait as long as the service asks, else longer each time."""
        if now >= self.until:
            self._walls += 1
        self.asked = wait is not None
        self.pause = min(LONGEST, 2.0 ** (self._walls - 2)) if wait is None else wait
        self.until = max(self.until, now + self.pause * random.uniform(1.0, 1.1))
        self._since = self.until
        self._forget()

    def _judge(self, now: float, waiting: bool) -> None:
        """At a period's end, give way to refusals that chance doesn't explain, or take more room."""
        period = min(max(1.0, self.latency), LONGEST_PERIOD)
        if now - self._since < period:
            return
        first = self._periods == 0
        self._seconds += now - self._since
        self._periods += (now - self._since) / period
        self._since = now
        if self._trial is not None and first:  # what comes in may have been sent before we gave way
            self._forget()
        elif self._trial is None or self._replies >= TRIAL or self._periods >= PERIODS:
            self._conclude()
            self._weigh(waiting)
            self._replies *= MEMORY
            self._refusals *= MEMORY
            self._seconds *= MEMORY

    def _forget(self) -> None:
        self._replies = self._refusals = self._seconds = 0.0

    def _conclude(self) -> None:
        """See what giving way has changed: where the same share is refused as before, it is by chance."""
        share = self._refusals / self._replies
        if self._trial is None:
            self._chance += min(0.0, share - self._chance) / 8 if self._chance > BY_CHANCE else 0.0
            return
        (before, size, limited), self._trial = self._trial, None
        doubt = 2 * math.sqrt(before * (1 - before) / self._replies)
        if BY_CHANCE < before < TELLING and before / 2 < share < min(TELLING, before + doubt):
            self._chance = max(before, share)
            self.size, self.limited = min(size, self.cap), limited
            self._accepted, self._periods = size, PERIODS
        elif share < 2 * BY_CHANCE:
            self._chance += (share - self._chance) * self._replies / (self._replies + 20)

    def _weigh(self, waiting: bool) -> None:
        """Give way to refusals that chance doesn't explain, or take more room."""
        expected = self._chance * self._replies
        if self._refusals > expected + 2 * math.sqrt(expected) + 1:
            held = (self._replies - self._refusals) / self._seconds * self.latency  # so many it worked on (Little's law)
            self._give_way(min(self.size, max(self.size / 2, held)), self._refusals / self._replies)
        elif self.limited and waiting:
            self._grow()

    def _grow(self) -> None:
        """Come back soon to what was accepted, stay about there, and then try more and more (as TCP Cubic does, RFC 9438)."""
        if self._accepted is None:
            self.size *= 1.5
        else:
            self.size = max(self.size, self._accepted * (1 + BELOW * (self._periods / PERIODS - 1) ** 3))
        self.size = min(self.cap, self.size)
        self.limited = self.size < self.cap
