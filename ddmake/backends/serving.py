"""Servers that this process has started: found ready, shared, started once more where they die, stopped at the end.

What is started is keeper.py, which runs the server and ends it when this process is gone, however that ended.
"""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from ddmake.backends import keeper, providers
from ddmake.backends.base import Answer, Heard, Request, Retry
from ddmake.backends.openai import OpenAI
from ddmake.backends.servers import HOST, Launch, is_served, launch_of, start_limit
from ddmake.errors import DdmakeError, ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

LOOKS = (0.05, 1.0)  # seconds between two looks whether it is: at first, at most
LOOK = 5.0  # seconds that one look may take
DEATH = 2.0  # seconds that a server may take to be gone, after a request that broke
LAST = 6  # lines of its log that are told where it fails
LONGEST = 300  # characters of one of them
LONGEST_SLUG = 80  # characters of a model's name in the name of its log
TAIL = 2**16  # bytes of a log that are read for them
COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and what else steers a terminal


class Served:
    """A Service behind a server of its own."""

    def __init__(self, spec: "LLM", session: aiohttp.ClientSession, servers: "Servers"):
        self.spec, self.session, self.servers, self.server = spec, session, servers, servers.of(spec)
        self.account, self.model = providers.account(spec), providers.model_of(spec)
        self._asked: tuple[str, OpenAI] | None = None  # the address, and what asks there

    async def ready(self) -> str:
        """Return where the server answers, once it does; it is started if need be. Raises ProviderError as `address` does."""
        return await self.servers.address(self.server)

    async def ask(self, request: Request, heard: Heard) -> Answer:
        """Return the answer to one request, tried once; what a server that died hasn't answered is asked of its successor.

        Raises Retry where another try may help, ProviderError where none would: the server can't be started.
        """
        address = await self.ready()
        try:
            answer = await self._service(address).ask(request, heard)
        except Retry as error:
            if error.status is not None and error.status < 500 or not await self.server.has_died(address):
                raise
            return await self.ask(request, heard)  # that was no try: the server is ours, and is started once more
        answer.model = self._told(answer.model)
        return _cut(answer, self.spec) if self.server.launch.kind == "transformers" else answer

    def _told(self, model: str) -> str:
        """Return what a server calls its model; the Ddfile's name for it, where that is what is meant."""
        launch, root = self.server.launch, self.servers.root
        place = launch.place(root)
        return self.model if model in ("", launch.name(root), place, f"{place}@main") else model  # the last is transformers'

    async def close(self) -> None:
        """Do nothing: the servers are stopped together."""

    def _service(self, address: str) -> OpenAI:
        if self._asked is None or self._asked[0] != address:
            extra = {"model": self.server.launch.name(self.servers.root), **_sent(self.spec)}
            spec = replace(self.spec, base_url=address, extra=extra)
            self._asked = (address, OpenAI(spec, self.session))
        return self._asked[1]


class Servers:
    """The servers of a project's run. `needed` gives the llms that are asked at the moment."""

    def __init__(self, folder: Path, needed: Callable[[], Iterable["LLM"]]):
        self.root, self.logs, self.needed = folder.parent, folder / "logs" / "servers", needed
        self._servers: dict[Launch, Server] = {}

    def of(self, spec: "LLM") -> "Server":
        """Return the server that an llm stands behind, started or not."""
        launch = launch_of(spec)
        if launch not in self._servers:
            self._servers[launch] = Server(spec.name, launch, self.root, self.logs)
        return self._servers[launch]

    async def address(self, server: "Server") -> str:
        """Return where a server answers, once it does. Raises ProviderError where it doesn't.

        Before one is started, those are stopped that nobody asks any more: they may hold the memory that it needs.
        """
        if not server.is_up:
            needed = {launch_of(other) for other in self.needed() if is_served(other)} | {server.launch}
            await asyncio.gather(*(other.stop() for launch, other in self._servers.items() if launch not in needed))
        return await server.address()

    def describe(self, spec: "LLM") -> str | None:
        """Return what an llm waits for, for a person; None where it isn't the start of a server."""
        return self.of(spec).describe() if is_served(spec) else None

    async def close(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))


class Server:
    """One server: at first not started, later up, or dead."""

    def __init__(self, name: str, launch: Launch, root: Path, logs: Path):
        self.name, self.launch, self.root, self.logs = name, launch, root, logs
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[str] | None = None  # gives the address
        self._since, self._log, self._died = 0.0, logs, False
        self._at: dict[str, asyncio.subprocess.Process] = {}  # what was started for an address, but for what was stopped

    @property
    def is_up(self) -> bool:
        """Tell whether it was found ready, and runs."""
        ready = self._starting is not None and self._starting.done()
        return ready and self._process is not None and self._process.returncode is None

    async def address(self) -> str:
        """Return where it answers: now, or once it is ready. Raises ProviderError where it can't be started, or died twice."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        elif self._starting.done() and self._starting.exception() is None and not self.is_up:
            if self._died:
                raise ProviderError(self._told("has died twice"))
            self._died = True
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)  # who stops waiting doesn't end it for the others

    async def has_died(self, address: str) -> bool:
        """Tell whether what answered at an address has died by itself, or does so in a moment."""
        if (process := self._at.get(address)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), DEATH)
        return address in self._at and self._at[address].returncode is not None

    def describe(self) -> str | None:
        """Return that it is starting, for a person; None where it isn't."""
        if self._starting is None or self._starting.done():
            return None
        return f"{self.launch.called} is starting ({time.monotonic() - self._since:,.0f} s)"

    async def stop(self) -> None:
        """End it, with all that it started."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        process, self._process = self._process, None
        self._at.clear()
        if process is not None:
            await _end(process)

    async def _start(self) -> str:
        """Start it, and return its address once it is ready."""
        if self._process is not None:
            _kill(self._process)  # what it may have left behind
        self._since, port, pause = time.monotonic(), _free_port(), LOOKS[0]
        address = f"http://{HOST}:{port}/v1"
        try:
            limit = start_limit()
            process = self._process = self._at[address] = await self._launched(port)
        except (DdmakeError, OSError) as error:
            raise ProviderError(f"{self.name} can't be started: {error}") from None
        while not await _is_healthy(f"http://{HOST}:{port}/health", process):
            if process.returncode is not None:
                raise ProviderError(self._told("ended before it was ready"))
            if time.monotonic() - self._since > limit:
                await _end(process)
                raise ProviderError(self._told(f"wasn't ready after {limit:,.0f} s (DDMAKE_SERVER_START gives it more)"))
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LOOKS[1])
        return address

    async def _launched(self, port: int) -> asyncio.subprocess.Process:
        """Start its process; the log begins with the command line, without what the environment has in it."""
        program, arguments = self.launch.program(), self.launch.arguments(self.root, port)
        self.logs.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^\w.-]+", "-", self.name).strip("-")[-LONGEST_SLUG:]
        self._log = self.logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{os.getpid()}-{port}.log"
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(program[0]).parent)])  # of its own environment
        with self._log.open("ab") as log:
            log.write(f"{json.dumps([self.launch.called, *arguments])}\n".encode())
            log.flush()
            return await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", keeper.__file__, *program, *arguments, cwd=self.root,
                env={**os.environ, "PATH": path}, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _told(self, what: str) -> str:
        """Return what became of it, with the last lines of its log."""
        last = [line[:LONGEST] for line in map(_plain, _tail(self._log).splitlines()) if line][-LAST:]
        log = self._log.relative_to(self.root) if self._log.is_relative_to(self.root) else self._log
        return "\n  ".join([f"{self.name}: `{self.launch.called}` {what}. Its log, {log}, ends:", *last])


def _tail(log: Path) -> str:
    """Return the end of a log, which may be long, without its first line, the command; nothing of one that can't be read."""
    try:
        with log.open("rb") as file:
            unread = max(0, log.stat().st_size - TAIL)
            file.seek(unread)
            first, _, rest = file.read(TAIL).decode("utf-8", "replace").partition("\n")
    except OSError:
        return ""
    return rest or (first if unread else "")


def _plain(line: str) -> str:
    """Return a line of a log without what would steer a terminal."""
    return "".join(c for c in COLOURS.sub("", line).replace("\t", " ") if c.isprintable()).strip()


def _sent(spec: "LLM") -> dict[str, object]:
    """Return the further fields of an llm's requests.

    `transformers serve` takes a temperature and doesn't sample unless the model's own config says so: it is told.
    """
    extra = dict(spec.extra or {})
    draws = spec.temperature is not None and spec.temperature > 0 or spec.temperature is None and spec.top_p is not None
    if launch_of(spec).kind == "transformers" and draws:
        extra.setdefault("generation_config", json.dumps({"do_sample": True, "max_new_tokens": spec.max_tokens or 1024}))
    return extra


def _cut(answer: Answer, spec: "LLM") -> Answer:
    """Return an answer up to where it was to stop: `transformers serve` gives all of the token that the stop string ends in."""
    stops = [spec.stop] if isinstance(spec.stop, str) else spec.stop or ()
    places = [place for stop in stops if (place := answer.find(stop)) >= 0]
    if not places:
        return answer
    shorter = str.__new__(Answer, answer[:min(places)])
    shorter.__dict__.update(answer.__dict__)
    return shorter


async def _is_healthy(address: str, process: asyncio.subprocess.Process) -> bool:
    """Tell whether a process is ready at its address; where it is gone, whoever answers there is another."""
    try:
        async with aiohttp.ClientSession() as session, session.get(address, timeout=aiohttp.ClientTimeout(LOOK)) as reply:
            return reply.status == 200 and process.returncode is None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have the keeper end the server; where it doesn't, kill them both."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), keeper.GRACE + LOOK)
    except TimeoutError:
        pass
    _kill(process)
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of a keeper's group: nothing, unless it was killed itself."""
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return found.getsockname()[1]
