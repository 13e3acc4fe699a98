"""A worker's side of the socket to the run's caller: passes over requests, and what comes back for each.

The connection is made when something has to be sent: a job whose answers are all known needs no caller.
"""

import itertools
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ddmake.backends import offline, providers, stopping
from ddmake.backends.base import Answer, Request
from ddmake.calls import frames
from ddmake.calls.switch import Switch
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdmakeError, NotStored, ProviderError

OUTSTANDING = 1024  # requests of one pass that the caller has in hand, queued ones included
OUTSTANDING_BYTES = 64 << 20  # and what they may hold: messages with images are large
BATCH, BATCH_BYTES = 100_000, 256 << 20  # the same for a provider's batch API
FRAME = 64  # requests that are told at once
SHOWN = 60  # characters of a prompt in a message
NAP = 0.25  # seconds between two looks whether the job is to end
GONE = "the run's caller process has ended; what it had finished is kept. Run ddmake again."


@dataclass(frozen=True)
class Wanted:
    """A call that has to be made, by the number of the prompt that it is for."""

    number: int
    key: bytes
    request: Request
    anew: bool = False
    llm: Any = None  # the opened one that is asked


def not_stored(call: Wanted, spec: LLM) -> NotStored:
    """Return what is to be said of a call that would have to be sent where nothing may be."""
    said = str(call.request.messages[-1].get("content")) if call.request.messages else ""
    shown = said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
    return NotStored(f"the answer of {spec.name} to prompt {call.number} isn't stored ({shown!r}), and --frozen sends nothing. "
                     "Leave out --frozen, or unpack a bundle that holds it.")


class Line:
    """A connection to the caller at `address`, shared by the llms of one job.

    A job that runs without a head, and so without its caller, starts one of its own.
    """

    def __init__(self, address: str | None, rule: str, folder: Path):
        self.address, self.rule, self.folder = address, rule, folder
        self._own: Switch | None = None
        self._socket: socket.socket | None = None
        self._passes: dict[int, queue.SimpleQueue[Any]] = {}
        self._numbers = count()
        self._writing, self._opening = threading.Lock(), threading.Lock()
        self._gone = False

    def begin(self, told: Mapping[str, Any], heard: "queue.SimpleQueue[Any]") -> int:
        """Begin a pass whose answers are to arrive in a queue; return its number."""
        with self._opening:
            if self._socket is None:
                self._connect()
            number = next(self._numbers)
        self._passes[number] = heard
        self.say({"pass": number, "rule": self.rule, **told})
        return number

    def end(self, number: int) -> None:
        """End a pass: what comes for it later isn't wanted here."""
        self._passes.pop(number, None)
        if not self._gone:
            self.say({"end": number})

    def say(self, told: Mapping[str, Any]) -> None:
        """Tell the caller something. Raises DdmakeError where it is gone."""
        assert self._socket is not None, "the connection isn't made yet"
        try:
            with self._writing:
                self._socket.sendall(frames.packed(told))
        except OSError:
            raise DdmakeError(GONE) from None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._gone = True
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._own is not None:
            self._own.close()

    def _connect(self) -> None:
        if self.address is None:
            self._own = Switch(self.folder)
            self.address = self._own.address
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(self.address)
        except OSError:
            raise DdmakeError(GONE) from None
        threading.Thread(target=self._listen, args=(self._socket.makefile("rb"),), daemon=True).start()

    def _listen(self, heard: Any) -> None:
        """Hand out what the caller says, until it says no more."""
        try:
            while head := heard.read(frames.HEAD):
                self._take(frames.unpacked(heard.read(int.from_bytes(head, "big"))))
        except (OSError, ValueError):
            pass
        self._gone = True
        for waiting in list(self._passes.values()):
            waiting.put({"problem": None, "kind": "DdmakeError", "told": GONE})

    def _take(self, told: Mapping[str, Any]) -> None:
        if "answers" not in told:
            if (waiting := self._passes.get(told.get("problem", told.get("note")))) is not None:
                waiting.put(told)
            return
        for number, items in itertools.groupby(told["answers"], key=lambda item: item[0]):
            if (waiting := self._passes.get(number)) is not None:
                waiting.put({"answers": list(items)})


@dataclass
class Remote:
    """An llm that is asked over a network, by the run's caller."""

    spec: LLM
    line: Line
    cache: bool = True
    remark: Callable[[str], None] = field(default=lambda note: None)  # is told what the caller waits for

    def identity(self) -> Mapping[str, object]:
        """Return what tells this model from every other: enters the key of each call."""
        return providers.identity(self.spec)

    def answers(self, wanted: Iterable[Wanted | None]) -> Iterator[tuple[int, Answer, bool]]:
        """Have calls made, and yield (number, answer, whether it was known or others paid) as answers come.

        `wanted` is read as far as there is room, and not further for now where it gives None. When the job is to end, no
        more are sent, and those in flight are waited for. Raises ProviderError for what concerns all of them.
        """
        ahead = Ahead(iter(wanted), lambda call: self, bool(self.spec.batch))
        with stopping.finishing():
            try:
                while ahead.more():
                    yield from ahead.heard()
            finally:
                ahead.close()

    def close(self) -> None:
        """Do nothing: the connection is the job's."""


@dataclass
class _Pass:
    """A pass over one llm: what of it isn't told to the caller yet."""

    remote: Remote
    number: int
    frame: list[list[Any]] = field(default_factory=list)
    told_last: bool = False

    def ask(self) -> None:
        """Ask for what has gathered."""
        self.told_last = False
        self.remote.line.say({"ask": self.number, "items": self.frame})
        self.frame = []

    def last(self) -> None:
        """Say, once, that nothing more will be asked for now."""
        if not self.told_last:
            self.told_last = True
            self.remote.line.say({"last": self.number})


class Ahead:
    """Passes side by side, one for each llm of one job, as their worker sees them: what the caller has in hand.

    `remote_of` tells which llm a call is for; with `batch` one of them is asked through a batch API.
    """

    def __init__(self, wanted: Iterator[Wanted | None], remote_of: Callable[[Wanted], Remote], batch: bool):
        self.wanted, self.remote_of = wanted, remote_of
        # a batch begins once all that goes into it is there
        self.most, self.most_bytes = (BATCH, BATCH_BYTES) if batch else (OUTSTANDING, OUTSTANDING_BYTES)
        self.sizes: dict[int, int] = {}  # of the requests in hand, by number
        self.bytes = 0
        self.passes: dict[int, _Pass] = {}
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ended, self.stopped = False, False

    def more(self) -> bool:
        """Ask for as much as there is room for, and tell whether anything is to be waited for."""
        while not self.ended and not self.stopped and len(self.sizes) < self.most and self.bytes < self.most_bytes:
            call = next(self.wanted, self)
            if call is self:
                self.ended = True
            elif call is None:
                break
            else:
                self._take(call)
        for pass_ in self.passes.values():
            if pass_.frame:
                pass_.ask()
            if self.sizes and (self.ended or len(self.sizes) < self.most):
                pass_.last()
        return bool(self.sizes)

    def came(self) -> bool:
        """Tell whether something is there to be heard."""
        return not self.arrived.empty()

    def heard(self) -> Iterator[tuple[int, Answer, bool]]:
        """Wait for answers, and yield those that are there."""
        if stopping.asked() and not self.stopped:
            self.stopped = True
            next(iter(self.passes.values())).remote.line.say({"stop": True})
        try:
            told = self.arrived.get(timeout=NAP)
        except queue.Empty:
            return
        if "problem" in told:
            raise (DdmakeError if told["kind"] == "DdmakeError" else ProviderError)(told["told"])
        if "note" in told:
            self.passes[told["note"]].remote.remark(told["told"])
            return
        for pass_, number, answer, cached in told["answers"]:
            self.bytes -= self.sizes.pop(number)
            if not stopping.asked() or not self.passes[pass_].remote.cache:  # the caller keeps those that come now
                yield number, frames.answer(answer), cached

    def close(self) -> None:
        """End the passes: what the caller has in hand isn't wanted any more."""
        for pass_ in self.passes.values():
            pass_.remote.line.end(pass_.number)

    def _take(self, call: Wanted) -> None:
        """Note that a call is in the caller's hands, and let it gather with others; the first one of an llm begins its pass.

        Raises NotStored in a frozen run.
        """
        remote = self.remote_of(call)
        if offline.is_on():
            raise not_stored(call, remote.spec)
        pass_ = next((known for known in self.passes.values() if known.remote is remote), None) or self._begin(remote, call)
        size = sum(len(str(message.get("content"))) for message in call.request.messages)
        self.sizes[call.number] = size
        self.bytes += size
        pass_.frame.append([call.number, call.key.hex(), *frames.of_request(call.request), call.anew])
        if len(pass_.frame) == FRAME:
            pass_.ask()

    def _begin(self, remote: Remote, call: Wanted) -> _Pass:
        told = {"llm": frames.of_llm(remote.spec), "schema": call.request.schema, "tools": call.request.tools,
                "cache": remote.cache}
        begun = _Pass(remote, remote.line.begin(told, self.arrived))
        self.passes[begun.number] = begun
        return begun
