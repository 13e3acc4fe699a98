"""A small OpenAI-compatible service for vectors: the letters of a text, counted. Run as: python fake_embeddings.py

It prints its port, and serves /v1/embeddings. A text that holds "REFUSE" fails its request by 400; while the file that
`FAIL_ONCE` names is there, a request takes it away and fails by 500. GET /counts returns requests, texts (all that were sent),
the last body and headers. A model named `…-base64` answers in base64, one named `…-odd` with an empty vector.
"""

import asyncio
import base64
import os
import struct
from pathlib import Path

from aiohttp import web

LETTERS = "abcdefgh"
seen = {"requests": 0, "texts": [], "body": {}, "headers": {}}


def vector(text: str, size: int) -> list[float]:
    return [float(text.lower().count(letter)) for letter in LETTERS[:size]]


async def embeddings(request: web.Request) -> web.Response:
    body = await request.json()
    seen["requests"] += 1
    seen["texts"] += body["input"]
    seen["body"], seen["headers"] = body, dict(request.headers)
    fail = Path(os.environ.get("FAIL_ONCE", "/nowhere"))
    if fail.exists():
        fail.unlink()
        return web.json_response({"error": {"message": "busy"}}, status=500)
    if any("REFUSE" in text for text in body["input"]):
        return web.json_response({"error": {"message": "too long"}}, status=400)
    found = [vector(text, body.get("dimensions", len(LETTERS))) for text in body["input"]]
    if body["model"].endswith("-odd"):
        found[0] = []
    told = found
    if body["model"].endswith("-base64"):
        told = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in found]
    data = [{"index": number, "object": "embedding", "embedding": one} for number, one in enumerate(told)]
    tokens = sum(len(text) for text in body["input"])
    return web.json_response({"object": "list", "data": data[::-1], "model": body["model"], "usage": {"prompt_tokens": tokens}})


async def counts(request: web.Request) -> web.Response:
    return web.json_response(seen)


async def main() -> None:
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/v1/embeddings", embeddings), web.get("/counts", counts)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(900)


asyncio.run(main())
