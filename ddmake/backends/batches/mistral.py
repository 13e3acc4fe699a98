"""Mistral's batch API: as OpenAI's, with jobs of its own shape. https://docs.mistral.ai/api/#tag/batch."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp

from ddmake.backends import providers
from ddmake.backends.base import Request
from ddmake.backends.batches.base import CANCELLED, Outcome, Sent, State, custom_id, number_of
from ddmake.backends.batches.openai import MARK, SKEW, http_of, outcome, upload
from ddmake.backends.wire import Wire

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

PAGE = 100
RUNNING = ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED")


class Mistral:
    """A Batches that speaks as Mistral's API does. Raises ProviderError where its key is missing."""

    most, most_bytes = 100_000, 190_000_000

    def __init__(self, spec: "LLM", session: aiohttp.ClientSession):
        self.wire, self.account = Wire(spec), providers.account(spec)
        self.http = http_of(spec, session)

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON that is sent for a request; the model is told with the job."""
        return {name: value for name, value in self.wire.body(request).items() if name != "model"}

    async def upload(self, token: str, bodies: Sequence[str]) -> str:
        """Upload the requests as a file of JSON lines."""
        return await upload(self.http, token, [f'{{"custom_id": "{custom_id(token, number)}", "body": {body}}}'
                                               for number, body in enumerate(bodies)])

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job of an uploaded file."""
        return (await self.http.post("batch/jobs", {"input_files": [file], "endpoint": f"/v1/{self.wire.path}",
                                                    "model": self.wire.model, "metadata": {MARK: token}}))["id"]

    async def find(self, sent: Sent) -> str | None:
        """Look through the list of jobs for one with the batch's token or of its file."""
        seen, number = 0, 0
        while True:
            page = await self.http.get("batch/jobs", page=str(number), page_size=str(PAGE)) or {}
            jobs = page.get("data") or []
            for job in jobs:
                if (job.get("metadata") or {}).get(MARK) == sent.token or sent.file in job["input_files"]:
                    return job["id"]
            seen, number = seen + len(jobs), number + 1
            if not jobs or seen >= page.get("total", 0) or max(job["created_at"] for job in jobs) < sent.made - SKEW:
                return None

    async def state(self, job: str) -> State | None:
        """Return how far a job is."""
        told = await self.http.get(f"batch/jobs/{job}")
        if told is None:
            return None
        if told["status"] in RUNNING:
            return State("running", told.get("completed_requests") or 0)
        if told.get("output_file") or told.get("error_file") or told["status"] != "FAILED":
            return State("ended", reason=CANCELLED if told["status"] == "CANCELLED" else "")
        errors = [error.get("message") for error in told.get("errors") or []]
        return State("failed", reason="; ".join(map(str, errors)) or "no reason given")

    async def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what the output file and the error file say."""
        told = await self.http.get(f"batch/jobs/{job}") or {}
        for name in ("output_file", "error_file"):
            if told.get(name):
                async for line in self.http.lines(f"files/{told[name]}/content"):
                    yield number_of(line["custom_id"]), outcome(_decoded(line), self.wire)

    async def cancel(self, job: str) -> None:
        """Stop a job."""
        await self.http.post(f"batch/jobs/{job}/cancel", {})


def _decoded(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of results with its body as JSON: error files have held it as text."""
    reply = line.get("response")
    if isinstance(reply, dict) and isinstance(reply.get("body"), str):
        try:
            return {**line, "response": {**reply, "body": json.loads(reply["body"])}}
        except ValueError:
            pass
    return line
