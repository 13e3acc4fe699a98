"""Write ddmake/backends/supported.json: what each provider that is reached over LiteLLM takes, and where its key stands.

Run as: python scripts/supported.py, after each update of LiteLLM. It asks the installed LiteLLM and nobody else.
"""

import inspect
import json
import os
import re
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

for name in set(os.environ) - {"PATH", "HOME"}:
    del os.environ[name]  # no key of ours may change what is found
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION")

import litellm  # noqa: E402
from litellm.types.utils import LlmProviders  # noqa: E402
from litellm.utils import ProviderConfigManager, get_optional_params  # noqa: E402

from ddmake.backends.providers import PROVIDERS  # noqa: E402
from ddmake.backends.supported import routed  # noqa: E402

TARGET = Path(__file__).parent.parent / "ddmake" / "backends" / "supported.json"
OURS = {  # parameters of llm(), each with a value to look for in what would be sent
    "temperature": 0.37, "top_p": 0.37, "stop": "halt!", "seed": 7777, "max_tokens": 7777, "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 7777},
}
SHOWN = ("n", "logprobs", "tools", "response_format")  # what docs/providers.md tells as well
LOGIN = {"chatgpt", "github_copilot"}  # these open a browser for a login: nothing that a workflow could wait for
NOT_SERVED = {"aiohttp_openai", "custom", "custom_openai", "openai_like", "hosted_vllm", "llamafile", "ragflow",  # base_url=…
              "anthropic_text", "cohere", "ollama_chat", "text-completion-openai", "petals"}  # gone, or by another name
NO_TOP_K = {"azure_text", "codestral", "cohere_chat", "ai21", "ai21_chat",  # by their own references
            "bedrock"}  # LiteLLM drops it for all but two makers
TRANSLATED = {"anthropic", "gemini", "vertex_ai"}  # LiteLLM writes a schema in these services' own words
ELSEWHERE = {  # credentials that a library finds by a chain of its own, and the variables that it begins with
    "bedrock": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION_NAME"],
    "vertex_ai": ["VERTEXAI_PROJECT", "VERTEXAI_LOCATION", "GOOGLE_APPLICATION_CREDENTIALS"],
}
ELSEWHERE |= {name: ELSEWHERE["bedrock"] for name in ("bedrock_mantle", "sagemaker", "sagemaker_chat", "sagemaker_nova")}
ELSEWHERE |= {name: ELSEWHERE["vertex_ai"] for name in ("vertex_ai_beta", "gdc")}
ELSEWHERE["oci"] = ["OCI_USER", "OCI_FINGERPRINT", "OCI_TENANCY", "OCI_KEY_FILE"]
ELSEWHERE["sap"] = ["AICORE_SERVICE_KEY"]
KEYS = {  # what LiteLLM reads only once it sends
    "anthropic": ["ANTHROPIC_API_KEY"], "cohere_chat": ["COHERE_API_KEY", "CO_API_KEY"],
    "gemini": ["GEMINI_API_KEY", "GOOGLE_API_KEY"], "huggingface": ["HF_TOKEN", "HUGGINGFACE_API_KEY"],
    "databricks": ["DATABRICKS_API_KEY", "DATABRICKS_TOKEN"], "snowflake": ["SNOWFLAKE_JWT"], "bytez": ["BYTEZ_API_KEY"],
    "maritalk": ["MARITALK_API_KEY"], "minimax": ["MINIMAX_API_KEY"], "cometapi": ["COMETAPI_KEY", "COMETAPI_API_KEY"],
    "ovhcloud": ["OVHCLOUD_API_KEY"], "amazon_nova": ["AMAZON_NOVA_API_KEY"], "compactifai": ["COMPACTIFAI_API_KEY"],
    "azure_text": ["AZURE_API_KEY"], "watsonx_text": ["WATSONX_API_KEY", "WATSONX_APIKEY"],
    "predibase": ["PREDIBASE_API_KEY"],
    "infinity": [],  # which people run themselves
    "watsonx": ["WATSONX_API_KEY", "WATSONX_APIKEY"],
}


class Spied(dict):
    """An environment that remembers which variables were asked for."""

    asked: set[str] = set()

    def get(self, key: str, default: str | None = None) -> str | None:
        """Look a variable up, and remember it."""
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def names() -> list[str]:
    """Return the providers that answer prompts."""
    everyone = {getattr(provider, "value", provider) for provider in litellm.provider_list} - LOGIN - NOT_SERVED - set(PROVIDERS)
    return sorted(name for name in everyone if params(name, "x"))


def params(provider: str, model: str) -> frozenset[str]:
    """Return the parameters that a model of a provider takes, as far as they are ours to send or to show."""
    try:
        found = set(litellm.get_supported_openai_params(model, provider) or ())
    except Exception:  # a provider without a chat
        return frozenset()
    sent = {name for name in found & {*OURS} if is_sent(provider, model, name)}
    if found and takes_top_k(provider, model):
        sent.add("top_k")
    return frozenset(sent | found & {*SHOWN})


def is_sent(provider: str, model: str, name: str) -> bool:
    """Tell whether a parameter would be part of what is sent: some that count as supported are dropped in silence."""
    try:
        without = get_optional_params(model=model, custom_llm_provider=provider)
        given = get_optional_params(model=model, custom_llm_provider=provider, **{name: OURS[name]})
    except Exception:  # what isn't supported
        return False
    return given != without and (name == "reasoning_effort" or re.search(r"0\.37|7777|halt!", repr(given)) is not None)


def takes_top_k(provider: str, model: str) -> bool:
    """Tell whether LiteLLM knows top_k of a provider, or passes on to it what it doesn't know itself."""
    if provider in NO_TOP_K:
        return False
    config = ProviderConfigManager.get_provider_chat_config(model, LlmProviders(provider))
    return hasattr(config, "top_k") or isinstance(config, litellm.OpenAIGPTConfig)


def models() -> dict[str, list[str]]:
    """Return the chat models that LiteLLM knows, by provider."""
    found = defaultdict(set)
    for name, facts in litellm.model_cost.items():
        if facts.get("mode") == "chat" and name.partition("/")[0] not in LOGIN:
            try:
                model, provider, _, _ = litellm.get_llm_provider(name)
            except Exception:  # a model whose provider its name doesn't tell
                continue
            found[provider].add(routed(f"{provider}/{model}")[1])
    return {provider: sorted(known) for provider, known in found.items()}


def keys(provider: str) -> list[str]:
    """Return the variables that a provider's key may stand in."""
    if provider in KEYS:
        return KEYS[provider]
    Spied.asked.clear()
    with patch("os.environ", Spied(os.environ)):
        litellm.get_llm_provider(f"{provider}/x")
        litellm.validate_environment(f"{provider}/x")
    return sorted(name for name in Spied.asked if name.endswith(("_KEY", "_TOKEN", "_APIKEY")))


def lacking(known: list[str], provider: str, union: frozenset[str]) -> dict[str, list[str]]:
    """Return the models that lack some parameter of ours, by what they lack."""
    found = defaultdict(list)
    for model in known:
        lacks = sorted((union - params(provider, model)) & {*OURS, "top_k"})
        if lacks:
            found[" ".join(lacks)].append(model)
    return dict(found)


def facts(provider: str, known: list[str]) -> dict:
    """Return what is written of one provider."""
    union = frozenset().union(params(provider, "x"), *(params(provider, model) for model in known))
    schema = [model for model in known if litellm.supports_response_schema(model, provider)]
    native = provider in TRANSLATED or litellm.supports_response_schema("x", provider) or 2 * len(schema) > len(known)
    found = {"takes": " ".join(sorted(union)), "schema": "response_format" in union and native}
    found["lacks"] = lacking(known, provider, union)
    return found | ({"elsewhere": ELSEWHERE[provider]} if provider in ELSEWHERE else {"keys": keys(provider)})


def embedding() -> dict[str, dict]:
    """Return the providers that make vectors, and where their keys stand: those that LiteLLM's function has a branch for."""
    branches = re.findall(r'custom_llm_provider (?:==|in) (\(?".*?)\)?:?\n', inspect.getsource(litellm.main.embedding))
    named = set(re.findall(r'"(\w+)"', " ".join(branches)))
    found = sorted(named - LOGIN - NOT_SERVED - set(PROVIDERS))
    return {name: {"elsewhere": ELSEWHERE[name]} if name in ELSEWHERE else {"keys": keys(name)} for name in found}


def main() -> None:
    """Write the table, one provider a line."""
    known = models()
    lines = [f'"{name}": {json.dumps(facts(name, known.get(name, [])), separators=(",", ":"))}' for name in names()]
    embeds = json.dumps(embedding(), separators=(",", ":"))
    TARGET.write_text(f'{{"litellm": "{version("litellm")}", "providers": {{\n' + ",\n".join(lines)
                      + f'\n}},\n"embedding": {embeds}}}\n')


main()
