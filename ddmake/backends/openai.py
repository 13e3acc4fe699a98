"""OpenAI-compatible services, over one aiohttp session that the caller owns: one try of one request at a time."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ddmake.backends import providers
from ddmake.backends.base import Answer, Heard, Request, Retry, Unreachable
from ddmake.backends.embedders import API, EmbeddingWire
from ddmake.backends.refusals import refused
from ddmake.backends.wire import Wire
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

TIMEOUT, CONNECT_TIMEOUT = 600.0, 30.0  # seconds
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each call


class OpenAI:
    """A Service that speaks as OpenAI's does. Raises ProviderError where its key or its address is missing."""

    def __init__(self, spec: "LLM", session: aiohttp.ClientSession):
        self.spec, self.session = spec, session
        self.wire = EmbeddingWire(spec) if spec.api == API else Wire(spec)
        self.account = providers.account(spec)
        self._key = providers.api_key(spec)
        self.url = _behind(providers.address(spec), self.wire.path)
        self._headers = {"Content-Type": "application/json", **_authorization(self._key, self.wire.provider.key_header, self.url)}
        self._proxy = proxy_of(self.url)
        self._timeout = aiohttp.ClientTimeout(total=spec.timeout or TIMEOUT, sock_connect=CONNECT_TIMEOUT)

    async def ask(self, request: Request, heard: Heard) -> Answer:
        """Return the answer to one request, tried once.

        Raises Retry where another try may help (Unreachable where no connection was made), ProviderError where none would.
        """
        data = _encode(self.wire.body(request)).encode()
        try:
            # a redirect of a POST would be followed by a GET, or lead the key to another host
            async with self.session.post(self.url, data=data, headers=self._headers, timeout=self._timeout,
                                         proxy=self._proxy, allow_redirects=False) as reply:
                heard(reply.status, reply.headers)
                return self._read(reply.status, await reply.read(), reply.headers)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"can't be reached at {providers.endpoint(self.spec)}: {_why(error)}", paid=False) from None
        except TimeoutError:
            raise Retry(f"no reply within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Retry(f"the connection broke: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Do nothing: the session is the caller's."""

    def _read(self, status: int, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Return what a reply says. Raises as `ask` does."""
        try:
            if status != 200:
                return self._cleaned(refused(status, content, headers, self.wire.model))
            return self._cleaned(self.wire.read(json.loads(content), headers))
        except (ValueError, RecursionError):  # cut JSON, or none
            raise Retry("the reply is cut, or no JSON", status) from None
        except ProviderError as error:
            key = f" ({providers.key_told(self.spec)})" if status in (401, 403) else ""
            raise ProviderError(self._clean(f"{self.spec.name} {error}{key}")) from None
        except Retry as error:
            raise Retry(self._clean(str(error)), error.status, error.wait, error.paid) from None

    def _cleaned(self, answer: Answer) -> Answer:
        answer.error = answer.error and self._clean(answer.error)
        return answer

    def _clean(self, words: str) -> str:
        """Return a service's words without the key, should it have repeated it."""
        return words.replace(self._key, "…") if self._key else words


def _why(error: Exception) -> str:
    """Return why no connection was made, in the system's words."""
    told = getattr(error, "os_error", error)
    return getattr(told, "strerror", None) or str(told) or "it doesn't answer"


def _behind(address: str, path: str) -> URL:
    """Return the address of a path; a query of the base address (Azure's api-version) stays."""
    base, mark, query = address.partition("?")
    return URL(f"{base.rstrip('/')}/{path}{mark}{query}")


def proxy_of(url: URL) -> str | None:
    """Return the proxy that the environment has for an address, or None.

    aiohttp's trust_env looks it up for each request, and in .netrc besides: 0.4 ms a call.
    """
    here = url.host in ("127.0.0.1", "localhost", "::1")
    return None if here or proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def _authorization(key: str | None, header: str, url: URL) -> dict[str, str]:
    """Return the header that carries the key; user and password in the address go their own way."""
    if key is None or url.user is not None:
        return {}
    return {header: key if header != "Authorization" else f"Bearer {key}"}
