"""A small service for vectors: the letters of a text, counted. Run as: python fake_embeddings.py

It prints its port, and serves /v1/embeddings as OpenAI, Voyage and Jina do, /v2/embed as Cohere, …:batchEmbedContents as Google
and /model/…/invoke as Bedrock's Titan. A text that holds "REFUSE" fails its request by 400, one with "KEY" by 401, one with
"BUSY" by 429 when it first comes; while the file that `FAIL_ONCE` names is there, a request takes it away and fails by 500.
GET /counts returns requests, texts (all that were sent), paths, the last body and headers. A model named `…-base64` answers in
base64, one named `…-odd` with an empty vector, `…-stiff` in eight numbers, whatever was asked, and `…-slow` after a while.
"""

import asyncio
import base64
import os
import struct
from pathlib import Path

from aiohttp import web

LETTERS = "abcdefgh"
seen = {"requests": 0, "texts": [], "paths": [], "body": {}, "headers": {}}


def vector(text: str, size: int) -> list[float]:
    return [float(text.lower().count(letter)) for letter in LETTERS[:size]]


def texts_of(path: str, body: dict) -> list[str]:
    if "batchEmbedContents" in path:
        return [asked["content"]["parts"][0]["text"] for asked in body["requests"]]
    return [body["inputText"]] if "/invoke" in path else body["texts" if path == "/v2/embed" else "input"]


def size_of(path: str, body: dict) -> int:
    if "batchEmbedContents" in path:
        body = body["requests"][0]
    if body.get("model", "").endswith("-stiff"):
        return len(LETTERS)
    return next((body[name] for name in ("dimensions", "output_dimension", "outputDimensionality") if name in body), len(LETTERS))


def reply(path: str, body: dict, found: list) -> dict:
    tokens = sum(map(len, texts_of(path, body)))
    if path == "/v2/embed":
        return {"id": "e1", "embeddings": {"float": found}, "texts": body["texts"], "meta": {"billed_units": {"input_tokens": tokens}}}
    if "batchEmbedContents" in path:
        return {"embeddings": [{"values": one} for one in found]}
    if "/invoke" in path:
        return {"embedding": found[0], "inputTextTokenCount": tokens}
    data = [{"index": number, "object": "embedding", "embedding": one} for number, one in enumerate(found)]
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def failure(texts: list[str]) -> web.Response | None:
    fail = Path(os.environ.get("FAIL_ONCE", "/nowhere"))
    if fail.exists():
        fail.unlink()
        return failed(500, "busy")
    if any("REFUSE" in text for text in texts):
        return failed(400, "too long")
    if any("KEY" in text for text in texts):
        return failed(401, "no such key")
    if any("BUSY" in text and seen["texts"].count(text) == 1 for text in texts):
        return failed(429, "slow down", {"Retry-After": "0.05"})
    return None


def failed(status: int, words: str, headers: dict | None = None) -> web.Response:
    return web.json_response({"error": {"message": words}, "message": words, "detail": words}, status=status, headers=headers)


async def embeddings(request: web.Request) -> web.Response:
    path, body = request.raw_path, await request.json()
    texts, model = texts_of(path, body), body.get("model", "")
    seen["requests"] += 1
    seen["texts"] += texts
    seen["paths"].append(path)
    seen["body"], seen["headers"] = body, dict(request.headers)
    refused = failure(texts)
    if refused is not None:
        return refused
    await asyncio.sleep(0.5 if model.endswith("-slow") else 0)
    found = [vector(text, size_of(path, body)) for text in texts]
    if model.endswith("-odd"):
        found[0] = []
    if model.endswith("-base64"):
        found = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in found]
    return web.json_response(reply(path, body, found))


async def counts(request: web.Request) -> web.Response:
    return web.json_response(seen)


async def main() -> None:
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.get("/counts", counts), web.post("/{path:.*}", embeddings)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(900)


asyncio.run(main())
