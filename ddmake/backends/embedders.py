"""Embedders: what their names mean, what tells one from another, and how an API's vectors are asked for and read.

Nothing heavy is imported: plans read it. The models that run here are sentences.py's.
"""

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddmake import toys
from ddmake.backends import check_name, providers, servers, supported
from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.models import config_sha, need
from ddmake.backends.refusals import failed_within
from ddmake.ddfile.specs import LLM, Embedder
from ddmake.errors import DdmakeError
from ddmake.fingerprint import hashes

API = "embeddings"  # the `api` of an llm that stands for an embedder on the way to the caller
HERE_ONLY = ("max_length", "revision", "dtype")
THERE_ONLY = ("base_url", "identity", "extra")
SHORT = ("openai", "azure", "vllm")  # services that send vectors as base64, which is read ten times as fast
MEANING = (".safetensors", ".bin", ".json", ".txt", ".model")  # files of a folder that say what vectors come of a text
SILENT = ("metrics.json", "trainer_state.json", "training_args.bin")
CONFIGS = ("config.json", "config_sentence_transformers.json")  # count by their values, without who wrote them


def wrong(spec: Embedder) -> str | None:
    """Return what is wrong with an embedder's name and parameters, or None."""
    kind = providers.kind_of(spec)
    if kind in (*toys.NAMES, "echo"):
        return f"embedder({spec.name!r}): {kind} writes text and makes no vectors. Name a model that does, as all-minilm or hf/…."
    if providers.road(spec) == "plugin":
        return f"embedder({spec.name!r}): the backend {kind!r} answers llms alone. Name another, or give a base_url."
    told = _wrong_service(spec, kind)
    if told is not None:
        return told.replace("llm(", "embedder(")
    lacks = HERE_ONLY if providers.is_remote(spec) else THERE_ONLY
    stated = next((name for name in lacks if getattr(spec, name) is not None), None)
    where = "is asked over a network" if providers.is_remote(spec) else "runs on this machine"
    return stated and f"embedder({spec.name!r}): it {where} and takes no {stated}. Leave it out."


def _wrong_service(spec: Embedder, kind: str) -> str | None:
    """Return why the name of an embedder leads nowhere, or None."""
    if servers.is_served(spec):
        model = servers.parts(spec.name)[1]
        return (f"embedder({spec.name!r}): a server that ddmake starts answers llms alone. Load the model in process, as "
                f"hf/{model}, or start the server and name it vllm/{model}, with base_url=….")
    if providers.road(spec) != "litellm":
        return check_name(spec.name, spec.base_url)
    if kind in supported.embedding():
        named = spec.name.partition("/")
        return None if named[2] else f"embedder({spec.name!r}) names no model: write {named[0]}/…."
    if kind in supported.providers():
        return (f"embedder({spec.name!r}): LiteLLM asks {kind} for no vectors. Where it has an OpenAI-compatible /embeddings, "
                f"give that address as base_url=…; over LiteLLM there are {', '.join(sorted(supported.embedding()))}.")
    return check_name(spec.name, spec.base_url)


def as_llm(spec: Embedder) -> LLM:
    """Return what the caller is told of an embedder: an llm that is asked by an API of its own, and keeps no answers."""
    shared = ("name", "base_url", "identity", "api_key_env", "concurrency", "rpm", "tpm", "timeout", "retries")
    extra = {**(spec.extra or {}), **({"dimensions": spec.dimensions} if spec.dimensions else {})}
    price = None if spec.price is None else (spec.price, 0.0)
    return LLM(**{name: getattr(spec, name) for name in shared}, api=API, extra=extra or None, price=price,
               cache=False)


def called(spec: Embedder) -> str:
    """Return an embedder by its name or its folder, as messages have it."""
    return spec.name if isinstance(spec.name, str) else Path(spec.name.path).as_posix()


def missing(spec: Embedder) -> str | None:
    """Return what an embedder can't be asked without, its key or its address, as a sentence; None where nothing is missing."""
    told = providers.missing_key(as_llm(spec))
    return told and told.replace("try the workflow with a toy model, llm=tiny", "take one that runs here, as all-minilm")


def identity(spec: Embedder, folder: Path | None = None) -> dict[str, Any]:
    """Return what tells an embedder's vectors from every other's: enters the key of each. `folder` holds one that runs here."""
    if folder is None:
        return {**providers.identity(as_llm(spec)), "extra": as_llm(spec).extra}
    prompt = {} if spec.prompt is None else {"prompt": spec.prompt}  # which some models tell from the text behind it
    return {"weights": folder_sha(folder), "dtype": spec.dtype, "max_length": spec.max_length, "dimensions": spec.dimensions,
            **prompt}


def folder_sha(folder: Path) -> str:
    """Return the sha256 over the files of a model's folder that say what it makes of a text, by name and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in MEANING and path.is_file()):
        if path.name not in SILENT:
            content = config_sha(path) if path.name in CONFIGS else hashes.of_file(path)
            total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def needed(use: str) -> None:
    """Raise MissingExtra unless what runs embedders here is installed."""
    for package in ("torch", "sentence_transformers"):
        need(package, "local", use)


class EmbeddingWire:
    """How texts are written to an OpenAI-compatible /embeddings, and vectors read; an answer's text is `written` vectors.

    https://platform.openai.com/docs/api-reference/embeddings
    """

    path = "embeddings"

    def __init__(self, spec: LLM):
        self.name, self.model, self.extra = spec.name, providers.model_of(spec), dict(spec.extra or {})
        self.provider = providers.provider_of(spec)

    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent for the texts of a request."""
        short = {"encoding_format": "base64"} if self.provider.name in SHORT else {}
        return {"model": self.model, "input": texts_of(request), **short, **self.extra}

    def read(self, reply: Any, headers: Mapping[str, str]) -> Answer:
        """Return the answer that a reply of status 200 holds. Raises Retry where it holds none, and as `refused` does."""
        if isinstance(reply, dict) and reply.get("error"):
            return failed_within(reply["error"], headers, self.model)
        try:
            return answer_of(reply["data"], reply.get("model") or self.model, reply.get("usage") or {})
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error):
            raise Retry("the reply holds no vectors", 200) from None


def texts_of(request: Request) -> list[str]:
    """Return the texts that a request holds: a message each."""
    return [message["content"] for message in request.messages]


def request_for(texts: Sequence[str]) -> Request:
    """Return a request for the vectors of texts."""
    return Request(tuple({"role": "user", "content": text} for text in texts))


def answer_of(data: Sequence[Mapping[str, Any]], model: str, usage: Mapping[str, Any]) -> Answer:
    """Return an answer that holds the vectors of a reply, put in the order of the texts."""
    vectors = [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]
    return Answer(written(vectors), model=model, finish_reason="stop", tokens_in=usage.get("prompt_tokens"), tokens_out=0)


def written(vectors: Sequence[Sequence[float] | str]) -> str:
    """Return vectors as text: float32, little-endian, base64, which they may be in already.

    Raises ValueError for vectors of unlike lengths.
    """
    found = [base64.b64decode(one) if isinstance(one, str) else struct.pack(f"<{len(one)}f", *one) for one in vectors]
    if len(set(map(len, found))) != 1 or not found[0]:
        raise ValueError("vectors of unlike lengths")
    return base64.b64encode(b"".join(found)).decode()


def without_vectors(answer: Answer) -> Answer:
    """Return an answer as it is noted for what it cost: who asked keeps the vectors."""
    return Answer(model=answer.model, finish_reason=answer.finish_reason, tokens_in=answer.tokens_in,
                  tokens_out=answer.tokens_out, cost=answer.cost, error=answer.error)


def read(text: str, count: int) -> list[bytes]:
    """Return the vectors of `written`, which are so many, as bytes of float32. Raises DdmakeError where they are others."""
    content = base64.b64decode(text)
    size = len(content) // max(1, count)
    if not size or size % 4 or size * count != len(content):
        raise DdmakeError(f"a service was sent {count} texts, and gave vectors for another number of them.")
    return [content[at:at + size] for at in range(0, len(content), size)]
