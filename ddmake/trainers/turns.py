"""Chats as a base is shown them: a row's turns, and what they hold beside role and content."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddmake.errors import DdmakeError

Turn = dict[str, Any]
PLAIN = ("role", "content")


def turns_of(row: Mapping[str, Any]) -> tuple[list[Turn], int]:
    """Return a row's chat messages, and from which of them on the assistant's are learned.

    A row holds `messages`, of which all are, or a `prompt` (a text or messages) and a `completion`, which alone is.
    """
    if "messages" in row:
        return [_told(turn) for turn in row["messages"]], 0
    prompt = row["prompt"]
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [_told(turn) for turn in prompt]
    return [*prompt, {"role": "assistant", "content": row["completion"]}], len(prompt)


def _told(turn: Mapping[str, Any]) -> Turn:
    """Return a turn with the keys that it has: in a table each has those of all. Where tools are called there may be no text."""
    return {**{key: value for key, value in _whole(turn).items() if value != []}, "content": turn.get("content") or ""}


def _whole(value: Any) -> Any:
    """Return a value without the keys that are null in it."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items() if item is not None}
    return [_whole(item) for item in value] if isinstance(value, list) else value


class Beside:
    """Sees to it that what turns hold beside role and content isn't lost unsaid."""

    def __init__(self, tokenizer: Any, base_name: str):
        self.tokenizer, self.base_name = tokenizer, base_name
        self.known: set[str] = set()

    def check(self, messages: Sequence[Turn]) -> None:
        """Tell of keys that the base isn't shown. Raises DdmakeError where they are calls of tools."""
        new = dict.fromkeys(key for turn in messages for key in turn if key not in (*PLAIN, *self.known))
        for key in [key for key in new if not self._shown(messages, key)]:
            if key == "tool_calls":
                raise DdmakeError(f"base {self.base_name}: its chat template has no place for tool_calls, which turns hold. Take "
                                  "a base that calls tools, or write the calls into the content by .map().")
            print(f"base {self.base_name}: its chat template has no place for {key!r} of a turn, which is left out", flush=True)
        self.known.update(new)

    def _shown(self, messages: Sequence[Turn], key: str) -> bool:
        """Tell whether a key changes what the base is shown."""
        if not self.tokenizer.chat_template:
            return False
        without = [{name: value for name, value in turn.items() if name != key} for turn in messages]
        try:
            return self._text(messages) != self._text(without)
        except Exception:  # a template that insists on the key
            return True

    def _text(self, messages: Sequence[Turn]) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False)
