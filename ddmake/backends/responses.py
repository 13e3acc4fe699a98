"""OpenAI's Responses API: its bodies and replies, from and to those of chat.

https://platform.openai.com/docs/api-reference/responses
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from ddmake.backends.base import Answer, Request, Retry

SYSTEM = ("system", "developer")
REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}  # why a response is incomplete


def asked(request: Request, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the part of a body that differs from request to request; the system prompts that come first are its instructions."""
    first = list(takewhile(lambda message: message["role"] in SYSTEM and isinstance(message["content"], str), request.messages))
    rest = request.messages[len(first):]
    body: dict[str, Any] = {"input": [item for message in rest for item in _items(message)]}
    if first:
        body["instructions"] = "\n\n".join(message["content"] for message in first)
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", **schema}}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def read(reply: dict[str, Any], model: str) -> Answer:
    """Return the answer that a response holds. Raises Retry for one that isn't finished."""
    status, usage = reply["status"], reply.get("usage") or {}
    if status not in ("completed", "incomplete"):
        raise Retry(f"the response is {status}", 200)
    output = reply["output"]
    spoken = [part for item in output if item["type"] == "message" for part in item["content"]]
    refusal = "".join(part["refusal"] for part in spoken if part["type"] == "refusal")
    calls = [_call(item) for item in output if item["type"] == "function_call"]
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    finish = _finish(reply, bool(calls), bool(refusal))
    return Answer(
        "".join(part["text"] for part in spoken if part["type"] == "output_text"), model=reply.get("model") or model,
        finish_reason=finish, tokens_in=usage.get("input_tokens"), tokens_out=usage.get("output_tokens"),
        tokens_cached=cached, tool_calls=calls,
        error=f"refused: {refusal or finish}" if finish == "content_filter" else None, reasoning=_thinking(output),
    )


def _finish(reply: dict[str, Any], calls: bool, refused: bool) -> str:
    """Return how a response ended, in chat's words."""
    if refused:
        return "content_filter"
    if reply["status"] == "incomplete":
        reason = (reply.get("incomplete_details") or {}).get("reason")
        return REASONS.get(reason, str(reason))
    return "tool_calls" if calls else "stop"


def _thinking(output: Iterable[dict[str, Any]]) -> str | None:
    """Return what a response tells of its reasoning: the summary, or the text where the service shows it."""
    parts = [part for item in output if item["type"] == "reasoning" for part in item.get("summary") or item.get("content") or ()]
    return "\n\n".join(part["text"] for part in parts) or None


def _call(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the input items that a chat message comes to."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": content}
        return
    if content:
        parts = content if isinstance(content, str) else [_part(part, role) for part in content]
        yield {"role": role, "content": parts}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a function's description, flattened; the service's own tools are as they are."""
    return {"type": "function", **tool["function"]} if tool["type"] == "function" else tool


def _part(part: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    if part["type"] == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part["text"]}
    if part["type"] == "image_url":
        image = part["image_url"]
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}
    return part
