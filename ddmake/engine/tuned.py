"""What trainings at services will cost: the tokens of their rows, as often as they are read, by the price that is stated."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from ddmake.backends.hosted import base_in
from ddmake.calls import tokens
from ddmake.calls.money import Spent, by_rule, dollars
from ddmake.calls.prices import MILLION
from ddmake.ddfile.asking import Tuning
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.estimate import Estimate, estimates
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError
from ddmake.store import Store

SAMPLE = 200  # rows whose tokens are counted


def estimate(asking: Tuning, share: float) -> Estimate:
    """Return what a training comes to on all rows, of which `share` was looked at."""
    texts = iter(asking.texts)
    first = list(islice(texts, SAMPLE))
    characters = sum(map(len, first)) + sum(map(len, texts))
    learned = round(tokens.counted(first) * characters / share * asking.epochs)
    found = Estimate(1, 1, tokens_in=learned, tokens_out=0, rough=share < 1, unpriced=asking.price is None, trains=True)
    return found if asking.price is None else replace(found, dollars=learned * asking.price / MILLION)


def paid(store: Store, rules: Iterable[Rule], since: float) -> Spent:
    """Return what the trainings at services among some rules have cost since a moment: the run's caller knows of none."""
    found = [by_rule(store.folder, rule.label, since) for rule in rules if base_in(rule) is not None]
    return Spent(sum(one.dollars for one in found), sum(one.unknown for one in found), sum(one.calls for one in found))


def left(flow: Workflow, store: Store, plan: Plan, limit: float | None) -> float | None:
    """Return what of a limit is there for calls, once trainings at services are paid, which nobody can stop half-way.

    Raises DdfileError where these may take more.
    """
    paid = [verdict for verdict in plan.verdicts if verdict.word in ("make", "maybe") and base_in(verdict.rule) is not None]
    if limit is None or not paid:
        return limit
    found, total = estimates(flow, store, plan), 0.0
    for verdict in paid:
        rule, known = verdict.rule, found[verdict.rule]
        if known.dollars is None:
            remedy = "State price=." if known.unpriced else f"Make its rows first: ddmake {next(iter(flow.sources(rule))).path}"
            raise DdfileError(f"{rule.place}: {rule.label}: what this training costs isn't known, so --max-cost can't hold it. "
                              f"{remedy}")
        total += known.dollars
    if total > limit:
        names = ", ".join(verdict.rule.label for verdict in paid)
        raise DdfileError(f"{names}: training costs about {dollars(total)}, which is more than --max-cost {limit:g}.")
    return limit - total
