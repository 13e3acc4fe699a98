"""Batch APIs, by provider. `open_batches` picks one and imports no other; plans ask `no_batches`, which imports nothing."""

from typing import TYPE_CHECKING

from ddmake.backends import providers, supported
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    import aiohttp

    from ddmake.backends.batches.base import Batches
    from ddmake.ddfile.specs import LLM

LIKE_OPENAI = ("openai", "azure", "groq")
OTHERS = ("mistral", "anthropic", "vertex_ai", "bedrock")


def no_batches(spec: "LLM") -> str | None:
    """Return a sentence where an llm's provider has no batch API that is known here; None where it has one."""
    if _kind(spec) is not None:
        return None
    return (f"llm({str(spec.name)!r}): batch=True isn't offered there. {', '.join(LIKE_OPENAI + OTHERS)} have a batch API, "
            "and so may a service that is reached with base_url=….")


def open_batches(spec: "LLM", session: "aiohttp.ClientSession") -> "Batches":
    """Return the batch API that an llm is asked through.

    Raises ProviderError where its provider has none, and where a key or a setting is missing.
    """
    kind = _kind(spec)
    if kind is None:
        raise ProviderError(no_batches(spec))
    if kind == "mistral":
        from ddmake.backends.batches.mistral import Mistral

        return Mistral(spec, session)
    if kind == "anthropic":
        from ddmake.backends.batches.anthropic import Anthropic

        return Anthropic(spec, session)
    if kind == "bedrock":
        from ddmake.backends.batches.bedrock import Bedrock

        return Bedrock(spec)
    if kind == "vertex_ai":
        from ddmake.backends.batches.vertex import Vertex

        return Vertex(spec)
    from ddmake.backends.batches.openai import OpenAI

    return OpenAI(spec, session)


def _kind(spec: "LLM") -> str | None:
    """Return the provider whose batch API serves an llm, "openai" for all that speak as OpenAI's does; None for none."""
    road = providers.road(spec)
    if road == "litellm":
        name = supported.routed(spec.name)[0]
        return name if name in OTHERS else None
    if road != "http":
        return None
    name = providers.provider_of(spec).name
    if name == "mistral":
        return name
    unknown = name not in providers.PROVIDERS  # whatever a base_url leads to: it may have one
    return "openai" if name in LIKE_OPENAI or unknown else None
