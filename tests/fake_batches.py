"""A server that speaks the batch APIs of OpenAI, Mistral and Anthropic, for tests: answers each prompt in capitals.

Run as: python fake_batches.py. It prints its port; GET /counts returns what it has seen, POST /settings changes `Fake.settings`.
A prompt that holds "bad" is refused; one that holds "expires" or "falls over" is answered in a second batch, unless it "always" does.
"""

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime

from aiohttp import web


class Fake:
    """What the server knows. Settings: how many looks a job runs for; faults, each of which happens so many times."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict] = {}
        self.seen: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.settings = {"looks": 1, "lost": 0, "refused": 0, "hidden": 0, "cut": 0, "most": 10**6, "unauthorized": 0, "gone": 0}

    def happens(self, fault: str) -> bool:
        self.settings[fault] -= 1
        return self.settings[fault] >= 0

    def create(self, kind: str, requests: list[dict], mark: str | None, file: str | None) -> dict:
        """Make a job; each request is {"custom_id", "text", "body"}."""
        number = len(self.jobs)
        self.jobs[f"job-{number}"] = {"id": f"job-{number}", "kind": kind, "requests": requests, "mark": mark, "file": file,
                                      "made": time.time(), "looks": 0, "failed": len(requests) > self.settings["most"]}
        for request in [] if len(requests) > self.settings["most"] else requests:
            self.seen[request["text"]] += 1
            request["time"] = self.seen[request["text"]]
        return self.jobs[f"job-{number}"]

    def listed(self, kind: str) -> list[dict]:
        """Return the jobs, newest first; those that are still hidden are left out."""
        found = [job for job in reversed(self.jobs.values()) if job["kind"] == kind]
        return [] if self.happens("hidden") else found

    def ended(self, job: dict) -> bool:
        return job["looks"] > self.settings["looks"]

    def look(self, job: dict) -> dict:
        job["looks"] += 1
        return job

    def file(self, content: bytes) -> str:
        self.files[f"file-{len(self.files)}"] = content
        return f"file-{len(self.files) - 1}"


def fate(request: dict) -> str:
    """Return what becomes of a request: "ok", "bad", "expires" or "falls over"."""
    for word in ("bad", "expires", "falls over"):
        if word in request["text"] and (word == "bad" or request["time"] == 1 or "always" in request["text"]):
            return word
    return "ok"


def lines(rows: list[dict]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


def chat(request: dict) -> dict:
    text = request["text"].upper()
    return {"model": "toy-1", "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": len(text)}}


def chat_rows(requests: list[dict]) -> tuple[list[dict], list[dict]]:
    """Return the rows of the output file and of the error file."""
    good, wrong = [], []
    for request in reversed(requests):  # in an order of its own
        name, what = {"custom_id": request["custom_id"]}, fate(request)
        if what == "ok":
            good.append({**name, "response": {"status_code": 200, "body": chat(request)}, "error": None})
        elif what == "expires":
            wrong.append({**name, "response": None, "error": {"code": "batch_expired", "message": "too late"}})
        else:
            status = 400 if what == "bad" else 500
            wrong.append({**name, "response": {"status_code": status, "body": {"error": {"message": f"no luck: {what}"}}}, "error": None})
    return good, wrong


def message_rows(requests: list[dict]) -> list[dict]:
    results = {
        "ok": lambda request: {"type": "succeeded", "message": {
            "model": "claude-toy", "content": [{"type": "text", "text": request["text"].upper()}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 7}}},
        "bad": lambda request: {"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request_error", "message": "no luck: bad"}}},
        "expires": lambda request: {"type": "expired"},
        "falls over": lambda request: {"type": "errored", "error": {"type": "error", "error": {"type": "api_error", "message": "no luck"}}},
    }
    return [{"custom_id": request["custom_id"], "result": results[fate(request)](request)} for request in reversed(requests)]


def application(fake: Fake) -> web.Application:
    """Return the server."""
    routes = web.RouteTableDef()

    @web.middleware
    async def faults(request: web.Request, handler):
        if request.path in ("/counts", "/settings"):
            return await handler(request)
        fake.calls[f"{request.method} {request.path}"] += 1
        fake.keys.add(request.headers.get("Authorization") or request.headers.get("x-api-key") or request.headers.get("api-key", ""))
        if fake.happens("unauthorized"):
            return web.json_response({"error": {"message": "invalid key sk-secret"}}, status=401)
        creating = request.method == "POST" and request.path in ("/v1/batches", "/v1/batch/jobs", "/v1/messages/batches")
        if creating and fake.happens("refused"):
            return web.json_response({"error": {"message": "busy"}}, status=503)
        reply = await handler(request)
        if creating and fake.happens("lost"):
            return web.json_response({"error": {"message": "upset"}}, status=500)
        return reply

    @routes.post("/v1/files")
    async def upload(request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch" and form["file"].filename.endswith(".jsonl")
        return web.json_response({"id": fake.file(form["file"].file.read())})

    @routes.get("/v1/files/{id}/content")
    async def content(request: web.Request) -> web.Response:
        found = fake.files[request.match_info["id"]]
        return web.Response(body=found[:-20] if fake.happens("cut") else found)

    def read_file(file: str) -> list[dict]:
        rows = [json.loads(line) for line in fake.files[file].splitlines()]
        return [{"custom_id": row["custom_id"], "text": row["body"]["messages"][-1]["content"], "body": row["body"],
                 "url": row.get("url")} for row in rows]

    def files_of(job: dict) -> tuple[str | None, str | None]:
        if "files" not in job:
            job["files"] = [fake.file(lines(rows)) if rows else None for rows in chat_rows(job["requests"])]
        return job["files"]

    def openai(job: dict) -> dict:
        told = {"id": job["id"], "created_at": int(job["made"]), "metadata": job["mark"], "input_file_id": job["file"],
                "request_counts": {"total": len(job["requests"]), "completed": job["looks"]}, "status": "in_progress"}
        if job["failed"]:
            return {**told, "status": "failed", "errors": {"data": [{"code": "token_limit_exceeded", "message": "too many"}]}}
        if job.get("cancelled"):
            return {**told, "status": "cancelled"}
        if fake.ended(job):
            output, error = files_of(job)
            told |= {"status": "completed", "output_file_id": output, "error_file_id": error}
        return told

    @routes.post("/v1/batches")
    async def create(request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["completion_window"], body["endpoint"]) == ("24h", "/v1/chat/completions")
        requests = read_file(body["input_file_id"])
        assert all(request["url"] == body["endpoint"] for request in requests)
        return web.json_response(openai(fake.create("openai", requests, body["metadata"], body["input_file_id"])))

    @routes.get("/v1/batches")
    async def list_jobs(request: web.Request) -> web.Response:
        jobs, after = fake.listed("openai"), request.query.get("after")
        names = [job["id"] for job in jobs]
        start = names.index(after) + 1 if after else 0
        page = [openai(job) for job in jobs[start:start + 2]]  # small pages, so that one has to turn them
        return web.json_response({"data": page, "has_more": start + 2 < len(jobs)})

    @routes.get("/v1/batches/{id}")
    async def state(request: web.Request) -> web.Response:
        if request.match_info["id"] not in fake.jobs or fake.happens("gone"):
            return web.json_response({}, status=404)
        return web.json_response(openai(fake.look(fake.jobs[request.match_info["id"]])))

    @routes.post("/v1/batches/{id}/cancel")
    @routes.post("/v1/batch/jobs/{id}/cancel")
    @routes.post("/v1/messages/batches/{id}/cancel")
    async def cancel(request: web.Request) -> web.Response:
        fake.jobs[request.match_info["id"]]["cancelled"] = True
        return web.json_response({})

    def mistral(job: dict) -> dict:
        told = {"id": job["id"], "created_at": int(job["made"]), "metadata": job["mark"], "input_files": [job["file"]],
                "status": "RUNNING", "completed_requests": job["looks"], "errors": []}
        if job["failed"]:
            return {**told, "status": "FAILED", "errors": [{"message": "too many"}]}
        if job.get("cancelled"):
            return {**told, "status": "CANCELLED"}
        if fake.ended(job):
            output, error = files_of(job)
            told |= {"status": "SUCCESS", "output_file": output, "error_file": error}
        return told

    @routes.post("/v1/batch/jobs")
    async def create_mistral(request: web.Request) -> web.Response:
        body = await request.json()
        requests = read_file(body["input_files"][0])
        assert body["model"] == "toy" and not any("model" in request["body"] for request in requests)
        return web.json_response(mistral(fake.create("mistral", requests, body["metadata"], body["input_files"][0])))

    @routes.get("/v1/batch/jobs")
    async def list_mistral(request: web.Request) -> web.Response:
        jobs, start = fake.listed("mistral"), 100 * int(request.query["page"])
        return web.json_response({"data": [mistral(job) for job in jobs[start:start + 100]], "total": len(jobs)})

    @routes.get("/v1/batch/jobs/{id}")
    async def state_mistral(request: web.Request) -> web.Response:
        return web.json_response(mistral(fake.look(fake.jobs[request.match_info["id"]])))

    def anthropic(job: dict) -> dict:
        done = len(job["requests"]) if fake.ended(job) or job.get("cancelled") else 0
        return {"id": job["id"], "created_at": datetime.fromtimestamp(job["made"], UTC).isoformat().replace("+00:00", "Z"),
                "processing_status": "ended" if done else "in_progress", "cancel_initiated_at": "2026" if job.get("cancelled") else None,
                "request_counts": {"processing": len(job["requests"]) - done, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0}}

    @routes.post("/v1/messages/batches")
    async def create_anthropic(request: web.Request) -> web.Response:
        assert request.headers["anthropic-version"]
        rows = (await request.json())["requests"]
        assert all(row["params"]["max_tokens"] and row["params"]["model"] for row in rows)
        requests = [{"custom_id": row["custom_id"], "text": row["params"]["messages"][-1]["content"], "body": row["params"]} for row in rows]
        return web.json_response(anthropic(fake.create("anthropic", requests, None, None)))

    @routes.get("/v1/messages/batches")
    async def list_anthropic(request: web.Request) -> web.Response:
        for job in fake.jobs.values():
            fake.look(job)
        return web.json_response({"data": [anthropic(job) for job in fake.listed("anthropic")], "has_more": False})

    @routes.get("/v1/messages/batches/{id}")
    async def state_anthropic(request: web.Request) -> web.Response:
        return web.json_response(anthropic(fake.look(fake.jobs[request.match_info["id"]])))

    @routes.get("/v1/messages/batches/{id}/results")
    async def results(request: web.Request) -> web.Response:
        job = fake.jobs[request.match_info["id"]]
        found = lines([{"custom_id": row["custom_id"], "result": {"type": "canceled"}} for row in job["requests"]]
                      if job.get("cancelled") else message_rows(job["requests"]))
        return web.Response(body=found[:-20] if fake.happens("cut") else found)

    @routes.get("/counts")
    async def counts(request: web.Request) -> web.Response:
        return web.json_response({"jobs": [len(job["requests"]) for job in fake.jobs.values()], "calls": fake.calls,
                                  "requests": sum(fake.seen.values()), "asked_again": sum(n - 1 for n in fake.seen.values())})

    @routes.post("/settings")
    async def settings(request: web.Request) -> web.Response:
        fake.settings.update(await request.json())
        return web.json_response(fake.settings)

    app = web.Application(middlewares=[faults], client_max_size=1 << 28)
    app.add_routes(routes)
    return app


async def main() -> None:
    runner = web.AppRunner(application(Fake()), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(900)


if __name__ == "__main__":
    asyncio.run(main())
