"""A small fine-tuning service for tests, as OpenAI's API has it: files, jobs, their events and results, and chats with its models.

Run as: python fake_finetuning.py. It prints its port. A tuned model answers with its own name and the last message.

POST /controls changes what is named:
    step       seconds that a job stays in each state (default 0.05); null: it goes on running
    faults     {"METHOD /path": [kind, …]}: how the next requests to a path end, one after the other: a status ("429", "500"),
               "before" and "after" (the connection is closed before, or after, the request is done), "slow" (done, and told
               after two seconds)
    end        how jobs end: "succeeded" (default), "failed" or "cancelled"
    results    "csv" (default), "base64", "gone" (404), or "events" (no result file; events tell)
    plain      true: jobs and their metadata can't be filtered by the list (default false)
GET /state returns files (by name), contents, jobs, requests (how many by path) and models that were asked.
"""

import base64
import email
import email.policy
import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

STATES = ("validating_files", "queued", "running")
LEAST, PAGE = 10, 3  # rows of a training, and items of a page
controls: dict = {"step": 0.05, "faults": {}, "end": "succeeded", "results": "csv", "plain": False}
files: dict[str, dict] = {}
contents: dict[str, str] = {}
jobs: dict[str, dict] = {}
asked: list[str] = []
paths: Counter[str] = Counter()
lock = threading.Lock()


def add_file(name: str, content: str, purpose: str) -> dict:
    number = f"file-{len(files) + 1}"
    files[number] = {"id": number, "object": "file", "bytes": len(content.encode()), "created_at": int(time.time()),
                     "filename": name, "purpose": purpose, "status": "processed"}
    contents[number] = content
    return files[number]


def begin(body: dict) -> dict:
    """Begin a job. Raises ValueError for what is refused."""
    if body["training_file"] not in files:
        raise ValueError(f"invalid training_file: {body['training_file']}")
    rows = contents[body["training_file"]].splitlines()
    if len(rows) < LEAST:
        raise ValueError(f"Training file has {len(rows)} example(s), but must have at least {LEAST} examples.")
    kind = body["method"]["type"]
    knobs = {"batch_size": 1, "learning_rate_multiplier": 1.8, **body["method"][kind]["hyperparameters"]}
    number = f"ftjob-{len(jobs) + 1}"
    jobs[number] = {"id": number, "object": "fine_tuning.job", "created_at": int(time.time()), "error": None,
                    "fine_tuned_model": None, "finished_at": None, "hyperparameters": knobs, "model": body["model"],
                    "organization_id": "org", "result_files": [], "seed": body.get("seed"), "status": STATES[0],
                    "trained_tokens": None, "training_file": body["training_file"],
                    "validation_file": body.get("validation_file"), "metadata": body.get("metadata"),
                    "method": {"type": kind, kind: {"hyperparameters": knobs}}, "began": time.monotonic(), "body": body}
    return shown(jobs[number])


def shown(job: dict) -> dict:
    """Return a job as it is by now."""
    if job["status"] in STATES:
        at = 2 if controls["step"] is None else int((time.monotonic() - job["began"]) / controls["step"])
        job["status"] = STATES[at] if at < len(STATES) else end(job)
    return {name: value for name, value in job.items() if name not in ("began", "body")}


def end(job: dict) -> str:
    job["finished_at"] = 1_760_000_000
    if controls["end"] == "failed":
        job["error"] = {"code": "invalid_file", "message": "the file was refused by moderation", "param": None}
    if controls["end"] == "succeeded":
        rows = len(contents[job["training_file"]].splitlines())
        job["fine_tuned_model"] = f"ft:{job['model']}:org:{job['body'].get('suffix') or ''}:{job['id'][6:]}"
        job["trained_tokens"] = 10 * rows * job["hyperparameters"]["n_epochs"]
        lines = [f"{point['step']},{point['train_loss']},{'' if point['step'] < 3 else 0.75}" for point in points()]
        told = "\n".join(["step,train_loss,valid_loss", *lines]) + "\n"
        if controls["results"] != "events":
            told = base64.b64encode(told.encode()).decode() if controls["results"] == "base64" else told
            job["result_files"] = [add_file("step_metrics.csv", told, "fine-tune-results")["id"]]
    return controls["end"]


def points() -> list[dict]:
    return [{"step": step, "train_loss": 1 / step, "total_steps": 3} for step in (1, 2, 3)]


def events(job: dict) -> list[dict]:
    told = [{"id": "ftevent-0", "object": "fine_tuning.job.event", "created_at": 1, "level": "info", "message": "created",
             "type": "message", "data": {}}]
    if job["status"] not in STATES[:2]:
        told += [{**told[0], "id": f"ftevent-{point['step']}", "type": "metrics", "data": point} for point in points()]
    return told[::-1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def tell(self, told, status: int = 200) -> None:
        content = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def refuse(self, status: int, words: str) -> None:
        self.tell({"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}}, status)

    def page(self, items: list[dict], query: dict) -> None:
        """Return some items, from the one after `after` on."""
        after, most = query.get("after", [None])[0], min(int(query.get("limit", [20])[0]), PAGE)
        start = next((at + 1 for at, item in enumerate(items) if item["id"] == after), 0)
        self.tell({"object": "list", "data": items[start:start + most], "has_more": start + most < len(items)})

    def do_GET(self) -> None:
        self.answer("GET", b"")

    def do_POST(self) -> None:
        self.answer("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def answer(self, method: str, body: bytes) -> None:
        url = urlsplit(self.path)
        path = url.path.removeprefix("/v1")
        if path in ("/state", "/controls"):
            controls.update(json.loads(body or "{}"))
            with lock:
                self.tell({"files": {file["filename"]: file["id"] for file in files.values()}, "contents": contents,
                           "jobs": [shown(job) | {"body": job["body"]} for job in jobs.values()], "requests": paths, "asked": asked})
            return
        paths[f"{method} {path}"] += 1
        waiting = controls["faults"].get(f"{method} {path}") or [None]
        fault = waiting.pop(0)
        if fault == "before":
            self.cut()
        elif fault and fault.isdecimal():
            self.refuse(int(fault), "no luck")
        elif self.headers["Authorization"] != "Bearer sk-secret":
            self.refuse(401, f"Incorrect API key provided: {self.headers['Authorization']}")
        elif fault == "after":
            self.tell = lambda told, status=200: self.cut()  # type: ignore[method-assign]
            self.route(method, path, parse_qs(url.query), body)
        else:
            told = self.tell
            if fault == "slow":
                self.tell = lambda *args: (time.sleep(2), told(*args))  # type: ignore[assignment, method-assign]
            self.route(method, path, parse_qs(url.query), body)
            self.tell = told  # type: ignore[method-assign]

    def route(self, method: str, path: str, query: dict, body: bytes) -> None:
        match [method, *path.strip("/").split("/")]:
            case ["POST", "files"]:
                self.tell(self.upload(body))
            case ["GET", "files"]:
                self.page([file for file in files.values() if file["purpose"] == query["purpose"][0]], query)
            case ["GET", "files", number, "content"]:
                self.refuse(404, "gone") if controls["results"] == "gone" else self.tell(contents[number])
            case ["POST", "fine_tuning", "jobs"]:
                try:
                    with lock:
                        begun = begin(json.loads(body))
                    self.tell(begun)
                except ValueError as error:
                    self.refuse(400, str(error))
            case ["GET", "fine_tuning", "jobs"]:
                mark = next((value[0] for name, value in query.items() if name.startswith("metadata")), None)
                told = [shown(job) for job in jobs.values() if controls["plain"] or mark in (job["metadata"] or {}).values()]
                self.page(told[::-1], query)
            case ["GET", "fine_tuning", "jobs", number]:
                self.tell(shown(jobs[number])) if number in jobs else self.refuse(404, f"Could not find fine tune: {number}")
            case ["GET", "fine_tuning", "jobs", number, "events"]:
                self.page(events(jobs[number]), query)
            case ["POST", "chat", "completions"]:
                self.chat(json.loads(body))
            case _:
                self.refuse(404, f"unknown {unquote(path)}")

    def upload(self, body: bytes) -> dict:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {part.get_param("name", header="content-disposition"): part
                 for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()}
        content = parts["file"].get_payload(decode=True).decode()
        return add_file(parts["file"].get_filename(), content, parts["purpose"].get_payload(decode=True).decode().strip())

    def chat(self, body: dict) -> None:
        asked.append(body["model"])
        if not any(job["fine_tuned_model"] == body["model"] for job in jobs.values()):
            return self.refuse(404, f"The model {body['model']} does not exist")
        text = f"{body['model']}: {body['messages'][-1]['content']}"
        self.tell({"id": "chat-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
