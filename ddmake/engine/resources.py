"""What jobs ask of a machine: reading `cpus`, `gpus`, `mem` and `time`, and refusing what no machine here can give."""

import re

from ddmake.backends.hosted import base_in, base_of
from ddmake.backends.providers import is_remote
from ddmake.ddfile.binding import leaves
from ddmake.ddfile.inputs import ASKED, marked
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.specs import LLM, MODELS
from ddmake.ddfile.target import ModelName, Source
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError
from ddmake.executors.base import Needs
from ddmake.executors.machine import Machine
from ddmake.toys import NAMES

BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ANY = Needs()  # of a rule that says nothing of what it takes
WAITING = Needs(waits=True, here=True)  # of one that asks a service, and says nothing
HERE = Needs(here=True)  # of what is done in the project's folder, such as putting something back
NUMBER = r"\d+(?:\.\d+)?"


def needs(rule: Rule) -> Needs:
    """Return what a rule's jobs need. Raises DdfileError for a text or a number that says nothing."""
    options = rule.options
    if options.cpus is not None and options.cpus < 1:
        raise DdfileError(f"{rule.place}: {rule.label} asks for cpus={options.cpus}; a job takes at least 1.")
    for name, value in (("gpus", options.gpus), ("retries", options.retries)):
        if value is not None and value < 0:
            raise DdfileError(f"{rule.place}: {rule.label} has {name}={value}; it can't be less than 0.")
    elsewhere = (rule.recipe.kind == "step" or base_in(rule) is not None) and asks_services(rule)
    waits = elsewhere and not options.cpus and not options.gpus and not local_models(rule)
    found = Needs(options.cpus, options.gpus, _memory(rule), _seconds(rule), waits, waits or options.local)
    return next((known for known in (ANY, WAITING) if found == known), found)


def _memory(rule: Rule) -> int | None:
    if rule.options.mem is None:
        return None
    found = re.fullmatch(rf"({NUMBER}) ?([KMGT]i?B)", rule.options.mem.strip(), re.IGNORECASE)
    if found is None:
        raise DdfileError(f'{rule.place}: {rule.label} has mem={rule.options.mem!r}. Write it like "500MB", "16GB" or "1.5TB".')
    return int(float(found[1]) * BYTES[found[2].upper()])


def _seconds(rule: Rule) -> float | None:
    if rule.options.time is None:
        return None
    found = re.fullmatch(rf"(?:{NUMBER} ?[dhms] ?)+", rule.options.time.strip())
    parts = re.findall(rf"({NUMBER}) ?([dhms])", rule.options.time) if found else []
    total = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if not total:
        raise DdfileError(f"{rule.place}: {rule.label} has time={rule.options.time!r}. "
                          'Write it like "90s", "30m", "2h" or "1d 12h".')
    return total


def check(plan: Plan, machine: Machine, away: bool = False) -> None:
    """Raise DdfileError where a job that is to run here asks for more than the machine has; others run `away`, if any do."""
    known: dict[int, Needs] = {}  # by options, which most rules of a recipe share
    for verdict in plan.verdicts:
        options = id(verdict.rule.options)
        if options not in known:
            known[options] = needs(verdict.rule)
        if known[options] is not ANY and verdict.word in ("make", "maybe") and (known[options].here or not away):
            _check(verdict.rule, known[options], machine)


def _check(rule: Rule, asked: Needs, machine: Machine) -> None:
    told = None
    if (asked.cpus or 0) > machine.cores:
        told = f"cpus={asked.cpus}, and this machine has {machine.cores}"
    elif (asked.memory or 0) > machine.memory:
        told = f"mem={rule.options.mem!r}, and this machine has {machine.memory / 10**9:.1f}GB"
    elif asked.gpus and asked.gpus > len(machine.gpus):
        told = f"gpus={asked.gpus}, and ddmake sees {len(machine.gpus) or 'none'} here"
    if told:
        raise DdfileError(f"{rule.place}: {rule.label} asks for {told}. Ask for less, or run it where there is more.")


def asks_services(rule: Rule) -> bool:
    """Tell whether a rule's job asks an llm or an embedder over a network."""
    if not rule.names_models:
        return False
    values = [value for value in (*rule.inputs.values(), *rule.arguments.values()) if not _only_paths(value)]
    return any(isinstance(leaf, MODELS) and is_remote(leaf) or base_of(leaf) is not None for leaf in leaves(values))


def local_models(rule: Rule) -> frozenset[str]:
    """Return the models that a rule's job loads into its own process, by name or path."""
    values = [value for value in (*rule.inputs.values(), *rule.arguments.values()) if not _only_paths(value)]
    takes = rule.recipe.signature.parameters
    asked = [value for name, value in rule.inputs.items() if rule.names_models and marked(takes[name].annotation, ASKED)]
    bare = {leaf.path for leaf in leaves(asked) if isinstance(leaf, Source) and base_of(leaf) is None}
    return frozenset(name for leaf in leaves(values) if (name := _model(leaf))) | bare


def _only_paths(value: object) -> bool:
    """Tell whether a value is a list of paths, which may be long."""
    return isinstance(value, list) and all(type(item) is Source for item in value)


def _model(leaf: object) -> str | None:
    if isinstance(leaf, ModelName):
        return leaf.name
    if not isinstance(leaf, MODELS) or base_of(leaf.name) is not None:
        return None
    name = leaf.name.path if isinstance(leaf.name, Source) else leaf.name
    local = isinstance(leaf.name, Source) or name in NAMES or name.startswith("hf/")
    adapter = leaf.adapter if isinstance(leaf, LLM) else None
    adapter = adapter.path if isinstance(adapter, Source) else adapter
    return (f"{name}+{adapter}" if adapter else name) if local else None
