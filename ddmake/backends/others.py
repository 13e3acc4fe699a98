"""Providers that speak a language of their own, over LiteLLM: one try of one request at a time, with its traps closed.

LiteLLM is imported in a thread when the first request is sent: it takes 3 s of CPU. It neither tries again, nor drops a
parameter, nor asks the network for prices, nor reads .env. `n` is never sent: samples are requests of their own.
Not here: OpenAI's Responses API, which LiteLLM only imitates for these.
"""

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import Mapping
from copy import deepcopy
from types import ModuleType
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from ddmake.backends import embedders, providers, supported
from ddmake.backends.base import Answer, Heard, Request, Retry
from ddmake.backends.strict import in_words, strict
from ddmake.backends.wire import Wire
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

TIMEOUT = 600.0  # seconds
SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices
    "LITELLM_MODE": "PRODUCTION",  # else it reads .env
    "DEFAULT_MAX_RETRIES": "0",  # said with a call, some providers would get it as a field of the request
}
COHERE = {"MAX_TOKENS": "length", "TOOL_CALL": "tool_calls", "ERROR_TOXIC": "content_filter"}
_LOADING = threading.Lock()


class Others:
    """A Service that LiteLLM speaks to. Raises ProviderError where its key is missing."""

    def __init__(self, spec: "LLM"):
        self.spec, self.account = spec, providers.account(spec)
        self.provider, self.model = supported.routed(spec.name, embeds=spec.api == embedders.API)
        self._key, self._timeout = providers.api_key(spec), spec.timeout or TIMEOUT
        self._litellm: ModuleType | None = None

    async def ask(self, request: Request, heard: Heard) -> Answer:
        """Return the answer to one request, tried once.

        Raises Retry where another try may help (Unreachable where no connection was made), ProviderError where none would.
        """
        if self._litellm is None:
            self._litellm = await asyncio.to_thread(_load)
            _introduce(self._litellm, self.provider, self.model)
        try:
            async with asyncio.timeout(self._timeout):  # not every provider of LiteLLM's heeds its own
                reply = await self._send(self._litellm, request)
        except TimeoutError:
            raise Retry(f"no reply within {self._timeout:g} s") from None
        except ProviderError:  # what a completion can't carry
            raise
        except Exception as error:
            return self._judged(error, heard)
        heard(200, _headers(reply))
        return self._read(reply)

    async def close(self) -> None:
        """Let go of LiteLLM's connections, which all its providers share."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()

    async def _send(self, litellm: ModuleType, request: Request) -> Any:
        """Send a request; `extra` goes along as further keywords of LiteLLM's, and wins."""
        extra = self.spec.extra or {}
        named = {"model": f"{self.provider}/{self.model}", "api_key": self._sent_key(), "timeout": self._timeout,
                 **self._sampling(request), "allowed_openai_params": list(extra)}
        if self.spec.api == embedders.API:
            asked, send = {"input": embedders.texts_of(request)}, litellm.aembedding
        elif self.spec.api == "completion":
            asked, send = {"prompt": Wire(self.spec).body(request)["prompt"]}, litellm.atext_completion
        else:
            asked, send = self._chat(litellm, request), litellm.acompletion
        return await send(**deepcopy({**named, **asked, **extra}))  # LiteLLM writes into what it is given

    def _chat(self, litellm: ModuleType, request: Request) -> dict[str, Any]:
        asked: dict[str, Any] = {"messages": list(request.messages)}
        if request.tools:  # which have LiteLLM import a package that it doesn't declare, unless told not to
            asked |= {"tools": list(request.tools), "_skip_mcp_handler": True}
        if request.schema is not None and self._takes_schemas(litellm):
            asked["response_format"] = {"type": "json_schema", "json_schema": strict(request.schema)}
        elif request.schema is not None:
            asked["messages"].insert(0, {"role": "system", "content": in_words(request.schema)})
        return asked

    def _takes_schemas(self, litellm: ModuleType) -> bool:
        """Tell whether a model takes a JSON schema: by LiteLLM's facts of it, else by those of its provider."""
        if _known(litellm, self.provider, self.model):
            return litellm.supports_response_schema(self.model.removeprefix("converse/"), self.provider)
        return supported.facts(self.provider)["schema"]

    def _sampling(self, request: Request) -> dict[str, Any]:
        """Return the parameters that are set, by LiteLLM's names for them."""
        named = self.spec.sampling()
        if "seed" in named:
            named["seed"] += request.sample
        reasoning = named.pop("reasoning", None)
        if isinstance(reasoning, str):
            named["reasoning_effort"] = reasoning
        elif reasoning is not None:
            named["thinking"] = {"type": "enabled", "budget_tokens": reasoning}
        return named

    def _sent_key(self) -> str | None:
        """Return the key to send, None where LiteLLM is to find credentials. Left to itself it sends OpenAI's key to others."""
        found_elsewhere = self.spec.api_key_env is None and "elsewhere" in supported.facts(self.provider)
        return None if found_elsewhere else self._key

    def _read(self, reply: Any) -> Answer:
        """Return the answer that a reply holds. Raises Retry where it holds none."""
        try:
            if self.spec.api == embedders.API:
                return embedders.answer_of(reply.data, reply.model or self.model, reply.usage.model_dump() if reply.usage else {})
            return self._chosen(reply, reply.choices[0])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise Retry(f"the reply holds no {'vectors' if self.spec.api == embedders.API else 'completion'}", 200) from None

    def _chosen(self, reply: Any, choice: Any) -> Answer:
        """Return what the first choice of a chat or a completion says."""
        message = getattr(choice, "message", None)  # a completion has none
        calls, usage = getattr(message, "tool_calls", None) or (), reply.usage
        return Answer(
            (choice.text if message is None else message.content) or "", finish_reason=choice.finish_reason,
            model=(reply.model or self.model).removeprefix(f"{self.provider}/"),
            tokens_in=usage.prompt_tokens or None, tokens_out=usage.completion_tokens if usage.prompt_tokens else None,
            tokens_cached=getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None) or 0,
            error="refused: content_filter" if choice.finish_reason == "content_filter" else None,
            reasoning=getattr(message, "reasoning_content", None),
            tool_calls=[call.model_dump(include={"id", "type", "function"}) for call in calls],
        )

    def _judged(self, error: Exception, heard: Heard) -> Answer:
        """Return or raise what an error means, with the llm's name and without its key."""
        from ddmake.backends import mishaps

        reply = mishaps.reply_of(error)
        if reply is not None:
            heard(reply.status_code, CIMultiDict(reply.headers.items()))
        try:
            answer = mishaps.judged(error, self.model)
        except ProviderError as told:
            key = f" ({providers.key_told(self.spec)})" if reply is not None and reply.status_code in (400, 401, 403) else ""
            raise ProviderError(self._clean(f"{self.spec.name} {told}{key}")) from None
        except Retry as told:
            raise type(told)(self._clean(str(told)), told.status, told.wait, told.paid) from None
        answer.error = self._clean(answer.error)
        return answer

    def _clean(self, words: str) -> str:
        """Return words without the key, should the service have repeated it."""
        return words.replace(self._key, "…") if self._key else words


def _headers(reply: Any) -> Mapping[str, str]:
    """Return the headers of a reply as the service sent them, as far as LiteLLM keeps them."""
    kept = (getattr(reply, "_hidden_params", None) or {}).get("additional_headers") or {}
    return CIMultiDict((name.removeprefix("llm_provider-"), str(value)) for name, value in kept.items())


def _load() -> ModuleType:
    """Import LiteLLM, once and quietly."""
    with _LOADING:
        os.environ.update(SETTINGS)
        import litellm

        if not litellm.suppress_debug_info:
            litellm.suppress_debug_info, litellm.telemetry, litellm.drop_params = True, False, False
            warnings.filterwarnings("ignore", module="pydantic")
            for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            _try_once(litellm.OpenAIChatCompletion)
            _tell_why_cohere_ended(litellm.CohereV2ChatConfig)
        return litellm


def _known(litellm: ModuleType, provider: str, model: str) -> bool:
    return not {model.removeprefix("converse/"), f"{provider}/{model}"}.isdisjoint(litellm.model_cost)


def _introduce(litellm: ModuleType, provider: str, model: str) -> None:
    """Tell LiteLLM that a new model of Google's takes what their API has: else its system prompt would be sent as the user's."""
    if provider in ("gemini", "vertex_ai") and not _known(litellm, provider, model):
        takes = {"supports_system_messages": True, "supports_response_schema": True}
        litellm.register_model({f"{provider}/{model}": {"litellm_provider": provider, "mode": "chat", **takes}})


def _try_once(handler: Any) -> None:
    """Have OpenAI's client, which serves many of LiteLLM's providers, never try again: some lose `max_retries` on its way."""
    client = handler._get_openai_client

    def once(self: Any, *args: Any, **named: Any) -> Any:
        return client(self, *args, **{**named, "max_retries": 0})

    handler._get_openai_client = once


def _tell_why_cohere_ended(config: Any) -> None:
    """Have a reply of Cohere's say why it ended: LiteLLM 1.106 reads that nowhere, and says "stop" of cut ones."""
    transform = config.transform_response

    def told(self: Any, *args: Any, raw_response: Any, **named: Any) -> Any:
        reply = transform(self, *args, raw_response=raw_response, **named)
        reply.choices[0].finish_reason = COHERE.get(raw_response.json().get("finish_reason"), "stop")
        return reply

    config.transform_response = told
