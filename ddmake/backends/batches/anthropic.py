"""Anthropic's Message Batches: the requests go with the job, which has no name of ours.

https://platform.claude.com/docs/en/api/messages/batches. A job of which no id came back is known by the names of its
requests, and these are told with the results: one that may be ours is waited for until it has ended.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp

from ddmake.backends import providers
from ddmake.backends.base import Request, Retry
from ddmake.backends.batches import messages
from ddmake.backends.batches.base import CANCELLED, Outcome, Sent, State, custom_id, number_of
from ddmake.backends.batches.http import Http

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

ADDRESS = "https://api.anthropic.com"
ADDRESSES = ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")
PATH = "v1/messages/batches"
PAGE = "100"
SKEW = 300.0  # seconds by which the provider's clock may differ from ours


class Anthropic:
    """A Batches that speaks as Anthropic's API does. Raises ProviderError where its key is missing."""

    most, most_bytes = 100_000, 240_000_000  # it takes 256 MB, names included

    def __init__(self, spec: "LLM", session: aiohttp.ClientSession):
        key, self.account, self.model = providers.api_key(spec), providers.account(spec), providers.model_of(spec)
        self.shared = messages.constant(spec, self.model)
        bearer = not spec.api_key_env and not os.environ.get("ANTHROPIC_API_KEY")  # it is in ANTHROPIC_AUTH_TOKEN then
        carried = {"Authorization": f"Bearer {key}"} if bearer else {"x-api-key": key or ""}
        headers = {"anthropic-version": "2023-06-01", **carried}
        address = next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), ADDRESS)
        self.http = Http(spec.name, address, headers, key, session)

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON that is sent for a request."""
        return messages.body(self.shared, request)

    async def upload(self, token: str, bodies: Sequence[str]) -> None:
        """Do nothing: the requests go with the job."""

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job, with all its requests."""
        requests = ",\n".join(f'{{"custom_id": "{custom_id(token, number)}", "params": {body}}}'
                              for number, body in enumerate(bodies))
        return (await self.http.post(PATH, data=f'{{"requests": [{requests}]}}'.encode()))["id"]

    async def find(self, sent: Sent) -> str | None:
        """Look for a job of as many requests, and no older; its results tell whose it is, once it has ended."""
        running = False
        async for job in self._jobs_since(sent.made - SKEW):
            if sum(job["request_counts"].values()) != sent.count:
                continue
            if job["processing_status"] != "ended":
                running = True
            elif await self._holds(job["id"], sent.token):
                return job["id"]
        if running:
            raise Retry("one that may be this is running, and tells whose it is when it has ended")
        return None

    async def state(self, job: str) -> State | None:
        """Return how far a job is."""
        told = await self.http.get(f"{PATH}/{job}")
        if told is None:
            return None
        if told["processing_status"] == "ended":
            return State("ended", reason=CANCELLED if told.get("cancel_initiated_at") else "")
        counts = told["request_counts"]
        return State("running", sum(counts.values()) - counts["processing"])

    async def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what became of each request."""
        async for line in self.http.lines(f"{PATH}/{job}/results"):
            yield number_of(line["custom_id"]), messages.read(line["result"], self.model)

    async def cancel(self, job: str) -> None:
        """Stop a job."""
        await self.http.post(f"{PATH}/{job}/cancel", {})

    async def _jobs_since(self, when: float) -> AsyncIterator[dict[str, Any]]:
        """Yield the jobs of this key's workspace, newest first."""
        query = {"limit": PAGE}
        while True:
            page = await self.http.get(PATH, **query) or {"data": []}
            for job in page["data"]:
                if datetime.fromisoformat(job["created_at"]).timestamp() < when:
                    return
                yield job
            if not page.get("has_more") or not page["data"]:
                return
            query["after_id"] = page["data"][-1]["id"]

    async def _holds(self, job: str, token: str) -> bool:
        """Tell whether a job that has ended is the batch of that token."""
        async with aclosing(self.http.lines(f"{PATH}/{job}/results")) as lines:
            async for line in lines:
                return line["custom_id"].startswith(f"{token}-")
        return False
