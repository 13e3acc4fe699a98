"""Batch APIs: what each provider is sent, and how what it answers is read."""

import asyncio
import io
import json
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from ddmake.backends.base import Request, Retry
from ddmake.backends.batches import messages, no_batches, open_batches, vertex
from ddmake.backends.batches.base import Sent, custom_id
from ddmake.ddfile.specs import LLM
from ddmake.errors import ProviderError

TEXTS = ("one", "two", "three")
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
FAR = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "description": "1 to 5"}}, "required": ["score"]}


def turns(*messages):
    return Request(tuple({"role": role, "content": content, **more} for role, content, more in messages))


@pytest.mark.parametrize("given, request_, expected", [
    ({}, turns(("user", "hi", {})), {"messages": [{"role": "user", "content": "hi"}]}),
    ({"temperature": 0.5, "top_k": 3, "stop": "x"}, turns(("user", "hi", {})), {"temperature": 0.5, "top_k": 3, "stop_sequences": ["x"]}),
    ({"reasoning": 2000}, turns(("user", "hi", {})), {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
    ({"reasoning": "low"}, turns(("user", "hi", {})), {"output_config": {"effort": "low"}}),
    ({"extra": {"metadata": {"user_id": "u"}}}, turns(("user", "hi", {})), {"metadata": {"user_id": "u"}}),
    ({}, turns(("system", "Be brief.", {}), ("user", "hi", {}), ("assistant", "Yes?", {}), ("user", "go", {})),
     {"system": "Be brief.", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "go"}]}),
    ({}, turns(("user", [{"type": "text", "text": "see"}, PICTURE, FAR], {})),
     {"messages": [{"role": "user", "content": [
         {"type": "text", "text": "see"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
         {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}]}]}),
    ({}, turns(("user", "1+1?", {}), ("assistant", "", {"tool_calls": [CALL]}), ("tool", "2", {"tool_call_id": "c1"})),
     {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
                   {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]}]}),
    ({}, Request(({"role": "user", "content": "hi"},), tools=(TOOL,)),
     {"tools": [{"name": "add", "description": "Adds.", "input_schema": TOOL["function"]["parameters"]}]}),
    ({"reasoning": "low"}, Request(({"role": "user", "content": "hi"},), schema=SCHEMA),
     {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {
         "type": "object", "properties": {"score": {"type": "integer", "description": "1 to 5; minimum: 1"}}, "required": ["score"],
         "additionalProperties": False}}}}),
])
def test_what_anthropic_is_sent(given, request_, expected):
    sent = messages.body(messages.constant(LLM("anthropic/claude-toy", max_tokens=9, **given), "claude-toy"), request_)
    assert (sent["model"], sent["max_tokens"]) == ("claude-toy", 9)
    assert {name: sent.get(name) for name in expected} == expected


def test_what_anthropic_answers():
    message = {"model": "claude-toy", "stop_reason": "tool_use", "content": [
        {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "I add."}, {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}],
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 20, "output_tokens": 7}}
    answer = messages.read({"type": "succeeded", "message": message}, "x")
    assert (answer, answer.reasoning, answer.finish_reason, answer.tool_calls) == ("I add.", "Hm.", "tool_calls", (CALL,))
    assert (answer.tokens_in, answer.tokens_cached, answer.tokens_out) == (25, 20, 7)
    refused = messages.read({"type": "succeeded", "message": {**message, "stop_reason": "refusal"}}, "x")
    assert (refused.finish_reason, refused.error) == ("content_filter", "refused: content_filter")
    assert isinstance(messages.read({"type": "canceled"}, "x"), Retry)


@pytest.mark.parametrize("name, more, expected", [
    ("openai/gpt", {}, None),
    ("azure/gpt", {}, None),
    ("mistral/small", {}, None),
    ("anthropic/claude", {}, None),
    ("vertex_ai/gemini", {}, None),
    ("bedrock/amazon.nova", {}, None),
    ("own/model", {"base_url": "http://127.0.0.1:1/v1"}, None),
    ("deepseek/chat", {}, "batch=True isn't offered there"),
    ("cohere/command", {}, "batch=True isn't offered there"),
    ("hf/some/model", {}, "batch=True isn't offered there"),
    ("tiny", {}, "openai, azure, groq, mistral, anthropic, vertex_ai, bedrock have a batch API"),
])
def test_who_has_batches(name, more, expected):
    told = no_batches(LLM(name, **more))
    assert told is None if expected is None else expected in told


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-secret")


@pytest.mark.parametrize("name, given, expected", [
    ("anthropic/claude", {}, "Anthropic's batch API has to be told max_tokens. State it."),
    ("anthropic/claude", {"max_tokens": 9, "seed": 1}, "Anthropic takes no seed"),
    ("bedrock/amazon.nova", {}, "needs the bucket that requests and results lie in: set AWS_S3_BUCKET_NAME"),
    ("bedrock/invoke/amazon.nova", {}, "Write bedrock/amazon.nova."),
    ("bedrock/amazon.nova", {"top_k": 3}, "Bedrock's batch API has no top_k"),
    ("vertex_ai/gemini", {}, "set GCS_BATCH_BUCKET_NAME"),
])
def test_what_is_missing_is_told(monkeypatch, name, given, expected):
    for variable in ("AWS_S3_BUCKET_NAME", "GCS_BATCH_BUCKET_NAME", "GCS_BUCKET_NAME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ProviderError, match=expected):
        open_batches(LLM(name, **given), None)


class Aws:
    """Stands in for boto3: what is asked is checked against AWS' own description of it."""

    def __init__(self, name, region_name, asked):
        self.model = boto3.session.Session().client(name, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
        self.asked, self.objects = asked, asked.setdefault("objects", {})

    def _check(self, operation, given):
        self.asked.setdefault(operation, []).append(given)
        problems = ParamValidator().validate(given, self.model.operation_model(operation).input_shape)
        assert not problems.has_errors(), problems.generate_report()

    def put_object(self, **given):
        self._check("PutObject", given)
        self.objects[given["Key"]] = given["Body"]

    def get_object(self, **given):
        self._check("GetObject", given)
        return {"Body": io.BytesIO(self.objects[given["Key"]])}

    def create_model_invocation_job(self, **given):
        self._check("CreateModelInvocationJob", given)
        self.asked["job"] = given
        return {"jobArn": "arn:aws:bedrock:eu-west-1:1:model-invocation-job/abc"}

    def list_model_invocation_jobs(self, **given):
        self._check("ListModelInvocationJobs", given)
        found = self.asked.get("job", {}).get("jobName", "")
        return {"invocationJobSummaries": [{"jobArn": "arn:aws:bedrock:eu-west-1:1:model-invocation-job/abc"}] if given["nameContains"] in found else []}

    def get_model_invocation_job(self, **given):
        self._check("GetModelInvocationJob", given)
        if "job" not in self.asked:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "no"}}, "GetModelInvocationJob")
        return {**self.asked["job"], "status": self.asked.get("status", "Completed"), "processedRecordCount": 1, "message": "not enough records"}

    def stop_model_invocation_job(self, **given):
        self._check("StopModelInvocationJob", given)


@pytest.fixture
def aws(monkeypatch):
    asked = {}
    monkeypatch.setenv("AWS_S3_BUCKET_NAME", "s3://pail/deep")
    monkeypatch.setenv("AWS_BATCH_ROLE_ARN", "arn:aws:iam::123456789012:role/batches")
    monkeypatch.setattr("ddmake.backends.batches.bedrock.boto3.client", lambda name, region_name: Aws(name, region_name, asked))
    return asked


def results_of(service, job):
    async def read():
        return {number: outcome async for number, outcome in service.results(job)}

    return asyncio.run(read())


def test_bedrock(aws):
    service = open_batches(LLM("bedrock/amazon.nova-lite-v1:0", max_tokens=9, stop=["x"]), None)
    bodies = [json.dumps(service.body(Request(({"role": "system", "content": "Be brief."}, {"role": "user", "content": text}), SCHEMA, (TOOL,))))
              for text in TEXTS]
    runtime = boto3.session.Session().client("bedrock-runtime", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
    problems = ParamValidator().validate({"modelId": "x", **json.loads(bodies[0])}, runtime.operation_model("Converse").input_shape)
    assert not problems.has_errors(), problems.generate_report()
    assert asyncio.run(service.state("arn:aws:bedrock:eu-west-1:1:model-invocation-job/abc")) is None
    file = asyncio.run(service.upload("t0ken", bodies))
    assert file == "s3://pail/deep/ddmake/t0ken.jsonl"
    job = asyncio.run(service.create("t0ken", file, bodies))
    assert (aws["job"]["clientRequestToken"], aws["job"]["modelInvocationType"]) == ("t0ken", "Converse")
    assert asyncio.run(service.find(Sent("t0ken", 3, 0.0, file))) == job
    assert asyncio.run(service.find(Sent("other", 3, 0.0, file))) is None
    said = {"output": {"message": {"content": [{"reasoningContent": {"reasoningText": {"text": "Hm."}}}, {"text": "ONE"}]}},
            "stopReason": "end_turn", "usage": {"inputTokens": 4, "outputTokens": 2}}
    records = [{"recordId": "R0000000002", "error": {"errorCode": 400, "errorMessage": "bad request"}}, {"recordId": "R0000000000", "modelOutput": said},
               {"recordId": "R0000000001", "error": {"errorCode": 503, "errorMessage": "busy"}}]
    aws["objects"]["deep/ddmake/t0ken/abc/t0ken.jsonl.out"] = b"\n".join(json.dumps(record).encode() for record in records)
    found = results_of(service, job)
    assert (found[0], found[0].tokens_in, found[0].reasoning, found[0].finish_reason) == ("ONE", 4, "Hm.", "stop")
    assert isinstance(found[1], Retry) and found[2].error == "400: bad request"


@pytest.mark.parametrize("status, expected", [("InProgress", "running"), ("Completed", "ended"), ("Expired", "ended"), ("Failed", "failed")])
def test_how_far_bedrock_is(aws, status, expected):
    service = open_batches(LLM("bedrock/amazon.nova-lite-v1:0"), None)
    asyncio.run(service.create("t0ken", "s3://pail/x.jsonl", []))
    aws["status"] = status
    state = asyncio.run(service.state("arn:aws:bedrock:eu-west-1:1:model-invocation-job/abc"))
    assert (state.status, state.done, state.reason) == (expected, int(expected == "running"), "not enough records" if expected == "failed" else "")


def test_vertex(monkeypatch):
    monkeypatch.setenv("GCS_BATCH_BUCKET_NAME", "pail")
    asked, jobs = [], []

    def litellm(**found):
        async def call(name, given):
            assert given.pop("custom_llm_provider") == "vertex_ai"
            asked.append((name, given))
            return found[name](**given)

        return SimpleNamespace(**{name: lambda name=name, **given: call(name, given) for name in found})

    def create(completion_window, endpoint, input_file_id):
        jobs.append({"id": "77", "input_file_id": input_file_id, "created_at": 10})
        return SimpleNamespace(id="77")

    def line(number, **more):
        return json.dumps({"custom_id": custom_id("t", number), **more}).encode()

    said = {"choices": [{"message": {"content": "ONE"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    content = b"\n".join([line(0, response={"status_code": 200, "body": said}, error=None),
                          line(1, response=None, error={"code": "vertex_ai_error", "message": "Bad Request: no"}),
                          line(2, response=None, error={"code": "vertex_ai_error", "message": "Resource exhausted"})])
    monkeypatch.setattr(vertex, "_load", lambda: litellm(
        acreate_file=lambda file, purpose: SimpleNamespace(id="gs://pail/a/uuid"), acreate_batch=create,
        alist_batches=lambda limit, after: {"data": jobs, "next_page_token": None},
        aretrieve_batch=lambda batch_id: SimpleNamespace(status="completed", output_file_id="gs://pail/out"),
        afile_content=lambda file_id: SimpleNamespace(content=content)))
    service = open_batches(LLM("vertex_ai/gemini-2.5-flash"), None)
    bodies = [json.dumps(service.body(turns(("user", text, {})))) for text in TEXTS]
    file = asyncio.run(service.upload("t", bodies))
    row = json.loads(asked[0][1]["file"][1].splitlines()[1])
    assert (row["custom_id"], row["body"]) == ("t-1", {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "two"}]})
    assert asyncio.run(service.find(Sent("t", 3, 0.0, file))) is None
    job = asyncio.run(service.create("t", file, bodies))
    assert asyncio.run(service.find(Sent("t", 3, 0.0, "gs://pail/a%2Fuuid"))) == job
    assert asyncio.run(service.state(job)).status == "ended"
    found = results_of(service, job)
    assert (found[0], found[1].error, isinstance(found[2], Retry)) == ("ONE", "400: Bad Request: no", True)
