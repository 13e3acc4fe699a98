"""Bedrock's batch inference, by boto3: requests and results lie in a bucket, and a job reads and writes there.

https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference.html. LiteLLM's own road can neither name a job nor look
for one, and both are needed so that none is created twice: here AWS itself refuses a second job of the same token.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from ddmake.backends import providers, supported
from ddmake.backends.base import Request, Retry
from ddmake.backends.batches import converse
from ddmake.backends.batches.base import CANCELLED, Outcome, Sent, State
from ddmake.errors import ProviderError

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

RUNNING = ("Submitted", "Validating", "Scheduled", "InProgress", "Stopping")
PASSING = ("ThrottlingException", "TooManyRequestsException", "ServiceUnavailableException", "InternalServerException",
           "InternalError", "SlowDown", "RequestTimeout")
GONE = ("ResourceNotFoundException", "NoSuchKey", "404")

T = TypeVar("T")


class Bedrock:
    """A Batches that speaks to AWS. Raises ProviderError where its bucket, its role or its region isn't stated."""

    most, most_bytes = 50_000, 190_000_000

    def __init__(self, spec: "LLM"):
        self.name, self.account = spec.name, providers.account(spec)
        route, _, model = supported.routed(spec.name)[1].partition("/")
        if route != "converse":
            raise ProviderError(f"{spec.name}: Bedrock's batches are asked by its Converse API. Write bedrock/{model}.")
        self.model, self.shared = model, converse.constant(spec)
        place = _setting(spec, "AWS_S3_BUCKET_NAME", "the bucket that requests and results lie in")
        self.bucket, _, folder = place.partition("/")
        self.folder = f"{folder}/ddmake" if folder else "ddmake"
        self.role = _setting(spec, "AWS_BATCH_ROLE_ARN", "the role that may read and write that bucket")
        region = os.environ.get("AWS_REGION_NAME") or os.environ.get("AWS_REGION")
        try:
            self.s3, self.bedrock = boto3.client("s3", region_name=region), boto3.client("bedrock", region_name=region)
        except NoRegionError:
            raise ProviderError(f"{spec.name} needs a region: set AWS_REGION_NAME.") from None

    def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON that is sent for a request."""
        return converse.body(self.shared, request)

    async def upload(self, token: str, bodies: Sequence[str]) -> str:
        """Put the requests into the bucket, and return their address."""
        lines = [f'{{"recordId": "R{number:010d}", "modelInput": {body}}}\n' for number, body in enumerate(bodies)]
        key = f"{self.folder}/{token}.jsonl"
        await self._ask(lambda: self.s3.put_object(Bucket=self.bucket, Key=key, Body="".join(lines).encode()))
        return f"s3://{self.bucket}/{key}"

    async def create(self, token: str, file: str | None, bodies: Sequence[str]) -> str:
        """Create the job of uploaded requests; a second one of that token is none."""
        made = await self._ask(lambda: self.bedrock.create_model_invocation_job(
            jobName=f"ddmake-{token}", clientRequestToken=token, roleArn=self.role, modelId=self.model,
            modelInvocationType="Converse", inputDataConfig={"s3InputDataConfig": {"s3Uri": file}},
            outputDataConfig={"s3OutputDataConfig": {"s3Uri": f"s3://{self.bucket}/{self.folder}/{token}/"}},
        ))
        return made["jobArn"]

    async def find(self, sent: Sent) -> str | None:
        """Look for the job by its name."""
        found = await self._ask(lambda: self.bedrock.list_model_invocation_jobs(nameContains=f"ddmake-{sent.token}"))
        return next((job["jobArn"] for job in found["invocationJobSummaries"]), None)

    async def state(self, job: str) -> State | None:
        """Return how far a job is."""
        try:
            told = await self._ask(lambda: self.bedrock.get_model_invocation_job(jobIdentifier=job))
        except LookupError:
            return None
        if told["status"] in RUNNING:
            return State("running", told.get("processedRecordCount") or 0)
        if told["status"] != "Failed":  # what one that expired or was stopped has answered is there
            return State("ended", reason=CANCELLED if told["status"] == "Stopped" else "")
        return State("failed", reason=told.get("message") or "no reason given")

    async def results(self, job: str) -> AsyncIterator[Outcome]:
        """Yield what the output file says; it lies in a folder of the job's name."""
        told = await self._ask(lambda: self.bedrock.get_model_invocation_job(jobIdentifier=job))
        bucket, _, folder = told["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"].removeprefix("s3://").partition("/")
        file = told["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
        key = f"{folder.rstrip('/')}/{job.rpartition('/')[2]}/{file}.out"
        try:
            content = await self._ask(lambda: self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        except LookupError:
            if told["status"] in ("Expired", "Stopped"):  # before it had come to any of them
                return
            raise ProviderError(f"{self.name}: the results s3://{bucket}/{key} aren't there.") from None
        for line in content.splitlines():
            record = json.loads(line)
            yield int(record["recordId"].removeprefix("R")), converse.read(record, self.model)

    async def cancel(self, job: str) -> None:
        """Stop a job."""
        await self._ask(lambda: self.bedrock.stop_model_invocation_job(jobIdentifier=job))

    async def _ask(self, work: Callable[[], T]) -> T:
        """Do some work in a thread. Raises Retry, ProviderError, and LookupError for what isn't there."""
        try:
            return await asyncio.to_thread(work)
        except ClientError as error:
            code, words = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        except NoCredentialsError:
            raise ProviderError(f"{self.name} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.") from None
        except (BotoCoreError, OSError) as error:
            raise Retry(str(error)) from None
        if code in GONE:
            raise LookupError
        if code in PASSING:
            raise Retry(f"{code}: {words}")
        raise ProviderError(f'{self.name} answered {code}: "{words}"')


def _setting(spec: "LLM", name: str, meaning: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ProviderError(f"{spec.name} with batch=True needs {meaning}: set {name}.")
    return value.removeprefix("s3://").rstrip("/")
