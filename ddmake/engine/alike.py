"""Rules that ask an llm the very same and so share its answers, which is seldom meant."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.asked import first_prompts, is_there, llms
from ddmake.engine.ingredients import Ingredients

# arguments of a prompting recipe that change what becomes of answers, or how many are asked for, and no request
AFTERWARDS = ("accept", "column", "meta", "n", "on_error", "parse", "samples")


def alike(flow: Workflow, made_of: Mapping[str, Ingredients]) -> Iterator[tuple[Rule, Rule]]:
    """Yield rules with an earlier one that asks the same: by first prompts where inputs are there, else by what is declared."""
    first: dict[str, Rule] = {}
    for rule in flow.rules:
        for sign in _signs(flow, rule, made_of[rule.label]) if rule.recipe.asks is not None else ():
            if first.setdefault(sign, rule) is not rule:
                yield rule, first[sign]
                break


def _signs(flow: Workflow, rule: Rule, made: Ingredients) -> list[str]:
    """Return texts that are the same for two rules that ask the same. An llm whose sample is stated is meant as it is."""
    if is_there(flow, rule):
        try:
            passes = [(one, list(map(_text, prompts))) for one, prompts in first_prompts(flow, rule)]
        except Exception:  # of the user's own functions, or of a template: it is told when the rule is planned
            return []
        return [_text([_of_llm(one.llm), one.schema, one.tools, one.labels, list(dict.fromkeys(prompts))])
                for one, prompts in passes if prompts and one.llm.sample is None]
    if any(llm.sample is not None for llm in llms(rule)) or "error" in made:
        return []
    arguments = {name: value for name, value in made["arguments"].items() if name not in AFTERWARDS}
    return [_text([made["code"], made["inputs"], arguments])]


def _of_llm(spec: LLM) -> dict[str, Any]:
    return {name: str(value) if name in ("name", "adapter") else value for name, value in spec.key_fields().items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
