"""Vertex AI's batch prediction of Gemini models, over LiteLLM, which writes the requests and reads the results.

https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini. Both lie in a bucket; a job is known
by the file that it reads.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx

from ddmake.backends import providers
from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.batches.base import CANCELLED, Outcome, Sent, State, custom_id, number_of
from ddmake.backends.batches.openai import PAGE, RUNNING, SKEW, outcome
from ddmake.backends.others import _load
from ddmake.backends.wire import Wire
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

BUCKETS = ("GCS_BATCH_BUCKET_NAME", "GCS_BUCKET_NAME")
PATH = "/v1/chat/completions"
HERE = {"custom_llm_provider": "vertex_ai"}


class Vertex:
    """A Batches that LiteLLM speaks to. Raises ProviderError where its bucket isn't stated."""

    most, most_bytes = 50_000, 190_000_000

    def __init__(self, spec: "LLM"):
        self.name, self.account, self.wire = spec.name, providers.account(spec), Wire(spec)
        if not any(os.environ.get(name) for name in BUCKETS):
            raise ProviderError(f"{spec.name} with batch=True needs a bucket that requests and results lie in: set {BUCKETS[0]}.")
        if isinstance(spec.reasoning, int):
            raise ProviderError(f"{spec.name} with batch=True takes an effort for reasoning, such as 'low', no number of tokens.")

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return what LiteLLM makes the request of."""
        return self.wire.body(request)

    async def upload(self, token: str, bodies: Sequence[str]) -> str:
        """Put the requests into the bucket, and return their address."""
        lines = [f'{{"custom_id": "{custom_id(token, number)}", "method": "POST", "url": "{PATH}", "body": {body}}}\n'
                 for number, body in enumerate(bodies)]
        file = (f"ddmake-{token}.jsonl", "".join(lines).encode())
        return (await self._ask("acreate_file", file=file, purpose="batch")).id

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job of uploaded requests."""
        return (await self._ask("acreate_batch", completion_window="24h", endpoint=PATH, input_file_id=file)).id

    async def find(self, sent: Sent) -> str | None:
        """Look through the list of jobs for the one that reads the batch's file."""
        after: str | None = None
        while True:
            page = _plain(await self._ask("alist_batches", limit=int(PAGE), after=after))
            jobs = [_plain(job) for job in page["data"]]
            for job in jobs:
                if unquote(job["input_file_id"]) == unquote(sent.file or ""):
                    return job["id"]
            after = page.get("next_page_token")
            if not after or not jobs or jobs[-1]["created_at"] < sent.made - SKEW:
                return None

    async def state(self, job: str) -> State | None:
        """Return how far a job is; Google doesn't tell how many requests are done."""
        try:
            told = await self._ask("aretrieve_batch", batch_id=job)
        except LookupError:
            return None
        if told.status in RUNNING:
            return State("running")
        if told.status == "failed":
            return State("failed", reason="no reason given")
        return State("ended", reason=CANCELLED if told.status == "cancelled" else "")

    async def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what the output file says."""
        told = await self._ask("aretrieve_batch", batch_id=job)
        if told.output_file_id:
            content = (await self._ask("afile_content", file_id=told.output_file_id)).content
            for line in content.splitlines():
                row = json.loads(line)
                yield number_of(row["custom_id"]), self._outcome(row)

    async def cancel(self, job: str) -> None:
        """Stop a job."""
        await self._ask("acancel_batch", batch_id=job)

    def _outcome(self, row: Mapping[str, Any]) -> Answer | Retry:
        """Return what a row says; an error is told in words alone, and only a bad request is sure to be one again."""
        error = row.get("error")
        if error and not str(error.get("message")).startswith("Bad Request"):
            return Retry(str(error.get("message")), paid=False)
        return outcome(row, self.wire)

    async def _ask(self, name: str, **given: Any) -> Any:
        """Call one of LiteLLM's functions. Raises Retry, ProviderError, and LookupError for what isn't there."""
        work: Callable[..., Awaitable[Any]] = getattr(await asyncio.to_thread(_load), name)
        try:
            return await work(**given, **HERE)
        except httpx.TransportError as error:
            raise Retry(f"{type(error).__name__}: {error}") from None
        except Exception as error:  # LiteLLM's own, httpx's and Google's
            status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
            words = f"{type(error).__name__}: {error}"
        if status == 404:
            raise LookupError
        if status in (408, 429) or isinstance(status, int) and status >= 500:
            raise Retry(words, status)
        raise ProviderError(f"{self.name}: {words}")


def _plain(told: Any) -> Mapping[str, Any]:
    return told if isinstance(told, Mapping) else told.model_dump()
