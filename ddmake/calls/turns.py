"""Who waits to send: in turns between those who ask, however much one of them has to send."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class Turn:
    """A task that waits to send so many tokens, since when, and for whom."""

    admitted: asyncio.Future[None]
    task: asyncio.Task
    tokens: int
    since: float
    who: Hashable


class Turns:
    """A queue for each who asks: of each, those first that failed before and have waited, then first come, first served."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, tuple[deque[Turn], deque[Turn]]] = OrderedDict()  # the first has the next turn
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, turn: Turn, again: bool) -> None:
        """Let a task wait; `again` tells that it failed before."""
        self._waiting.setdefault(turn.who, (deque(), deque()))[0 if again else 1].append(turn)
        self._count += 1

    def first(self) -> Turn | None:
        """Return whose turn it is; those who have given up are left out."""
        while self._waiting:
            again, fresh = next(iter(self._waiting.values()))
            turn = (again or fresh)[0]
            if not turn.admitted.done():
                return turn
            self._take()
        return None

    def pop(self) -> None:
        """Take out whose turn it was; the next one's comes."""
        who = self._take().who
        if who in self._waiting:
            self._waiting.move_to_end(who)

    def _take(self) -> Turn:
        who, (again, fresh) = next(iter(self._waiting.items()))
        turn = (again or fresh).popleft()
        self._count -= 1
        if not again and not fresh:
            del self._waiting[who]
        return turn
