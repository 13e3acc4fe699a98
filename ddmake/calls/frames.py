"""What workers and the caller say to each other over a local socket: JSON values, each after its length in four bytes.

    worker -> caller   {"pass": id, "llm": fields, "rule": label, "schema": …, "tools": …, "cache": bool}   a pass begins
                       {"ask": id, "items": [[number, key, messages, sample, anew], …]}
                       {"last": id}                          nothing more will be asked for now
                       {"end": id}                           the pass is over; what waits to be sent isn't wanted any more
                       {"stop": true}                        so is what waits in all passes: the job is to end
    caller -> worker   {"answers": [[id, number, answer, cached], …]}
                       {"problem": id, "kind": …, "told": …}  no further request of this pass can be answered
                       {"note": id, "told": …}                what the pass waits for

No key to a service is in them: the caller reads those from its own environment.
"""

import json
from dataclasses import fields
from typing import Any

from ddmake.backends.base import Answer, Request
from ddmake.ddfile.specs import LLM

HEAD = 4  # bytes that tell a frame's length

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def packed(value: Any) -> bytes:
    """Return a value as a frame."""
    content = _json(value).encode("utf-8", "surrogatepass")
    return len(content).to_bytes(HEAD, "big") + content


def unpacked(content: bytes) -> Any:
    """Return the value of a frame's content."""
    return json.loads(content.decode("utf-8", "surrogatepass"))


def of_llm(spec: LLM) -> dict[str, Any]:
    """Return the fields of an llm that is asked over a network: all of them plain, and those that are set."""
    return {f.name: getattr(spec, f.name) for f in fields(spec) if getattr(spec, f.name) is not None}


def of_request(request: Request) -> list[Any]:
    """Return what differs from one request of a pass to the next."""
    return [request.messages, request.sample]


def request(told: list[Any], schema: Any, tools: Any) -> Request:
    """Return a request as it was told."""
    return Request(tuple(told[0]), schema, tuple(tools) if tools else None, sample=told[1])


def of_answer(answer: Answer) -> list[Any]:
    """Return an answer as plain values; what it holds seldom is told only if it is there."""
    told = [str(answer), answer.model, answer.finish_reason, answer.tokens_in, answer.tokens_out, answer.cost]
    rest = {"error": answer.error, "reasoning": answer.reasoning, "tool_calls": list(answer.tool_calls)}
    rest = {name: value for name, value in rest.items() if value}
    return [*told, rest] if rest else told


def answer(told: list[Any]) -> Answer:
    """Return an answer as it was told."""
    text, model, finish, tokens_in, tokens_out, cost, *rest = told
    return Answer(text, model=model, finish_reason=finish, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost,
                  **(rest[0] if rest else {}))
