"""Providers: who is asked over our own HTTP, at which address, with which key, and what it takes.

Facts of November 2026. Imports nothing heavy: plans read it. A key's value leaves this file by `api_key` alone.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from ddmake import toys
from ddmake.backends import servers, supported
from ddmake.backends.hosted import like
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

COMMON = frozenset({"temperature", "top_p", "max_tokens", "stop", "seed", "reasoning"})
MORE = COMMON | {"top_k"}
API_LACKS = {"chat": frozenset(), "completion": {"reasoning", "budget"}, "responses": {"stop", "seed", "top_k", "budget"}}
LIMITS_BY_MODEL = ("openai", "azure", "groq", "anthropic", "mistral", "gemini")
LOCAL = ("hf", *toys.NAMES, "echo")
HERE_ONLY = ("adapter", "device_map", "dtype", "quantize", "revision", "truncate")  # what models in process take
THERE_ONLY = ("api", "base_url", "extra", "reasoning")  # what says how a service is asked
ALIASES = {"together": "together_ai", "fireworks": "fireworks_ai", "hosted_vllm": "vllm", **supported.ALIASES}


def _azure(address: str) -> str:
    """Return the address of a resource's v1 API."""
    return address if "/openai" in address else f"{address}/openai/v1"


def _ollama(address: str) -> str:
    """Return the address of a server that is written as OLLAMA_HOST is: the scheme and the port may be left out."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    host = "127.0.0.1" if parts.hostname in (None, "0.0.0.0") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 11434)
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/') or '/v1'}"


@dataclass(frozen=True)
class Provider:
    """A service that speaks as OpenAI's does."""

    name: str  # as LiteLLM writes it
    url: str | None  # None: the address has to be given
    keys: tuple[str, ...] = ()  # environment variables that may hold its key
    addresses: tuple[str, ...] = ()  # environment variables that may hold its address
    takes: frozenset[str] = COMMON  # of an llm's parameters; "budget": `reasoning` as a number of tokens
    renames: Mapping[str, str] = field(default_factory=dict)  # parameters that go by another name there
    needs_key: bool = True
    key_header: str = "Authorization"
    schemas: bool = True  # whether it takes a JSON schema; else JSON alone, and the schema is put in words
    complete: Callable[[str], str] = str  # makes a base address of what is given


_NEW = {"max_tokens": "max_completion_tokens"}

PROVIDERS = {provider.name: provider for provider in (
    Provider("openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",), ("OPENAI_BASE_URL",), renames=_NEW),
    Provider("azure", None, ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"), ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"), renames=_NEW,
             key_header="api-key", complete=_azure),
    Provider("together_ai", "https://api.together.ai/v1", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"), ("TOGETHER_AI_API_BASE",),
             MORE),
    Provider("mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), ("MISTRAL_API_BASE",),
             renames={"seed": "random_seed"}),
    Provider("groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), ("GROQ_API_BASE",)),
    Provider("deepseek", "https://api.deepseek.com", ("DEEPSEEK_API_KEY",), ("DEEPSEEK_API_BASE",), COMMON - {"seed"},
             schemas=False),
    Provider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), ("OPENROUTER_API_BASE",), MORE | {"budget"}),
    Provider("fireworks_ai", "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
             ("FIREWORKS_API_BASE",), MORE),
    Provider("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), ("XAI_API_BASE",)),
    Provider("cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",), ("CEREBRAS_API_BASE",)),
    Provider("vllm", "http://127.0.0.1:8000/v1", ("HOSTED_VLLM_API_KEY", "VLLM_API_KEY"), ("HOSTED_VLLM_API_BASE",), MORE,
             needs_key=False),
    Provider("transformers", "http://127.0.0.1:8000/v1", takes=COMMON - {"reasoning"}, needs_key=False, schemas=False),
    Provider("sglang", "http://127.0.0.1:30000/v1", ("SGLANG_API_KEY",), ("SGLANG_API_BASE",), MORE, needs_key=False),
    Provider("llamacpp", "http://127.0.0.1:8080/v1", ("LLAMA_API_KEY",), ("LLAMACPP_API_BASE",), MORE, needs_key=False),
    Provider("lm_studio", "http://127.0.0.1:1234/v1", ("LM_STUDIO_API_KEY",), ("LM_STUDIO_API_BASE",), MORE, needs_key=False),
    Provider("ollama", "http://127.0.0.1:11434/v1", ("OLLAMA_API_KEY",), ("OLLAMA_HOST", "OLLAMA_API_BASE"), needs_key=False,
             complete=_ollama),  # its OpenAI-compatible side ignores top_k
)}
SERVER = Provider("the service", None, takes=MORE, needs_key=False)  # whatever a base_url leads to
COMPATIBLE = replace(SERVER, keys=("OPENAI_API_KEY",))  # what is named openai and is somewhere else


def kind_of(spec: "LLM") -> str:
    """Return the part of an llm's name before the slash, by the name that LiteLLM has for it where that differs.

    Behind a server that ddmake starts, it is the kind of server.
    """
    kind = servers.parts(spec.name)[0] if servers.is_served(spec) else spec.name.partition("/")[0]
    return ALIASES.get(kind, kind)


def model_of(spec: "LLM") -> str:
    """Return the model's name as its provider knows it."""
    return servers.parts(spec.name)[1] if servers.is_served(spec) else spec.name.partition("/")[2]


@cache
def plugins() -> dict[str, Any]:
    """Return the backends that other packages bring, by name."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="ddmake.backends")}


def road(spec: "LLM") -> Literal["local", "http", "litellm", "plugin"]:
    """Return how an llm is reached: in this process, over our own HTTP, over LiteLLM, or by another package."""
    if not isinstance(spec.name, str) or kind_of(spec) in LOCAL:
        return "local"
    if spec.base_url is not None or kind_of(spec) in PROVIDERS:
        return "http"
    return "plugin" if kind_of(spec) not in supported.providers() and kind_of(spec) in plugins() else "litellm"


def is_remote(spec: "LLM") -> bool:
    """Tell whether an llm is asked by the run's caller: over a network, or by another package's Service."""
    spec = like(spec)
    way = road(spec)
    return way in ("http", "litellm") or way == "plugin" and hasattr(plugins()[kind_of(spec)].load(), "ask")


def provider_of(spec: "LLM") -> Provider:
    """Return whom our own HTTP asks: by the name; but a `base_url` that isn't the provider's own may lead to any service."""
    known = PROVIDERS.get(kind_of(spec))
    if known is None:
        return SERVER
    if known.url is None or not known.needs_key:
        return known
    given = spec.base_url or (_from_environment(known) if known.name == "openai" else None)
    if given is None or _at_home(given, known.url):
        return known
    return COMPATIBLE if known.name == "openai" else SERVER


def address(spec: "LLM") -> str:
    """Return the address that paths are put behind: `base_url`, else the environment's, else the provider's own.

    Raises ProviderError where none is known.
    """
    known = PROVIDERS.get(kind_of(spec), SERVER)
    given = spec.base_url or _from_environment(known)
    if given is None and known.url is None:
        raise ProviderError(_no_address(spec, known))
    return known.complete(given.rstrip("/")) if given else known.url


def endpoint(spec: "LLM") -> str:
    """Return a remote llm's address, without what may be secret in it; over LiteLLM, its provider's name.

    A server that ddmake starts goes by its llm's name: where it answers is found then.
    """
    if servers.is_served(spec):
        return spec.name
    return _public(address(spec)) if road(spec) == "http" else kind_of(spec)


def identity(spec: "LLM") -> dict[str, object]:
    """Return what of a remote llm enters its calls' keys: its endpoint, or the identity that the user gives it, and its model."""
    if servers.is_served(spec):
        return servers.identity(spec)
    found: dict[str, object] = {"endpoint": spec.identity or endpoint(spec), "model": model_of(spec)}
    return found if spec.api in (None, "chat") else {**found, "api": spec.api}


def account(spec: "LLM") -> str:
    """Return whom the provider counts requests under: the endpoint, and a hash in place of the key."""
    key = _key(spec)
    return f"{endpoint(spec)} {hashlib.blake2b(key.encode(), digest_size=4).hexdigest()}" if key else endpoint(spec)


def counted_apart(spec: "LLM") -> str:
    """Return what of a model's name its provider has limits of its own for; nothing where all models of an account share them."""
    return model_of(spec) if kind_of(spec) in LIMITS_BY_MODEL and spec.base_url is None else ""


def api_key(spec: "LLM") -> str | None:
    """Return an llm's API key from the environment, None where it needs none. Raises ProviderError where it is missing."""
    missing = missing_key(spec)
    if missing:
        raise ProviderError(missing)
    return _key(spec)


def key_names(spec: "LLM") -> tuple[str, ...]:
    """Return the environment variables that may hold an llm's key: the one that is stated, else its provider's."""
    if spec.api_key_env:
        return (spec.api_key_env,)
    return provider_of(spec).keys if road(spec) == "http" else tuple(supported.key_variables(kind_of(spec)))


def missing_key(spec: "LLM") -> str | None:
    """Return what an llm can't be asked without, its key or its address, as a sentence; None where nothing is missing."""
    spec = like(spec)
    if servers.is_served(spec):
        return servers.missing(kind_of(spec))
    if road(spec) == "litellm":
        return supported.missing(kind_of(spec), spec.api_key_env)
    if road(spec) != "http":
        return None
    provider = provider_of(spec)
    if _key(spec) is None and (provider.needs_key or spec.api_key_env):
        return f"{spec.name} needs an API key: set {key_names(spec)[0]}, or try the workflow with a toy model, llm=tiny."
    if provider.url is None and spec.base_url is None and _from_environment(provider) is None and provider.addresses:
        return _no_address(spec, provider)
    return None


def key_told(spec: "LLM") -> str:
    """Return whether a key was there to be sent, by its variable's name."""
    names = key_names(spec)
    if not names:
        return "no key was sent: api_key_env= names the variable that holds it"
    found = next((name for name in names if os.environ.get(name)), None)
    return f"{found} is set" if found else f"{names[0]} is not set"


def unsupported(spec: "LLM") -> str | None:
    """Return which stated parameter an llm's provider or its `api` doesn't take, as a sentence; None where it takes all."""
    spec = like(spec)
    if misplaced := _misplaced(spec):
        return misplaced
    if road(spec) == "litellm":
        return supported.unsupported(spec)
    if road(spec) != "http":
        return None
    if servers.is_served(spec) and (told := servers.unsupported(spec)):
        return told
    provider, api = provider_of(spec), spec.api or "chat"
    where = provider.name if api == "chat" else f'{provider.name} by api="{api}"'
    stated = {"budget" if name == "reasoning" and not isinstance(value, str) else name for name, value in spec.sampling().items()}
    for name in sorted(stated - (provider.takes - API_LACKS[api])):
        what = "number of tokens for reasoning" if name == "budget" else name
        return f"llm({spec.name!r}): {where} takes no {what}. Leave it out, or send a field of the provider's own by extra={{…}}."
    return None


def _misplaced(spec: "LLM") -> str | None:
    """Return a sentence where an llm states what only models elsewhere take; toys and echo stand in for either kind."""
    if road(spec) in ("http", "litellm") and not servers.is_served(spec):
        fields, where, remedy = HERE_ONLY, "is asked over a network", "Leave it out, or ask a model by hf/…."
    elif not isinstance(spec.name, str) or kind_of(spec) == "hf":
        fields, where, remedy = THERE_ONLY, "runs in the job's process", "Leave it out."
    else:
        return None
    stated = next((name for name in fields if getattr(spec, name) is not None), None)
    name = spec.name if isinstance(spec.name, str) else spec.name.path
    return stated and f"llm({name!r}): it {where} and takes no {stated}=. {remedy}"


def _public(url: str) -> str:
    """Return an address without what may be secret in it: user and password, and the query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _key(spec: "LLM") -> str | None:
    return next((os.environ[name] for name in key_names(spec) if os.environ.get(name)), None)


def _from_environment(provider: Provider) -> str | None:
    return next((os.environ[name] for name in provider.addresses if os.environ.get(name)), None)


def _at_home(given: str, own: str) -> bool:
    """Tell whether an address is on a provider's own host, or on one of its regions'."""
    host, home = urlsplit(given).hostname or "", urlsplit(own).hostname or ""
    return host == home or host.endswith(f".{home}")


def _no_address(spec: "LLM", provider: Provider) -> str:
    where = f": set {provider.addresses[0]}, or state base_url=…" if provider.addresses else ": state base_url=…"
    return f"{spec.name} has no address{where}."
