"""An opened mixture: several llms behind one name. Each prompt goes to one of them, and answers come in the order of prompts.

Who is asked is found by rendezvous hashing (Thaler and Ravishankar 1998), weighted as Schindelhauer and Schomaker (2005) do:
every member draws a number from the prompt and from what it goes by, and the highest has it. So a prompt stays where it is
whatever other prompts there are, and a new member takes over what it draws best for, and moves nothing else.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from typing import Any, NoReturn

from ddmake.backends import stopping
from ddmake.backends.base import Answer, Request
from ddmake.calls.client import Ahead, Remote, Wanted
from ddmake.calls.model import OpenedLLM
from ddmake.calls.usage import Usage
from ddmake.ddfile.asking import Prompt
from ddmake.ddfile.specs import Mixture
from ddmake.errors import DdmakeError

Made = Iterator[tuple[int, Answer, bool]]
Here = dict[int, list[Wanted]]  # calls that wait for a model of this process, by the id of its llm

_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


class OpenedMixture(OpenedLLM):
    """Llms that are asked as one. What each is asked has its own keys, and is counted and noted as if it were asked alone."""

    def __init__(self, spec: Mixture, members: Sequence[OpenedLLM], names: Sequence[str]):
        first = members[0]
        self.spec, self._members, self._names = spec, members, [name.encode() for name in names]
        self.calls, self.tell, self.manner, self.payer, self.before = first.calls, first.tell, first.manner, first.payer, 0

    @property
    def members(self) -> Sequence[OpenedLLM]:
        """Return the llms that are asked."""
        return self._members

    @property
    def usage(self) -> Usage:
        """Return what failed first; the rest is told member by member."""
        return Usage(first_failure=next(filter(None, (llm.usage.first_failure for llm in self._members)), None))

    def wanted(self, number: int, request: Request) -> Wanted:
        """Return the call that answers the request of a prompt: that of one member, the same for equal messages."""
        said = hashlib.blake2b(_json(request.messages).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        draws = [weight / -log(_drawn(said + name)) for name, weight in zip(self._names, self.spec.weights)]
        return self._members[draws.index(max(draws))].wanted(number, request)

    def made(self, missing: Callable[[bool], Iterator[Wanted | None]]) -> Made:
        """Have calls made: what is asked over a network side by side, models of this process meanwhile and one by one."""
        here: Here = {}
        batch = any(llm.spec.batch for llm in self._members)
        ahead = Ahead(_kept_back(missing(True), here), lambda call: call.llm.backend, batch)
        with stopping.finishing():
            try:
                while ahead.more() or here and not stopping.asked():
                    if here and not stopping.asked():
                        yield from self._here(here.pop(next(iter(here))), ahead)
                    else:
                        yield from ahead.heard()
            finally:
                ahead.close()

    def _here(self, calls: list[Wanted], ahead: Ahead) -> Made:
        """Have a model of this process answer, and between its answers pass on what has come from elsewhere."""
        for made in calls[0].llm.answered_here(calls):
            yield made
            while ahead.more() and ahead.came():
                yield from ahead.heard()
            if stopping.asked():
                return

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> NoReturn:
        """Raise DdmakeError: each member finds another text likely."""
        raise DdmakeError(f"a {self.spec.name} doesn't tell how likely a given text is: ask its members one by one.")

    def note_failed(self, number: int, reason: str, answer: Answer, row: Mapping[str, Any] | None = None) -> None:
        """Count a row that failed as that of the member which was asked, and keep it to be looked at."""
        asked = next(llm for llm in self._members if llm.payer.llm == answer.llm)
        asked.note_failed(self.before + number, reason, answer, row)


def _drawn(seed: bytes) -> float:
    """Return a number between 0 and 1, without both."""
    return (int.from_bytes(hashlib.blake2b(seed, digest_size=6).digest(), "big") + 0.5) / 2**48


def _kept_back(wanted: Iterator[Wanted | None], here: Here) -> Iterator[Wanted | None]:
    """Yield the calls that are made over a network; the others are put to those that wait for a model of this process."""
    for call in wanted:
        if call is None or isinstance(call.llm.backend, Remote):
            yield call
        else:
            here.setdefault(id(call.llm), []).append(call)
