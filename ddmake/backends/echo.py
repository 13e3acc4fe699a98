"""`llm("echo")`: answers with the last message. For tests, and for looking at what a template renders to."""

from collections.abc import Iterable, Iterator
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
            text, asked = texts[-1], sum(len(one.split()) for one in texts)
            yield number, Answer(text, model="echo", finish_reason="stop", tokens_in=asked, tokens_out=len(text.split()))

    def close(self) -> None:
        """Do nothing: echo holds nothing."""


def _text(content: Any) -> str:
    """Return a message's text; an image stands in it as its URL."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content)
