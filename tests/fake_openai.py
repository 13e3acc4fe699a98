"""A small OpenAI-compatible service for tests: counts requests, and answers or fails in ways that it is told to.

Run as: python fake_openai.py [latency in seconds]. It prints its port, and serves /v1/chat/completions, /v1/completions and
/v1/responses. It says the last message in capitals; under a JSON schema, an object that fits it.

POST /faults changes its controls, those that are named:
    share, kinds   which part of the requests fails, and how: a status ("400", "429", "500"), "credit" (429, no credit),
                   "filter" (a 400 of Azure's content filter), "cut" (half a body), "page" (no JSON), "empty" (no choices),
                   "error200" (an error in a reply of status 200), "misfit" (an answer that is no JSON), "reset" (the connection
                   is closed), "hang" (no reply for a minute). Drawn from the request and how often it came: the same for all.
    prompts        {text: kind}: requests that hold the text fail each time
    times          a request fails at most so often
    most           more requests at once than that are refused by 429
    retry_after    the Retry-After header of 429 and 503 (default "0.05"; null: none)
    headers        {name: value}: more headers, for each reply
    latency        seconds until a reply
    finish         the finish reason ("length": the answer is cut)
    say            the answer in place of capitals
    sign           true: the answer begins with the model's name
    reasoning      what is told of the thinking
    call           true: an answer is a call of the first tool, with arguments that fit it
    usage          the usage in place of a quarter of the characters; null: none is told
GET /counts returns requests, answered, most_at_once, answered_again, paths (how many by path), failed (how many by kind),
headers (the last request's) and the first five bodies; /counts?bodies=100 more of them. POST /reset: all as at the start.
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter

from aiohttp import web

seen: Counter[str] = Counter()
answered: Counter[str] = Counter()
failed: Counter[str] = Counter()
paths: Counter[str] = Counter()
flight = {"now": 0, "most": 0}
last: dict[str, str] = {}
START = {"share": 0.0, "kinds": [], "prompts": {}, "latency": float(sys.argv[1]) if len(sys.argv) > 1 else 0.0}
controls: dict = dict(START)
ERRORS = {"credit": (429, "insufficient_quota"), "filter": (400, "content_filter"), "error200": (200, 502)}


async def asked(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    name = json.dumps(body, sort_keys=True)
    seen[name] += 1
    paths[request.path] += 1
    last.clear()
    last.update(request.headers)
    flight["now"] += 1
    flight["most"] = max(flight.values())
    try:
        await asyncio.sleep(controls["latency"])
        kind = fault(body, name)
        failed.update([kind] if kind else [])
        if kind == "hang":
            await asyncio.sleep(60)
        if kind == "reset":
            request.transport.abort()
        return failure(kind, body, name) if kind else answer(request.path, body, name)
    finally:
        flight["now"] -= 1


def fault(body: dict, name: str) -> str | None:
    """Return how a request is to fail, as drawn from it and how often it came."""
    text = prompt(body)
    found = next((kind for words, kind in controls["prompts"].items() if words in text), None)
    if found is None and controls.get("most") and flight["now"] > controls["most"]:
        found = "429"
    draw = int(hashlib.md5(f"{name}{seen[name]}".encode()).hexdigest()[:8], 16) / 2**32
    if found is None and draw < controls["share"]:
        found = controls["kinds"][int(draw / controls["share"] * len(controls["kinds"]))]
    return found if seen[name] <= controls.get("times", seen[name]) else None


def failure(kind: str, body: dict, name: str) -> web.Response:
    if kind in ("cut", "page", "empty"):
        content = {"cut": '{"choices": [{"message": {"con', "page": "<html>Busy</html>", "empty": '{"choices": []}'}[kind]
        return web.Response(text=content, content_type="application/json", headers=controls.get("headers"))
    if kind == "misfit":
        return chat(body, "{", "stop", usage(name, "{"))
    status, code = ERRORS.get(kind) or (int(kind) if kind.isdecimal() else 500, None)
    headers = dict(controls.get("headers") or {})
    if status in (429, 503) and controls.get("retry_after", "0.05") is not None:
        headers["Retry-After"] = controls.get("retry_after", "0.05")
    return web.json_response({"error": {"message": f"no luck: {kind}", "code": code}}, status=status, headers=headers)


def prompt(body: dict) -> str:
    """Return the text of what is asked last."""
    given = body.get("messages") or body.get("input") or body.get("prompt") or ""
    content = given if isinstance(given, str) else given[-1].get("content", given[-1].get("output", ""))
    return content if isinstance(content, str) else " ".join(part["text"] for part in content if "text" in part)


def answer(path: str, body: dict, name: str) -> web.Response:
    answered[name] += 1
    schema, text = schema_of(body), controls.get("say") or prompt(body).upper()
    text = f"{body['model']}: {text}" if controls.get("sign") else text
    if schema is not None:
        text = json.dumps(fitting(schema, schema.get("$defs", {}), text))
    finish, used = controls.get("finish", "stop"), usage(name, text)
    if path.endswith("chat/completions"):
        return chat(body, text, finish, used)
    if path.endswith("/completions"):
        return reply({"model": body["model"], "choices": [{"text": text, "finish_reason": finish}], "usage": used})
    return responses(body, text, finish, used)


def chat(body: dict, text: str, finish: str, used: dict | None) -> web.Response:
    message: dict = {"role": "assistant", "content": text}
    if controls.get("reasoning"):
        message["reasoning_content"] = controls["reasoning"]
    if controls.get("call") and body.get("tools"):
        called = body["tools"][0]["function"]
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call(called, text)}]}
        finish = "tool_calls"
    return reply({"model": body["model"], "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": used})


def responses(body: dict, text: str, finish: str, used: dict | None) -> web.Response:
    output: list[dict] = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]
    if controls.get("call") and body.get("tools"):
        output = [{"type": "function_call", "call_id": "call_1", **call(body["tools"][0], text)}]
    if controls.get("reasoning"):
        output.insert(0, {"type": "reasoning", "summary": [{"type": "summary_text", "text": controls["reasoning"]}]})
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
    ended = {"status": "incomplete", "incomplete_details": {"reason": reason}} if reason else {"status": "completed"}
    told = used and {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
    return reply({"model": body["model"], "output": output, "usage": told, **ended})


def reply(content: dict) -> web.Response:
    return web.json_response({name: value for name, value in content.items() if value is not None}, headers=controls.get("headers"))


def call(tool: dict, text: str) -> dict:
    return {"name": tool["name"], "arguments": json.dumps(fitting(tool.get("parameters", {}), {}, text))}


def usage(name: str, text: str) -> dict | None:
    return controls.get("usage", {"prompt_tokens": len(name) // 4, "completion_tokens": len(text) // 4})


def schema_of(body: dict) -> dict | None:
    """Return the JSON schema that an answer is to fit."""
    wanted = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    return wanted.get("schema") or (wanted.get("json_schema") or {}).get("schema")


def fitting(schema: dict, named: dict, text: str):
    """Return a value that fits a schema: strings say the text, numbers its length, choices are the first."""
    if "$ref" in schema:
        return fitting(named[schema["$ref"].rpartition("/")[2]], named, text)
    if "anyOf" in schema:
        return fitting(schema["anyOf"][0], named, text)
    if "enum" in schema or "const" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: fitting(part, named, text) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [fitting(schema.get("items", {"type": "string"}), named, text)]
    return {"string": text, "integer": len(text), "number": len(text) / 2, "boolean": True, "null": None}[kind]


async def set_controls(request: web.Request) -> web.Response:
    controls.update(await request.json())
    return web.json_response(controls)


async def reset(request: web.Request) -> web.Response:
    for counter in (seen, answered, failed, paths, last, controls):
        counter.clear()
    controls.update(START)
    flight["most"] = flight["now"]
    return web.json_response(controls)


async def counts(request: web.Request) -> web.Response:
    first = int(request.query.get("bodies", 5))
    return web.json_response({
        "requests": sum(seen.values()), "answered": sum(answered.values()), "most_at_once": flight["most"],
        "answered_again": sum(n - 1 for n in answered.values()), "paths": paths, "failed": failed, "headers": last,
        "bodies": [json.loads(name) for name in list(seen)[:first]],
    })


async def main() -> None:
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post(f"/v1/{path}", asked) for path in ("chat/completions", "completions", "responses")])
    app.add_routes([web.post("/faults", set_controls), web.post("/reset", reset), web.get("/counts", counts)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(900)


asyncio.run(main())
