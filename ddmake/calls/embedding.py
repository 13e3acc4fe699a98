"""An opened embedder: what a recipe asks for vectors. Each is looked up by its text, and the rest is embedded.

Vectors are kept in `.ddmake/embeddings.db` and not with the calls: an API is sent many texts in a request, and what is
asked for again is one of them. What such a request cost is noted with the calls.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddmake.backends import embedders
from ddmake.backends.base import Answer
from ddmake.calls.client import Remote, Wanted
from ddmake.calls.usage import Usage
from ddmake.ddfile.specs import Embedder
from ddmake.errors import DdmakeError
from ddmake.store.database import Transaction, connect, connect_to_read, told

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlite_utils import Database

WINDOW = 8192  # texts that are looked up, and embedded, at once
LOOK_UP = 500  # keys a query
TEXTS, CHARACTERS = 96, 48_000  # in a request: what the most careful services take
FILE = "embeddings.db"
SHOWN = 60  # characters of a text in a message

Block = tuple[Sequence[int], "NDArray[np.float32]"]  # the numbers of texts, and a vector each


class Encoder(Protocol):
    """What makes vectors, here or over a network, which may have to be `paid`."""

    paid: bool

    def identity(self) -> Mapping[str, Any]:
        """Return what tells its vectors from every other's."""
        ...

    def encode(self, texts: Sequence[str]) -> Iterator[Block]:
        """Yield the vectors of texts as they come, each block with the numbers of its texts."""
        ...


def m001_vectors(db: "Database") -> None:
    """Make the table of vectors."""
    db["vectors"].create({"id": int, "key": bytes, "vector": bytes, "checksum": bytes}, pk="id", not_null={"key", "vector"})
    db["vectors"].create_index(["key"], unique=True)


MIGRATIONS = (m001_vectors,)


class Vectors:
    """The vectors of a project, each under its own key; one whose checksum doesn't fit is made anew.

    Those of a job apart are in a folder of its own; the project's are read from `behind`.
    """

    def __init__(self, folder: Path, behind: Path | None = None):
        self.path = folder / FILE
        self.db = connect(self.path, MIGRATIONS, synchronous="NORMAL")
        self._read = [self.db]
        if behind is not None and (behind / FILE).exists():
            self._read.insert(0, connect_to_read(behind / FILE, MIGRATIONS))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the vectors that are known, by key."""
        found: dict[bytes, bytes] = {}
        try:
            for at in range(0, len(keys), LOOK_UP):
                some = keys[at:at + LOOK_UP]
                marks = ",".join("?" * len(some))
                for db in self._read:
                    rows = db.execute(f"SELECT key, vector, checksum FROM vectors WHERE key IN ({marks})", some)
                    found.update((key, vector) for key, vector, sign in rows if checksum(key, vector) == sign)
        except sqlite3.Error as error:
            raise DdmakeError(f"{self.path}: {told(error)}") from None
        return found

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep vectors: they are committed when this returns."""
        rows = [(key, vector, checksum(key, vector)) for key, vector in pairs]
        try:
            with Transaction(self.db):
                self.db.executemany("INSERT OR REPLACE INTO vectors (key, vector, checksum) VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise DdmakeError(f"{self.path}: {told(error)}") from None

    @contextmanager
    def turn(self, embedder: bytes) -> Iterator[None]:
        """Wait for one's turn to have a service make vectors: whoever waits for the same ones finds them then.

        It ends with the process that has it, however that ends.
        """
        with (self.path.parent / f"embedding-{hashlib.blake2b(embedder, digest_size=8).hexdigest()}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """Close the databases."""
        for db in self._read:
            db.close()


def checksum(key: bytes, vector: bytes) -> bytes:
    """Return the checksum of a vector under its key."""
    return hashlib.blake2b(key + vector, digest_size=8).digest()


class OpenedEmbedder:
    """An embedder that can be asked. `tell(done)` is called as vectors come; without `vectors` none are kept."""

    def __init__(self, spec: Embedder, encoder: Encoder, vectors: Vectors | None, usage: Usage, tell: Callable[[int], None]):
        self.spec, self.encoder, self.vectors, self.usage, self.tell = spec, encoder, vectors, usage, tell
        self._seed = json.dumps(encoder.identity(), sort_keys=True).encode()
        self._done, self._sizes = 0, set[int]()

    def encode(self, texts: Iterable[str], normalize: bool = False) -> "NDArray[np.float32]":
        """Return a vector per text, in order: texts × dimensions. Equal texts are embedded once; `normalize` gives length 1."""
        parts = list(self.stream(texts, normalize))
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def stream(self, texts: Iterable[str], normalize: bool = False) -> Iterator["NDArray[np.float32]"]:
        """Yield the vectors of texts in order, some thousands at once: as `encode`, for more than memory holds."""
        source = iter(texts)
        while window := list(islice(source, WINDOW)):
            found = self._window(window)
            yield normalized(found) if normalize else found

    def _window(self, texts: list[str]) -> "NDArray[np.float32]":
        keys = [self.key(text) for text in texts]
        known = self.known(list(dict.fromkeys(keys)))
        with self._turn() if len(known) < len(set(keys)) else nullcontext():
            missing = {key: text for key, text in zip(keys, texts) if key not in known}
            known |= self.known(list(missing))  # what somebody else has had made meanwhile
            missing = {key: text for key, text in missing.items() if key not in known}
            self.usage.cached += len(texts) - len(missing)
            self._count(len(texts) - len(missing))
            for block in self._embed(missing):
                known.update(block)
        found = [np.frombuffer(known[key], "<f4") for key in keys]
        self._sizes.update(map(len, found))
        if len(self._sizes) > 1:
            raise DdmakeError(f"an embedder gave vectors of {' and '.join(map(str, sorted(self._sizes)))} numbers. "
                              "State its dimensions=, or another identity=.")
        return np.stack(found)

    def _turn(self) -> AbstractContextManager[None]:
        """Return what waits while another rule, or another run, has the same embedder asked, where that is paid for."""
        return self.vectors.turn(self._seed) if self.vectors is not None and self.encoder.paid else nullcontext()

    def look(self, texts: Iterable[str]) -> Iterator[tuple[bytes, str, bool]]:
        """Yield each text with its key, and whether its vector is known; nothing is embedded."""
        source = iter(texts)
        while window := list(islice(source, WINDOW)):
            keys = [self.key(text) for text in window]
            known = self.known(list(dict.fromkeys(keys)))
            yield from ((key, text, key in known) for key, text in zip(keys, window))

    def known(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the vectors that are known, by key."""
        return {} if self.vectors is None else self.vectors.get(keys)

    def _embed(self, missing: Mapping[bytes, str]) -> Iterator[list[tuple[bytes, bytes]]]:
        """Have texts embedded, and yield keys and vectors once they are kept."""
        keys, texts = list(missing), list(missing.values())
        for numbers, vectors in self.encoder.encode(texts) if texts else ():
            fine = np.isfinite(vectors).all(axis=1)
            pairs = [(keys[number], vector.astype("<f4", copy=False).tobytes())
                     for number, vector, there in zip(numbers, vectors, fine) if there]
            if self.vectors is not None:
                self.vectors.put(pairs)
            self.usage.sent += len(pairs)
            self._count(len(pairs))
            if not fine.all():
                text = _shown(texts[numbers[fine.argmin()]])
                raise DdmakeError(f"{embedders.called(self.spec)}: its vector for the text {text} holds nan or inf, by which "
                                  "nothing can be found. Look at the model's weights and its dtype=, or take another.")
            yield pairs

    def key(self, text: str) -> bytes:
        """Return the key of a text's vector: a hash of the embedder and of all that it is given."""
        if not isinstance(text, str):
            raise DdmakeError(f"an embedder takes texts, not {text!r}, a {type(text).__name__}.")
        whole = self._seed + b"\0" + ((self.spec.prompt or "") + text).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(whole, digest_size=16).digest()

    def _count(self, more: int) -> None:
        self._done += more
        self.tell(self._done)


class LocalEncoder:
    """An embedder in this process, from a model's folder; it is loaded when a text comes whose vector isn't known."""

    paid = False

    def __init__(self, spec: Embedder, folder: Path, usage: Usage):
        self.spec, self.folder, self.usage = spec, folder, usage
        self._identity = embedders.identity(spec, folder)

    def identity(self) -> Mapping[str, Any]:
        """Return what the model is made of, and how it is run."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> Iterator[Block]:
        """Yield vectors as they come. Raises MissingExtra where sentence-transformers isn't installed."""
        embedders.needed(f"embedder({str(self.spec.name)!r})" if isinstance(self.spec.name, str) else "a local embedder")
        from ddmake.backends import sentences

        self.usage.tokens_in = self.usage.tokens_out = None  # nobody counts them
        yield from sentences.encode(self.spec, self.folder, json.dumps(self._identity, sort_keys=True), texts)


class RemoteEncoder:
    """An embedder over a network: the run's caller sends its requests, within limits and budget, as it does an llm's."""

    paid = True

    def __init__(self, spec: Embedder, remote: Remote, usage: Usage):
        self.spec, self.remote, self.usage = spec, remote, usage

    def identity(self) -> Mapping[str, Any]:
        """Return the endpoint, the model, and what else is asked of it."""
        return embedders.identity(self.spec)

    def encode(self, texts: Sequence[str]) -> Iterator[Block]:
        """Yield vectors as they come. A request that is refused is cut in two, until it is known which text is to blame.

        Raises DdmakeError for that text, once all others are there.
        """
        texts = [(self.spec.prompt or "") + text for text in texts]
        waiting, refused = _batches(texts, self.spec.batch_size or TEXTS), ""
        while waiting:
            under_way, waiting = dict(enumerate(waiting)), []
            wanted = (Wanted(at, os.urandom(16), embedders.request_for([texts[number] for number in numbers]))
                      for at, numbers in under_way.items())
            for at, answer, _ in self.remote.answers(wanted):
                numbers = under_way[at]
                self._count(answer)
                if answer.error is None:
                    yield numbers, self._vectors(answer, len(numbers))
                elif answer.model and len(numbers) > 1:  # a service that gives no reply won't give one to half of it
                    waiting += [numbers[:len(numbers) // 2], numbers[len(numbers) // 2:]]
                else:
                    refused = refused or f"no vector for the text {_shown(texts[numbers[0]])}: {answer.error}"
        if refused:
            raise DdmakeError(f"{self.spec.name}: {refused}. The others are kept; mend it, or leave it out.")

    def _vectors(self, answer: Answer, count: int) -> "NDArray[np.float32]":
        """Return the vectors of an answer. Raises DdmakeError for such as weren't asked for."""
        found = np.stack([np.frombuffer(vector, "<f4") for vector in embedders.read(answer, count)])
        if self.spec.dimensions not in (None, found.shape[1]):
            raise DdmakeError(f"{self.spec.name} was asked for vectors of {self.spec.dimensions} numbers and gave "
                              f"{found.shape[1]}: leave dimensions= out, or name a model that gives shorter ones.")
        return found

    def _count(self, answer: Answer) -> None:
        """Count what a request took."""
        for name in ("tokens_in", "cost") if answer.error is None else ():
            before, more = getattr(self.usage, name), getattr(answer, name)
            setattr(self.usage, name, None if before is None or more is None else before + more)
        self.usage.models.update([answer.model] if answer.model else [])


def _batches(texts: Sequence[str], most: int) -> list[list[int]]:
    """Return the numbers of texts, so many to a request and no more characters than it may hold."""
    found: list[list[int]] = []
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if not found or size > CHARACTERS or len(found[-1]) == most:
            found.append([])
            size = len(text)
        found[-1].append(number)
    return found


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def normalized(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return vectors at length 1; one of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
