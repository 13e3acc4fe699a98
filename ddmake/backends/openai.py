"""OpenAI-compatible chat completions over one aiohttp session, on an event loop in a thread of its own.

https://platform.openai.com/docs/api-reference/chat. Any service that speaks this is reached by `base_url`.
"""

import asyncio
import json
import os
import queue
import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import aiohttp

from ddmake.backends import stopping
from ddmake.backends.base import Answer, Request
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

DEFAULT_URL = "https://api.openai.com/v1"
CONCURRENCY, TIMEOUT, RETRIES = 64, 600.0, 8
WHOLE_RULE = {401, 403, 404}  # the next request would meet them too: key, rights, model
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached"}
NAP = 0.25  # seconds between two looks whether the job is to end
LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more

Numbered = tuple[int, Answer]


@dataclass
class Pause:
    """Until when the service has asked everybody to wait, on the event loop's clock."""

    until: float = 0.0

    async def over(self) -> None:
        """Wait until the pause is over, with a little jitter so that not all begin at once."""
        loop = asyncio.get_running_loop()
        while (left := self.until - loop.time()) > 0 and not stopping.asked():
            await sleep(left * random.uniform(1.0, 1.1))


async def sleep(seconds: float) -> None:
    """Sleep, but not on when the job is to end."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0 and not stopping.asked():
        await asyncio.sleep(min(left, NAP))


class Retry(Exception):
    """A try that failed in a way that another may not; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass
class OpenAI:
    """A Backend that asks a service."""

    spec: "LLM"
    pause: Pause = field(default_factory=Pause)
    reached: bool = False  # whether any reply ever came

    @property
    def url(self) -> str:
        """Return the service's address: `base_url`, else OPENAI_BASE_URL for the provider openai, else OpenAI's own."""
        given = self.spec.base_url or (os.environ.get("OPENAI_BASE_URL") if self._provider == "openai" else None)
        return (given or DEFAULT_URL).rstrip("/")

    @property
    def _provider(self) -> str:
        return self.spec.name.partition("/")[0]

    @property
    def model(self) -> str:
        """Return the model's name as the service knows it."""
        return self.spec.name.partition("/")[2]

    def identity(self) -> dict[str, object]:
        """Return the endpoint, or the identity that the user gives it, and the model's name."""
        return {"endpoint": self.spec.identity or self.url, "model": self.model}

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[Numbered]:
        """Answer requests as their replies come; as many are in flight as `concurrency` allows.

        Raises ProviderError for a refusal that concerns all of them; answers that came before are yielded first. When the
        job is to end, nothing more is sent, and what is in flight is yielded before Stopped is raised.
        """
        source = iter(requests)
        first = next(source, None)
        if first is None:  # all was known: neither key nor service is needed
            return
        source, key = chain([first], source), self._key()
        asked: queue.Queue[tuple[int, Request] | None] = queue.Queue()
        come: queue.Queue[Numbered | BaseException | None] = queue.Queue()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(asked, come, key)), daemon=True)
        thread.start()
        try:
            with stopping.finishing():
                yield from self._replies(source, asked, come)
        finally:
            asked.put(None)

    def _replies(self, source: Iterator[tuple[int, int, Request]], asked: queue.Queue, come: queue.Queue) -> Iterator[Numbered]:
        """Hand requests over as there is room, and yield the replies."""
        pending, room, ended = 0, 2 * self._concurrency, False
        while not ended or pending:
            while not ended and pending < room:
                taken = None if stopping.asked() else next(source, None)
                ended = taken is None
                if taken is not None:
                    asked.put((taken[0], taken[2]))
                    pending += 1
            if pending:
                reply = come.get()
                if isinstance(reply, BaseException):
                    raise reply
                pending -= 1
                yield reply

    def close(self) -> None:
        """Do nothing: a session ends with the requests it was opened for."""

    @property
    def _concurrency(self) -> int:
        return self.spec.concurrency or CONCURRENCY

    def _key(self) -> str | None:
        """Return the API key from the environment. Raises ProviderError where OpenAI itself would need one."""
        name = self.spec.api_key_env or "OPENAI_API_KEY"
        key = os.environ.get(name)
        if key is None and (self.spec.api_key_env or self.url == DEFAULT_URL):
            raise ProviderError(f"{self.spec.name} needs an API key: set {name}, or try the workflow with a toy model, llm=tiny.")
        return key

    async def _serve(self, asked: queue.Queue, come: queue.Queue, key: str | None) -> None:
        """Post what is asked until None comes, then drop what is in flight."""
        loop, tasks = asyncio.get_running_loop(), set()
        gate = asyncio.Semaphore(self._concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=self.spec.timeout or TIMEOUT)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, trust_env=True) as session:
            while (taken := await loop.run_in_executor(None, asked.get)) is not None:
                await gate.acquire()
                task = loop.create_task(self._one(session, taken, come))
                tasks.add(task)
                task.add_done_callback(lambda done: (tasks.discard(done), gate.release()))
            for task in tasks:
                task.cancel()

    async def _one(self, session: aiohttp.ClientSession, taken: tuple[int, Request], come: queue.Queue) -> None:
        number, request = taken
        try:
            come.put((number, await self._ask(session, request)))
        except Exception as error:  # told to the caller, in whose thread it is raised
            come.put(error)

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        """Return the answer to one request, tried again after what may pass."""
        body, retries = self._body(request), RETRIES if self.spec.retries is None else self.spec.retries
        for attempt in range(retries + 1):
            await self.pause.over()
            if stopping.asked():
                return Answer(model=self.model, error="stopped before it was sent")
            try:
                return await self._post(session, body)
            except (TimeoutError, Retry, aiohttp.ClientError, json.JSONDecodeError, UnicodeDecodeError) as error:
                reason = str(error) or type(error).__name__
                if attempt == retries and isinstance(error, aiohttp.ClientConnectionError) and not self.reached:
                    raise ProviderError(f"{self.spec.name} can't be reached at {self.url}: {reason}") from None
                if attempt == retries:
                    break
                await self._wait(attempt, getattr(error, "wait", None))
        return Answer(model=self.model, error=f"no answer after {retries + 1} tries: {reason}")

    async def _wait(self, attempt: int, asked: float | None) -> None:
        """Wait before the next try: as long as the server asks, which then holds for all; else longer each time."""
        if asked is not None:
            self.pause.until = max(self.pause.until, asyncio.get_running_loop().time() + asked)
        else:
            await sleep(min(0.25 * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0))

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
        async with session.post(f"{self.url}/chat/completions", json=body) as reply:
            self.reached = True
            content = await reply.read()
            if reply.status == 200:
                return _answer(json.loads(content), self.model)
            code, words = _refusal(content)
            if reply.status in WHOLE_RULE or code in NO_CREDIT:
                raise ProviderError(self._told(reply.status, words))
            if reply.status in (408, 409, 425, 429) or reply.status >= 500:
                raise Retry(f"{reply.status}: {words}", _retry_after(reply))
            return Answer(model=self.model, error=f"{reply.status}: {words}")

    def _told(self, status: int, words: str) -> str:
        name = self.spec.api_key_env or "OPENAI_API_KEY"
        key = f" ({name} is {'set' if os.environ.get(name) else 'not set'})" if status in (401, 403) else ""
        return f'{self.spec.name} answered {status}: "{words}"{key}'

    def _body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent: parameters that aren't set stay out."""
        return {"model": self.model, "messages": list(request.messages), **self.spec.sampling(), **(self.spec.extra or {})}


def _answer(reply: dict[str, Any], model: str) -> Answer:
    """Read a completion. Raises Retry where it doesn't hold one."""
    try:
        choice = reply["choices"][0]
        message, usage = choice["message"], reply.get("usage") or {}
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Retry("the reply holds no completion") from None
    finish = choice.get("finish_reason")
    if finish == "content_filter" or refusal:
        return Answer(text or "", model=reply.get("model") or model, finish_reason=finish, error=f"refused: {refusal or finish}")
    return Answer(text or "", model=reply.get("model") or model, finish_reason=finish,
                  tokens_in=usage.get("prompt_tokens"), tokens_out=usage.get("completion_tokens"))


def _refusal(content: bytes) -> tuple[str | None, str]:
    """Return an error's code and its words."""
    try:
        error = json.loads(content)["error"]
        return error.get("code"), str(error.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, content[:200].decode("utf-8", "replace").strip() or "no reason given"


def _retry_after(reply: aiohttp.ClientResponse) -> float | None:
    """Return the seconds that a server asks to wait (RFC 9110, 10.2.3); dates are left to our own waiting."""
    try:
        return max(0.0, float(reply.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
