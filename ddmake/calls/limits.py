"""Limits by the minute: those that are stated, and those that a provider's headers tell of."""

from ddmake.calls.headers import Told

MINUTE = 60.0
DOUBT = 1 / 64  # how far it can sink


class Stated:
    """A limit of `per_minute` that is kept to: a bucket that holds what a tenth of a second allows, and at least one.

    Providers count by the rolling minute, or by parts of it as short as a second: so sends are spread evenly, and a little
    slower than allowed, since some travel faster than others.
    """

    def __init__(self, per_minute: int, now: float):
        self.per_minute, self.rate = per_minute, per_minute / (MINUTE + 1)
        self.most = max(1.0, per_minute / MINUTE / 10)
        self.level, self.at = self.most, now

    def delay(self, need: float, now: float) -> float:
        """Return the seconds until `need` may be taken; what the bucket never holds may when it is full."""
        self.level = min(self.most, self.level + self.rate * (now - self.at))
        self.at = now
        return max(0.0, min(need, self.most) - self.level) / self.rate

    def describe(self, kind: str) -> str:
        """Return the limit in words."""
        return f"{self.per_minute:,} {kind} a minute"

    def take(self, need: float) -> None:
        """Take `need`, or give back what was taken too much; the level may fall below nothing."""
        self.level = min(self.most, self.level - need)


class Learned:
    """A limit as a reply told it.

    Some providers fill a limit up steadily until `reset`, others all at once then. The first is believed until a request
    is refused that counted on it; each such refusal halves the belief, each answer doubles it again.
    """

    def __init__(self) -> None:
        self.belief, self.began = 1.0, 0.0

    def hear(self, told: Told, since: float, began: float, now: float) -> None:
        """Take the word of a reply to a request that `began` then, less what was sent `since`; no older word counts any more."""
        if began < self.began:
            return
        self.began = began
        self.told, self.at, self.reset_at = told, now, now + told.reset
        self.left = told.remaining - since
        used = max(0.0, (told.limit or 0.0) - told.remaining)
        self.rate = used / told.reset if told.reset > 0 else 0.0

    def delay(self, need: float, now: float) -> float:
        """Return the seconds until `need` may be taken."""
        need = min(need, self.told.limit or need)
        if need <= self.left or now >= self.reset_at:
            return 0.0
        until, rate = self.reset_at - now, self.rate * self.belief
        return max(0.0, min(until, (need - self.left) / rate - (now - self.at))) if rate else until

    def describe(self, kind: str) -> str:
        """Return the limit in words."""
        return kind if self.told.limit is None else f"{self.told.limit:,.0f} {kind}"

    def take(self, need: float) -> None:
        """Take `need`, or give it back."""
        self.left -= need

    def judge(self, refused: bool) -> None:
        """Hear how a request fared, while less was left than one takes."""
        if self.left < 1:
            self.belief = max(DOUBT, self.belief / 2) if refused else min(1.0, self.belief * 2)
