"""What a reply that holds no answer means: try again, this row is lost, or the whole rule is."""

import json
import time
from collections.abc import Mapping
from typing import Any

from ddmake.backends.base import Answer, Retry
from ddmake.errors import ProviderError

WHOLE_RULE = frozenset({401, 402, 403, 404, 405})  # the next request would meet them too: key, credit, rights, model, address
PASSING = frozenset({408, 409, 425, 429})
NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
FILTERED = frozenset({"content_filter", "content_policy_violation"})
UNPAID = frozenset({402, 429, 503})  # refused before any work was done


def refused(status: int, content: bytes, headers: Mapping[str, str], model: str) -> Answer:
    """Return a final answer for a reply that concerns one request alone.

    Raises Retry where another try may help, ProviderError with the service's own words where none would.
    """
    try:
        body = json.loads(content)
    except ValueError:
        body = content[:200].decode("utf-8", "replace").strip()
    return judged(status, body, headers, model)


def judged(status: int, body: Any, headers: Mapping[str, str], model: str) -> Answer:
    """Return or raise what a decoded reply means, as `refused` does."""
    error = body.get("error", body) if isinstance(body, dict) else body
    codes, words, wait = _codes(error), _words(error), wait_of(headers)
    if codes & FILTERED or _flagged(error):
        return Answer(model=model, finish_reason="content_filter", error=f"refused: {words}")
    if status == 402 and wait is not None:  # a credit that is used by requests in flight: OpenRouter
        raise Retry(f"402: {words}", status, wait, paid=False)
    if codes & NO_CREDIT or status in WHOLE_RULE or 300 <= status < 400:
        raise ProviderError(f'answered {status}: "{headers.get("Location") or words}"')
    if status in PASSING or status >= 500:
        raise Retry(f"{status}: {words}", status, wait, paid=status not in UNPAID)
    return Answer(model=model, error=f"{status}: {words}")


def failed_within(error: Any, headers: Mapping[str, str], model: str) -> Answer:
    """Return or raise what an error inside a reply of status 200 means; its code may be a status."""
    code = error.get("code") if isinstance(error, dict) else None
    if code in ("rate_limit_exceeded", "rate_limit_error"):
        code = 429
    status = int(code) if str(code).isdecimal() and 400 <= int(code) < 600 else 500
    return judged(status, error, headers, model)


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: `retry-after-ms`, or Retry-After in seconds or as a date (RFC 9110)."""
    milliseconds, given = headers.get("retry-after-ms"), headers.get("Retry-After")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if given is None else max(0.0, float(given))
    except ValueError:
        return _until(given)


def _until(date: str | None) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _codes(error: Any) -> set[str]:
    """Return the names that an error goes by."""
    return {str(error.get(name)) for name in ("code", "type")} if isinstance(error, dict) else set()


def _flagged(error: Any) -> bool:
    """Tell whether a moderation has refused the prompt: OpenRouter says so by a 403."""
    metadata = error.get("metadata") if isinstance(error, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("flagged_input") or metadata.get("reasons"))


def _words(error: Any) -> str:
    """Return an error's own words: services put them under different names."""
    if isinstance(error, dict):
        found = next((error[name] for name in ("message", "detail", "error", "msg") if error.get(name)), None)
        return _words(found) if found is not None else json.dumps(error, ensure_ascii=False)[:500]
    if isinstance(error, list):
        return "; ".join(_words(item) for item in error)[:500]
    return " ".join(str(error or "no reason given").split())[:500]
