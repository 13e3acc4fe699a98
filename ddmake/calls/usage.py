"""What a job asked of an llm, counted: for its summary, its record and its card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddmake.backends.base import Answer, Request

SHOWN = 1000  # characters of a message that is shown as an example


@dataclass
class Usage:
    """What a job asked of one llm. Token counts and cost are None once an answer came without."""

    sent: int = 0  # rows' answers for which something was sent, however many requests that took
    cached: int = 0  # those for which nothing was
    failed: int = 0  # rows without a usable answer
    cut: int = 0  # answers that ended at max_tokens
    first_failure: str | None = None
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = 0.0
    models: set[str] = field(default_factory=set)  # as the answers name them
    example: dict[str, Any] | None = None  # the call of the first row, for cards: its number, messages and answer, cut

    def show(self, number: int, request: Request, answer: Answer) -> None:
        """Keep the call of the first row, without its pictures."""
        if self.example is None or number < self.example["row"]:
            messages = [{"role": turn["role"], "content": _cut(_said(turn["content"]))} for turn in request.messages]
            self.example = {"row": number, "messages": messages, "answer": _cut(str(answer))}

    def count(self, answer: Answer, sent: bool) -> None:
        """Count a row's last answer: as sent where something was sent for it in this job, however often."""
        self.sent += sent
        self.cached += not sent
        self.cut += answer.finish_reason == "length"

    def pay(self, answer: Answer, cached: bool) -> None:
        """Count what an answer has cost; cached ones were paid before."""
        if answer.model:
            self.models.add(answer.model)
        if not cached and answer.error is None:
            self.tokens_in = _sum(self.tokens_in, answer.tokens_in)
            self.tokens_out = _sum(self.tokens_out, answer.tokens_out)
        if not cached and (answer.error is None or answer.cost is not None):
            self.cost = _sum(self.cost, answer.cost)

    def fail(self, reason: str) -> None:
        """Count a row without a usable answer."""
        self.failed += 1
        self.first_failure = self.first_failure or reason


def _said(content: Any) -> str:
    """Return a message's text; what isn't text is told by its kind."""
    if isinstance(content, str) or content is None:
        return content or ""
    parts = (part if isinstance(part, Mapping) else {"text": str(part)} for part in content)
    return "\n".join(part["text"] if isinstance(part.get("text"), str) else f"[{part.get('type', 'part')}]" for part in parts)


def _cut(text: str) -> str:
    """Return the beginning of a long text; half a surrogate pair, which no file can hold, is spelt out."""
    cut = f"{text[:SHOWN]} […]" if len(text) > SHOWN else text
    return cut.encode("utf-8", "backslashreplace").decode()


def _sum(total: Any, more: Any) -> Any:
    return None if total is None or more is None else total + more
