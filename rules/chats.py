"""Chats to learn from: what can't be learned is told by the number of its row and turn."""

from collections.abc import Mapping
from typing import Any

from ddmake.errors import DdmakeError, did_you_mean

ROLES = ("assistant", "developer", "function", "ipython", "system", "tool", "user")
MEANT = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
         "observation": "tool", "function_call": "assistant"}  # by ShareGPT's names and others'
FORM = '{"role": "user", "content": "…"}'


def chat(value: Any, where: str) -> list[dict[str, Any]]:
    """Return a chat's turns. Raises DdmakeError, which begins with where it stands, unless the last is an assistant's."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(turn, Mapping) for turn in value):
        raise DdmakeError(f"{where} holds {_kind(value)}; a list of turns is needed, each {FORM}. Make it by .map().")
    turns = [turn(given, f"{where}, turn {number},") for number, given in enumerate(value)]
    if not turns:
        raise DdmakeError(f"{where} holds no turns. Leave the row out by .filter().")
    if turns[-1]["role"] != "assistant":
        raise DdmakeError(f"{where} ends with a turn of the role {turns[-1]['role']!r}, and what is learned is an assistant's. "
                          "Cut the last turn off by .map(), or leave the row out by .filter().")
    return turns


def turn(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a turn. Raises DdmakeError for a role that isn't known, and for a content that is no text."""
    role, content = given.get("role"), given.get("content")
    if role is None:
        raise DdmakeError(f"{where} has no role; it has {', '.join(given) or 'nothing'}. Make it {FORM} by .map().")
    if role not in ROLES:
        meant = f" Did you mean {MEANT[role]!r}?" if role in MEANT else did_you_mean(str(role), ROLES)
        raise DdmakeError(f"{where} has the role {role!r}. There are: {', '.join(ROLES)}.{meant} Rename it by .map().")
    if content is None and not given.get("tool_calls"):
        raise DdmakeError(f"{where} has no content. Write one by .map(), or leave the row out by .filter().")
    if content is not None and not isinstance(content, str):
        raise DdmakeError(f"{where} has a content of {type(content).__name__}; text is needed. Make it by .map().")
    return dict(given)


def _kind(value: Any) -> str:
    return f"a list of {type(value[0]).__name__}" if isinstance(value, list) and value else f"a {type(value).__name__}"
