"""A small OpenAI-compatible server for tests: counts requests, and fails in ways that it is told to.

Run as: python fake_openai.py [latency in seconds]. It prints its port. POST /faults sets {"kinds": […], "share": 0.1};
GET /counts returns what it has seen.
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter

from aiohttp import web

LATENCY = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
seen: Counter[str] = Counter()
answered: Counter[str] = Counter()
flight = {"now": 0, "most": 0}
faults: dict = {"kinds": [], "share": 0.0}


async def chat(request: web.Request) -> web.Response:
    body = await request.json()
    name = json.dumps(body, sort_keys=True)
    seen[name] += 1
    flight["now"] += 1
    flight["most"] = max(flight.values())
    try:
        await asyncio.sleep(LATENCY)
        return fault(name) or answer(body, name)
    finally:
        flight["now"] -= 1


def fault(name: str) -> web.Response | None:
    """Fail, as drawn from the request and how often it came: the same for every client."""
    draw = int(hashlib.md5(f"{name}{seen[name]}".encode()).hexdigest()[:8], 16) / 2**32
    if draw >= faults["share"]:
        return None
    kind = faults["kinds"][int(draw / faults["share"] * len(faults["kinds"]))]
    words = {"error": {"message": f"no luck: {kind}", "code": "insufficient_quota" if kind == "credit" else None}}
    if kind == "cut":
        return web.Response(body=json.dumps({"choices": [{"message": {"content": "half"}}]}).encode()[:30])
    if kind == "429":
        return web.json_response(words, status=429, headers={"Retry-After": "0.05"})
    return web.json_response(words, status={"credit": 429}.get(kind) or int(kind))


def answer(body: dict, name: str) -> web.Response:
    answered[name] += 1
    text = body["messages"][-1]["content"].upper()
    return web.json_response({
        "model": body["model"], "choices": [{"message": {"content": text}, "finish_reason": faults.get("finish", "stop")}],
        "usage": {"prompt_tokens": len(name) // 4, "completion_tokens": len(text) // 4},
    })


async def set_faults(request: web.Request) -> web.Response:
    faults.update(await request.json())
    return web.json_response(faults)


async def counts(request: web.Request) -> web.Response:
    return web.json_response({
        "requests": sum(seen.values()), "answered": sum(answered.values()), "most_at_once": flight["most"],
        "answered_again": sum(n - 1 for n in answered.values()), "bodies": [json.loads(name) for name in list(seen)[:5]],
    })


async def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.post("/faults", set_faults), web.get("/counts", counts)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(900)


asyncio.run(main())
