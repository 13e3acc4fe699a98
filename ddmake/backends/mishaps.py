"""What an error of LiteLLM's means: try again, this row is lost, or the whole rule is.

Its classes aren't taken at their word, since it goes by words that may stand in a prompt. What the service replied decides,
by the rules that hold for our own HTTP; its classes count where no reply came.
"""

import re
from collections.abc import Iterator

import httpx
import litellm
from multidict import CIMultiDict

from ddmake.backends.base import Answer, Retry, Unreachable
from ddmake.backends.refusals import refused
from ddmake.errors import ProviderError

WHOLE_RULE = re.compile(  # what some say with status 400, though it concerns every request
    "credit balance is too low|API key not valid|API key expired|model identifier is invalid|on-demand throughput isn", re.I)
DELAY = re.compile(r'"retryDelay":\s*"([\d.]+)s"')  # Google's Retry-After, in the body
PREFIXES = re.compile(r"^(litellm\.)?\w*(Error|Exception|Timeout)\s*(\w+Error\s*)?[:-]\s*")
ADVICE = re.compile(r"[.\s]*(To drop these|Handle with|If you want to use|Traceback \(most recent|File an issue).*", re.DOTALL)
CREDENTIALS = ("google.auth", "botocore")  # whose errors mean that no credentials were found
UNPARSABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)  # what LiteLLM stumbles with over a broken body


def reply_of(error: BaseException) -> httpx.Response | None:
    """Return the reply that an error comes from, None where there was none: errors of LiteLLM's own carry made-up ones."""
    return next((one.response for one in _chain(error) if isinstance(one, httpx.HTTPStatusError)), None)


def judged(error: Exception, model: str) -> Answer:
    """Return a final answer for an error that concerns one request alone.

    Raises Retry where another try may help (Unreachable where no connection was made), ProviderError where none would.
    """
    reply = reply_of(error)
    return _without_reply(error, model) if reply is None else _with_reply(error, reply, model)


def _with_reply(error: Exception, reply: httpx.Response, model: str) -> Answer:
    content, headers = _content(reply, error), CIMultiDict(reply.headers.items())
    delay = DELAY.search(content)
    if delay:
        headers.setdefault("Retry-After", delay[1])
    answer = refused(reply.status_code, content.encode(), headers, model)
    words = (answer.error or "").removeprefix("400: ")
    if isinstance(error, litellm.ContentPolicyViolationError):
        return Answer(model=model, finish_reason="content_filter", error=f"refused: {words}")
    if WHOLE_RULE.search(words):
        raise ProviderError(f'answered 400: "{words}"')
    return answer


def _without_reply(error: Exception, model: str) -> Answer:
    """Judge what went wrong before a reply came, or over a reply of status 200 that LiteLLM couldn't read."""
    behind, words = list(_chain(error)), _words(error)
    if any(isinstance(one, (httpx.ConnectError, httpx.ConnectTimeout)) for one in behind):
        raise Unreachable(f"can't be reached: {words}", paid=False)
    if isinstance(error, litellm.ContentPolicyViolationError):
        return Answer(model=model, finish_reason="content_filter", error=f"refused: {words}")
    cause = next((one for one in behind if type(one).__module__.startswith(CREDENTIALS) or isinstance(one, ImportError)), None)
    if cause is not None:
        raise ProviderError(f"can't be asked: {_words(cause)}")
    if isinstance(error, (litellm.AuthenticationError, litellm.NotFoundError, litellm.PermissionDeniedError,
                          litellm.UnsupportedParamsError)):
        raise ProviderError(f"can't be asked: {words}")
    if isinstance(error, litellm.BadRequestError) and not any(isinstance(one, UNPARSABLE) for one in behind):
        return Answer(model=model, error=words)
    raise Retry(words)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised over."""
    while error is not None:
        yield error
        error = error.__context__


def _content(reply: httpx.Response, error: Exception) -> str:
    try:
        return reply.text
    except httpx.ResponseNotRead:
        return _words(error)


def _words(error: BaseException) -> str:
    """Return an error's words in one line, without the names that LiteLLM puts before them and its advice behind."""
    words = ADVICE.sub("", str(error))
    while (shorter := PREFIXES.sub("", words)) != words:
        words = shorter
    return " ".join(words.split())[:500]
