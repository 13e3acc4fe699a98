"""`llm("echo")`: answers with the last message, or the label that it names. For tests, and for looking at what a template
renders to.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ddmake.backends.base import Answer, Request


class Echo:
    """A Backend that gives back what it is asked."""

    def identity(self) -> dict[str, object]:
        """Return what tells echo from other models."""
        return {"backend": "echo"}

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer each request with its last message; tokens are counted as words."""
        for number, _, request in requests:
            texts = [_text(message["content"]) for message in request.messages]
            asked = sum(len(one.split()) for one in texts)
            yield number, _choice(texts[-1], request.labels, asked) if request.labels else _answer(texts[-1], asked)

    def close(self) -> None:
        """Do nothing: echo holds nothing."""


def _answer(text: str, asked: int) -> Answer:
    return Answer(text, model="echo", finish_reason="stop", tokens_in=asked, tokens_out=len(text.split()))


def _choice(text: str, labels: Sequence[str], asked: int) -> Answer:
    """Return the label that a text names first, else the first label; it is e times as likely as each of the others."""
    named = [label for label in labels if label in text]
    label = min(named, key=lambda one: (text.index(one), -len(one)), default=labels[0])
    answer = Answer(label, model="echo", finish_reason="stop", tokens_in=asked, tokens_out=0)
    answer.scores = {one: 0.0 if one == label else -1.0 for one in labels}
    return answer


def _text(content: Any) -> str:
    """Return a message's text; an image stands in it as its URL."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content)
