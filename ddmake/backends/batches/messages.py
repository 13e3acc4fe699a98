"""Anthropic's Messages format: how a request is written and a message read, for the batch road.

https://platform.claude.com/docs/en/api/messages. One by one, Anthropic is asked over LiteLLM.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddmake.backends.base import Answer, Request, Retry
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

FINISHED = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
            "tool_use": "tool_calls", "refusal": "content_filter"}
UNCHECKED = {  # what the grammar of an answer can't hold: told to the model in words, and checked when the answer is there
    "minItems", "maxItems", "uniqueItems", "contains", "prefixItems", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minProperties", "maxProperties", "patternProperties",
    "propertyNames", "if", "then", "else", "not",
}
PASSING = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}


def constant(spec: "LLM", model: str) -> dict[str, Any]:
    """Return the part of a body that all requests to an llm share. Raises ProviderError for what can't be said there."""
    given = spec.sampling()
    if "max_tokens" not in given:
        raise ProviderError(f"llm({spec.name!r}): Anthropic's batch API has to be told max_tokens. State it.")
    if "seed" in given:
        raise ProviderError(f"llm({spec.name!r}): Anthropic takes no seed. Leave it out.")
    stop, reasoning = given.pop("stop", None), given.pop("reasoning", None)
    body = {"model": model, **given}
    if stop is not None:
        body["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    if isinstance(reasoning, int):
        body["thinking"] = {"type": "enabled", "budget_tokens": reasoning}
    elif reasoning is not None:
        body |= {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": reasoning}}
    return {**body, **(spec.extra or {})}


def body(shared: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return the JSON that is sent for a request."""
    system = [_text(message["content"]) for message in request.messages if message["role"] == "system"]
    sent = {**shared, "messages": _turns(message for message in request.messages if message["role"] != "system")}
    if system:
        sent["system"] = "\n\n".join(system)
    if request.schema is not None:
        sent["output_config"] = {**shared.get("output_config", {}),
                                 "format": {"type": "json_schema", "schema": _checkable(request.schema)}}
    if request.tools:
        sent["tools"] = [_tool(tool["function"]) for tool in request.tools]
    return sent


def read(result: Mapping[str, Any], model: str) -> Answer | Retry:
    """Return what became of one request of a batch."""
    if result["type"] == "succeeded":
        return _answer(result["message"], model)
    if result["type"] != "errored":  # expired, or canceled before it was its turn
        return Retry(f"the request has {result['type']}", paid=False)
    error = result["error"].get("error") or result["error"]
    told = f"{error.get('type')}: {error.get('message')}"
    return Retry(told, paid=False) if error.get("type") in PASSING else Answer(model=model, error=told)


def _answer(message: Mapping[str, Any], model: str) -> Answer:
    blocks, usage = message["content"], message.get("usage") or {}
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    thinking = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    calls = [{"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
             for block in blocks if block["type"] == "tool_use"]
    finish, asked = FINISHED.get(message.get("stop_reason"), message.get("stop_reason")), usage.get("input_tokens")
    cached = usage.get("cache_read_input_tokens") or 0
    if asked is not None:
        asked += cached + (usage.get("cache_creation_input_tokens") or 0)
    return Answer(text, model=message.get("model") or model, finish_reason=finish, tokens_in=asked,
                  tokens_out=usage.get("output_tokens"), tokens_cached=cached, reasoning=thinking or None, tool_calls=calls,
                  error="refused: content_filter" if finish == "content_filter" else None)


def _turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages as turns of user and assistant, answers of tools among the user's."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if message["role"] == "tool":
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": _text(message["content"])}
            if turns and turns[-1]["role"] == "user" and isinstance(turns[-1]["content"], list):
                turns[-1]["content"].append(result)  # the answers to one turn's calls are one turn
                continue
            turns.append({"role": role, "content": [result]})
        elif message.get("tool_calls"):
            said = [{"type": "text", "text": message["content"]}] if message.get("content") else []
            turns.append({"role": role, "content": [*said, *map(_call, message["tool_calls"])]})
        else:
            turns.append({"role": role, "content": _content(message["content"])})
    return turns


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text or an image as Anthropic has it."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] != "image_url":
        raise ProviderError(f"Anthropic's batch API takes text and images, not {part['type']!r}.")
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": json.loads(function["arguments"] or "{}")}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    told = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], **told, "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _checkable(schema: Any) -> Any:
    """Return a JSON schema with what Anthropic's grammar can't hold in the descriptions."""
    if isinstance(schema, list):
        return [_checkable(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    left = {"anyOf" if name == "oneOf" else name: _named(name, value) for name, value in schema.items() if name not in UNCHECKED}
    lost = [f"{name}: {json.dumps(value)}" for name, value in schema.items() if name in UNCHECKED]
    if lost:
        left["description"] = "; ".join([*([left["description"]] if "description" in left else []), *lost])
    return {**left, "additionalProperties": False} if left.get("type") == "object" else left


def _named(name: str, value: Any) -> Any:
    """Return a keyword's value: under some of them, the names are the user's own."""
    if name in ("properties", "$defs", "definitions"):
        return {inner: _checkable(schema) for inner, schema in value.items()}
    return value if name in ("enum", "const", "default", "required", "description") else _checkable(value)
