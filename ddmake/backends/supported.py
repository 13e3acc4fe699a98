"""What providers that are reached over LiteLLM take, and where their keys stand. Plans read it: it imports no LiteLLM.

The table is made by scripts/supported.py. Services that are asked over our own HTTP aren't in it: providers.py has those.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

ALIASES = {"cohere": "cohere_chat", "vertex": "vertex_ai"}
ROUTES = {"converse", "converse_like", "invoke", "chat_completions", "openai", "mantle", "agent", "agentcore", "claude_platform",
          "nova", "nova-2"}
COMPLETING = {"azure_text", "text-completion-codestral", "text-completion-inception"}  # that complete a text, too
GONE = {
    "petals": "Petals has had no release since 2.2.0.post1. Serve the model by vLLM or llama.cpp, as vllm/… or llamacpp/…",
    "ctransformers": "CTransformers has had no release since 2023. Serve the GGUF file by llama.cpp, as llamacpp/…",
    "tgi": "Text Generation Inference is archived. A server that still runs is reached with base_url=…",
    "openai_assistant": 'OpenAI ended the Assistants API on 26 August 2026. Use its Responses API: openai/… with api="responses"',
}


@cache
def _written() -> Mapping[str, Any]:
    return json.loads((Path(__file__).parent / "supported.json").read_text())


def _table() -> Mapping[str, Mapping[str, Any]]:
    return _written()["providers"]


@cache
def providers() -> frozenset[str]:
    """Return the names of LiteLLM's providers, as they may stand before the slash."""
    return frozenset(_table()) | frozenset(ALIASES)


@cache
def embedding() -> frozenset[str]:
    """Return the names of those of LiteLLM's providers that make vectors; some do nothing else."""
    return frozenset(_written()["embedding"])


def gone(provider: str) -> str | None:
    """Return what became of a service that is no more, or None."""
    return GONE.get(provider)


def routed(name: str, embeds: bool = False) -> tuple[str, str]:
    """Return the provider and the model as LiteLLM writes them.

    Bedrock is asked by its Converse API, unless a route is named or vectors are asked for, which that API doesn't make.
    """
    kind, _, model = name.partition("/")
    if kind == "bedrock" and not embeds and model.partition("/")[0] not in ROUTES:
        model = f"converse/{model}"
    return ALIASES.get(kind, kind), model


def facts(provider: str) -> Mapping[str, Any]:
    """Return what is known of a provider; nothing where it isn't known."""
    name = ALIASES.get(provider, provider)
    return _table().get(name) or _written()["embedding"].get(name, {})


def key_variables(provider: str) -> tuple[str, ...]:
    """Return the environment variables that a provider's credentials may stand in."""
    known = facts(provider)
    return tuple(known.get("keys") or known.get("elsewhere") or ())


def missing(provider: str, api_key_env: str | None) -> str | None:
    """Return a sentence where a provider's key is in none of its variables.

    Credentials that are found in other places as well (AWS's and Google's files and machines) are left to the first request.
    """
    if "VERTEXAI_PROJECT" in facts(provider).get("elsewhere", ()) and find_spec("google") is None:
        return f"{provider} needs google-auth, which isn't installed. Do: pip install google-auth"
    names = (api_key_env,) if api_key_env else tuple(facts(provider).get("keys", ()))
    if not names or any(os.environ.get(name) for name in names):
        return None
    return f"{provider} needs an API key: set {' or '.join(names)}, or try the workflow with a toy model, llm=tiny."


def unsupported(spec: "LLM") -> str | None:
    """Return a sentence where an llm states what its provider, or this model of it, doesn't take."""
    provider, model = routed(spec.name)
    known = facts(provider)
    if not known:
        return None
    takes, lacks = set(known["takes"].split()), _lacks(known, model)
    if spec.api == "responses" or spec.api == "completion" and provider not in COMPLETING:
        return f"llm({spec.name!r}): {provider} is asked by chat alone. Leave api={spec.api!r} out."
    for name in spec.sampling():
        sent = name if name != "reasoning" else "reasoning_effort" if isinstance(spec.reasoning, str) else "thinking"
        if sent not in takes or sent in lacks:
            who = provider if sent not in takes else spec.name
            what = {"reasoning_effort": "reasoning", "thinking": "number of tokens for reasoning"}.get(sent, name)
            remedy = "Leave it out, or send a field of the provider's own by extra={…}."
            return f"llm({spec.name!r}): {who} takes no {what}. {remedy}"
    return None


def _lacks(known: Mapping[str, Any], model: str) -> set[str]:
    """Return what a model lacks of what its provider takes; nothing where the model isn't known."""
    return {name for names, models in known["lacks"].items() if model in models for name in names.split()}
