"""Each provider of the paper's Table 2 against its served wire format: what it receives, and what comes back of it."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from fake_providers import FakeProviders

from ddmake.backends import check_name, open_service, others, supported
from ddmake.backends.base import Answer, Request, Retry, Unreachable
from ddmake.ddfile.specs import LLM
from ddmake.errors import ProviderError

pytestmark = pytest.mark.filterwarnings("ignore:Item")  # pydantic's, over LiteLLM's types for Cohere
KEYS = ("ANTHROPIC_API_KEY", "COHERE_API_KEY", "AI21_API_KEY", "GEMINI_API_KEY", "HF_TOKEN", "MISTRAL_API_KEY", "TOGETHERAI_API_KEY", "OPENAI_API_KEY")
ELSE = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret-aws", "AWS_REGION_NAME": "eu-west-1",
        "VERTEXAI_PROJECT": "my-project", "VERTEXAI_LOCATION": "europe-west1"}
OVER_LITELLM = {  # as it is named -> what its api_base ends with, the path that is asked, the header of the key
    "anthropic/claude-sonnet-4-5": ("", "/v1/messages", "x-api-key: key of ANTHROPIC_API_KEY"),
    "cohere/command-a-03-2025": ("/v2/chat", "/v2/chat", "Authorization: Bearer key of COHERE_API_KEY"),
    "ai21/jamba-large": ("/studio/v1", "/studio/v1/chat/completions", "Authorization: Bearer key of AI21_API_KEY"),
    "bedrock/eu.amazon.nova-pro-v1:0": ("", "/model/eu.amazon.nova-pro-v1:0/converse", "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
    "vertex/gemini-2.5-pro": ("", "/v1/projects/my-project/locations/europe-west1/publishers/google/models/gemini-2.5-pro:generateContent",
                              "Authorization: Bearer token of Google"),
    "gemini/gemini-2.5-pro": ("", "/models/gemini-2.5-pro:generateContent", "x-goog-api-key: key of GEMINI_API_KEY"),
    "huggingface/together/org/model": ("", "/v1/chat/completions", "Authorization: Bearer key of HF_TOKEN"),
}
OVER_HTTP = {
    "openai/gpt-4o": ("", "/v1/chat/completions", "Authorization: Bearer key of OPENAI_API_KEY"),
    "together/org/model": ("", "/v1/chat/completions", "Authorization: Bearer key of TOGETHERAI_API_KEY"),
    "mistral/mistral-large": ("", "/v1/chat/completions", "Authorization: Bearer key of MISTRAL_API_KEY"),
    "vllm/org/model": ("", "/v1/chat/completions", None),
    "llamacpp/model": ("", "/v1/chat/completions", None),
    "tgi/model": ("", "/v1/chat/completions", None),
}
ADDRESSES = {"together": "TOGETHER_AI_API_BASE", "mistral": "MISTRAL_API_BASE"}


class Asker:
    """Asks llms on one event loop, as the caller does."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.fake = self.run(FakeProviders().start())
        self.session = self.run(self._session())
        self.services, self.heard = [], []

    async def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def ask(self, name: str, prompt: str = "hello", request: dict | None = None, **parameters) -> Answer:
        self.fake.received.clear()
        self.heard.clear()
        return self.ask_at(self.fake.url, name, prompt, request, **parameters)

    def ask_at(self, url: str, name: str, prompt: str, request: dict | None = None, **parameters) -> Answer:
        spec = LLM(name, **self.addressed(url, name), **parameters)
        messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt})
        return self.run(self.service(spec).ask(Request(messages, **request or {}), lambda *told: self.heard.append(told)))

    def addressed(self, url: str, name: str) -> dict:
        """Return what leads an llm to a server: a base_url that isn't the provider's own would get no key."""
        kind = name.partition("/")[0]
        ends = {known.partition("/")[0]: end for known, (end, _, _) in OVER_LITELLM.items()}
        if kind in ends:
            return {"extra": {"api_base": url + ends[kind]}}
        if kind in ADDRESSES:
            os.environ[ADDRESSES[kind]] = f"{url}/v1"
            return {}
        return {"base_url": f"{url}/v1"}

    def service(self, spec: LLM):
        self.services.append(open_service(spec, self.session))
        return self.services[-1]

    async def _close(self) -> None:
        for service in self.services:
            await service.close()
        await self.session.close()
        await self.fake.stop()

    def close(self) -> None:
        self.run(self._close())
        self.loop.close()


@pytest.fixture(scope="module")
def asker():
    patch = pytest.MonkeyPatch()
    for name in set(os.environ) - {"PATH", "HOME"}:
        if name.endswith(("_KEY", "_TOKEN")) or name.startswith("AWS"):
            patch.delenv(name)
    for name, value in {**{name: f"key of {name}" for name in KEYS}, **ELSE}.items():
        patch.setenv(name, value)
    for name in ADDRESSES.values():
        patch.setenv(name, "")
    asker = Asker()
    yield asker
    asker.close()
    patch.undo()


@pytest.fixture(autouse=True)
def token(monkeypatch, request):
    """Stand in for google-auth, which asks Google for a token."""
    if "vertex" in request.node.name:
        others._load()
        from litellm.llms.vertex_ai.vertex_llm_base import VertexBase

        async def found(self, *args, **rest):
            return "token of Google", "my-project"

        monkeypatch.setattr(VertexBase, "_ensure_access_token_async", found)
        monkeypatch.setattr(supported, "find_spec", lambda name: True)


def names(of: dict) -> list:
    return [pytest.param(name, id=name.partition("/")[0]) for name in of]


@pytest.mark.slow
@pytest.mark.parametrize("name", names({**OVER_LITELLM, **OVER_HTTP}))
def test_a_provider_is_asked_as_it_expects(asker, name):
    _, path, header = {**OVER_LITELLM, **OVER_HTTP}[name]
    answer = asker.ask(name, temperature=0.5, max_tokens=9)
    (received,) = asker.fake.received
    assert received.path == path
    sent = header.split(": ", 1) if header else ("Authorization", "")
    assert received.headers.get(sent[0], "").startswith(sent[1]) and ("Authorization" in received.headers) == (sent[0] == "Authorization" and bool(header))
    body = json.dumps(received.body)
    assert "hello" in body and "Be brief." in body and "0.5" in body and "9" in body and "key of" not in body
    assert not {"n", "api_base", "max_retries", "timeout", "drop_params"} & set(received.body)
    assert (answer, answer.finish_reason, answer.tokens_in, answer.tokens_out, answer.error) == ("HELLO", "stop", 11, 3, None)


@pytest.mark.parametrize("name", names({**OVER_LITELLM, **OVER_HTTP}))
def test_what_went_wrong_is_told_apart(asker, name):
    with pytest.raises(ProviderError, match=re.escape(name) + ' answered 401: "invalid x-api-key" \\('):
        asker.ask(name, "fail 401")
    with pytest.raises(ProviderError, match='answered 404: "no such model"'):
        asker.ask(name, "fail 404")
    with pytest.raises(ProviderError, match='answered 402: "no credit left"'):
        asker.ask(name, "fail credit")
    with pytest.raises(Retry, match="429: rate limit reached") as told:
        asker.ask(name, "fail 429")
    assert (told.value.status, told.value.wait, told.value.paid) == (429, 7.0, False)
    assert [(status, headers["X-RateLimit-Remaining-Requests"]) for status, headers in asker.heard] == [(429, "41")]
    with pytest.raises(Retry, match="500: overloaded"):
        asker.ask(name, "fail 500")
    with pytest.raises(Retry):
        asker.ask(name, "fail garbage")
    long = asker.ask(name, "fail long")
    assert long == "" and long.error == "400: prompt is too long: 250000 tokens > 200000 maximum" and long.finish_reason is None
    assert asker.ask(name, "fail bad, rate limit, 429, context_length_exceeded").error == "400: field `colour` is unknown"


@pytest.mark.parametrize("name", names({**OVER_LITELLM, **OVER_HTTP}))
def test_an_answer_that_was_cut_or_refused_says_so(asker, name):
    assert asker.ask(name, "fail cut").finish_reason == "length"
    refused = asker.ask(name, "fail filter")
    assert refused.finish_reason == "content_filter" and refused.error.startswith("refused")


def parameters_of(body: dict) -> dict:
    """Return what an Anthropic request has beside its prompt."""
    return {name: value for name, value in body.items() if name not in ("messages", "system", "model")}


CLAUDE, SCHEMA = "anthropic/claude-sonnet-4-5", {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
TOOL = {"type": "function", "function": {"name": "find", "description": "Find.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}}


@pytest.mark.parametrize("stated, sent", [
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9, "top_k": 7}),
    ({"stop": ["END"]}, {"stop_sequences": ["END"]}),
    ({"reasoning": 2000}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
    ({"reasoning": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ({"extra": {"service_tier": "auto", "metadata": {"user_id": "u"}}}, {"service_tier": "auto", "metadata": {"user_id": "u"}}),
])
def test_parameters_arrive_and_unset_ones_are_not_sent(asker, monkeypatch, stated, sent):
    extra = {"api_base": asker.fake.url, **stated.pop("extra", {})}
    monkeypatch.setattr(asker, "addressed", lambda url, name: {"extra": extra})
    asker.ask(CLAUDE, max_tokens=4000, **stated)
    assert parameters_of(asker.fake.received[0].body) == {"max_tokens": 4000, **sent}


def test_the_samples_of_a_request_have_seeds_of_their_own(asker):
    seeds = []
    for sample in range(3):
        asker.ask("cohere/command-a-03-2025", request={"sample": sample}, seed=40)
        seeds.append(asker.fake.received[0].body["seed"])
    assert seeds == [40, 41, 42]


@pytest.mark.parametrize("name, where", [
    (CLAUDE, lambda body: body["output_format"]["schema"]),
    ("bedrock/eu.amazon.nova-pro-v1:0", lambda body: body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]),
    ("gemini/gemini-2.5-pro", lambda body: body["generationConfig"]["response_json_schema"]),
    ("cohere/command-a-03-2025", lambda body: json.loads(body["messages"][0]["content"].partition(": ")[2])),
], ids=["anthropic", "bedrock", "gemini", "cohere"])
def test_a_schema_is_sent_as_the_provider_takes_it(asker, name, where):
    asker.ask(name, request={"schema": SCHEMA})
    sent = where(asker.fake.received[0].body)
    assert {**sent, "additionalProperties": False} == {**SCHEMA, "additionalProperties": False}


@pytest.mark.parametrize("name", [CLAUDE, "cohere/command-a-03-2025"], ids=["anthropic", "cohere"])
def test_tools_are_sent_and_their_calls_come_back(asker, name):
    answer = asker.ask(name, "call find", {"tools": (TOOL,)})
    assert "find" in json.dumps(asker.fake.received[0].body["tools"])
    (call,) = answer.tool_calls
    assert (call["type"], call["function"]["name"], json.loads(call["function"]["arguments"])) == ("function", "find", {"q": "CALL FIND"})
    assert answer.finish_reason == "tool_calls"


def test_a_models_thinking_is_told(asker):
    assert asker.ask(CLAUDE).reasoning == "hm"


def test_a_new_model_of_googles_keeps_its_system_prompt(asker):
    asker.ask("gemini/gemini-99-mega")
    assert asker.fake.received[0].body["system_instruction"] == {"parts": [{"text": "Be brief."}]}


def test_a_completion_is_asked_with_the_prompt_alone(asker, monkeypatch):
    monkeypatch.setenv("CODESTRAL_API_KEY", "key of CODESTRAL_API_KEY")
    name = "text-completion-codestral/codestral-latest"
    monkeypatch.setattr(asker, "addressed", lambda url, name: {"extra": {"api_base": f"{url}/v1/fim/completions"}})
    assert asker.ask(name, api="completion") == "BE BRIEF.\n\nHELLO"
    assert asker.fake.received[0].body == {"model": "codestral-latest", "prompt": "Be brief.\n\nhello"}
    with pytest.raises(ProviderError, match="carries no tools"):
        asker.ask(name, "hello", {"tools": (TOOL,)}, api="completion")


def test_headers_are_heard_as_they_were_sent(asker):
    asker.ask(CLAUDE)
    ((status, headers),) = asker.heard
    assert status == 200 and headers["x-ratelimit-remaining-requests"] == headers["X-RateLimit-Remaining-Requests"] == "41"


def test_one_ask_is_one_request(asker):
    """OpenAI's client, which LiteLLM has for AI21, would try three times."""
    with pytest.raises(Retry):
        asker.ask("ai21/jamba-large", "fail 500")
    assert len(asker.fake.received) == 1


@pytest.mark.parametrize("name", [CLAUDE, "ai21/jamba-large"], ids=["anthropic", "ai21"])
def test_nobody_there_is_told_apart_from_a_failed_try(asker, name):
    with pytest.raises(Unreachable, match="can't be reached") as told:
        asker.ask_at("http://127.0.0.1:9", name, "hello")
    assert told.value.paid is False


def test_google_says_in_the_body_how_long_to_wait_and_with_400_that_a_key_is_bad(asker):
    with pytest.raises(Retry) as told:
        asker.ask("gemini/gemini-2.5-pro", "fail quota")
    assert (told.value.status, told.value.wait) == (429, 34.0)
    with pytest.raises(ProviderError, match=r'answered 400: "API key not valid.*" \(GEMINI_API_KEY is set\)'):
        asker.ask("gemini/gemini-2.5-pro", "fail key")
    with pytest.raises(ProviderError, match="credit balance is too low"):
        asker.ask(CLAUDE, "fail broke")


def test_a_key_that_is_repeated_is_not_told(asker):
    with pytest.raises(ProviderError) as told:
        asker.ask(CLAUDE, "fail echo")
    assert "key of" not in str(told.value) and "x-api-key: …" in str(told.value)


@pytest.mark.parametrize("parameters, sentence", [
    ({"name": CLAUDE, "seed": 1}, "anthropic takes no seed"),
    ({"name": "cohere/command-a", "top_k": 4}, "cohere_chat takes no top_k"),
    ({"name": "ai21/jamba-large", "reasoning": "low"}, "ai21 takes no reasoning"),
    ({"name": "vertex/gemini-3-pro-preview", "reasoning": 900}, "vertex/gemini-3-pro-preview takes no number of tokens for reasoning"),
    ({"name": CLAUDE, "api": "responses"}, "anthropic is asked by chat alone"),
    ({"name": CLAUDE, "temperature": 1, "top_p": 0.5, "top_k": 3, "max_tokens": 9, "stop": "x", "reasoning": 900}, None),
    ({"name": "vertex/gemini-2.5-pro", "seed": 3, "reasoning": "low"}, None),
    ({"name": "anthropic/claude-of-tomorrow", "reasoning": "low"}, None),
])
def test_a_parameter_that_is_not_taken_is_told_before_anything_is_sent(parameters, sentence):
    told = supported.unsupported(LLM(**parameters))
    assert told is None if sentence is None else told.startswith(f"llm({parameters['name']!r}): {sentence}")


def test_a_missing_key_is_told_by_its_variable(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert supported.missing("anthropic", None).startswith("anthropic needs an API key: set ANTHROPIC_API_KEY")
    assert "set MY_KEY" in supported.missing("anthropic", "MY_KEY")
    monkeypatch.setenv("MY_KEY", "x")
    assert supported.missing("anthropic", "MY_KEY") is None
    assert supported.missing("bedrock", None) is None  # AWS keeps credentials in many places


def test_openais_key_goes_to_nobody_else(asker):
    """LiteLLM would send it where a provider's own is missing."""
    with pytest.raises(ProviderError, match="deepinfra needs an API key: set DEEPINFRA_API_KEY"):
        asker.service(LLM("deepinfra/model", extra={"api_base": asker.fake.url}))


@pytest.mark.parametrize("name", ["petals/petals-team/StableBeluga2", "ctransformers/model", "openai_assistant/gpt-4o", "tgi/model"])
def test_what_is_gone_says_what_replaces_it(name):
    assert check_name(name, None).startswith(f"llm({name!r}): {supported.gone(name.partition('/')[0])}")


def test_planning_imports_no_litellm():
    code = "from ddmake.backends import supported, others; supported.providers(); import sys; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


PAGE = (Path(__file__).parent.parent / "docs" / "providers.md").read_text()


@pytest.mark.parametrize("name", names(OVER_LITELLM))
def test_the_page_on_providers_tells_what_the_table_has(name):
    provider = name.partition("/")[0]
    (row,) = re.findall(rf"^\|.*`{provider}/.*\| LiteLLM \| (.*?) \|", PAGE, re.MULTILINE)
    known = supported.facts(provider)
    has = {"n", "seed", "logprobs"} & set(known["takes"].split()) | ({"schema"} if known["schema"] else set())
    assert set(row.split(", ")) == has


def test_the_page_on_providers_names_them_all():
    assert not {name for name in supported.providers() if f"`{name}" not in PAGE} - {"ai21_chat"}
