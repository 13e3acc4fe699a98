"""Specs: frozen descriptions of models, of mixtures of them, and of adapters. Making one loads nothing and asks nobody.

Each field of `LLM` says where it counts: in the key of a call and of its step (`call`), or in neither (`free`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import Any, Literal

from ddmake.ddfile.check import bind, checked, signature_of
from ddmake.ddfile.registry import here
from ddmake.ddfile.target import Source, Target
from ddmake.errors import DdfileError, did_you_mean
from ddmake.toys import NAMES as TOYS

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")  # of weights in process


def call() -> Any:
    """Declare a field that is part of what is asked: another value is another call."""
    return field(default=None, metadata={"key": "call"})


def free() -> Any:
    """Declare a field that changes no answer: speed, access, and what cards say."""
    return field(default=None, metadata={"key": "neither"})


@dataclass(frozen=True)
class LLM:
    """A text-generating model and how to ask it. Unset parameters are not sent.

    `name` is "backend/model" ("openai/gpt-4o", "hf/…"), a toy's name ("tiny", "echo"), or a target that makes a model.
    """

    name: Any = field(metadata={"key": "call"})
    base_url: str | None = call()
    identity: str | None = call()  # stands for base_url in the keys, if given
    temperature: float | None = call()
    top_p: float | None = call()
    top_k: int | None = call()
    max_tokens: int | None = call()
    stop: str | Sequence[str] | None = call()
    seed: int | None = call()
    sample: int | None = call()  # another sample of the same request: in the key, never sent
    reasoning: str | int | None = call()  # how much a model is to think: an effort ("low"), or a number of tokens
    api: Literal["chat", "completion", "responses"] | None = call()  # which of a service's ways to ask; chat unless given
    extra: Mapping[str, Any] | None = call()  # further fields of the request's body
    adapter: Any = call()  # a target or a folder that holds a LoRA adapter
    revision: str | None = call()
    dtype: str | None = call()
    quantize: Literal["int8", "int4", "nf4", "fp4"] | None = call()  # weights of fewer bits, on a local model
    truncate: bool | None = call()  # cut a prompt that is too long for a local model, instead of failing its row
    flags: Mapping[str, Any] | None = call()  # of the command line of a server that ddmake starts
    device_map: str | None = free()
    api_key_env: str | None = free()
    concurrency: int | None = free()  # requests in flight
    rpm: int | None = free()  # requests a minute
    tpm: int | None = free()  # tokens a minute
    timeout: float | None = free()  # seconds a request may take
    retries: int | None = free()  # further tries after the first
    batch: bool | None = free()  # ask through the provider's batch API, for less and later
    price: Any = free()  # two numbers, dollars for a million tokens: (in, out)
    cache: bool | None = free()  # False: ask anew each time, and answer nobody else by it
    batch_size: int | None = free()  # rows at once on a local model
    license: str | None = free()
    citation: str | None = free()
    url: str | None = free()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) and not isinstance(self.name, (Target, Source)):
            raise DdfileError(f"{here()}: llm() takes a model's name or a target, not {type(self.name).__name__}.")
        if isinstance(self.name, str) and self.name.removeprefix("hf/") in TOYS:  # it stands in where one writes f"hf/{cfg.base}"
            object.__setattr__(self, "name", self.name.removeprefix("hf/"))
        for name in ("concurrency", "rpm", "tpm", "batch_size", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DdfileError(f"{here()}: llm({str(self.name)!r}): {name}={value}; it is at least 1.")
        for name, most in (("temperature", inf), ("top_p", 1), ("top_k", inf)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                told = "at least 0" if most == inf else f"from 0 to {most}"
                raise DdfileError(f"{here()}: llm({str(self.name)!r}): {name}={value}; it is {told}.")
        if self.stop == "" or not isinstance(self.stop, str) and "" in (self.stop or ()):
            raise DdfileError(f"{here()}: llm({str(self.name)!r}): stop holds an empty text, which would end every answer "
                              "before it begins. Leave it out.")
        _check_dtype(self)
        if self.flags is not None and not str(self.name).startswith("server/"):
            raise DdfileError(f"{here()}: llm({str(self.name)!r}): flags= are of a server that ddmake starts, as "
                              "server/vllm:org/model. Leave them out.")
        if self.price is not None and not _is_price(self.price):
            raise DdfileError(f"{here()}: llm({str(self.name)!r}): price={self.price!r} isn't a price. Write dollars for a "
                              "million tokens, in and out, as in price=(2.5, 10).")

    def using(self, **changes: Any) -> "LLM":
        """Return this llm with some parameters changed."""
        bind("llm().using", signature_of(LLM), (self.name,), changes)
        return replace(self, **changes)

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters that are set, as they are sent."""
        names = ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "reasoning")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def key_fields(self) -> dict[str, Any]:
        """Return the fields that are set and count in keys."""
        return _counting(self)


def _check_dtype(spec: "LLM | Embedder") -> None:
    """Raise DdfileError for a type of weights that there is none of; a server has its own."""
    llms = isinstance(spec, LLM)
    known = DTYPES if llms else DTYPES[1:]
    if spec.dtype is not None and spec.dtype not in known and not str(spec.name).startswith("server/"):
        kind, hint = ("llm", " Smaller weights are quantize='int8' or 'int4'.") if llms else ("embedder", "")
        raise DdfileError(f"{here()}: {kind}({str(spec.name)!r}): dtype={spec.dtype!r} is none of {', '.join(known)}."
                          f"{did_you_mean(spec.dtype, known)}{hint}")


def _is_price(value: Any) -> bool:
    numbers = value if isinstance(value, Sequence) else ()
    return len(numbers) == 2 and all(type(number) in (int, float) and 0 <= number < inf for number in numbers)


llm = checked("llm")(LLM)


@dataclass(frozen=True)
class Mixture:
    """Several llms behind one name, each with its weight: every prompt goes to one of them."""

    members: tuple[LLM, ...]
    weights: tuple[float, ...]
    stands_for = LLM  # where a parameter takes an llm, it takes this

    def __iter__(self) -> Iterator[LLM]:
        return iter(self.members)

    @property
    def name(self) -> str:
        """Return what it is called in messages."""
        return f"mixture of {', '.join(self.names())}"

    @property
    def sample(self) -> int | None:
        """Return the first sample that a member states."""
        return next((member.sample for member in self if member.sample is not None), None)

    def names(self, into: str = "") -> list[str]:
        """Return what its members go by: each of several of one name with its number. Paths are told without `into`."""
        plain = [_called(member).removeprefix(into) for member in self]
        return [f"{name} ({plain[:at].count(name) + 1})" if name in plain[:at] else name for at, name in enumerate(plain)]

    def each(self, change: Callable[[LLM], LLM]) -> "Mixture":
        """Return this mixture with all of its members changed."""
        return replace(self, members=tuple(map(change, self)))

    def using(self, **changes: Any) -> "Mixture":
        """Return this mixture with some parameters of all its members changed."""
        return self.each(lambda member: member.using(**changes))

    def key_fields(self) -> dict[str, Any]:
        """Return what counts in keys."""
        return {"members": [member.key_fields() for member in self], "weights": self.weights}


def mixture(*members: LLM, weights: Sequence[float] | None = None) -> Mixture:
    """Put several llms behind one name. Each prompt goes to one of them, always the same, in shares as the weights have it.

    A new row moves no other's prompt, and a new member takes over only what it then answers.
    """
    for member in members:
        if not isinstance(member, LLM):
            hint = f" Write llm({member!r})." if isinstance(member, str) else ""
            raise DdfileError(f"{here()}: mixture() takes llms, not {type(member).__name__}.{hint}")
    if len(members) < 2:
        raise DdfileError(f"{here()}: mixture() takes two llms or more, not {len(members)}.")
    if twin := next((one for at, one in enumerate(members) if _asks_alike(one, members[:at])), None):
        raise DdfileError(f"{here()}: mixture() is given {_called(twin)} twice with the same parameters. Give it its share by "
                          "weights=.")
    shares = [1.0] * len(members) if weights is None else list(weights)
    if len(shares) != len(members) or not all(type(share) in (int, float) and 0 < share < inf for share in shares):
        raise DdfileError(f"{here()}: mixture() has {len(members)} members, and weights={weights!r}. Write a number above 0 for "
                          "each of them.")
    return Mixture(members, tuple(map(float, shares)))


def _called(spec: LLM) -> str:
    """Return the name that an llm is given, or the path of the model that it is."""
    return spec.name if isinstance(spec.name, str) else spec.name.path


def _asks_alike(spec: LLM, others: Sequence[LLM]) -> bool:
    return any(spec.key_fields() == other.key_fields() for other in others)


EMBEDDERS = {"all-minilm": "hf/sentence-transformers/all-MiniLM-L6-v2"}  # names that embedder() takes for short


@dataclass(frozen=True)
class Embedder:
    """A model that makes vectors of texts. Unset parameters are the model's own.

    `name` is "backend/model" ("hf/…", "openai/text-embedding-3-small"), "all-minilm", or a target that makes a model.
    """

    name: Any = field(metadata={"key": "call"})
    base_url: str | None = call()
    identity: str | None = call()  # stands for base_url in the keys, if given
    prompt: str | None = call()  # is put before each text ("query: "), for models that were trained with one
    dimensions: int | None = call()  # of a vector, where a model can give shorter ones
    max_length: int | None = call()  # tokens after which a local model cuts a text
    extra: Mapping[str, Any] | None = call()  # further fields of the request's body
    revision: str | None = call()
    dtype: str | None = call()
    api_key_env: str | None = free()
    batch_size: int | None = free()  # texts at once on a local model, or in a request
    concurrency: int | None = free()  # requests in flight
    rpm: int | None = free()  # requests a minute
    tpm: int | None = free()  # tokens a minute
    timeout: float | None = free()  # seconds a request may take
    retries: int | None = free()  # further tries after the first
    price: float | None = free()  # dollars for a million tokens
    cache: bool | None = free()  # False: embed anew each time, and keep no vectors
    license: str | None = free()
    citation: str | None = free()
    url: str | None = free()

    def __post_init__(self) -> None:
        if not isinstance(self.name, (str, Target, Source)):
            raise DdfileError(f"{here()}: embedder() takes a model's name or a target, not {type(self.name).__name__}.")
        for name in ("dimensions", "max_length", "batch_size", "concurrency", "rpm", "tpm"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DdfileError(f"{here()}: embedder({str(self.name)!r}): {name}={value}; it is at least 1.")
        _check_dtype(self)
        if isinstance(self.name, str):
            object.__setattr__(self, "name", EMBEDDERS.get(self.name, self.name))

    def using(self, **changes: Any) -> "Embedder":
        """Return this embedder with some parameters changed."""
        bind("embedder().using", signature_of(Embedder), (self.name,), changes)
        return replace(self, **changes)

    def key_fields(self) -> dict[str, Any]:
        """Return the fields that are set and count in keys."""
        return _counting(self)


embedder = checked("embedder")(Embedder)
SERVER = "server/"  # what the name of an llm begins with that ddmake starts a server for
MODELS = (LLM, Embedder)  # specs that name a model, perhaps one that is made here


def _counting(spec: LLM | Embedder) -> dict[str, Any]:
    found = {f.name: getattr(spec, f.name) for f in fields(spec) if f.metadata["key"] == "call"}
    if spec.identity is not None:
        del found["base_url"]
    return {name: value for name, value in found.items() if value is not None}


def is_path(model: str) -> bool:
    """Tell whether a model is named by where it lies; else it is a toy's name, a target's or the Hub's."""
    return model.startswith(("./", "../", "/"))


def served_model(name: str) -> str | None:
    """Return the model in the name of an llm that ddmake starts a server for; None for any other llm."""
    return name.partition(":")[2] if name.startswith(SERVER) else None


def named_parts(spec: LLM | Embedder) -> dict[str, Any]:
    """Return the fields that may name a model which is made here."""
    return {name: getattr(spec, name) for name in ("name", "adapter") if hasattr(spec, name)}


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter's shape (Hu et al. 2021, arXiv 2106.09685)."""

    r: int
    alpha: float
    dropout: float
    targets: str | Sequence[str]


@checked("lora")
def lora(r: int = 16, alpha: float | None = None, dropout: float = 0.0,
         targets: str | Sequence[str] = "all-linear") -> Lora:
    """Describe a LoRA adapter of rank `r`; `alpha` is twice the rank unless given, `targets` are module names."""
    if r < 1:
        raise DdfileError(f"{here()}: lora() needs an r of at least 1, not {r}.")
    return Lora(r, 2 * r if alpha is None else alpha, dropout, targets)
