"""The road over our own HTTP: what is sent, what comes back, and what a service's refusals mean."""

import asyncio
import json
import time
import urllib.request
from email.utils import formatdate

import aiohttp
import pytest
from conftest import Service

from ddmake import llm
from ddmake.backends import check_name, open_service, providers
from ddmake.backends.base import Answer, Request, Retry, Unreachable
from ddmake.backends.openai import OpenAI
from ddmake.backends.refusals import wait_of
from ddmake.backends.strict import strict
from ddmake.backends.wire import Wire
from ddmake.errors import ProviderError

HI = ({"role": "user", "content": "hi"},)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
CLOSED = {**SCHEMA, "additionalProperties": False, "required": ["a", "b"]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for provider in providers.PROVIDERS.values():
        for name in (*provider.keys, *provider.addresses):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running():
    found = Service(0.0)
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture
def fake(running):
    urllib.request.urlopen(urllib.request.Request(f"{running.root}/reset", data=b"")).close()
    return running


PLAIN = Request(HI)


def ask(fake, request=PLAIN, heard=lambda status, headers: None, name="openai/toy", **parameters):
    """Ask the fake service once."""
    async def once():
        async with aiohttp.ClientSession() as session:
            service = open_service(llm(name, base_url=fake.url, **parameters), session)
            return await service.ask(request, heard)
    return asyncio.run(once())


# --- what is sent ---------------------------------------------------------------------------------------------------------

BODIES = {  # name, parameters, request -> body, the model and a plain message aside
    "nothing that isn't set": ("openai/m", {}, {}, {}),
    "sampling": ("x/m", dict(base_url="http://h/v1", temperature=0.5, top_p=0.9, top_k=4, max_tokens=7, stop="###"), {},
                 {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "max_tokens": 7, "stop": "###"}),
    "OpenAI's max_tokens": ("openai/m", dict(max_tokens=7), {}, {"max_completion_tokens": 7}),
    "Azure's max_tokens": ("azure/m", dict(max_tokens=7), {}, {"max_completion_tokens": 7}),
    "OpenAI in a region": ("openai/m", dict(max_tokens=7, base_url="https://eu.api.openai.com/v1"), {}, {"max_completion_tokens": 7}),
    "openai elsewhere": ("openai/m", dict(max_tokens=7, base_url="http://h/v1"), {}, {"max_tokens": 7}),
    "another provider's": ("groq/m", dict(max_tokens=7), {}, {"max_tokens": 7}),
    "the seed of a first sample": ("openai/m", dict(seed=40), {}, {"seed": 40}),
    "the seed of a third sample": ("openai/m", dict(seed=40), dict(sample=2), {"seed": 42}),
    "no seed for samples unless stated": ("openai/m", {}, dict(sample=2, attempt=1, epoch=1), {}),
    "Mistral's seed": ("mistral/m", dict(seed=40), dict(sample=2), {"random_seed": 42}),
    "effort": ("openai/m", dict(reasoning="low"), {}, {"reasoning_effort": "low"}),
    "tokens to think": ("openrouter/m", dict(reasoning=512), {}, {"reasoning": {"max_tokens": 512}}),
    "extra": ("openai/m", dict(temperature=1.0, extra={"logprobs": True, "temperature": 2.0}), {}, {"temperature": 2.0, "logprobs": True}),
    "schema": ("openai/m", {}, dict(schema=SCHEMA), {"response_format": {
        "type": "json_schema", "json_schema": {"name": "answer", "schema": CLOSED, "strict": True}}}),
    "tools": ("openai/m", {}, dict(tools=(TOOL,)), {"tools": [TOOL]}),
    "completion": ("openai/m", dict(api="completion", max_tokens=7), {}, {"prompt": "hi", "max_tokens": 7}),
    "responses": ("openai/m", dict(api="responses", max_tokens=7, reasoning="low", temperature=0.5), dict(schema=SCHEMA, tools=(TOOL,)), {
        "input": [{"role": "user", "content": "hi"}], "max_output_tokens": 7, "reasoning": {"effort": "low"}, "temperature": 0.5,
        "tools": [{"type": "function", **TOOL["function"]}],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}}}),
    "extra beside a schema": ("openai/m", dict(api="responses", extra={"text": {"verbosity": "low"}}), dict(schema=SCHEMA), {
        "input": [{"role": "user", "content": "hi"}],
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}}}),
}


@pytest.mark.parametrize("case", BODIES)
def test_what_is_sent(case):
    name, parameters, asked, expected = BODIES[case]
    spec = llm(name, **parameters)
    body = Wire(spec).body(Request(HI, **asked))
    plain = {} if spec.api in ("completion", "responses") else {"messages": list(HI)}
    assert body == {"model": "m", **plain, **expected}
    assert providers.unsupported(spec) is None


def test_a_service_without_schemas_is_told_in_words():
    body = Wire(llm("deepseek/m")).body(Request(HI, SCHEMA))
    assert body["response_format"] == {"type": "json_object"}
    assert json.dumps(SCHEMA) in body["messages"][0]["content"] and body["messages"][1:] == list(HI)


TURNS = (
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "a cat"}, {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": "Sure?"},
)


def test_chat_gets_turns_pictures_and_tools_as_they_are():
    assert Wire(llm("openai/m")).body(Request(TURNS))["messages"] == list(TURNS)


def test_responses_get_turns_pictures_and_tools_in_their_own_form():
    body = Wire(llm("openai/m", api="responses")).body(Request(TURNS))
    assert body == {"model": "m", "instructions": "Be brief.", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "What?"},
                                     {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "A cat."}]},
        {"role": "user", "content": "Sure?"},
    ]}


def test_a_completion_is_the_text_of_all_turns():
    wire = Wire(llm("openai/m", api="completion"))
    texts = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Go"}]})
    assert wire.body(Request(texts))["prompt"] == "Be brief.\n\nGo"
    for request, told in ((Request(TURNS[:2]), "no images"), (Request(HI, tools=(TOOL,)), "no tools")):
        with pytest.raises(ProviderError, match=told):
            wire.body(request)


def test_each_schema_is_sent_as_itself():
    wire = Wire(llm("openai/m"))
    other = {"type": "object", "properties": {"c": {"type": "string"}}}
    sent = [wire.body(Request(HI, schema))["response_format"]["json_schema"]["schema"] for schema in (SCHEMA, other, SCHEMA)]
    assert [list(schema["properties"]) for schema in sent] == [["a", "b"], ["c"], ["a", "b"]]


STRICT = {  # schema -> what strict mode gets, None where it can't have it
    "all is required, nothing else allowed": (SCHEMA, CLOSED),
    "within": ({"type": "array", "items": SCHEMA}, {"type": "array", "items": CLOSED}),
    "definitions": ({"$ref": "#/$defs/x", "$defs": {"x": SCHEMA}}, {"anyOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": CLOSED}}),
    "a described reference": ({"properties": {"x": {"$ref": "#/$defs/x", "description": "d"}}}, {
        "properties": {"x": {"anyOf": [{"$ref": "#/$defs/x"}], "description": "d"}}, "additionalProperties": False, "required": ["x"]}),
    "defaults go": ({"type": "object", "properties": {"default": {"type": "string", "default": "x"}}}, {
        "type": "object", "properties": {"default": {"type": "string"}}, "additionalProperties": False, "required": ["default"]}),
    "an open object": ({"type": "object"}, None),
    "a map": ({"type": "object", "properties": {"m": {"type": "object", "additionalProperties": {"type": "integer"}}}}, None),
}


@pytest.mark.parametrize("case", STRICT)
def test_a_schema_for_strict_mode(case):
    schema, expected = STRICT[case]
    before = json.dumps(schema)
    sent = strict(schema)
    assert sent == ({"name": "answer", "schema": schema} if expected is None else {"name": "answer", "schema": expected, "strict": True})
    assert json.dumps(schema) == before, "the schema itself is left as it is"


# --- what comes back ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("api, path", [(None, "chat/completions"), ("completion", "completions"), ("responses", "responses")])
def test_each_api_is_asked_at_its_path_and_read(fake, api, path):
    answer = ask(fake, api=api)
    assert (answer, answer.model, answer.finish_reason, answer.error) == ("HI", "toy", "stop", None)
    assert answer.tokens_in > 0 and answer.tokens_out == 0
    assert fake.counts()["paths"] == {f"/v1/{path}": 1}


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_schema_tools_thinking_and_a_cut(fake, api):
    fake.fail(0.0, reasoning="let me see")
    answer = ask(fake, Request(HI, SCHEMA), api=api)
    assert json.loads(answer) == {"a": 2, "b": "HI"} and answer.reasoning == "let me see"
    fake.fail(0.0, call=True)
    answer = ask(fake, Request(HI, tools=(TOOL,)), api=api)
    assert (answer, answer.finish_reason) == ("", "tool_calls")
    assert answer.tool_calls == ({"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"word": "HI"}'}},)
    fake.fail(0.0, finish="length", call=False)
    assert ask(fake, api=api).finish_reason == "length"
    fake.fail(0.0, finish="content_filter")
    answer = ask(fake, api=api)
    assert answer.unusable() == "refused: content_filter" and answer.unusable({"content_filter"}) is None


def test_tokens_that_nobody_tells_are_unknown(fake):
    fake.fail(0.0, usage=None)
    assert (ask(fake).tokens_in, ask(fake).tokens_out) == (None, None)


def test_headers_are_heard_even_of_a_refusal(fake):
    heard = []
    fake.fail(0.0, headers={"x-ratelimit-remaining-requests": "7"}, prompts={"bad": "400"})
    for text in ("hi", "bad"):
        ask(fake, Request(({"role": "user", "content": text},)), lambda status, headers: heard.append((status, headers["X-RateLimit-Remaining-Requests"])))
    assert heard == [(200, "7"), (400, "7")]


def read(reply, name="openai/m", **parameters):
    return Wire(llm(name, **parameters)).read(reply, {})


def message(finish="stop", **content):
    return {"choices": [{"message": content, "finish_reason": finish}]}


REPLIES = {  # reply -> text and what else the answer holds
    "nothing said": (message(content=None), "", {"finish_reason": "stop"}),
    "vLLM's thinking": (message(content="a", reasoning="r"), "a", {"reasoning": "r"}),
    "Mistral's parts": (message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "r"}]}, {"type": "text", "text": "a"}]),
                        "a", {"reasoning": "r"}),
    "a full context": (message("model_length", content="a"), "a", {"finish_reason": "length"}),
    "a refusal": (message(content=None, refusal="I won't."), "", {"finish_reason": "content_filter", "error": "refused: I won't."}),
    "an error about the prompt": ({"error": {"code": 400, "message": "too long"}}, "", {"error": "400: too long"}),
    "a moderation": ({"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"]}}}, "",
                     {"error": "refused: flagged", "finish_reason": "content_filter"}),
}


@pytest.mark.parametrize("case", REPLIES)
def test_a_reply_is_read(case):
    reply, text, expected = REPLIES[case]
    answer = read(reply)
    assert answer == text
    assert {name: getattr(answer, name) for name in expected} == expected


def test_a_response_is_read():
    spoken = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
              {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]
    answer = read({"status": "completed", "output": spoken, "model": "m-1"}, api="responses")
    assert (answer.error, answer.finish_reason, answer.reasoning, answer.model) == ("refused: No.", "content_filter", "r", "m-1")


@pytest.mark.parametrize("usage, cached", [
    ({}, 0), ({"prompt_tokens_details": None}, 0), ({"prompt_tokens_details": {"cached_tokens": 5}}, 5), ({"prompt_cache_hit_tokens": 4}, 4),
])
def test_tokens_that_the_service_had_kept(usage, cached):
    assert read({**message(content="a"), "usage": usage}).tokens_cached == cached
    response = {"status": "completed", "output": [], "usage": {"input_tokens_details": usage.get("prompt_tokens_details")}}
    assert read(response, api="responses").tokens_cached == (cached if cached != 4 else 0)


def test_openrouter_tells_the_cost_in_dollars_and_nobody_else_is_believed():
    reply = {**message(content="a"), "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.25}}
    assert read(reply, "openrouter/a/m").cost == 0.25
    assert read(reply).cost is None


@pytest.mark.parametrize("reply, status", [
    ({}, 200), ([], 200), (None, 200), ({"choices": []}, 200), ({"choices": [None]}, 200), ({"choices": [{"message": None}]}, 200),
    ({"error": {"code": 502, "message": "gone"}}, 502), ({"error": "gone"}, 500),
    ({"choices": [{"message": {"content": "ha"}, "finish_reason": "error", "error": {"code": 429, "message": "busy"}}]}, 429),
    (message("error", content="ha"), 500),
])
def test_a_reply_without_an_answer_is_asked_for_again(reply, status):
    with pytest.raises(Retry) as caught:
        read(reply)
    assert caught.value.status == status


@pytest.mark.parametrize("reply, status", [
    ({"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "busy"}}, 429), ({"status": "in_progress"}, 200),
    ({"status": "failed", "error": {"code": "server_error", "message": "oh"}}, 500), ({"status": "completed", "output": [{}]}, 200),
])
def test_a_response_without_an_answer_is_asked_for_again(reply, status):
    with pytest.raises(Retry) as caught:
        read(reply, api="responses")
    assert caught.value.status == status


# --- refusals -------------------------------------------------------------------------------------------------------------

FAULTS = {  # kind -> what is raised or answered
    "400": (Answer, {"error": "400: no luck: 400", "finish_reason": None}), "413": (Answer, {"error": "413: no luck: 413"}),
    "422": (Answer, {"error": "422: no luck: 422"}), "filter": (Answer, {"error": "refused: no luck: filter", "finish_reason": "content_filter"}),
    "429": (Retry, {"status": 429, "wait": 0.05, "paid": False}), "503": (Retry, {"status": 503, "wait": 0.05, "paid": False}),
    "408": (Retry, {"status": 408, "wait": None, "paid": True}), "409": (Retry, {"status": 409}), "425": (Retry, {"status": 425}),
    "500": (Retry, {"status": 500, "wait": None, "paid": True}), "529": (Retry, {"status": 529}),
    "cut": (Retry, {"status": 200, "paid": True}), "page": (Retry, {"status": 200, "paid": True}),
    "empty": (Retry, {"status": 200, "paid": True}), "error200": (Retry, {"status": 502}),
    "reset": (Retry, {"status": None, "paid": True}), "hang": (Retry, {"status": None, "paid": True}),
    "401": (ProviderError, 'openai/toy answered 401: "no luck: 401" (OPENAI_API_KEY is not set)'),
    "403": (ProviderError, 'openai/toy answered 403: "no luck: 403" (OPENAI_API_KEY is not set)'),
    "404": (ProviderError, 'openai/toy answered 404: "no luck: 404"'), "402": (ProviderError, 'openai/toy answered 402: "no luck: 402"'),
    "405": (ProviderError, 'openai/toy answered 405: "no luck: 405"'), "307": (ProviderError, 'openai/toy answered 307: "no luck: 307"'),
    "credit": (ProviderError, 'openai/toy answered 429: "no luck: credit"'),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_refusal_means(fake, kind):
    fake.fail(1.0, kind)
    expected, told = FAULTS[kind]
    if expected is Answer:
        found = ask(fake)
    else:
        with pytest.raises(expected) as caught:
            ask(fake, timeout=0.3)
        found = caught.value
    if expected is ProviderError:
        assert str(found) == told
    else:
        assert {name: getattr(found, name) for name in told} == told
    assert fake.counts()["requests"] == 1, "one try is one request"


WAITS = {
    "none": ({}, None), "seconds": ({"Retry-After": "1.5"}, 1.5), "nothing": ({"Retry-After": "-1"}, 0.0),
    "milliseconds win": ({"Retry-After": "9", "retry-after-ms": "250"}, 0.25), "nonsense": ({"Retry-After": "soon"}, None),
}


@pytest.mark.parametrize("case", WAITS)
def test_how_long_a_service_asks_to_wait(case):
    headers, expected = WAITS[case]
    assert wait_of(headers) == expected


def test_a_date_to_wait_for():
    assert 3000 < wait_of({"Retry-After": formatdate(time.time() + 3600, usegmt=True)}) < 3601
    assert wait_of({"Retry-After": formatdate(time.time() - 60)}) == 0.0


def test_a_credit_that_comes_back_is_waited_for(fake):
    fake.fail(1.0, "402", headers={"Retry-After": "2"})
    with pytest.raises(Retry) as caught:
        ask(fake)
    assert (caught.value.wait, caught.value.paid) == (2.0, False)


def test_nobody_there():
    class Nobody:
        url = "http://127.0.0.1:9/v1"
    with pytest.raises(Unreachable, match="can't be reached at http://127.0.0.1:9/v1: ") as caught:
        ask(Nobody)
    assert caught.value.paid is False and caught.value.status is None


# --- keys and addresses ---------------------------------------------------------------------------------------------------

def test_a_key_is_sent_and_never_told(fake, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    ask(fake, api_key_env="MY_KEY")
    assert fake.counts()["headers"]["Authorization"] == "Bearer sk-secret"
    spec = llm("openai/toy", base_url=fake.url, api_key_env="MY_KEY")
    assert "sk-secret" not in f"{providers.account(spec)}{providers.identity(spec)}{OpenAI(spec, None)!r}"
    fake.fail(0.0, prompts={"hi": "401"})
    with pytest.raises(ProviderError, match="MY_KEY is set"):
        ask(fake, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "luck")  # as if the service repeated it
    with pytest.raises(ProviderError, match='"no …: 401"'):
        ask(fake, api_key_env="MY_KEY")


def test_a_user_and_password_in_the_address_are_sent_in_place_of_a_key(fake, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")

    class Guarded:
        url = fake.url.replace("http://", "http://me:pw@")
    assert ask(Guarded, api_key_env="MY_KEY") == "HI"
    assert fake.counts()["headers"]["Authorization"] == "Basic bWU6cHc="


def test_openai_s_key_goes_to_no_other_service(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ask(fake, name="lab/toy")
    assert "Authorization" not in fake.counts()["headers"]
    ask(fake, name="mistral/toy")
    assert "Authorization" not in fake.counts()["headers"]


def test_azure_has_its_own_header_and_path(monkeypatch):
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com/")
    monkeypatch.setenv("AZURE_API_KEY", "k")
    service = OpenAI(llm("azure/mine"), None)
    assert str(service.url) == "https://me.openai.azure.com/openai/v1/chat/completions"
    assert service._headers["api-key"] == "k" and "Authorization" not in service._headers


ADDRESSES = {  # name, base_url, environment -> address
    "openai": ("openai/m", None, {}, "https://api.openai.com/v1"),
    "openai by the environment": ("openai/m", None, {"OPENAI_BASE_URL": "http://lab/v1/"}, "http://lab/v1"),
    "base_url wins": ("openai/m", "http://mine/v1", {"OPENAI_BASE_URL": "http://lab/v1"}, "http://mine/v1"),
    "an alias": ("together/m", None, {}, "https://api.together.ai/v1"),
    "vllm": ("vllm/m", None, {}, "http://127.0.0.1:8000/v1"),
    "ollama": ("ollama/m", None, {}, "http://127.0.0.1:11434/v1"),
    "ollama on all interfaces": ("ollama/m", None, {"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434/v1"),
    "ollama elsewhere": ("ollama/m", None, {"OLLAMA_HOST": "lab:99"}, "http://lab:99/v1"),
    "azure": ("azure/m", None, {"AZURE_API_BASE": "https://me.openai.azure.com"}, "https://me.openai.azure.com/openai/v1"),
    "azure, a whole address": ("azure/m", "https://me.azure.com/openai/deployments/d?api-version=1", {},
                               "https://me.azure.com/openai/deployments/d?api-version=1"),
    "anybody": ("lab/m", "http://lab:8000/v1", {}, "http://lab:8000/v1"),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_where_a_provider_is(case, monkeypatch):
    name, base_url, environment, expected = ADDRESSES[case]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert providers.address(llm(name, base_url=base_url)) == expected


def test_the_environment_s_proxy_is_used_but_not_for_what_is_near(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "near")
    assert OpenAI(llm("lab/m", base_url="http://far/v1"), None)._proxy == "http://proxy:3128"
    assert OpenAI(llm("lab/m", base_url="http://near/v1"), None)._proxy is None


def test_a_query_in_an_address_stays_behind_the_path():
    service = OpenAI(llm("lab/m", base_url="http://lab/d?api-version=1"), None)
    assert str(service.url) == "http://lab/d/chat/completions?api-version=1"


IDENTITIES = {
    "a provider": ("openai/m", {}, {"endpoint": "https://api.openai.com/v1", "model": "m"}),
    "a base_url": ("openai/m", dict(base_url="http://h:1/v1/"), {"endpoint": "http://h:1/v1", "model": "m"}),
    "no secret in it": ("x/m", dict(base_url="http://me:pw@h:1/v1?key=k"), {"endpoint": "http://h:1/v1", "model": "m"}),
    "an identity of one's own": ("x/m", dict(base_url="http://h:1/v1", identity="lab"), {"endpoint": "lab", "model": "m"}),
    "another api": ("openai/m", dict(api="responses"), {"endpoint": "https://api.openai.com/v1", "model": "m", "api": "responses"}),
    "the usual api, stated": ("openai/m", dict(api="chat"), {"endpoint": "https://api.openai.com/v1", "model": "m"}),
    "over LiteLLM": ("anthropic/m", {}, {"endpoint": "anthropic", "model": "m"}),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_what_tells_a_model_from_others(case):
    name, parameters, expected = IDENTITIES[case]
    assert providers.identity(llm(name, **parameters)) == expected


def test_limits_are_counted_by_endpoint_and_key(monkeypatch):
    monkeypatch.setenv("A", "one")
    monkeypatch.setenv("B", "two")
    of = lambda **more: providers.account(llm("openai/m", **more))
    assert len({of(api_key_env="A"), of(api_key_env="B"), of(api_key_env="A", base_url="http://h/v1")}) == 3
    assert of(api_key_env="A") == providers.account(llm("openai/another", temperature=1.0, api_key_env="A"))


@pytest.mark.parametrize("name, parameters, road", [
    ("hf/m", {}, "local"), ("tiny", {}, "local"), ("echo", {}, "local"), ("openai/m", {}, "http"), ("fireworks/m", {}, "http"),
    ("nobody/m", dict(base_url="http://h/v1"), "http"), ("anthropic/m", dict(base_url="http://h/v1"), "http"),
    ("anthropic/m", {}, "litellm"), ("cohere/m", {}, "litellm"),
])
def test_by_which_road(name, parameters, road):
    spec = llm(name, **parameters)
    assert providers.road(spec) == road
    assert providers.is_remote(spec) == (road != "local")


@pytest.mark.parametrize("name, parameters, told", [
    ("openai/m", {}, "openai/m needs an API key: set OPENAI_API_KEY"), ("openai/m", dict(base_url="http://h/v1"), None),
    ("openai/m", dict(base_url="http://h/v1", api_key_env="MINE"), "set MINE"), ("vllm/m", {}, None),
    ("together/m", {}, "set TOGETHERAI_API_KEY"), ("azure/m", {}, "set AZURE_API_KEY"), ("echo", {}, None),
])
def test_a_missing_key_is_named(name, parameters, told):
    found = providers.missing_key(llm(name, **parameters))
    assert found is None if told is None else told in found


def test_a_missing_address_is_named(monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "k")
    assert providers.missing_key(llm("azure/m")) == "azure/m has no address: set AZURE_API_BASE, or state base_url=…."


@pytest.mark.parametrize("name, parameters, told", [
    ("openai/m", dict(top_k=3), "llm('openai/m'): openai takes no top_k. Leave it out"), ("azure/m", dict(top_k=3), "takes no top_k"),
    ("deepseek/m", dict(seed=3), "takes no seed"), ("vllm/m", dict(top_k=3, seed=3), None),
    ("openai/m", dict(top_k=3, base_url="http://h/v1"), None), ("ollama/m", dict(top_k=3), "takes no top_k"),
    ("openai/m", dict(reasoning=512), "takes no number of tokens for reasoning"), ("openrouter/m", dict(reasoning=512), None),
    ("openai/m", dict(api="responses", stop="x"), 'openai by api="responses" takes no stop'),
    ("openrouter/m", dict(api="completion", reasoning=512), "takes no number of tokens"), ("echo", dict(top_k=3), None),
])
def test_what_a_provider_does_not_take_is_known_before(name, parameters, told):
    found = providers.unsupported(llm(name, **parameters))
    assert found is None if told is None else told in found


@pytest.mark.parametrize("name, base_url, told", [
    ("openai/gpt-4o", None, None), ("together/m", None, None), ("anthropic/claude", None, None), ("lab/m", "http://h/v1", None),
    ("opnai/m", None, "Did you mean 'openai'?"), ("antropic/m", None, "Did you mean 'anthropic'?"), ("petals/m", None, "Petals"),
    ("openai", None, "names no model"), ("lab/m", "h:8000/v1", "is no address"),
])
def test_a_name_is_checked(name, base_url, told):
    found = check_name(name, base_url)
    assert found is None if told is None else told in found
