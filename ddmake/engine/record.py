"""What a trace records of a finished job, beside its key: all that a card needs, without asking anything again."""

import os
import platform
import resource
import time
from functools import cache
from typing import Any

from ddmake.ddfile.binding import leaves
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, MODELS
from ddmake.ddfile.target import ModelName, Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import hub
from ddmake.engine.hardware import hardware
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Verdict
from ddmake.fingerprint.packages import version


def record_of(flow: Workflow, rule: Rule, planner: Planner, verdict: Verdict, started: float,
              usage: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a job that ended: all that a card needs, without asking anything again."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "ingredients": verdict.ingredients,
        "recipe": {"name": rule.recipe.name, "kind": rule.recipe.kind, "module": rule.recipe.function.__module__,
                   "doc": (rule.recipe.function.__doc__ or "").strip(), "about": rule.options.about, "place": rule.place},
        "inputs": [_input(flow, planner, source) for source in dict.fromkeys(flow.sources(rule))],
        "models": _models(flow, rule),
        "usage": usage,
        "started": started,
        "seconds": round(time.time() - started, 3),
        "cpu_seconds": round(sum(s.ru_utime + s.ru_stime for s in spent), 3),
        "environment": {"python": platform.python_version(), "interpreter": platform.python_implementation(),
                        "system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "hardware": hardware(),
        "packages": _packages(),
    }


def _input(flow: Workflow, planner: Planner, source: Source) -> dict[str, Any]:
    trace = planner.verdicts[source.target.rule].trace if source.target is not None else None
    return {"path": source.path, "trace": trace.id if trace else None, "digest": planner.digest(source)["sha"]}


def _models(flow: Workflow, rule: Rule) -> list[dict[str, Any]]:
    """Return the models that a rule names, and what the Ddfile says of them."""
    found = []
    for leaf in leaves([*rule.inputs.values(), *rule.arguments.values()]):
        if isinstance(leaf, MODELS) and isinstance(leaf.name, str):
            found.append({"name": leaf.name, "license": leaf.license, "citation": leaf.citation, "url": leaf.url,
                          "revision": hub.commit_of(flow, rule, leaf),
                          "sampling": leaf.sampling() if isinstance(leaf, LLM) else {}})
        elif isinstance(leaf, ModelName) and flow.resolve(leaf) is leaf:
            found.append({"name": leaf.name, "revision": hub.commit_of(flow, rule, leaf)})
    return found


@cache
def _packages() -> dict[str, str]:
    """Return the versions of the packages that bear on results, as far as they are installed."""
    wanted = {"ddmake", "accelerate", "aiohttp", "datasets", "jinja2", "litellm", "numpy", "peft", "pyarrow", "safetensors",
              "sentence-transformers", "tokenizers", "torch", "transformers", "trl"}
    return {name: found for name in sorted(wanted) if (found := version(name)) is not None}
