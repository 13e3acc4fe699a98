"""Bedrock's Converse format: how a request is written and a reply read, for the batch road.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html. One by one, Bedrock is asked over LiteLLM.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.strict import strict
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

NAMES = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
FINISHED = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
            "tool_use": "tool_calls", "content_filtered": "content_filter", "guardrail_intervened": "content_filter"}
PASSING = {408, 429, 500, 502, 503, 504}


def constant(spec: "LLM") -> dict[str, Any]:
    """Return the part of a body that all requests to an llm share. Raises ProviderError for what can't be said there."""
    given = spec.sampling()
    stop = given.pop("stop", None)
    for name in given:
        if name not in NAMES:
            raise ProviderError(f"llm({spec.name!r}): Bedrock's batch API has no {name} that holds for all models. Say it as "
                                "the model has it: extra={'additionalModelRequestFields': {…}}.")
    limits: dict[str, Any] = {NAMES[name]: value for name, value in given.items()}
    if stop is not None:
        limits["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    return {**({"inferenceConfig": limits} if limits else {}), **(spec.extra or {})}


def body(shared: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return the JSON that is sent for a request."""
    system = [part for message in request.messages if message["role"] == "system" for part in _parts(message["content"])]
    sent = {**shared, "messages": _turns(message for message in request.messages if message["role"] != "system")}
    if system:
        sent["system"] = system
    if request.tools:
        sent["toolConfig"] = {"tools": [_tool(tool["function"]) for tool in request.tools]}
    if request.schema is not None:
        schema = {"name": "answer", "schema": json.dumps(strict(request.schema)["schema"])}
        sent["outputConfig"] = {**shared.get("outputConfig", {}),
                                "textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
    return sent


def read(record: Mapping[str, Any], model: str) -> Answer | Retry:
    """Return what became of one request of a batch."""
    error = record.get("error")
    if error:
        told = f"{error.get('errorCode')}: {error.get('errorMessage')}"
        return Retry(told, paid=False) if error.get("errorCode") in PASSING else Answer(model=model, error=told)
    reply = record.get("modelOutput") or {}
    if "output" not in reply:
        return Retry("the record holds no answer")
    blocks, usage = reply["output"]["message"]["content"], reply.get("usage") or {}
    finish = FINISHED.get(reply.get("stopReason"), reply.get("stopReason"))
    thinking = "".join(block["reasoningContent"].get("reasoningText", {}).get("text", "")
                       for block in blocks if "reasoningContent" in block)
    return Answer("".join(block.get("text", "") for block in blocks), model=model, finish_reason=finish,
                  tokens_in=usage.get("inputTokens"), tokens_out=usage.get("outputTokens"), reasoning=thinking or None,
                  tool_calls=[_called(block["toolUse"]) for block in blocks if "toolUse" in block],
                  error="refused: content_filter" if finish == "content_filter" else None)


def _turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages as turns of user and assistant, which take turns: neighbours of one role are joined."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _said(message)
    return turns


def _said(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = _parts(message.get("content") or "")
    if message["role"] == "tool":
        return [{"toolResult": {"toolUseId": message["tool_call_id"], "content": said}}]
    return [*said, *map(_call, message.get("tool_calls") or ())]


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part) for part in content]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text or an image as Converse has it."""
    if part["type"] == "text":
        return {"text": part["text"]}
    kind, mark, data = part.get("image_url", {}).get("url", "").removeprefix("data:image/").partition(";base64,")
    if not mark:
        raise ProviderError("Bedrock's batch API takes text and images that lie here, no addresses of images.")
    return {"image": {"format": kind.replace("jpg", "jpeg"), "source": {"bytes": data}}}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    told = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"toolSpec": {"name": function["name"], **told, "inputSchema": {"json": schema}}}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"toolUse": {"toolUseId": call["id"], "name": function["name"], "input": json.loads(function["arguments"] or "{}")}}


def _called(use: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": use["toolUseId"], "type": "function", "function": {"name": use["name"], "arguments": json.dumps(use["input"])}}
