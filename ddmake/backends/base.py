"""What a backend is: something that answers requests.

Floors: the call layer above adds cache, order and limits; a backend only asks its model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One request to an llm: chat messages, an optional JSON schema, and which sample of it is wanted."""

    messages: tuple[Mapping[str, str], ...]  # each {"role": "system" | "user" | "assistant", "content": text}
    schema: Mapping | None = None
    sample: int = 0
    epoch: int = 0  # raised by --resample: in the key, never sent


class Answer(str):
    """What an llm said: its text, with what is known about it.

    `error` holds the reason where there is no usable answer; the text is then empty or cut.
    Token counts are None where the backend doesn't tell.
    """

    model: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    error: str | None

    def __new__(cls, text: str = "", *, model: str = "", finish_reason: str | None = None,
                tokens_in: int | None = None, tokens_out: int | None = None, error: str | None = None):
        """Make an answer of its text."""
        answer = super().__new__(cls, text)
        answer.model, answer.finish_reason, answer.error = model, finish_reason, error
        answer.tokens_in, answer.tokens_out = tokens_in, tokens_out
        return answer


class Backend(Protocol):
    """What serves an llm."""

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
