"""`ddmake preview`: the first prompts of a target, asked through the same cache as a run; no target is made."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click

from ddmake.backends.base import Answer
from ddmake.backends.providers import is_remote
from ddmake.calls import choice
from ddmake.calls.model import Manner
from ddmake.calls.usage import Usage
from ddmake.cli.calling import dollars, paragraph
from ddmake.cli.show import few
from ddmake.cli.terminal import printable
from ddmake.cli.turns import calls_of, text_of
from ddmake.ddfile.asking import NotYet
from ddmake.ddfile.load import load
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import asked, hub, nulls
from ddmake.engine.opening import Opener, Way
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError, DdmakeError, RecipeFailed
from ddmake.store import Store, open_store


@dataclass(frozen=True)
class Shown:
    """A prompt with its answer, and by which number it comes in a pass over which llm."""

    llm: str
    number: int
    messages: list[dict[str, Any]]
    answer: Answer


def preview(file: Path, names: list[str], knobs: dict[str, str], most: int, as_json: bool) -> int:
    """Ask the first prompts of a target, print them with their answers, and return the exit code."""
    flow = load(file, **knobs)
    os.chdir(flow.root)
    rule = _rule(flow, names)
    with closing(open_store(flow.root)) as store:
        plan = Planner(flow, store).survey([rule])
        stale = _inputs(flow, plan, rule)
        hub.keep(flow, [rule])
        shown, usage = _ask(flow, store, rule, plan.verdicts[-1].epoch, most)
    notes = [*_stale(stale), *(f"{one.told}. {one.remedy}" for one in nulls.nulls(flow, rule))]
    click.echo(_json(rule, shown, usage) if as_json else "\n".join(_lines(rule, notes, shown, usage)))
    return 0


def _rule(flow: Workflow, names: list[str]) -> Rule:
    """Return the one rule that is named. Raises DdfileError for several, and where it doesn't tell what it asks."""
    rules = flow.select(names) if names else []
    if len(rules) != 1:
        stands = f"{' '.join(names)} stands for {few(rule.label for rule in rules)}" if names else "none is named"
        raise DdfileError(f"ddmake preview takes one target, and {stands}.")
    if rules[0].recipe.asks is None:
        raise DdfileError(f"{rules[0].place}: {rules[0].label}: its recipe {rules[0].recipe.name} doesn't tell what it asks "
                          "(asks=), so there is nothing to preview.")
    return rules[0]


def _inputs(flow: Workflow, plan: Plan, rule: Rule) -> list[str]:
    """Return the inputs that are stale, and are taken as they lie. Raises DdfileError for one that isn't there."""
    for source in flow.sources(rule):
        if not (flow.root / source.path).exists():
            remedy = f"isn't made yet. Do: ddmake {source.path}" if source.target else "isn't there and which no rule makes."
            raise DdfileError(f"{rule.place}: {rule.label} needs {source.path}, which {remedy}")
    fresh = {verdict.rule for verdict in plan.verdicts if verdict.word == "fresh"}
    return [source.path for source in flow.sources(rule) if source.target is not None and source.target.rule not in fresh]


def _ask(flow: Workflow, store: Store, rule: Rule, epoch: int, most: int) -> tuple[list[Shown], dict[str, Usage]]:
    """Return the first prompts of each pass with their answers, and what was asked of each llm."""
    opener = Opener(flow, store, rule, lambda done, total, note: None, Way(Manner(epoch)))
    try:
        return list(_answered(rule, opener.given(), most)), opener.usage
    except DdmakeError:
        raise
    except NotYet as error:
        remedy = "Make it of a few rows to see some: give it a view of them, .take(3)."
        raise DdfileError(f"{rule.place}: {rule.label}: {error} {remedy}") from None
    except Exception as error:  # of the user's own functions
        raise RecipeFailed(f"{rule.place}: {rule.label}: {type(error).__name__}: {error}") from error
    finally:
        opener.close()


def _answered(rule: Rule, given: dict[str, Any], most: int) -> Iterator[Shown]:
    for one in asked.asks(rule, given):
        prompts = list(islice(one.prompts, most))
        answers = one.llm.stream(prompts, one.schema, one.tools, accept=asked.accepted(rule), labels=one.labels)
        for number, (prompt, answer) in enumerate(zip(prompts, answers)):
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
            if answer.scores:
                chosen = choice.read(answer, answer.llm)
                answer.value = {label: round(share, 4) for label, share in chosen.probabilities.items()}
            yield Shown(answer.llm, number, turns, answer)


def _stale(inputs: list[str]) -> list[str]:
    """Return what is said of stale inputs."""
    return [f"{few(inputs)} {'is' if len(inputs) == 1 else 'are'} stale, and taken as it lies there."] if inputs else []


def _lines(rule: Rule, notes: list[str], shown: list[Shown], usage: dict[str, Usage]) -> list[str]:
    lines = [*notes]
    if not shown:
        return [*lines, f"{rule.label} has no prompts: its input has no rows, or no llm is asked."]
    for one in shown:
        lines += [*([""] if lines else []), click.style(f"prompt {one.number}, {printable(one.llm)}", bold=True)]
        for turn in one.messages:
            lines += [f"  {line}" for line in paragraph(turn.get("role", ""), text_of(turn.get("content")))[1:]]
        lines += [f"  {line}" for line in _said(one.answer)]
    sent, cached = sum(used.sent for used in usage.values()), sum(used.cached for used in usage.values())
    return [*lines, "", f"{sent:,} sent, {cached:,} cached{_spent(rule, usage)}. The answers are kept: ddmake {rule.label} "
            "doesn't ask for them again."]


def _said(answer: Answer) -> list[str]:
    """Return the lines on an answer: its fields under a schema, how likely labels are, or its text; and why it can't be used."""
    facts = [f"{n:,} tokens {way}" for n, way in ((answer.tokens_in, "in"), (answer.tokens_out, "out")) if n is not None]
    facts += [dollars(answer.cost)] if answer.cost else []
    title = f"answer ({', '.join(facts)})" if facts else "answer"
    if isinstance(answer.value, dict):
        text = "\n".join(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
                         for name, value in answer.value.items())
    else:
        text = str(answer)
    lines = paragraph(title, "\n".join([text] * bool(text) + calls_of(answer.tool_calls)))[1:]
    return [*lines, click.style(f"unusable: {printable(answer.wrong)}", fg="red")] if answer.wrong else lines


def _spent(rule: Rule, usage: dict[str, Usage]) -> str:
    """Return what was paid, in words; nothing is said where only models of this machine were asked."""
    costs = [used.cost for used in usage.values() if used.sent]
    if not any(costs) and not any(map(is_remote, asked.llms(rule))):
        return ""
    return "; cost unknown" if None in costs else f"; {dollars(sum(filter(None, costs)))}"


def _json(rule: Rule, shown: list[Shown], usage: dict[str, Usage]) -> str:
    told = [{"llm": one.llm, "number": one.number, "messages": one.messages, "answer": str(one.answer), "value": one.answer.value,
             "wrong": one.answer.wrong, "finish_reason": one.answer.finish_reason, "tool_calls": list(one.answer.tool_calls),
             "tokens_in": one.answer.tokens_in, "tokens_out": one.answer.tokens_out, "cost": one.answer.cost} for one in shown]
    asked_of = {name: {"sent": used.sent, "cached": used.cached, "cost": used.cost} for name, used in usage.items()}
    return json.dumps({"target": rule.label, "shown": told, "usage": asked_of}, indent=2, ensure_ascii=False, default=str)
