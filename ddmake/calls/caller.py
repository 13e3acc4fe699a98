"""The caller: the one process of a run that sends requests, under limits and a budget, and keeps the answers.

It has one aiohttp client for all rules. A request that is in flight for anybody isn't sent again: who asks for the same
waits with the others, and so do the callers of other runs (claims.py). It ends with the head, whose end of its standard
input is then closed, once what is in flight is answered: that is paid for.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ddmake.backends import open_service, providers, servers
from ddmake.backends.base import Answer, Service
from ddmake.backends.embedders import API, without_vectors
from ddmake.backends.serving import Served, Servers
from ddmake.calls import frames, prices
from ddmake.calls.batched import Batched
from ddmake.calls.budget import Budget, OverBudget
from ddmake.calls.cache import Calls, Payer
from ddmake.calls.claims import Claimed, Claims
from ddmake.calls.flow import Flow
from ddmake.calls.passes import Call, Line, Pass, stopped
from ddmake.calls.sending import Sender
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdmakeError, ProviderError

LOOK = (0.05, 1.0)  # seconds between two looks for an answer that somebody else asks for: at first, at most
TELL = 0.5  # seconds between two tellings of what was spent


class Caller:
    """All that a run's caller holds. `limit` is what may be spent, in dollars."""

    def __init__(self, folder: Path, limit: float | None):
        self.loop = asyncio.get_running_loop()
        self.calls = Calls(folder, self._committed)
        self.claims = Claims(self.calls)
        self.sender = Sender(Budget(limit))
        self.session: Any = None
        self.claiming: dict[bytes, Call] = {}  # calls that are being claimed
        self.under_way: dict[bytes, Call] = {}
        self.foreign: dict[bytes, Call] = {}  # calls that somebody else is making
        self.answered: dict[bytes, Answer] = {}  # and not yet on disk
        self.lines: set[Line] = set()
        self._services: dict[str, Service] = {}
        self._flows: dict[str, Flow] = {}
        self._batched: dict[str, Batched] = {}
        self._looking: asyncio.Task[None] | None = None
        self._servers = Servers(folder, lambda: (pass_.spec for line in self.lines for pass_ in line.passes.values()))

    async def serve(self, listening: Any) -> None:
        """Serve workers on a listening socket until the head ends or closes our standard input."""
        room = Path(listening.getsockname()).parent
        server = await asyncio.start_unix_server(self._connected, sock=listening)
        telling = asyncio.create_task(self._tell())
        self.loop.add_signal_handler(signal.SIGTERM, self._break_off)
        await _end_of_input(self.loop)
        server.close()
        await self.close()
        telling.cancel()
        self._tell_once()
        shutil.rmtree(room, ignore_errors=True)  # which a head that was killed has left

    async def close(self) -> None:
        """Send no more, wait for what is in flight, and commit what has come."""
        self.sender.closing = True
        for call in list({*self.under_way.values(), *self.foreign.values()}):
            self._drop(call)
        while (tasks := self._tasks()) or self.claiming:
            await (asyncio.wait(tasks) if tasks else asyncio.sleep(LOOK[0]))
        for part in (*self._batched.values(), *self._services.values()):
            await part.close()
        await self._servers.close()
        if self.session is not None:
            await self.session.close()
        self.claims.close()
        self.calls.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(writer)
        self.lines.add(line)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(frames.HEAD), "big")
                told = frames.unpacked(await reader.readexactly(size))
                try:
                    await self._hear(line, told)
                except Exception as error:  # a database that can't be read, or a defect of ddmake's: the rules have to hear of it
                    for pass_ in line.passes.values():
                        self._end_pass(pass_, error)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.lines.discard(line)
            for pass_ in line.passes.values():
                self._stop(pass_)
            writer.close()

    async def _hear(self, line: Line, told: Mapping[str, Any]) -> None:
        if told.get("ask") in line.passes:
            await self._ask(line.passes[told["ask"]], told["items"])
        elif "pass" in told:
            try:
                self._begin(line, told)
            except Exception as error:  # whatever it is, who begins a pass would wait for its answers for ever
                line.say(_problem(told["pass"], error))
        elif told.get("last") in line.passes and line.passes[told["last"]].spec.batch:
            await self._batches(line.passes[told["last"]]).flush()
        elif "end" in told and told["end"] in line.passes:
            self._stop(line.passes.pop(told["end"]))
        elif "stop" in told:
            for pass_ in line.passes.values():
                self._stop(pass_)

    def _begin(self, line: Line, told: Mapping[str, Any]) -> None:
        """Open what a pass asks. Raises DdmakeError where that can't be."""
        spec = LLM(**told["llm"])
        price = prices.price_of(spec)
        payer = Payer(spec.name, told["rule"], price and price.told)
        service, flow = self._service(spec), self._flow(spec)
        begun = Pass(told["pass"], line, spec, service, flow, payer, price, told["schema"], told["tools"], told["cache"])
        if spec.batch:
            self._batches(begun)
        line.passes[begun.number] = begun

    def _service(self, spec: LLM) -> Service:
        name = json.dumps(frames.of_llm(spec), sort_keys=True)
        if name not in self._services:
            self._services[name] = open_service(spec, self._session(), self._servers)
        return self._services[name]

    def _session(self) -> Any:
        """Return the one HTTP client."""
        if self.session is None:
            import aiohttp

            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self.session

    def _flow(self, spec: LLM) -> Flow:
        account = f"{providers.account(spec)} {providers.counted_apart(spec)}"
        if account not in self._flows:
            self._flows[account] = Flow(providers.kind_of(spec))
        self._flows[account].state(servers.at_once(spec), spec.rpm, spec.tpm)
        return self._flows[account]

    async def _ask(self, pass_: Pass, items: Iterable[list[Any]]) -> None:
        """Answer what is known, join what is under way, and begin the rest."""
        missing: dict[bytes, Call] = {}
        for number, key, messages, sample, anew in items:
            request = frames.request([messages, sample], pass_.schema, pass_.tools)
            self._sort_in(Call(bytes.fromhex(key), request, anew, pass_, [(pass_, number)]), missing)
        if not missing:
            return
        if not pass_.cache:
            self._begin_calls(missing, Claimed({}, list(missing), []))
            return
        try:
            claimed = await self._claimed(missing)
        except Exception as error:  # of the database
            for call in missing.values():
                self.refuse(call, error)
            return
        self._begin_calls(missing, claimed)

    async def _claimed(self, missing: Mapping[bytes, Call]) -> Claimed:
        """Claim what is missing; who asks for the same meanwhile joins."""
        anew = frozenset(key for key, call in missing.items() if call.anew)
        self.claiming.update(missing)
        try:
            return await self.loop.run_in_executor(None, self.claims.take, list(missing), anew)
        finally:
            for key in missing:
                del self.claiming[key]

    def _sort_in(self, call: Call, missing: dict[bytes, Call]) -> None:
        """Put a call to those that wait for the same answer, or to what is missing."""
        if not call.by.cache and not call.by.spec.batch:
            call.key = os.urandom(16)  # it is nobody's answer but its own
        places = (self.under_way, self.foreign, self.claiming, missing)
        same = next((place[call.key] for place in places if call.key in place), None)
        if call.by.over or self.sender.closing:
            call.give(stopped())
        elif same is not None and call.by.cache and same.by.cache:
            same.waiting += call.waiting
        elif call.key in self.answered and not call.anew and call.by.cache:
            call.give(self.answered[call.key], cached=True)
        else:
            missing[call.key] = call

    def _begin_calls(self, missing: Mapping[bytes, Call], claimed: Claimed) -> None:
        for key, answer in claimed.known.items():
            missing[key].give(answer, cached=True)
        for key in claimed.mine:
            self._start(missing[key])
        for key in claimed.theirs:
            if self.sender.closing or missing[key].over:
                missing[key].give(stopped())
            else:
                self.foreign[key] = missing[key]
        if self.foreign and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())

    def _start(self, call: Call) -> None:
        if self.sender.closing or call.over:  # while it was claimed
            self._end(call)
            return
        self.under_way[call.key] = call
        if call.by.spec.batch:
            self._batches(call.by).add(call)
        else:
            call.task = asyncio.create_task(self._make(call))
            call.task.add_done_callback(lambda _: self._end(call))

    def _batches(self, pass_: Pass) -> Batched:
        """Return what sees to the batches of a pass's llm."""
        name = json.dumps(frames.of_llm(pass_.spec), sort_keys=True)
        if name not in self._batched:
            self._batched[name] = Batched(self, pass_.spec, self._session())
        return self._batched[name]

    async def _look(self) -> None:
        """Look for the answers that others ask for; what they gave up is asked for here."""
        pause = LOOK[0]
        while self.foreign:
            await asyncio.sleep(pause)
            looked = dict(self.foreign)
            anew = frozenset(key for key, call in looked.items() if call.anew)
            claimed = await self.loop.run_in_executor(None, self.claims.take, list(looked), anew)
            settled = [*claimed.known, *claimed.mine]
            pause = LOOK[0] if settled else min(1.5 * pause, LOOK[1])
            for key in settled:
                call = self.foreign.pop(key, None)
                if call is None:  # nobody waits for it any more
                    self.claims.release([key] if key in claimed.mine else [])
                elif key in claimed.known:
                    call.give(claimed.known[key], cached=True)
                else:
                    self._start(call)

    async def _make(self, call: Call) -> None:
        """Make a call and hand out its answer; a refusal that concerns all ends the passes that wait for it."""
        try:
            if isinstance(call.by.service, Served):
                await call.by.service.ready()  # before it counts as in flight: a server may take minutes to start
            answer = await self.sender.answer(call)
            call.billed = None  # it is in this one's sums
            call.kept = self.keep(call, answer)
            call.give(answer)
        except Exception as error:  # a refusal, a database that is full, or a defect of ddmake's: the rule has to hear of it
            self.refuse(call, error)

    def _end(self, call: Call) -> None:
        """Take leave of a call; one that was broken off, perhaps before its task began, is answered by that."""
        self.under_way.pop(call.key, None)
        call.give(stopped())
        if call.billed is not None:
            self.calls.put_spent(call.request, call.billed, call.by.payer)
        if not call.kept and call.by.cache:
            self.claims.release([call.key])

    def keep(self, call: Call, answer: Answer) -> bool:
        """Keep an answer, or what a failure has cost; tell whether the call is answered for good."""
        kept = answer.error is None or answer.finish_reason == "content_filter"
        if kept and call.by.cache:
            self.answered[call.key] = answer
            self.calls.put(call.key, call.request, answer, call.by.payer, anew=call.anew)
        elif kept or answer.cost is not None or answer.tokens_in is not None:
            noted = without_vectors(answer) if call.by.spec.api == API else answer
            self.calls.put_spent(call.request, noted, call.by.payer)
        return kept

    def _committed(self, keys: list[bytes]) -> None:
        """Hear from the writer what is on disk."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: [self.answered.pop(key, None) for key in keys])

    def refuse(self, call: Call, error: Exception) -> None:
        """Tell those who wait for a call that their passes are at an end."""
        for pass_, _ in call.waiting:
            self._end_pass(pass_, error)
        call.waiting = []

    def _end_pass(self, pass_: Pass, error: Exception) -> None:
        if not pass_.over:
            pass_.line.say(_problem(pass_.number, error))
            self._stop(pass_)

    def _stop(self, pass_: Pass) -> None:
        """Send no more for a pass."""
        pass_.over = True
        for call in [*self.under_way.values(), *self.foreign.values()]:
            if call.over:
                self._drop(call)

    def _drop(self, call: Call) -> None:
        """Give up a call that isn't in flight."""
        if self.foreign.pop(call.key, None) is not None:
            call.give(stopped())
        elif call.task is None:  # its batch, once handed over, goes on at the provider for the next run to collect
            self._batches(call.by).drop(call.key)
            self.under_way.pop(call.key, None)
            self.claims.release([call.key])
            call.give(stopped())
        elif not call.sent:
            call.task.cancel()

    def _tasks(self) -> list["asyncio.Task[None]"]:
        looking = [self._looking] if self._looking is not None and not self._looking.done() else []
        return [*looking, *(call.task for call in self.under_way.values() if call.task is not None)]

    def _break_off(self) -> None:
        """Wait for nothing that is in flight."""
        self.sender.closing = True
        for task in self._tasks():
            task.cancel()

    async def _tell(self) -> None:
        """Tell the head what was spent, as it changes, and the workers what their passes wait for."""
        while True:
            await asyncio.sleep(TELL)
            self._tell_once()
            for pass_ in [pass_ for line in self.lines for pass_ in line.passes.values()]:
                if not pass_.over and (note := self._servers.describe(pass_.spec) or pass_.flow.describe()):
                    pass_.line.say({"note": pass_.number, "told": note})

    def _tell_once(self) -> None:
        budget = self.sender.budget
        told = {"sent": self.sender.sent, "spent": budget.known, "unknown": budget.unknown}
        if told != getattr(self, "_told", None):
            self._told = told
            try:
                print(json.dumps(told), flush=True)
            except OSError:  # nobody reads it any more
                pass


def _problem(number: int, error: Exception) -> dict[str, Any]:
    """Return what is told of an error that ends a pass."""
    kind = "ProviderError" if isinstance(error, (ProviderError, OverBudget)) else "DdmakeError"
    told = str(error) if isinstance(error, DdmakeError) else f"{type(error).__name__}: {error}"
    return {"problem": number, "kind": kind, "told": told}


async def _end_of_input(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until the head has closed our standard input, as its end does."""
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
