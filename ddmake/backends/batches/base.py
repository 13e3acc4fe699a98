"""What a batch API is: many requests are handed over at once, answered within a day, and cost half.

A batch is handed over in steps, upload and create; who calls notes each one, so that none is done twice. A batch of which
it isn't noted whether the provider has it is looked for by its token: a name of ours that goes with it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ddmake.backends.base import Answer, Request, Retry


@dataclass(frozen=True)
class Sent:
    """A batch that may have reached the provider."""

    token: str
    count: int  # requests in it
    made: float  # unix time at which it was put together: no job of it is older
    file: str | None  # the provider's name for the uploaded requests


@dataclass(frozen=True)
class State:
    """How far a provider is with a batch: it "ended" if there may be results, "failed" if there are none.

    `reason` is why it failed; of one that ended, why what got no answer isn't to be asked for again.
    """

    status: Literal["running", "ended", "failed"]
    done: int = 0
    reason: str = ""
    later: bool = False  # it failed for having too much in it, or beside it: smaller or later it may not


CANCELLED = "the batch was cancelled at the provider"

Outcome = tuple[int, Answer | Retry]  # a request's number, and a Retry where another try may help


class Batches(Protocol):
    """A provider's batch API, for one llm; called on an event loop.

    All raise Retry where another try may help, and ProviderError where it can't.
    """

    account: str  # the endpoint, and whom the provider counts this under
    most: int  # requests in a batch
    most_bytes: int  # of their bodies

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON that is sent for a request."""
        ...

    async def upload(self, token: str, bodies: Sequence[str]) -> str | None:
        """Upload the requests and return the provider's name for them; None where they go with the job."""
        ...

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job and return its id. Requests are numbered as they lie in `bodies`."""
        ...

    async def find(self, sent: Sent) -> str | None:
        """Return the id of the job that was created for a batch, None where there is none.

        Raises Retry where that can't be told yet.
        """
        ...

    async def state(self, job: str) -> State | None:
        """Return how far a job is; None for one that the provider doesn't know."""
        ...

    def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what became of each request of a job that ended; what is left out got no answer."""
        ...

    async def cancel(self, job: str) -> None:
        """Stop a job; what it has answered stays."""
        ...


def custom_id(token: str, number: int) -> str:
    """Return the name that a request has in its batch."""
    return f"{token}-{number}"


def number_of(name: str) -> int:
    """Return the number of the request of that name."""
    return int(name.rpartition("-")[2])
