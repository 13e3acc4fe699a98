"""An opened llm: what a recipe asks. Looks up each call, has the rest asked, keeps order, and judges what comes."""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from ddmake.backends import stopping, structured
from ddmake.backends.base import Answer, Backend, Request
from ddmake.calls import choice
from ddmake.calls.cache import NOBODY, Calls, Payer
from ddmake.calls.choice import Choice
from ddmake.calls.client import BATCH, Remote, Wanted
from ddmake.calls.usage import Usage
from ddmake.ddfile.asking import Prompt
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.structure import json_schema
from ddmake.errors import DdmakeError

WINDOW = 512  # requests that are looked up at once
AHEAD = 8 * WINDOW  # answers that may wait for one before them
TRIES = 3  # how often a row is asked for, where its parser raises
TRIAL = 20  # answers that a parser may refuse before it takes one: more is a mistake in it, and would be paid for
MISTAKES = (NameError, ImportError)  # of a parser: no other answer would please it

ROLES = ("system", "developer", "user", "assistant", "tool")

_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode

Parse = Callable[[int, Answer], Any]
Schema = Mapping[str, Any] | None
Tools = Sequence[Mapping[str, Any]] | None
Looked = tuple[Wanted, Answer | None]
Labels = Sequence[str] | None
Turn = Literal["assistant", "user"]  # whose turn a model writes
NoteFailed = Callable[[int, str, Answer, Mapping[str, Any] | None], None]


@dataclass(frozen=True)
class Manner:
    """How a job asks: another sample `epoch` asks all anew, `retry` what has no usable answer; without `cache`, all is.

    Where only some of a rule's rows are asked about, `tally(failed, usable, told)` takes how many have no usable answer: none of
    them may have one.
    """

    epoch: int = 0
    retry: bool = False
    cache: bool = True
    tally: Callable[[int, int, str], None] | None = None


class OpenedLLM:
    """An llm that can be asked. `tell(done, asked)` is called as answers come; `keep_failed` gets rows that failed."""

    def __init__(self, spec: LLM, backend: Backend | Remote, calls: Calls, usage: Usage, tell: Callable[[int, int], None],
                 manner: Manner | None = None, payer: Payer = NOBODY, keep_failed: NoteFailed | None = None):
        self.spec, self.backend, self.calls, self.usage, self.tell = spec, backend, calls, usage, tell
        self.manner, self.payer, self.keep_failed = manner or Manner(), payer, keep_failed
        self.identity = backend.identity()
        self.before = 0  # how many prompts come before the first one, where only some of a rule's are asked
        self.rough: str | None = None  # why an answer that was given may depend on the rows beside it, where one may
        self._sampling = {**spec.sampling(), "extra": spec.extra, "sample": spec.sample}
        self._once: set[int] = set()  # requests that came, by the beginnings of their keys
        self._more: Counter[int] = Counter()  # how often those came again: their samples' numbers

    def complete(self, prompts: Iterable[Prompt], schema: Schema = None) -> list[Answer]:
        """Return one answer per prompt, in order. A prompt is text or a list of chat messages."""
        answers = list(self.stream(prompts, schema))
        for number, answer in enumerate(answers):
            if answer.error is not None:
                self.note_failed(number, answer.error, answer)
        return answers

    def stream(self, prompts: Iterable[Prompt], schema: Schema = None, tools: Tools = None, parse: Parse | None = None,
               accept: Iterable[str] = (), labels: Labels = None, turn: Turn = "assistant") -> Iterator[Answer]:
        """Yield one answer per prompt, in order, as soon as it and those before it are there.

        `answer.wrong` is why it can't be used, None if it can; `answer.value` is what `parse(number, answer)` made of it, what
        the JSON holds under a schema, or the text. Where `parse` raises, the prompt is asked again, three times at most.
        Among `labels` the answer is one of them, and `answer.scores` has their log-probabilities. With `turn` "user" the model
        writes what a user says after the messages, of which there may be none: local models alone do, others raise DdmakeError.
        """
        work = _Work(self, self._requests(prompts, schema, tools, labels, turn), parse, frozenset(accept))
        number = 0
        for _ in work.arrivals():
            while number in work.done:
                yield work.done.pop(number)
                number += 1
                work.given = number

    def choose(self, prompts: Iterable[Prompt], labels: Sequence[str]) -> list[Choice]:
        """Return for each prompt, in order, which of the labels the model is likeliest to answer, and how likely each is.

        Nothing is drawn: the llm's sampling plays no part. Raises DdmakeError for an llm that tells no probabilities.
        """
        found = []
        for number, answer in enumerate(self.stream(prompts, labels=labels)):
            found.append(choice.read(answer, str(self.spec.name)))
            if answer.error is not None:
                self.note_failed(number, answer.error, answer)
        return found

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, int] | None]:
        """Return the log-probability of each text after its prompt and how many tokens it has; None where it's too long.

        Nothing is kept. Raises DdmakeError for an llm that tells none: a service, and what isn't asked token by token.
        """
        find = getattr(self.backend, "likelihoods", None)
        if find is None:
            raise DdmakeError(f"llm({str(self.spec.name)!r}) doesn't tell how likely a given text is: only local models do.")
        return find([(_turns([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt), text)
                     for prompt, text in pairs]) if pairs else []

    def look(self, prompts: Iterable[Prompt], schema: Schema = None, tools: Tools = None, labels: Labels = None
             ) -> Iterator[Looked]:
        """Yield each call with its answer as far as one is known; nothing is sent."""
        requests = enumerate(self._requests(prompts, schema, tools, labels))
        while window := [self.wanted(*numbered) for numbered in islice(requests, WINDOW)]:
            known = self.known(window)
            yield from ((asked, known.get(asked.key)) for asked in window)

    def skip(self, prompts: Iterable[Prompt], schema: Schema = None, tools: Tools = None, labels: Labels = None) -> None:
        """Count prompts that come before, and are somebody else's to ask: samples of equal requests have numbers after theirs."""
        for request in self._requests(prompts, schema, tools, labels):
            self.wanted(self.before, request)
            self.before += 1

    def note_failed(self, number: int, reason: str, answer: Answer, row: Mapping[str, Any] | None = None) -> None:
        """Count a row that failed, and keep it to be looked at."""
        self.usage.fail(reason)
        if self.keep_failed is not None:
            self.keep_failed(self.before + number, reason, answer, row)

    def known(self, asked: Iterable[Wanted]) -> dict[bytes, Answer]:
        """Return the answers that are known and count."""
        return self.calls.get(dict.fromkeys(one.key for one in asked if one.llm.manner.cache))

    @property
    def members(self) -> "Sequence[OpenedLLM]":
        """Return the llms that are asked: this one."""
        return (self,)

    def wanted(self, number: int, request: Request) -> Wanted:
        """Return the call that answers the request of a prompt."""
        return Wanted(number, *self.numbered(request), llm=self)

    def made(self, missing: Callable[[bool], Iterator[Wanted | None]]) -> Iterator[tuple[int, Answer, bool]]:
        """Have calls made as they come, and yield (number, answer, whether somebody else had paid for it).

        `missing(True)` gives them, and None for now, where something has to come before more is to be asked; `missing(False)`
        ends there.
        """
        if isinstance(self.backend, Remote):
            yield from self.backend.answers(missing(True))
        else:
            yield from self.answered_here(call for call in missing(False) if call is not None)

    def answered_here(self, calls: Iterable[Wanted]) -> Iterator[tuple[int, Answer, bool]]:
        """Have the model of this process answer, and keep what it says."""
        under_way: dict[int, Wanted] = {}
        for number, answer in self.backend.answers(_noted(calls, under_way)):
            answer.cost = 0.0
            call = under_way.pop(number)
            if answer.error is None:
                self.calls.put(call.key, call.request, answer, self.payer, anew=call.anew)
            yield number, answer, False

    def numbered(self, request: Request) -> tuple[bytes, Request]:
        """Return a call's key and the request with its sample's number: equal requests are told apart by it.

        At temperature 0, stated, and among labels equal requests are one call.
        """
        plain = self.key(request)
        if self.spec.temperature == 0 or request.labels:
            return plain, request
        sign = int.from_bytes(plain[:8], "big")  # a million whole keys would take twice the memory
        if sign not in self._once:
            self._once.add(sign)
            return plain, request
        self._more[sign] += 1
        again = replace(request, sample=self._more[sign])
        return self.key(again), again

    def key(self, request: Request) -> bytes:
        """Return the key of a call: a hash of all that is asked, of whom, and of which sample is wanted."""
        schema = request.schema and json.dumps(request.schema)  # in which fields are asked for bears on what is said
        asked = {"identity": self.identity, "messages": request.messages, "schema": schema,
                 "sampling": self._sampling, "sample": request.sample, "epoch": request.epoch}
        if self.spec.truncate:
            asked["truncate"] = True
        if request.tools:
            asked["tools"] = request.tools
        if request.labels:
            asked |= {"labels": request.labels, "sampling": None}
        if request.turn == "user":
            asked["turn"] = "user"
        if request.attempt:
            asked["attempt"] = request.attempt
        text = _json(asked)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _requests(self, prompts: Iterable[Prompt], schema: Schema, tools: Tools, labels: Labels, turn: Turn = "assistant"
                  ) -> Iterator[Request]:
        labels = None if labels is None else choice.checked(labels)
        for llm in self.members:
            if labels and isinstance(llm.backend, Remote):
                raise choice.unable(str(llm.spec.name))
            if turn == "user" and not getattr(llm.backend, "writes_users", False):
                raise writes_no_users(str(llm.spec.name))
        schema = None if schema is None else json_schema(schema)
        more = {"schema": schema, "tools": tuple(tools) if tools else None, "labels": labels, "epoch": self.manner.epoch,
                "turn": turn}
        if isinstance(prompts, (str, Mapping)):
            raise DdmakeError("an llm takes a list of prompts: of one prompt, write [prompt].")
        for prompt in prompts:
            yield Request(({"role": "user", "content": prompt},) if isinstance(prompt, str) else _turns(prompt, turn), **more)


def writes_no_users(llm: str) -> DdmakeError:
    """Return what is to be said where an llm can't write a user's turn."""
    return DdmakeError(f"llm({llm!r}) can't write what a user says: that takes a model whose prompt is given token by token. "
                       "Take a local chat model: tiny, hf/…, or one made here.")


def _turns(prompt: Any, turn: Turn = "assistant") -> tuple[dict[str, Any], ...]:
    """Return chat messages as they are asked. Raises DdmakeError for what is none."""
    turns = tuple(prompt) if isinstance(prompt, Sequence) else ()
    if not turns and turn == "user":
        return ()
    if not turns or not all(isinstance(turn, Mapping) and turn.get("role") in ROLES and "content" in turn for turn in turns):
        text = repr(prompt)
        raise DdmakeError(f"a prompt is text, or a list of messages like {{'role': 'user', 'content': …}} with the roles "
                          f"{', '.join(ROLES)}; not {text[:200]}{' …' if len(text) > 200 else ''}.")
    return tuple(map(dict, turns))


def _noted(calls: Iterable[Wanted], under_way: dict[int, Wanted]) -> Iterator[tuple[int, int, Request]]:
    """Yield calls as a backend takes them, and note those that it has taken."""
    for call in calls:
        under_way[call.number] = call
        yield call.number, int.from_bytes(call.key[:8], "big"), call.request


class _Work:
    """One pass over requests: what is known, what is under way, what is done but not yet its turn."""

    def __init__(self, model: OpenedLLM, requests: Iterator[Request], parse: Parse | None, accept: frozenset[str]):
        self.model, self.requests, self.parse, self.accept = model, requests, parse, accept
        self.ahead = BATCH if any(llm.spec.batch for llm in model.members) else AHEAD
        self.done: dict[int, Answer] = {}
        self.given = 0  # how many answers the reader has
        self.next = 0
        self.ended = False  # whether all requests have been taken
        self.under_way: dict[bytes, list[Wanted]] = {}  # what waits for a call
        self.keys: dict[int, bytes] = {}  # of calls under way, by the number that each goes by
        self.again: deque[Wanted] = deque()
        self.anew: set[int] = set()  # numbers that were asked again though an answer is known
        self.sent: set[int] = set()  # numbers that a parser had asked again, after something was sent for them
        self.refused, self.parsed = 0, False  # how often the parser raised; whether it ever did not

    def arrivals(self) -> Iterator[None]:
        """Fill `done`, yielding whenever something may have come."""
        while not self.ended or self.under_way or self.again:
            for number, answer, cached in self.model.made(self._missing):
                for place, asked in enumerate(self.under_way.pop(self.keys.pop(number))):
                    self._finish(asked, answer, cached or place > 0)
                yield
            yield

    def _missing(self, wait: bool) -> Iterator[Wanted | None]:
        """Yield the calls that have to be made; those that are known are done at once.

        It stops early where nothing is under way, so that what is done is read before more is looked up. With `wait` it
        yields None where nothing is to be asked until something has come.
        """
        while True:
            window = self._window() if self.next - self.given < self.ahead or not self.under_way else []
            if not window and not (wait and self.under_way):
                return
            if not window:
                yield None
            known = self.model.known(window)
            for asked in window:
                if asked.key in known and not asked.anew:
                    self._finish(asked, known[asked.key], cached=True)
                elif asked.key in self.under_way:
                    self.under_way[asked.key].append(asked)
                else:
                    self.under_way[asked.key], self.keys[asked.number] = [asked], asked.key
                    yield asked
            if not self.under_way:
                return

    def _window(self) -> list[Wanted]:
        """Take what is to be asked again, as far as that may help, and then what is to be asked next."""
        found = []
        while self.again and (self.parsed or self.ended):
            found.append(self.again.popleft())
        if not found and not self.ended:
            found = [self.model.wanted(*numbered) for numbered in enumerate(islice(self.requests, WINDOW), self.next)]
            self.next += len(found)
            self.ended = not found
        return found

    def _finish(self, asked: Wanted, answer: Answer, cached: bool) -> None:
        """Take in the answer to a prompt, or have the prompt asked again."""
        answer, llm = answer.of_its_own(), asked.llm
        answer.llm = llm.payer.llm
        refused = self._judge(asked, answer)
        if answer.wrong and cached and llm.manner.retry and asked.number not in self.anew:
            self.anew.add(asked.number)
            self.again.append(replace(asked, anew=True))
            return
        llm.usage.pay(answer, cached)
        llm.rough = llm.rough or answer.rough
        if refused and asked.request.attempt + 1 < TRIES and not stopping.asked():
            self.sent.update([] if cached else [asked.number])
            request = replace(asked.request, attempt=asked.request.attempt + 1)
            self.again.append(Wanted(asked.number, llm.key(request), request, llm=llm))
        else:
            llm.usage.count(answer, sent=not cached or asked.number in self.sent)
            llm.usage.show(self.model.before + asked.number, asked.request, answer)
            self.done[asked.number] = answer
            self.model.tell(self.given + len(self.done), self.next)

    def _judge(self, asked: Wanted, answer: Answer) -> bool:
        """Find out what an answer is worth; tell whether the parser refused it."""
        answer.wrong, answer.value = answer.unusable(self.accept), str(answer)
        if answer.wrong is None and asked.request.schema is not None:
            answer.value, answer.wrong = structured.read(str(answer), asked.request.schema)
        if answer.wrong is not None or self.parse is None:
            return False
        try:
            answer.value = self.parse(asked.number, answer)
            self.parsed = True
            return False
        except MISTAKES:
            raise
        except Exception as error:
            answer.wrong, answer.value = f"parse raised {type(error).__name__}: {error}".removesuffix(": "), None
            self.refused += 1
            if self.refused >= TRIAL and not self.parsed:
                raise DdmakeError(f"{answer.wrong}, as it did on each of the first {TRIAL} answers. They are kept: a parser that "
                                  "takes them asks for no more.") from error
            return True
