"""`llm("echo")`: answers with the last message. For tests, and for looking at what a template renders to."""

from collections.abc import Iterable, Iterator

from ddmake.backends.base import Answer, Request


class Echo:
    """A Backend that gives back what it is asked."""

    def identity(self) -> dict[str, object]:
        """Return what tells echo from other models."""
        return {"backend": "echo"}

    def answers(self, requests: Iterable[tuple[int, int, Request]]) -> Iterator[tuple[int, Answer]]:
        """Answer each request with its last message; tokens are counted as words."""
        for number, _, request in requests:
            text = request.messages[-1]["content"]
            asked = sum(len(message["content"].split()) for message in request.messages)
            yield number, Answer(text, model="echo", finish_reason="stop", tokens_in=asked, tokens_out=len(text.split()))

    def close(self) -> None:
        """Do nothing: echo holds nothing."""
