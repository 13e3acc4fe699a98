"""Asking Slurm without waiting for it: where its controller is slow to answer, a head has other things to see to."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ddmake.executors.slurm.commands import Commands, NoAnswer, Refused, State


@dataclass
class Question:
    """What is in the queue, and on demand which ids jobs have by their tokens; asked once, by a thread of its own."""

    commands: Commands
    tokens: bool
    began: float = field(default_factory=time.monotonic)  # what was submitted later, the answer doesn't know
    queue: Mapping[str, State] | None = None  # None where Slurm didn't answer
    ids: Mapping[str, str] = field(default_factory=dict)
    why: str = ""  # it didn't

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @property
    def answered(self) -> bool:
        """Tell whether there is an answer, or will be none."""
        return not self._thread.is_alive()

    def _ask(self) -> None:
        try:
            self.ids = self.commands.by_token() if self.tokens else {}
            self.queue = self.commands.queue()
        except (NoAnswer, Refused) as why:
            self.why = str(why)
