"""OpenAI's batch API, and those that speak as it does: Azure, Groq, servers at a base_url.

https://platform.openai.com/docs/api-reference/batch. A file of requests is uploaded, and a job created of it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp

from ddmake.backends import providers
from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.batches.base import CANCELLED, Outcome, Sent, State, custom_id, number_of
from ddmake.backends.batches.http import Http
from ddmake.backends.refusals import judged
from ddmake.backends.wire import Wire
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

MARK = "ddmake"  # the field of a job's metadata that holds its token
PAGE = "100"
SKEW = 3600.0  # seconds by which a provider's clock may differ from ours
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
TOO_MUCH = ("token_limit_exceeded", "request_limit_exceeded", "too_many_tasks")
IN_VAIN = ("batch_expired", "batch_cancelled")  # codes of requests that the provider never came to


class OpenAI:
    """A Batches that speaks as OpenAI's API does. Raises ProviderError where its key or its address is missing."""

    most, most_bytes = 50_000, 190_000_000  # it takes 200 MB, names and line ends included

    def __init__(self, spec: "LLM", session: aiohttp.ClientSession):
        self.wire, self.account = Wire(spec), providers.account(spec)
        self.http = http_of(spec, session)

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON that is sent for a request."""
        return self.wire.body(request)

    async def upload(self, token: str, bodies: Sequence[str]) -> str:
        """Upload the requests as a file of JSON lines."""
        rest = f'"method": "POST", "url": "/v1/{self.wire.path}"'
        return await upload(self.http, token, [f'{{"custom_id": "{custom_id(token, number)}", {rest}, "body": {body}}}'
                                               for number, body in enumerate(bodies)])

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job of an uploaded file."""
        return (await self.http.post("batches", {"input_file_id": file, "endpoint": f"/v1/{self.wire.path}",
                                                 "completion_window": "24h", "metadata": {MARK: token}}))["id"]

    async def find(self, sent: Sent) -> str | None:
        """Look through the list of jobs, newest first, for one with the batch's token or of its file."""
        query = {"limit": PAGE}
        while True:
            page = await self.http.get("batches", **query) or {"data": []}
            for job in page["data"]:
                if (job.get("metadata") or {}).get(MARK) == sent.token or job["input_file_id"] == sent.file:
                    return job["id"]
            if not page.get("has_more") or not page["data"] or page["data"][-1]["created_at"] < sent.made - SKEW:
                return None
            query["after"] = page["data"][-1]["id"]

    async def state(self, job: str) -> State | None:
        """Return how far a job is."""
        told = await self.http.get(f"batches/{job}")
        if told is None:
            return None
        if told["status"] in RUNNING:
            return State("running", (told.get("request_counts") or {}).get("completed", 0))
        if told["status"] != "failed":  # what an expired or cancelled job has answered is there
            return State("ended", reason=CANCELLED if told["status"] == "cancelled" else "")
        errors = (told.get("errors") or {}).get("data") or [{}]
        return State("failed", reason=errors[0].get("message") or "no reason given", later=errors[0].get("code") in TOO_MUCH)

    async def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what the output file and the error file say."""
        told = await self.http.get(f"batches/{job}") or {}
        for name in ("output_file_id", "error_file_id"):
            if told.get(name):
                async for line in self.http.lines(f"files/{told[name]}/content"):
                    yield number_of(line["custom_id"]), outcome(line, self.wire)

    async def cancel(self, job: str) -> None:
        """Stop a job."""
        await self.http.post(f"batches/{job}/cancel", {})


def http_of(spec: "LLM", session: aiohttp.ClientSession) -> Http:
    """Return how a provider that speaks as OpenAI's does is reached. Raises ProviderError where key or address is missing."""
    key, header = providers.api_key(spec), providers.provider_of(spec).key_header
    headers = {} if key is None else {header: f"Bearer {key}" if header == "Authorization" else key}
    return Http(spec.name, providers.address(spec), headers, key, session)


async def upload(http: Http, token: str, lines: Sequence[str]) -> str:
    """Upload a file of JSON lines for a batch, and return its id."""
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", "\n".join([*lines, ""]).encode(), filename=f"ddmake-{token}.jsonl", content_type="application/jsonl")
    return (await http.post("files", data=form))["id"]


def outcome(line: Mapping[str, Any], wire: Wire) -> Answer | Retry:
    """Return what a line of results says: an answer, a refusal of this request, or a Retry."""
    reply, error = line.get("response") or {}, line.get("error")
    try:
        if reply.get("status_code") == 200:
            return wire.read(reply["body"], {})
        if not reply:
            code = (error or {}).get("code")
            return Retry(f"{code}: {(error or {}).get('message')}") if code in IN_VAIN else _refused(400, error, wire)
        return _refused(reply["status_code"], reply.get("body") or error, wire)
    except Retry as retry:
        return retry


def _refused(status: int, body: Any, wire: Wire) -> Answer:
    """Return what a refusal within a batch means, which stops nobody else: the others have their answers. Raises Retry."""
    try:
        return judged(status, body, {}, wire.model)
    except ProviderError as error:
        return Answer(model=wire.model, error=str(error))
