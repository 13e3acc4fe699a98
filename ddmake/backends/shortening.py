"""Prompts that are too long, cut at the end of the last user's text: asked for by `llm(…, truncate=True)`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Turns = Sequence[Mapping[str, Any]]


def shortened(messages: Turns, ids: list[int], room: int, tokenizer: Any, render: Callable[[Turns], list[int]]) -> list[int]:
    """Return the tokens of messages that are to have at most `room` of them; too many, where the user's text can't give so much.

    `ids` are the whole messages' tokens, `render` makes such of messages. The text is cut between two tokens of its own.
    """
    at = max((number for number, turn in enumerate(messages) if turn["role"] == "user"), default=None)
    if at is None or not isinstance(messages[at]["content"], str):
        return ids
    text = messages[at]["content"]
    ends = _ends(text, tokenizer)
    left = len(ends)
    while len(ids) > room and left:
        left = max(0, left - (len(ids) - room))
        turn = {**messages[at], "content": text[:ends[left - 1]] if left else ""}
        ids = render([*messages[:at], turn, *messages[at + 1:]])
    return ids


def _ends(text: str, tokenizer: Any) -> list[int]:
    """Return where in a text each of its tokens ends; by characters, where the tokenizer doesn't tell."""
    if not tokenizer.is_fast:
        return list(range(1, len(text) + 1))
    told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
    return [end for _, end in told["offset_mapping"]]
