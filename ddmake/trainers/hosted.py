"""Fine-tuning by an OpenAI-compatible service: files, one job, and what it tells of it.

A job is paid for, so none is begun twice. Its number is kept before it is waited for. Before one is begun, and again after each
reply that was lost, the service is asked for a job with the same mark. What a service forgets of its jobs can't be found again.
"""

import base64
import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob

from ddmake.backends import providers
from ddmake.backends.hosted import FILE
from ddmake.backends.refusals import NO_CREDIT, PASSING
from ddmake.backends.stopping import Stopped
from ddmake.ddfile.inputs import Progress
from ddmake.ddfile.specs import LLM
from ddmake.errors import ProviderError

MARK = "ddmake"  # the name of a job's mark in its metadata
BAD_ENDS = ("failed", "cancelled")
ENDS = ("succeeded", *BAD_ENDS)
TRIES = 8  # of a request that may be sent twice
PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0)  # seconds before a job is looked for, and begun, once more
FIRST, GROWTH, LONGEST = 1.0, 1.3, 60.0  # seconds between two looks at a job: the first, and how they grow
TIMEOUT = 600.0
UNHEARD = (404, 405, 501)  # of a service that has no such thing
LOSSES = {"loss_curve": ("train_loss", "training_loss"), "eval_loss_curve": ("valid_loss", "validation_loss")}

Points = list[list[float]]  # [step, value]


@dataclass(frozen=True)
class Order:
    """A training that a service is to do. `mark` is the same in every try of it, and no other training's."""

    method: str  # "supervised" or "dpo"
    hyperparameters: Mapping[str, float]  # those that are stated
    seed: int
    mark: str
    suffix: str | None = None


@dataclass
class Book:
    """What is kept of a job while it runs: the files' numbers by their names, and its own."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    job: str | None = None

    @classmethod
    def at(cls, path: Path) -> "Book":
        """Return the book as it was left."""
        return cls(path, **(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}))

    def keep(self) -> None:
        """Write it down, durable and all at once."""
        scratch = self.path.with_suffix(".new")
        with scratch.open("w", encoding="utf-8") as opened:
            json.dump({"files": self.files, "job": self.job}, opened)
            opened.flush()
            os.fsync(opened.fileno())
        scratch.rename(self.path)

    def forget(self) -> None:
        """Let go of what the service won't go on with."""
        self.path.unlink(missing_ok=True)


def tune(spec: LLM, order: Order, parts: Mapping[str, bytes], checkpoints: Path, progress: Progress) -> dict[str, Any]:
    """Have a service train on files of JSON lines, `train` and perhaps `validation`; return what it tells of the job.

    What was begun before is taken up. Raises ProviderError for what the service refuses, and for a job that fails there.
    """
    book = Book.at(checkpoints / "job.json")
    with _told(spec, book), _client(spec) as client:
        if book.job is None:
            files = {part: _file(client, book, content) for part, content in parts.items()}
            book.job = _begun(spec, client, book, order, files)
            book.keep()
        job = _ended(spec, client, book, progress)
        if job.status in BAD_ENDS:
            book.forget()
            raise ProviderError(f"{spec.name}: {job.id} {_why(job)}. Run again, and another job is begun.")
        return _result(spec, client, job)


def write(found: Mapping[str, Any], settings: Mapping[str, Any], output: Path) -> None:
    """Fill the folder: by which name the model is asked, and how it was made."""
    curves, tuned = found["curves"], {name: value for name, value in found.items() if name != "curves"}
    learned, held = curves["loss_curve"], curves.get("eval_loss_curve", ())
    metrics = {"train_loss": sum(loss for _, loss in learned) / len(learned)} if learned else {}
    metrics |= {"eval_loss": held[-1][1]} if held else {}
    told = {**metrics, "tokens": found["trained_tokens"], **curves, "settings": settings}
    for name, content in ((FILE, tuned), ("metrics.json", told)):
        (output / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _client(spec: LLM) -> Iterator[openai.OpenAI]:
    """Give a client of the service that an llm is asked at. Raises ProviderError where its key or its address is missing."""
    key, header = providers.api_key(spec) or "none", providers.provider_of(spec).key_header
    headers = {} if header == "Authorization" else {header: key}
    with openai.OpenAI(api_key=key, base_url=providers.address(spec), max_retries=TRIES, timeout=spec.timeout or TIMEOUT,
                       default_headers=headers) as client:
        yield client


@contextmanager
def _told(spec: LLM, book: Book) -> Iterator[None]:
    """Have a service's refusals told in a sentence, without the key, should it have repeated it."""
    try:
        yield
    except openai.APIStatusError as error:
        which = f" ({providers.key_told(spec)})" if error.status_code in (401, 403) else ""
        told = f'answered {error.status_code}: "{_words(error)}"{which}'
    except openai.APIConnectionError as error:
        told = f"can't be reached at {providers.endpoint(spec)}: {error.__cause__ or error}"
    except openai.APIError as error:
        told = f"answered what can't be read: {error}"
    else:
        return
    key = providers.api_key(spec)
    later = f" {book.job} goes on there: run ddmake again, and it is taken up." if book.job else ""
    raise ProviderError(f"{spec.name} {told.replace(key, '…') if key else told}.{later}")


def _words(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


def _file(client: openai.OpenAI, book: Book, content: bytes) -> str:
    """Return the number of a file at the service, which is sent unless it lies there."""
    name = f"ddmake-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
    if name not in book.files:
        there = (file.id for file in client.files.list(purpose="fine-tune")
                 if (file.filename, file.bytes) == (name, len(content)) and file.status != "error")
        found = next(there, None)
        book.files[name] = found or client.files.create(file=(name, content), purpose="fine-tune").id
        book.keep()
    return book.files[name]


def _begun(spec: LLM, client: openai.OpenAI, book: Book, order: Order, files: Mapping[str, str]) -> str:
    """Return the number of a job with the order's mark: one that the service has, else a new one.

    Where no reply came the job may have been begun: then it is looked for again, and the request isn't just repeated.
    """
    for pause in (*PAUSES, None):
        found = _marked(client, order.mark)
        if found is not None:
            return found
        try:
            return _create(spec, client.with_options(max_retries=0), order, files)
        except openai.APIError as error:
            if pause is None or not _passing(error):
                book.forget()  # a file that isn't there any more may be why
                raise
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _marked(client: openai.OpenAI, mark: str) -> str | None:
    """Return the number of the newest job with a mark that hasn't come to a bad end."""
    jobs = client.fine_tuning.jobs.list(limit=100, metadata={MARK: mark})
    return next((job.id for job in jobs if (job.metadata or {}).get(MARK) == mark and job.status not in BAD_ENDS), None)


def _create(spec: LLM, client: openai.OpenAI, order: Order, files: Mapping[str, str]) -> str:
    method = {"type": order.method, order.method: {"hyperparameters": dict(order.hyperparameters)}}
    more = {"validation_file": files["validation"]} if "validation" in files else {}
    more |= {"suffix": order.suffix} if order.suffix else {}
    return client.fine_tuning.jobs.create(
        model=providers.model_of(spec), training_file=files["train"], method=method, seed=order.seed,  # type: ignore[arg-type]
        metadata={MARK: order.mark}, **more).id


def _passing(error: openai.APIError) -> bool:
    """Tell whether a request failed in a way that another may not."""
    if isinstance(error, openai.APIStatusError):
        return (error.status_code in PASSING or error.status_code >= 500) and error.code not in NO_CREDIT
    return isinstance(error, openai.APIConnectionError)


def _ended(spec: LLM, client: openai.OpenAI, book: Book, progress: Progress) -> FineTuningJob:
    """Wait for the end of a job. Where ddmake is to end before, it goes on there, and that is said."""
    number, pause = str(book.job), FIRST
    progress(0, 0, f"job {number} at {providers.endpoint(spec)} goes on there, should ddmake end before it")
    try:
        while (job := _looked_at(spec, client, book)).status not in ENDS:
            progress(*_news(client, job))
            time.sleep(pause)
            pause = min(pause * GROWTH, LONGEST)
    except Stopped:
        told = f"job {number} goes on at {providers.endpoint(spec)}; ddmake takes it up when it is run again"
        print(told, flush=True)
        progress(0, 0, told)
        raise
    return job


def _looked_at(spec: LLM, client: openai.OpenAI, book: Book) -> FineTuningJob:
    try:
        return client.fine_tuning.jobs.retrieve(str(book.job))
    except openai.NotFoundError as error:
        book.forget()
        raise ProviderError(f'{spec.name} has no {book.job} any more: "{_words(error)}". Run again, and another job is '
                            "begun.") from None


def _news(client: openai.OpenAI, job: FineTuningJob) -> tuple[int, int, str]:
    """Return how far a job is: the step and its loss, or its state."""
    newest = next(iter(_events(client, job.id, 10)), {})
    loss = _first(newest, LOSSES["loss_curve"])
    if loss is None:
        return 0, 0, f"job {job.id}: {job.status.replace('_', ' ')}"
    return int(newest["step"]), int(newest.get("total_steps") or 0), f"loss {loss:.3f}"


def _events(client: openai.OpenAI, number: str, most: int | None = None) -> list[Mapping[str, Any]]:
    """Return what a job's events say in numbers, the newest first; nothing where a service has none."""
    try:
        page = client.fine_tuning.jobs.list_events(number, limit=most or 100)
        events = page.data if most else list(page)
    except openai.APIStatusError as error:
        if error.status_code not in UNHEARD:
            raise
        return []
    return [event.data for event in events if event.type == "metrics" and isinstance(event.data, dict) and "step" in event.data]


def _why(job: FineTuningJob) -> str:
    """Return how a job came to its bad end, in the service's words."""
    words = job.error.message if job.error else None
    return f'{job.status}: "{words}"' if words else f"was {job.status} there" if job.status == "cancelled" else job.status


def _result(spec: LLM, client: openai.OpenAI, job: FineTuningJob) -> dict[str, Any]:
    """Return what is kept of a job: the model's name, how it came about, and its curves."""
    if not job.fine_tuned_model:
        raise ProviderError(f"{spec.name}: {job.id} has ended and names no model. Ask the service why.")
    method = job.method and getattr(job.method, job.method.type, None)
    chosen = (method and method.hyperparameters) or job.hyperparameters
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.finished_at)) if job.finished_at else None
    return {"model": job.fine_tuned_model, "base": spec.name, "base_url": providers.endpoint(spec), "job": job.id, "made": made,
            "seed": job.seed, "trained_tokens": job.trained_tokens,
            "hyperparameters": {name: value for name, value in chosen.to_dict().items() if value is not None} if chosen else {},
            "curves": curves(_reported(client, job) or _events(client, job.id)[::-1])}


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return the losses that rows of numbers tell, as [step, value], oldest first."""
    told = {name: [[int(float(row["step"])), value] for row in rows if (value := _first(row, keys)) is not None]
            for name, keys in LOSSES.items()}
    return {name: points for name, points in told.items() if points or name == "loss_curve"}


def _first(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """Return the first of some numbers that a row has; services leave out what wasn't measured, or write -1."""
    found = (float(row[name]) for name in names if row.get(name) not in (None, ""))
    return next((value for value in found if value >= 0), None)


def _reported(client: openai.OpenAI, job: FineTuningJob) -> list[dict[str, str]]:
    """Return the rows of a job's result file; nothing where none can be read, since the model is paid for all the same."""
    for number in job.result_files:
        try:
            content = client.files.content(number).content
        except openai.APIError as error:
            print(f"{job.id}: its results {number} can't be read: {error}", flush=True)
            continue
        rows = list(csv.DictReader(io.StringIO(_plain(content))))
        if rows and "step" in rows[0]:
            return rows
    return []


def _plain(content: bytes) -> str:
    """Return a result file's text, which OpenAI's own is a base64 of."""
    if not content.lstrip().startswith(b"step"):
        try:
            content = base64.b64decode(content, validate=True)
        except ValueError:
            pass
    return content.decode("utf-8", "replace")
