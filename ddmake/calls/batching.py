"""Asking through a provider's batch API: requests are gathered, handed over, waited for and collected, across restarts.

How the caller process uses it, for an llm with `batch=True`, after it has claimed a key as it does for any other call:

    batcher = Batcher(Book(calls.path), open_batches(spec, session), caller, spec.name)
    await batcher.add(key, request, rule)     # instead of Service.ask; raises ProviderError for what can't be sent at all
    await batcher.flush()                     # a rule has nothing more to ask until answers come
    batcher.drop(key)                         # nobody waits for this any more: it is left out if it isn't handed over yet
    await batcher.stop()                      # at the end of the run: nothing is cancelled at the provider

One Batcher serves all rules that ask this llm. A rule has to ask all it has before it waits for the first answer: its
look-ahead is bounded by `batcher.most` alone. The caller is told what comes by the methods of `Caller`. Answers that an
earlier run asked for, and that nobody waits for now, are delivered as well: they are paid for, and to be kept.

Never twice: a batch is noted in the book before it is uploaded, its file before the job is created, the job as soon as its
id is there, and it is struck out once its answers are on disk. A batch whose job isn't noted is looked for at the provider by
its token, and only if it isn't there, handed over again. A call is in one open batch at most, whatever process asks for it.
"""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.batches.base import Batches, Sent, State
from ddmake.calls.batchbook import Batch, Book, Item
from ddmake.errors import DdmakeError, ProviderError
from ddmake.store.database import told

FIRST = 5.0  # seconds between the first two looks at a batch
SLOWER, LONGEST = 1.5, 12.0  # how the time between two looks grows, and up to how many times the first
IDLE = 60.0  # seconds without another request, after which a batch is handed over
GRACE = 60.0  # seconds after which a job that was to be created is in the provider's list, if it was
TRIES = 8  # of an upload, or of creating a job
AGAIN = 1  # how often a request that got no answer goes into another batch

T = TypeVar("T")


class Caller(Protocol):
    """What a Batcher needs of the process that calls."""

    def deliver(self, key: bytes, request: Request, answer: Answer, rule: str) -> None:
        """Take an answer, to be kept in calls.db and given to who waits for it; it may come twice."""
        ...

    def refuse(self, keys: Iterable[bytes], error: DdmakeError) -> None:
        """Take word that these calls get no answer in this run, for a reason that concerns all of them."""
        ...

    async def kept(self) -> None:
        """Return once all that was delivered is committed to calls.db."""
        ...

    def known(self, keys: Iterable[bytes]) -> Mapping[bytes, Answer]:
        """Return the answers in calls.db that count: none to a call that is to be made anew."""
        ...

    def tell(self, note: str) -> None:
        """Take a note on how far a batch is, for who watches the run."""
        ...


@dataclass
class Wanted:
    """A call that is asked for in this run: the batch it is in, and how often one gave no answer."""

    item: Item
    token: str | None = None
    vain: int = 0
    reason: str = ""


class Batcher:
    """Gathers the requests of one llm into batches, and sees to them."""

    def __init__(self, book: Book, service: Batches, caller: Caller, llm: str, first: float | None = None,
                 idle: float = IDLE, grace: float = GRACE):
        self.book, self.service, self.caller, self.llm = book, service, caller, llm
        self.first = float(os.environ.get("DDMAKE_BATCH_POLL", FIRST)) if first is None else first
        self.idle, self.grace, self.most = idle, grace, service.most
        self.wanted: dict[bytes, Wanted] = {}
        self._pending: dict[bytes, str] = {}  # the bodies of those that are in no batch yet
        self._bytes = 0
        self._bodies: dict[str, list[str]] = {}  # of batches that aren't handed over yet
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the batch that they see to
        self._timer: asyncio.TimerHandle | None = None
        self._delivered: set[str] = set()  # batches whose answers are being kept: a matter of moments
        self._adopted = self._stopping = False

    async def add(self, key: bytes, request: Request, rule: str = "") -> None:
        """Ask for an answer. Raises ProviderError for a request that this batch API can't take."""
        if not self._adopted:
            self._adopt()
        if key not in self.wanted:
            body = self._body(request)
            self.wanted[key] = Wanted(Item(key, request, rule))
            self._place(key, body)

    async def flush(self) -> None:
        """Hand over what is pending."""
        self._hand_over()

    def drop(self, key: bytes) -> None:
        """Leave out of the next batch what nobody waits for any more; what is handed over goes on."""
        self.wanted.pop(key, None)
        self._bytes -= len(self._pending.pop(key, "").encode())

    async def stop(self) -> None:
        """Let go of all batches; they stay open at the provider, for the next run to collect."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for token, task in self._tasks.items():
            if token not in self._delivered:
                task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _adopt(self) -> None:
        """See to what earlier runs have left open."""
        self._adopted = True
        for token in self.book.open_ones(self.service.account, self.llm):
            self._see_to(token)

    def _body(self, request: Request) -> str:
        return json.dumps(self.service.body(request), ensure_ascii=False)

    def _place(self, key: bytes, body: str) -> None:
        """Wait for the batch that a call is in, or put it into the next one, which is handed over when it is full."""
        wanted = self.wanted[key]
        wanted.token = self.book.holder(key)
        if wanted.token is not None:
            self._see_to(wanted.token)
            return
        size = len(body.encode())
        if self._pending and (len(self._pending) >= self.most or self._bytes + size > self.service.most_bytes):
            self._hand_over()
        self._pending[key] = body
        self._bytes += size
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.idle, self._hand_over)

    def _hand_over(self) -> None:
        pending, self._pending, self._bytes = self._pending, {}, 0
        if not pending or self._stopping:
            return
        items = [self.wanted[key].item for key in pending]
        try:
            token, mine = self.book.open(self.service.account, self.llm, items, self.caller.known)
        except sqlite3.Error as error:
            self._give_up(list(pending), DdmakeError(f"calls.db: {told(error)}"))
            return
        for item in mine:
            self.wanted[item.key].token = token
        self._bodies[token] = [pending.pop(item.key) for item in mine]
        if mine:
            self._see_to(token)
        self._settle(list(pending))

    def _see_to(self, token: str) -> None:
        """Have a batch seen through to its end."""
        if token not in self._tasks:
            self._tasks[token] = asyncio.get_running_loop().create_task(self._follow(token))

    async def _follow(self, token: str) -> None:
        """Drive a batch, or wait until the process that does has come to its end; what goes wrong is told to who waits."""
        try:
            await self._drive_or_wait(token)
            self._settle(self._held(token))
        except Exception as error:  # whatever it is, those who wait would wait for ever
            known = isinstance(error, DdmakeError)
            self._give_up(self._held(token), error if known else DdmakeError(f"{self.llm}: {type(error).__name__}: {error}"))
        finally:
            self._delivered.discard(token)
            del self._tasks[token]

    async def _drive_or_wait(self, token: str) -> None:
        for wait in self._waits():
            if self.book.get(token) is None:
                return
            with self.book.driving(token) as batch:
                if batch is not None:
                    return await self._drive(batch)
            await asyncio.sleep(wait)

    def _held(self, token: str) -> list[bytes]:
        return [key for key, wanted in self.wanted.items() if wanted.token == token]

    def _settle(self, keys: list[bytes]) -> None:
        """See to calls that are in no batch any more: known by now, in vain too often, or for another batch."""
        known = self.caller.known(keys)
        for key in keys:
            wanted = self.wanted[key]
            if key in known:
                self._deliver(wanted.item, known[key])
            elif wanted.vain > AGAIN:
                self._deliver(wanted.item, Answer(model=self.llm, error=wanted.reason))
            else:
                self._place(key, self._body(wanted.item.request))
        self._hand_over()

    def _deliver(self, item: Item, answer: Answer) -> None:
        self.wanted.pop(item.key, None)
        self.caller.deliver(item.key, item.request, answer, item.rule)

    def _give_up(self, keys: list[bytes], error: DdmakeError) -> None:
        for key in keys:
            del self.wanted[key]
        self.caller.refuse(keys, error)

    async def _drive(self, batch: Batch) -> None:
        """Hand a batch over if it isn't yet, wait until it has ended, collect it, and strike it out."""
        job = batch.job or await self._found_or_created(batch)
        if job is None:
            return self.book.strike(batch.token)
        state = await self._ended(batch, job)
        if state is not None and state.status == "ended":
            await self._patiently(batch, lambda: self._collect(batch, job, state.reason))
        elif state is not None:
            await self._failed(batch, job, state)
        elif batch.account == self.service.account:
            self._count_vain(dict.fromkeys(self._held(batch.token), f"the batch {job} isn't there any more"))
        else:
            raise ProviderError(f"{self.llm}: the batch {job} was handed over with another API key or at another address. Give "
                                "that key, or take batch=True off to ask one by one.")
        self.book.strike(batch.token)

    async def _found_or_created(self, batch: Batch) -> str | None:
        """Return the id of a batch's job, noted; None where an earlier run came to no job."""
        bodies = self._bodies.pop(batch.token, None)
        if batch.tried is not None:
            job = await self._find(batch, batch.tried)
        else:
            job = None if bodies is None else await self._submit(batch, bodies)
        if job is not None:
            self.book.created(batch.token, job)
        return job

    async def _submit(self, batch: Batch, bodies: list[str]) -> str:
        """Upload a batch and create its job."""
        upload = self._patiently(batch, lambda: self.service.upload(batch.token, bodies), TRIES)
        file = await self._or_struck_out(batch, upload)
        if file is not None:
            self.book.uploaded(batch.token, file)
        return await self._create(replace(batch, file=file), bodies)

    async def _create(self, batch: Batch, bodies: list[str]) -> str:
        """Create a batch's job; where no word came back, it is looked for before that is tried again."""
        for left, wait in zip(reversed(range(TRIES)), self._waits()):
            self.book.trying(batch.token)
            tried = time.time()
            try:
                return await self._or_struck_out(batch, self.service.create(batch.token, batch.file, bodies))
            except Retry as retry:
                self._tell(batch, f"not submitted yet: {retry}")
                job = await self._find(batch, tried) if retry.paid or retry.status == 503 else None
                if job is not None:
                    return job
                if not left:
                    self.book.strike(batch.token)
                    raise ProviderError(f"{self.llm}: a batch could not be submitted in {TRIES} tries: {retry}") from None
                await asyncio.sleep(retry.wait or wait)

    async def _or_struck_out(self, batch: Batch, work: Awaitable[T]) -> T:
        """Do what hands a batch over, or strike the batch out: where that is refused, the provider doesn't have it."""
        try:
            return await work
        except ProviderError:
            self.book.strike(batch.token)
            raise

    async def _find(self, batch: Batch, tried: float) -> str | None:
        """Return the job of a batch whose creation was tried; None once it is sure that there is none."""
        sent = Sent(batch.token, batch.count, batch.made, batch.file)
        for wait in self._waits():
            late = time.time() > tried + self.grace
            job = await self._patiently(batch, lambda: self.service.find(sent))
            if job is not None or late:
                return job
            await asyncio.sleep(wait)

    async def _ended(self, batch: Batch, job: str) -> State | None:
        """Return a job's state once it runs no more; None once it is sure that the provider doesn't know it."""
        began = time.time()
        for wait in self._waits():
            late = time.time() > began + self.grace
            state = await self._patiently(batch, lambda: self.service.state(job))
            if state is None and late or state is not None and state.status != "running":
                return state
            self._tell(batch, f"in progress, {state.done if state else 0:,} done")
            await asyncio.sleep(wait)

    async def _collect(self, batch: Batch, job: str, final: str) -> None:
        """Deliver what a job has answered, and wait until it is kept; the rest is asked for again, but for a `final` reason."""
        items, vain = self.book.items(batch.token), {}
        async for number, outcome in self.service.results(job):
            item = items.pop(number, None)
            if item is not None and isinstance(outcome, Retry):
                vain[item.key] = str(outcome)
            elif item is not None:
                self._deliver(item, outcome)
        self._delivered.add(batch.token)
        await self.caller.kept()
        vain |= {item.key: f"the batch {job} holds no answer to it" for item in items.values()}
        self._count_vain(dict.fromkeys(vain, final) if final else vain, AGAIN + 1 if final else 1)

    def _count_vain(self, reasons: Mapping[bytes, str], times: int = 1) -> None:
        for key, reason in reasons.items():
            if key in self.wanted:
                self.wanted[key].vain += times
                self.wanted[key].reason = reason

    async def _failed(self, batch: Batch, job: str, state: State) -> None:
        """Make smaller batches of one that was too much. Raises ProviderError, the batch struck out, for any other reason."""
        if not state.later or batch.count == 1:
            self.book.strike(batch.token)
            raise ProviderError(f"{self.llm}: the batch {job} failed: {state.reason}")
        self.most = batch.count // 2
        self._tell(batch, f"too much at once: {state.reason}")
        await asyncio.sleep(self.first * LONGEST)

    async def _patiently(self, batch: Batch, work: Callable[[], Awaitable[T]], tries: int | None = None) -> T:
        """Return what some work returns, tried again as long as that may help. Raises ProviderError after so many tries."""
        for number, wait in enumerate(self._waits(), 1):
            try:
                return await work()
            except Retry as retry:
                self._tell(batch, str(retry))
                if number == tries:
                    raise ProviderError(f"{self.llm}: a batch could not be submitted in {tries} tries: {retry}") from None
                await asyncio.sleep(retry.wait or wait)

    def _tell(self, batch: Batch, words: str) -> None:
        self.caller.tell(f"batch of {batch.count:,} at {self.llm.partition('/')[0]}: {words}")

    def _waits(self) -> Iterator[float]:
        """Yield the seconds between looks, without end."""
        wait = self.first
        while True:
            yield wait
            wait = min(wait * SLOWER, self.first * LONGEST)
