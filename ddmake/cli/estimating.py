"""What a plan says of requests and money: cells of its table, and the sentence below it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ddmake.calls.money import dollars
from ddmake.ddfile.rule import Rule
from ddmake.engine.estimate import Estimate
from ddmake.engine.verdicts import Plan, Verdict

Estimates = Mapping[Rule, Estimate]

COLUMNS = ("send", "cached", "tokens in/out", "$")
NONE, UNKNOWN = "–", "?"  # of what asks no llm or costs nothing; of what isn't known, which is never 0
PREVIEW = "how long the answers for {0} are isn't known yet. Try a few: ddmake preview {0}"
PRICE = "the price for {0} isn't known. State it: llm(…, price=(in, out)), in dollars for a million tokens."
OF_TEXTS = "the price for {0} isn't known. State it: embedder(…, price=), in dollars for a million tokens."
OF_TRAINING = "the price of training for {0} isn't known. State it: price=, in dollars for a million tokens."
BOTH = ("neither the price for {0} is known nor how long its answers are. State llm(…, price=(in, out)), in dollars for a "
        "million tokens, and try a few: ddmake preview {0}")


def cells(verdict: Verdict, estimates: Estimates) -> tuple[str, ...]:
    """Return what stands in a rule's columns."""
    told = estimates.get(verdict.rule)
    if told is None:
        return ("" if verdict.word == "manual" else NONE,) * len(COLUMNS)
    mark = "~" if told.rough else ""
    counts = [UNKNOWN if number is None else f"{mark}{number:,}" for number in (told.send, told.cached)]
    if told.local or told.send == 0:
        return (*counts, NONE, NONE if told.local else "0.00")
    counted = (told.tokens_in, told.tokens_out)
    tokens = [UNKNOWN if number is None else f"~{short(number)}" if number else "0" for number in counted]
    paid = UNKNOWN if told.dollars is None else f"~{dollars(told.dollars)[1:]}" if told.dollars else "0.00"
    return (*counts, UNKNOWN if tokens == [UNKNOWN, UNKNOWN] else " / ".join(tokens), paid)


def sure(plan: Plan, estimates: Estimates, limit: float | None = None) -> str:
    """Return what will be paid whatever becomes of the rest, and lines on what isn't known, missing, or under way; "" for none.

    `limit` is what may be spent, in dollars.
    """
    paying = [(v, told) for v in plan.verdicts if v.word == "make" and (told := estimates.get(v.rule)) and not told.local]
    total = sum(told.dollars or 0.0 for _, told in paying)
    day = next((f"; prices of {told.prices}" for _, told in paying if told.prices), "")
    unknown = [(v.rule.label, told) for v, told in paying if told.dollars is None]
    known = f" Sure {'~' if total else ''}{dollars(total)}{day}." if len(unknown) < len(paying) else ""
    over = f" That is more than --max-cost {limit:g}: the run would stop there." if limit is not None and total > limit else ""
    lines = [f"?: {_unknown(*unknown[0])}"] if unknown else []
    return "\n".join([known + over, *lines, *_notes(plan, estimates)])


def _notes(plan: Plan, estimates: Estimates) -> list[str]:
    """Return lines on what rules lack to be run, and on what was paid for already in a batch."""
    missing = {told.missing: v.rule.label for v in reversed(plan.verdicts) if (told := estimates.get(v.rule)) and told.missing}
    waiting = {v.rule.label: told.under_way for v in plan.verdicts if (told := estimates.get(v.rule)) and told.under_way}
    return [*(f"{label}: {number:,} under way in a batch: collected, and not sent again." for label, number in waiting.items()),
            *(f"{label}: {sentence}" for sentence, label in missing.items())]


def as_json(told: Estimate | None) -> dict[str, Any]:
    """Return an estimate as JSON has it."""
    return {} if told is None else {"estimate": {**asdict(told), "cached": told.cached}}


def short(number: int) -> str:
    """Return a number in thousands or millions where it is that large."""
    for size, unit in ((10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.{1 if number < 10 * size else 0}f}".removesuffix(".0") + unit
    return str(number)


def _unknown(label: str, told: Estimate) -> str:
    """Return why a rule's cost isn't known, and what helps."""
    if told.tokens_in is None:
        return f"what {label} will ask isn't known before it runs."
    if told.trains:
        return OF_TRAINING.format(label)
    if told.tokens_out is None:
        return (BOTH if told.unpriced else PREVIEW).format(label)
    return (PRICE if told.tokens_out else OF_TEXTS).format(label)  # no answer to a prompt has no tokens
