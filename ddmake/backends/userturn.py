"""Where a user's turn begins in a model's chat template, and what ends it: for a model that is to write that turn itself.

Found by rendering a text that stands in for the user's, so that no table of models is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddmake.errors import DdmakeError

STANDIN = "zqusertextqz"


@dataclass(frozen=True)
class Begun:
    """The tokens up to a user's text, and what ends that: a token of the tokenizer's own, or a text."""

    ids: list[int]
    ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()


def begun(tokenizer: Any, messages: Sequence[Mapping[str, Any]], model: str) -> Begun:
    """Return the beginning of a user's turn after messages. Raises DdmakeError where the chat template has none."""
    if not tokenizer.chat_template:
        raise DdmakeError(f"{model} has no chat template, so that nothing says where a user's turn begins. Take a chat model.")
    turns = [*map(dict, messages), {"role": "user", "content": STANDIN}]
    before, found, after = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).partition(STANDIN)
    if not found:
        raise DdmakeError(f"{model}: its chat template doesn't show a user's text, so that nothing says where the turn begins.")
    ids = tokenizer(before.rstrip(" "), add_special_tokens=False)["input_ids"]  # a word's first token has the space before it
    return Begun(ids, *_end(after.lstrip(), tokenizer.added_tokens_encoder))


def _end(after: str, special: Mapping[str, int]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return what ends a turn: the special token that comes after it, else the word that does."""
    token = max((one for one in special if one and after.startswith(one)), key=len, default=None)
    if token is not None:
        return frozenset({special[token]}), ()
    return frozenset(), tuple(after.split(maxsplit=1)[:1])
