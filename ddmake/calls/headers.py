"""What the headers of a reply tell of a provider's limits: how much of each is left, and when it is whole again.

Read are, whatever their case: OpenAI's, Azure's and Groq's `x-ratelimit-remaining-requests`, Anthropic's
`anthropic-ratelimit-tokens-remaining`, Mistral's `x-ratelimit-remaining-req-minute` and `ratelimitbysize-remaining`,
OpenRouter's `x-ratelimit-remaining`, and the IETF's `ratelimit-remaining` and `ratelimit`
(draft-ietf-httpapi-ratelimit-headers, versions 0 to 10). Others are left alone.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
POLICY = re.compile(r'\s*"?([\w-]+)"?\s*;')
FIELD = re.compile(r"\b(limit|remaining|reset|q|r|t)\s*=\s*(\d+)")  # of `ratelimit` and `ratelimit-policy`
SHORT = {"q": "limit", "r": "remaining", "t": "reset"}
FIELDS = frozenset(SHORT.values())
COMBINED = ("", "")
NOISE = frozenset({"x", "ms", "anthropic", "ratelimit"})
SINCE_1970 = 1e9  # a number of seconds from here on is a date
LONGEST = 3600.0  # seconds until a reset that is waited for: limits by the day are the provider's to tell of, by refusing
IN_MILLISECONDS = 1e12  # and from here on, one in milliseconds


@dataclass(frozen=True)
class Told:
    """What a reply tells of one limit: `remaining` of `limit` are left, and in `reset` seconds it is whole again."""

    kind: str  # "requests" or "tokens"
    remaining: float
    limit: float | None
    reset: float


def limits(headers: Mapping[str, str]) -> dict[str, Told]:
    """Return what is told of limits that are whole again within an hour, by a name for each."""
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        place = _place(name)
        if place is not None:
            for (key, field), text in _parts(value) if place == COMBINED else ((place, value),):
                found.setdefault(key, {}).setdefault(field, text)
    return {key: told for key, fields in found.items() if (told := _told(key, fields, headers)) is not None}


@lru_cache(maxsize=1000)
def _place(name: str) -> tuple[str, str] | None:
    """Return the limit and the field that a header tells of, COMBINED where its value says which; None for other headers."""
    name = name.lower()
    if name in ("ratelimit", "ratelimit-policy"):
        return COMBINED
    if "ratelimit" not in name:
        return None
    words = [word for word in name.replace("ratelimitbysize", "ratelimit-tokens").split("-") if word not in NOISE]
    field = next((word for word in words if word in FIELDS), None)
    rest = ["requests" if word == "req" else word for word in words if word != field]
    return None if field is None else (" ".join(rest) or "requests", field)


def _parts(value: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what the IETF's combined headers hold: "limit=10, remaining=5, reset=7", or policies as '"burst";r=5;t=7'."""
    for part in value.split(","):
        policy = POLICY.match(part)
        for field, text in FIELD.findall(part):
            yield (f"requests {policy[1]}" if policy else "requests", SHORT.get(field, field)), text


def _told(key: str, fields: Mapping[str, str], headers: Mapping[str, str]) -> Told | None:
    remaining, limit = _number(fields.get("remaining")), _number(fields.get("limit"))
    if remaining is None or not remaining >= 0 or limit is not None and not limit > 0:  # -1 and 0 stand for no limit
        return None
    words = key.split()
    reset = _seconds(fields["reset"], headers) if "reset" in fields else None
    if reset is None:
        reset = next((WINDOWS[word] for word in words if word in WINDOWS), WINDOWS["minute"])
    if reset > LONGEST:
        return None
    return Told("tokens" if "tokens" in words else "requests", remaining, limit, reset)


def _number(text: str | None) -> float | None:
    """Return the number that a text begins with: "100, 100;w=60" is 100."""
    try:
        return float(text or "")
    except ValueError:
        found = NUMBER.match((text or "").strip())
        return float(found[0]) if found else None


def _seconds(text: str, headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a reset, which is told as seconds, as a duration like "6m0s", or as a date."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        number = float(text)
        if number >= SINCE_1970:
            return max(0.0, number / (1000 if number >= IN_MILLISECONDS else 1) - _now(headers))
        return number
    parts = DURATION.findall(text)
    if parts and "".join(map("".join, parts)) == text:
        return sum(float(number) * UNITS[unit] for number, unit in parts)
    date = _date(text)
    return None if date is None else max(0.0, date - _now(headers))


def _date(text: str) -> float | None:
    """Return a date as Unix time: RFC 3339, or as HTTP has them."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError):
            continue
    return None


def _now(headers: Mapping[str, str]) -> float:
    """Return the time by the server's clock, as far as it tells."""
    sent = _date(next((value for name, value in headers.items() if name.lower() == "date"), ""))
    return time.time() if sent is None else sent
