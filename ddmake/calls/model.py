"""An opened llm: what a recipe asks. Looks up each call, asks the backend for the rest, and keeps what comes."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ddmake.backends.base import Answer, Backend, Request
from ddmake.calls.cache import Calls
from ddmake.ddfile.specs import LLM

WINDOW = 512  # requests that are looked up at once

Prompt = str | Sequence[Mapping[str, str]]


@dataclass
class Usage:
    """What a job asked of one llm. Token counts are None once an answer came without."""

    sent: int = 0
    cached: int = 0
    failed: int = 0  # requests without a usable answer
    cut: int = 0  # answers that ended at max_tokens
    first_failure: str | None = None
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    models: set[str] = field(default_factory=set)  # as the answers name them

    def count(self, answer: Answer, cached: bool) -> None:
        """Count one answer; tokens of cached ones were paid before."""
        self.sent += not cached
        self.cached += cached
        self.failed += answer.error is not None
        self.first_failure = self.first_failure or answer.error
        self.cut += answer.finish_reason == "length"
        self.models.add(answer.model)
        if not cached and answer.error is None:
            self.tokens_in = _sum(self.tokens_in, answer.tokens_in)
            self.tokens_out = _sum(self.tokens_out, answer.tokens_out)


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


class OpenedLLM:
    """An llm that can be asked. `tell(done, asked)` is called as answers come; another `epoch` asks all anew."""

    def __init__(self, spec: LLM, backend: Backend, calls: Calls, usage: Usage, tell: Callable[[int, int], None], epoch: int = 0):
        self.spec, self.backend, self.calls, self.usage, self.tell, self.epoch = spec, backend, calls, usage, tell, epoch
        self.sampling = {**spec.sampling(), "extra": spec.extra, "sample": spec.sample}
        self.identity = backend.identity()
        self._seen: Counter[bytes] = Counter()  # how often each request came: its sample's number

    def complete(self, prompts: Iterable[Prompt], schema: Mapping[str, Any] | None = None) -> list[Answer]:
        """Return one answer per prompt, in order. A prompt is text or a list of chat messages."""
        return list(self.stream(prompts, schema))

    def stream(self, prompts: Iterable[Prompt], schema: Mapping[str, Any] | None = None) -> Iterator[Answer]:
        """Yield one answer per prompt, in order, as soon as it and those before it are there."""
        work = _Work(self, (_request(prompt, schema, self.epoch) for prompt in prompts))
        number = 0
        for _ in work.arrivals():
            while number in work.done:
                yield work.done.pop(number)
                number += 1

    def request_key(self, request: Request) -> tuple[bytes, Request]:
        """Return a call's key and the request with its sample's number: equal requests are told apart by it.

        At temperature 0, stated, equal requests are one call.
        """
        plain = self._key(request)
        if self.spec.temperature == 0:
            return plain, request
        sample = self._seen[plain]
        self._seen[plain] += 1
        if sample == 0:
            return plain, request
        again = Request(request.messages, request.schema, sample, request.epoch)
        return self._key(again), again

    def _key(self, request: Request) -> bytes:
        asked = {"identity": self.identity, "messages": request.messages, "schema": request.schema,
                 "sampling": self.sampling, "sample": request.sample, "epoch": request.epoch}
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Work:
    """One pass over requests: what is known, what is under way, what is done but not yet its turn."""

    def __init__(self, model: OpenedLLM, requests: Iterator[Request]):
        self.model, self.requests = model, requests
        self.done: dict[int, Answer] = {}
        self.under_way: dict[bytes, list[int]] = {}  # numbers that wait for one call
        self.keys: dict[int, tuple[bytes, Request]] = {}
        self.next = 0
        self.ended = False  # whether all requests have been taken

    def arrivals(self) -> Iterator[None]:
        """Fill `done`, yielding whenever something may have come."""
        while not self.ended:
            for number, answer in self.model.backend.answers(self._missing()):
                key, request = self.keys.pop(number)
                if answer.error is None:
                    self.model.calls.put(key, request, answer)
                for place, waiting in enumerate(self.under_way.pop(key)):
                    self._finish(waiting, answer, cached=place > 0)
                yield
            yield

    def _missing(self) -> Iterator[tuple[int, int, Request]]:
        """Yield the calls that have to be made; those that are known are done at once.

        It stops early where nothing is under way, so that what is done is read before more is looked up.
        """
        while not self.ended:
            window = list(islice(self.requests, WINDOW))
            self.ended = not window
            asked = [self.model.request_key(request) for request in window]
            known = self.model.calls.get(dict.fromkeys(key for key, _ in asked))
            for key, request in asked:
                number, self.next = self.next, self.next + 1
                if key in known:
                    self._finish(number, known[key], cached=True)
                elif key in self.under_way:
                    self.under_way[key].append(number)
                else:
                    self.under_way[key], self.keys[number] = [number], (key, request)
                    yield number, int.from_bytes(key[:8], "big"), request
            if not self.under_way:
                return

    def _finish(self, number: int, answer: Answer, cached: bool) -> None:
        self.done[number] = answer
        self.model.usage.count(answer, cached)
        self.model.tell(self.model.usage.sent + self.model.usage.cached, self.next)


def _request(prompt: Prompt, schema: Mapping[str, Any] | None, epoch: int) -> Request:
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(dict(m) for m in prompt)
    return Request(messages, schema, epoch=epoch)
