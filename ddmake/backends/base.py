"""What a backend is: something that answers requests, in this process or over a network.

Floors: the call layer above adds cache, order, limits, budget and further tries; a backend only asks its model.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """One request to an llm: chat messages, an optional JSON schema, tools or labels, and which sample of it is wanted.

    A message is {"role": "system" | "user" | "assistant" | "tool", "content": …}; its content is text, or a list of parts as
    OpenAI's chat API has them: {"type": "text", "text": …}, {"type": "image_url", "image_url": {"url": …}}.
    """

    messages: tuple[Mapping[str, Any], ...]
    schema: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None  # as OpenAI's chat API has them
    sample: int = 0
    epoch: int = 0  # raised by --resample: in the key, never sent
    labels: tuple[str, ...] | None = None  # the answer is to be one of these, chosen by their probabilities
    attempt: int = 0  # raised where a parser refused the answer before: in the key, never sent
    turn: Literal["assistant", "user"] = "assistant"  # whose turn it writes; a user's if the backend's `writes_users` is true


class Answer(str):
    """What an llm said: its text, with what is known about it.

    `error` holds the reason where there is no usable answer; the text is then empty or cut. Token counts and cost, in
    dollars, are None where nobody tells.
    """

    model: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    error: str | None
    reasoning: str | None  # what the model tells of its thinking
    tool_calls: tuple[Mapping[str, Any], ...]  # as OpenAI's chat API has them
    cost: float | None
    tokens_cached: int  # of tokens_in, those that the provider had kept from an earlier request: they cost less
    wrong: str | None = None  # why a pass over prompts can't use it, and what it made of it otherwise
    value: Any = None
    scores: Mapping[str, float] | None = None  # log-probabilities of the labels that there were to choose among
    llm: str = ""  # what the llm goes by that was asked, where a mixture may have been
    rough: str | None = None  # why its text may depend on the rows that were asked beside it, where it may

    def __new__(cls, text: str = "", *, model: str = "", finish_reason: str | None = None,
                tokens_in: int | None = None, tokens_out: int | None = None, error: str | None = None,
                reasoning: str | None = None, tool_calls: Iterable[Mapping[str, Any]] = (), cost: float | None = None,
                tokens_cached: int = 0):
        """Make an answer of its text."""
        answer = super().__new__(cls, _text(text))
        answer.model, answer.finish_reason = _text(model), finish_reason and _text(finish_reason)
        answer.error, answer.reasoning = error and _text(error), reasoning and _text(reasoning)
        answer.tokens_in, answer.tokens_out, answer.cost = _count(tokens_in), _count(tokens_out), cost
        answer.tokens_cached, answer.tool_calls = _count(tokens_cached) or 0, tuple(tool_calls)
        return answer

    def of_its_own(self) -> "Answer":
        """Return a copy, for one of several that are given the same answer."""
        twin = str.__new__(Answer, self)
        twin.__dict__.update(self.__dict__)
        return twin

    def unusable(self, accept: Container[str] = ()) -> str | None:
        """Return why an answer can't be used; one that was cut or refused can, if its finish reason is accepted."""
        if self.finish_reason in accept:
            return None
        return self.error or UNUSABLE.get(self.finish_reason or "")


def _text(told: Any) -> str:
    """Return what a service says as text that can be stored: half of a surrogate pair can't."""
    text = told if isinstance(told, str) else str(told)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _count(told: Any) -> int | None:
    """Return a number of tokens as a service tells it; None for what can't be one."""
    return told if type(told) is int and 0 <= told < 2**53 else None


UNUSABLE = {"length": "cut at max_tokens", "content_filter": "filtered"}  # finish reasons of answers that aren't whole


class Backend(Protocol):
    """What serves an llm in this process."""

    def identity(self) -> Mapping[str, object]:
        """Return what tells this model from every other: enters the key of each call."""
        ...

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer (number, seed, request) triples as they come, yielding (number, answer) as each is done.

        `seed` is drawn from the call's key: a backend that samples by itself uses it, so that an answer
        depends on its request alone. Requests are taken lazily, no more than can be worked on at once.

        Raises ProviderError where every further request would fail as well.
        """
        ...

    def close(self) -> None:
        """Let go of connections and models."""
        ...


class Retry(Exception):
    """A try that failed in a way that another may not.

    `status` is the reply's, None where there was none; `wait` is what the server asks for, in seconds. `paid` tells whether
    the try may have cost something: it may not where the server refused it (429, 503).
    """

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None, paid: bool = True):
        super().__init__(reason)
        self.status, self.wait, self.paid = status, wait, paid


class Unreachable(Retry):
    """A try that reached nobody: no connection could be made."""


Heard = Callable[[int, Mapping[str, str]], None]  # is told a reply's status and headers, as soon as they are there


class Service(Protocol):
    """What serves an llm over a network: it is asked on an event loop, one try of one request at a time."""

    account: str  # whom the provider counts this under: those of one account share its limits. Never holds a key itself

    async def ask(self, request: Request, heard: Heard) -> Answer:
        """Return the answer to one request; an answer with `error` set is final and concerns this request alone.

        Raises Retry where another try may help, ProviderError where every further request would fail as well.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
