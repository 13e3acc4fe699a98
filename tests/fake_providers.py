"""One small server that speaks the wire formats of many providers, each as its own reference gives it.

What came in is kept in `received`. A prompt with "fail 401", "fail 429", "fail long", … in it gets that provider's own error, one
with "call find" a call of that tool; every other prompt is answered by its text in capitals.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

FAILURES = {  # what a prompt asks for -> status, words
    "401": (401, "invalid x-api-key"), "403": (403, "not allowed here"), "404": (404, "no such model"), "credit": (402, "no credit left"),
    "429": (429, "rate limit reached"), "quota": (429, "quota exceeded"), "500": (500, "overloaded"), "bad": (400, "field `colour` is unknown"),
    "long": (400, "prompt is too long: 250000 tokens > 200000 maximum"), "key": (400, "API key not valid. Please pass a valid API key."),
    "broke": (400, "Your credit balance is too low to access the API."), "echo": (401, "no such key: {x-api-key}"),
}
LIMITS = {"x-ratelimit-remaining-requests": "41"}


@dataclass
class Received:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Wire:
    """A wire format: where the prompt stands in a request, what answers and errors look like, and the names of their ends."""

    prompt: Callable[[dict], str]
    reply: Callable[[str, str], dict]
    error: Callable[[int, str], dict]
    stop: str
    cut: str
    filtered: str
    call: Callable[[str], dict] | None = None  # the answer that calls a tool with {"q": text}


@dataclass
class FakeProviders:
    """The server, and what it has received."""

    url: str = ""
    received: list[Received] = field(default_factory=list)

    async def start(self) -> "FakeProviders":
        app = web.Application()
        app.add_routes([web.post("/{path:.*}", self.answer)])
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        path, body = unquote(request.raw_path), await request.json()
        self.received.append(Received(path, request.headers.copy(), body))
        wire = next(wire for pattern, wire in WIRES.items() if re.search(pattern, path))
        text = wire.prompt(body)
        wanted = re.search(r"fail (\w+)|$", text)[1]
        if wanted == "garbage":
            return web.Response(text="<html>bad gateway</html>", headers=LIMITS)
        if wanted in FAILURES:
            return self.failed(wire, wanted, request)
        if "call find" in text:
            return web.json_response(wire.call(text.upper()), headers=LIMITS)
        finish = {"cut": wire.cut, "filter": wire.filtered}.get(wanted, wire.stop)
        return web.json_response(wire.reply(text.upper(), finish), headers=LIMITS)

    def failed(self, wire: Wire, wanted: str, request: web.Request) -> web.Response:
        status, words = FAILURES[wanted]
        wait = {"Retry-After": "7"} if wanted == "429" else {}
        words = words.replace("{x-api-key}", f"x-api-key: {request.headers.get('x-api-key')}")
        return web.json_response(wire.error(status, words), status=status, headers={**LIMITS, **wait})


def openai_reply(text: str, finish: str) -> dict:
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m-2026", "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def openai_error(status: int, words: str) -> dict:
    return {"error": {"message": words, "type": "x", "code": None}}


def anthropic_reply(text: str, finish: str) -> dict:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-2026", "stop_reason": finish, "stop_sequence": None,
            "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": text}],
            "usage": {"input_tokens": 11, "output_tokens": 3}}


def anthropic_call(text: str) -> dict:
    return {**anthropic_reply("", "tool_use"), "content": [{"type": "tool_use", "id": "t1", "name": "find", "input": {"q": text}}]}


def anthropic_error(status: int, words: str) -> dict:
    return {"type": "error", "error": {"type": "x_error", "message": words}}


def cohere_reply(text: str, finish: str) -> dict:
    return {"id": "c1", "finish_reason": finish, "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
            "usage": {"billed_units": {"input_tokens": 10, "output_tokens": 3}, "tokens": {"input_tokens": 11, "output_tokens": 3}}}


def cohere_call(text: str) -> dict:
    call = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": json.dumps({"q": text})}}
    return {**cohere_reply("", "TOOL_CALL"), "message": {"role": "assistant", "tool_plan": "I look.", "tool_calls": [call]}}


def converse_reply(text: str, finish: str) -> dict:
    return {"output": {"message": {"role": "assistant", "content": [{"text": text}]}}, "stopReason": finish,
            "usage": {"inputTokens": 11, "outputTokens": 3, "totalTokens": 14}, "metrics": {"latencyMs": 5}}


def google_reply(text: str, finish: str) -> dict:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish, "index": 0}], "modelVersion": "m-2026",
            "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 3, "totalTokenCount": 14}}


def google_error(status: int, words: str) -> dict:
    retry = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}] if "quota" in words else []
    return {"error": {"code": status, "message": words, "status": "X", "details": retry}}


def last_message(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def last_parts(body: dict) -> str:
    return body["contents"][-1]["parts"][0]["text"]


def message(status: int, words: str) -> dict:
    return {"message": words}


WIRES = {  # by the end of the path
    "/v1/messages$": Wire(last_message, anthropic_reply, anthropic_error, "end_turn", "max_tokens", "refusal", anthropic_call),
    "/v2/chat$": Wire(last_message, cohere_reply, message, "COMPLETE", "MAX_TOKENS", "ERROR_TOXIC", cohere_call),
    "/model/.*/converse$": Wire(last_message, converse_reply, message, "end_turn", "max_tokens", "content_filtered"),
    ":generateContent$": Wire(last_parts, google_reply, google_error, "STOP", "MAX_TOKENS", "SAFETY"),
    "/fim/completions$": Wire(lambda body: body["prompt"], openai_reply, openai_error, "stop", "length", "content_filter"),
    "/chat/completions$": Wire(last_message, openai_reply, openai_error, "stop", "length", "content_filter"),
}
