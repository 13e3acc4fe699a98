"""OpenAI's wire format: how a request's body is written and a reply read, for chat and completion; `responses.py` has the third.

https://platform.openai.com/docs/api-reference. Nothing is sent from here: the batch road uses it too.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddmake.backends import responses
from ddmake.backends.base import Answer, Request, Retry
from ddmake.backends.providers import Provider, model_of, provider_of
from ddmake.backends.refusals import failed_within
from ddmake.backends.strict import in_words, strict
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

PATHS = {"chat": "chat/completions", "completion": "completions", "responses": "responses"}
CUT = {"model_length": "length"}  # Mistral's word for a full context
BROKEN = ("error", "insufficient_system_resource")  # finish reasons that mean no finish


class Wire:
    """How requests to one llm are written, and its replies read."""

    def __init__(self, spec: "LLM"):
        self.name, self.model, self.api = spec.name, model_of(spec), spec.api or "chat"
        self.provider, self.seed, self.extra = provider_of(spec), spec.seed, dict(spec.extra or {})
        self.path = PATHS[self.api]
        self.constant = {"model": self.model, **_parameters(spec.sampling(), self.provider, self.api)}
        self._strict: tuple[Any, Any] = (None, None)  # the last schema, and what was made of it

    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent: parameters that aren't set stay out.

        Raises ProviderError for what this api can't carry.
        """
        body = {**self.constant, **self._asked(request)}
        if self.seed is not None and request.sample:
            body[self.provider.renames.get("seed", "seed")] = self.seed + request.sample
        return _merged(body, self.extra) if self.extra else body

    def read(self, reply: Any, headers: Mapping[str, str]) -> Answer:
        """Return the answer that a reply of status 200 holds. Raises Retry where it holds none, and as `refused` does."""
        if isinstance(reply, dict) and reply.get("error"):
            return failed_within(reply["error"], headers, self.model)
        try:
            if self.api == "responses":
                return responses.read(reply, self.model)
            choice = reply["choices"][0]
            if choice.get("error") or choice.get("finish_reason") in BROKEN:
                return failed_within(choice.get("error") or "the model failed while it answered", headers, self.model)
            return self._chosen(choice, reply)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Retry("the reply holds no completion", 200) from None

    def _chosen(self, choice: dict[str, Any], reply: dict[str, Any]) -> Answer:
        """Return what the first choice of a chat or a completion says."""
        message = choice["message"] if self.api == "chat" else {"content": choice["text"]}
        text, thinking = _parts(message.get("content"))
        finish, refusal, usage = choice.get("finish_reason"), message.get("refusal"), reply.get("usage") or {}
        refusal = refusal or (finish if finish == "content_filter" else None)
        return Answer(
            text, model=reply.get("model") or self.model, finish_reason="content_filter" if refusal else CUT.get(finish, finish),
            tokens_in=usage.get("prompt_tokens"), tokens_out=usage.get("completion_tokens"),
            tokens_cached=_cached(usage), error=f"refused: {refusal}" if refusal else None,
            tool_calls=message.get("tool_calls") or (),
            reasoning=message.get("reasoning_content") or message.get("reasoning") or thinking,
            cost=usage.get("cost") if self.provider.name == "openrouter" else None,  # in dollars there; elsewhere who knows
        )

    def _asked(self, request: Request) -> dict[str, Any]:
        """Return the part of a body that differs from request to request."""
        schema = self._schema(request.schema) if request.schema is not None else None
        if self.api == "responses":
            return responses.asked(request, schema)
        if self.api == "completion":
            if request.tools:
                raise ProviderError(f'{self.name}: api="completion" carries no tools.')
            return {"prompt": self._prompt(request)}
        messages = list(request.messages)
        asked: dict[str, Any] = {"messages": messages}
        if schema is not None and self.provider.schemas:
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif schema is not None:
            asked["messages"] = [{"role": "system", "content": in_words(request.schema)}, *messages]
            asked["response_format"] = {"type": "json_object"}
        if request.tools:
            asked["tools"] = list(request.tools)
        return asked

    def _prompt(self, request: Request) -> str:
        """Return the text of all messages, with blank lines between them: a completion knows no roles."""
        texts = [message.get("content") for message in request.messages]
        if not all(isinstance(text, str) for text in texts):
            texts = [self._text(text) for text in texts]
        return "\n\n".join(texts)

    def _text(self, content: Any) -> str:
        if not isinstance(content, str) and any(part.get("type") != "text" for part in content):
            raise ProviderError(f'{self.name}: api="completion" carries text alone, no images.')
        return _parts(content)[0]

    def _schema(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        if schema != self._strict[0]:
            self._strict = (schema, strict(schema))
        return self._strict[1]


def _parameters(sampling: dict[str, Any], provider: Provider, api: str) -> dict[str, Any]:
    """Return the parameters that are set, by the names that the provider and the api have for them."""
    reasoning = sampling.pop("reasoning", None)
    named = {provider.renames.get(name, name): value for name, value in sampling.items()}
    if api == "responses" and "max_tokens" in sampling:
        named["max_output_tokens"] = named.pop(provider.renames.get("max_tokens", "max_tokens"))
    elif api == "completion" and "max_tokens" in sampling:
        named["max_tokens"] = named.pop(provider.renames.get("max_tokens", "max_tokens"))
    if reasoning is None:
        return named
    if api == "responses":
        return {**named, "reasoning": {"effort": reasoning}}
    if isinstance(reasoning, str):
        return {**named, "reasoning_effort": reasoning}
    return {**named, "reasoning": {"max_tokens": reasoning}}  # OpenRouter's: nobody else takes a number


def _cached(usage: dict[str, Any]) -> int:
    """Return how many of a prompt's tokens the service had kept; DeepSeek has a word of its own for them."""
    details = usage.get("prompt_tokens_details") or {}
    return details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0


def _merged(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return a body with further fields, which win; fields that are objects on both sides are joined."""
    both = {name for name, value in extra.items() if isinstance(value, dict) and isinstance(body.get(name), dict)}
    return {**body, **extra, **{name: {**body[name], **extra[name]} for name in both}}


def _parts(content: Any) -> tuple[str, str | None]:
    """Return a message's text and its thinking: some services answer in parts (Mistral)."""
    if content is None or isinstance(content, str):
        return content or "", None
    text = "".join(part["text"] for part in content if part["type"] == "text")
    thinking = "".join(_parts(part["thinking"])[0] for part in content if part["type"] == "thinking")
    return text, thinking or None
