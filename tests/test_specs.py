"""Which parameters of an llm count: each is in the keys of calls and of steps, or in neither."""

import dataclasses
import json

import pytest

from ddmake.ddfile.specs import LLM

COUNTS = {
    "base_url": "'http://localhost:1/v1'", "identity": "'lab'", "temperature": "0.5", "top_p": "0.9", "top_k": "5",
    "max_tokens": "10", "stop": "['.']", "seed": "1", "sample": "1", "extra": "{'x': 1}", "adapter": "'folder'",
    "revision": "'abc'", "dtype": "'bfloat16'", "reasoning": "'low'", "api": "'completion'", "quantize": "'int8'",
    "truncate": "True",
}
COUNTS_FOR_NOTHING = {
    "rpm": "100", "tpm": "9000", "batch": "True", "price": "(1.0, 2.0)", "cache": "False",
    "device_map": "'auto'", "api_key_env": "'KEY'", "concurrency": "3", "timeout": "9.0", "retries": "1", "batch_size": "2",
    "license": "'mit'", "citation": "'@misc{x}'", "url": "'https://example.org'",
}
ELSEWHERE = {"flags"}  # of servers that ddmake starts: test_servers.py


HERE = ("adapter", "revision", "dtype", "quantize", "device_map", "truncate")  # of models that are loaded: echo, which takes all, stands in

HERE_UNSET = ", device_map=None"


def key(project, parameters):
    base = "" if "base_url" in parameters else ", base_url='http://localhost:2/v1'"  # a service that takes all of them
    name, base = ("echo", "") if any(field in parameters for field in HERE) else ("openai/some-model", base)
    project.ddfile(f"generate('g', llm=llm({name!r}{base}{parameters}), prompt='x', n=1)")
    return json.loads(project.make("-n", "--json").output)["rules"][0]["key"]


def test_every_field_is_listed():
    assert {f.name for f in dataclasses.fields(LLM)} == {"name", *COUNTS, *COUNTS_FOR_NOTHING, *ELSEWHERE}


@pytest.mark.parametrize("field", COUNTS)
def test_counts(project, field):
    assert key(project, f", {field}={COUNTS[field]}") != key(project, HERE_UNSET if field in HERE else "")


@pytest.mark.parametrize("field", COUNTS_FOR_NOTHING)
def test_counts_for_nothing(project, field):
    assert key(project, f", {field}={COUNTS_FOR_NOTHING[field]}") == key(project, HERE_UNSET if field in HERE else "")


def test_an_identity_stands_for_the_endpoint(project):
    there = key(project, ", identity='lab', base_url='http://one/v1'")
    assert there == key(project, ", identity='lab', base_url='http://two/v1'")


def test_keys_do_not_depend_on_the_hash_seed(project):
    project.ddfile("NAMES = {'a', 'b', 'c', 'd'}\n@step('a', seen={'x', 'y', 'z'})\ndef a(*, seen):\n    yield {'x': sorted(NAMES | seen)}\n")
    keys = {project.command("-n", "--json", PYTHONHASHSEED=str(seed)).communicate()[0] for seed in range(4)}
    assert len(keys) == 1


def test_how_a_batch_is_cut_up_counts_for_nothing(project):
    text = """
        @step("rows")
        def rows():
            yield {"prompt": "p", "completion": "c"}

        finetune("model", rows, base="tiny-base"%s)
    """
    project.ddfile(text % "").make("rows")
    found = []
    for more in ("", ", micro_batch=2", ", batch_size=4"):
        plan = json.loads(project.ddfile(text % more).make("-n", "--json").output)
        found.append(plan["rules"][1]["key"])
    assert found[0] == found[1] != found[2]
