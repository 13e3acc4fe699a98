"""What the batch APIs that are reached over our own HTTP have in common: asking, and reading files of JSON lines."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from ddmake.backends.base import Retry
from ddmake.backends.openai import proxy_of
from ddmake.backends.refusals import refused
from ddmake.errors import ProviderError

SILENCE = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=300.0)  # seconds; a file may take its time


class Http:
    """A provider's address and key. `name` is whose words are told; the key is left out of them."""

    def __init__(self, name: str, address: str, headers: Mapping[str, str], key: str | None, session: aiohttp.ClientSession):
        self.name, self.headers, self.key, self.session = name, headers, key, session
        self.base, _, self.query = address.partition("?")

    async def get(self, path: str, **query: str) -> Any:
        """Return what lies at a path, as JSON; None where nothing does. Raises Retry and ProviderError."""
        return await self._json("GET", path, query)

    async def post(self, path: str, body: Any = None, data: Any = None) -> Any:
        """Send JSON, or data, and return the reply. Raises Retry and ProviderError."""
        sent = json.dumps(body, ensure_ascii=False).encode() if data is None else data
        headers = {"Content-Type": "application/json"} if isinstance(sent, bytes) else {}
        found = await self._json("POST", path, {}, sent, headers)
        if found is None:
            raise ProviderError(f"{self.name} answered 404: there is no {path} at {self.base}. Has it a batch API?")
        return found

    async def lines(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON lines of a file. Raises Retry where it is cut."""
        async with self._asked("GET", path, {}) as reply:
            if reply.status == 404:
                raise ProviderError(f"{self.name}: the results of a batch, {path}, aren't there any more.")
            left = b""
            async for chunk in reply.content.iter_any():
                *whole, left = (left + chunk).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield _decoded(line)
            if left.strip():
                yield _decoded(left)

    async def _json(self, method: str, path: str, query: Mapping[str, str], data: Any = None,
                    headers: Mapping[str, str] | None = None) -> Any:
        async with self._asked(method, path, query, data, headers or {}) as reply:
            return None if reply.status == 404 else _decoded(await reply.read())

    @asynccontextmanager
    async def _asked(self, method: str, path: str, query: Mapping[str, str], data: Any = None,
                     headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and yield a reply that is good or says 404. Raises Retry and ProviderError."""
        url = URL(path if "://" in path else f"{self.base.rstrip('/')}/{path}").update_query(self.query).update_query(query)
        try:
            async with self.session.request(method, url, data=data, headers={**self.headers, **(headers or {})}, timeout=SILENCE,
                                            proxy=proxy_of(url), allow_redirects=False) as reply:
                if reply.status not in (200, 201, 404):
                    self._refuse(reply.status, await reply.read(), reply.headers)
                yield reply
        except TimeoutError:
            raise Retry(f"no reply within {SILENCE.sock_read:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise Retry(f"can't be reached: {error}", paid=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Retry(f"the connection broke: {error or type(error).__name__}") from None

    def _refuse(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Raise what a refusal means: here, each concerns the whole batch."""
        try:
            told = refused(status, content, headers, self.name).error
            raise ProviderError(f"answered {told}")
        except ProviderError as error:
            raise ProviderError(self._clean(f"{self.name} {error}")) from None
        except Retry as retry:
            raise Retry(self._clean(str(retry)), retry.status, retry.wait, retry.paid) from None

    def _clean(self, words: str) -> str:
        return words.replace(self.key, "…") if self.key else words


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise Retry("the reply is cut or no JSON", 200) from None
