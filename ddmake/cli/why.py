"""`ddmake why`: the verdict on a target, the path of staleness up to its cause, and what differs there, in full."""

import json
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from ddmake.cli.listing import what, when
from ddmake.cli.show import duration, table
from ddmake.ddfile.load import load
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.changes import Change, changes
from ddmake.engine.ingredients import Ingredients, Reader, narrowed
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Verdict
from ddmake.errors import DdfileError, DdmakeError
from ddmake.fingerprint.packages import version
from ddmake.store import Store, open_store
from ddmake.store.forms import reading
from ddmake.store.traces import Trace

BEHIND = "behind "  # how a reason begins that names the input that holds a target up
ENDS = 5  # lines of a very long path of staleness that are shown at either end


@dataclass(frozen=True)
class Told:
    """What is said of one target: its verdict, the cause and all between, what differs there, what it was made of."""

    target: str
    verdict: str
    why: str
    path: list[dict[str, str]]  # from what the target is behind, up to the cause
    changes: list[Change]  # at the cause
    made: dict[str, Any]  # of what lies there, where it is fresh
    packages: list[str] = field(default_factory=list)  # whose versions aren't what they were
    own: list[Change] = field(default_factory=list)  # at a target that is behind another, besides


def why(file: Path, names: list[str], knobs: dict[str, str], as_json: bool) -> int:
    """Print why targets are stale, or what they were made of, and return the exit code."""
    if not names:
        raise DdfileError("Name the target that is meant: ddmake why TARGET.")
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        planner = Planner(flow, store)
        chosen = flow.select(names)
        planner.survey(chosen)
        told = [_tell(flow, store, planner, rule) for rule in chosen]
    click.echo(json.dumps([asdict(one) for one in told], indent=2, ensure_ascii=False) if as_json else
               "\n\n".join("\n".join(_lines(one)) for one in told))
    return 0


def _tell(flow: Workflow, store: Store, planner: Planner, rule: Rule) -> Told:
    verdict = planner.verdicts[rule]
    chain = _chain(flow, planner, verdict)
    cause = chain[-1]
    path = [{"target": one.rule.label, "verdict": one.word, "why": one.reason} for one in chain[1:]]
    lying = _lying(store, cause.rule)
    found = _changes(store, planner, cause, lying)
    made = _made(lying) if verdict.word == "fresh" and lying else {}
    own = _own_changes(flow, store, planner, rule) if verdict.word == "maybe" else []
    return Told(rule.label, verdict.word, verdict.reason, path, found, made, _packages(cause.rule, lying), own)


def _chain(flow: Workflow, planner: Planner, verdict: Verdict) -> list[Verdict]:
    """Return the verdicts from a target's own to that of the rule which holds it up."""
    chain = [verdict]
    while chain[-1].reason.startswith(BEHIND):
        chain.append(planner.verdicts[flow.targets[chain[-1].reason.removeprefix(BEHIND)].rule])
    return chain


def _lying(store: Store, rule: Rule) -> Trace | None:
    placed = store.traces.at(rule.label)
    return placed[0] if placed else None


def _changes(store: Store, planner: Planner, verdict: Verdict, lying: Trace | None) -> list[Change]:
    """Return what differs between what lies at a target and what would be made there now."""
    if verdict.ingredients is None or lying is None or verdict.word in ("fresh", "edited"):
        return []
    return _differences(store, planner.reader, lying, verdict.ingredients)


def _differences(store: Store, reader: Reader, lying: Trace, now: Ingredients) -> list[Change]:
    texts = reader.texts(now)
    try:
        before = lying.record["ingredients"]
    except DdmakeError as error:
        return [Change("the record", str(error))]
    return changes(before, now, store.traces.text, texts.get)


def _own_changes(flow: Workflow, store: Store, planner: Planner, rule: Rule) -> list[Change]:
    """Return what differs at a rule whatever its inputs turn out to be: those that aren't settled count as they lie."""
    def identify(source: Source, columns: Container[str] | None) -> Any:
        if source.target is None or planner.verdicts[source.target.rule].settled:
            return planner.identify(source, columns)
        placed = store.traces.at(source.path)
        return narrowed(placed[0].outputs[placed[1]]["digest"], columns) if placed else f"{source.path}, not made yet"

    lying = _lying(store, rule)
    if lying is None:
        return []
    reader = Reader(flow, identify)
    return _differences(store, reader, lying, reader.ingredients(rule, store.traces.epochs().get(rule.label, lying.epoch)))


def _packages(rule: Rule, lying: Trace | None) -> list[str]:
    """Return the packages whose versions have changed since a result was made, and whether that counts."""
    try:
        then = lying.record.get("packages", {}) if lying else {}
    except DdmakeError:
        return []
    now = {name: version(name) or "not installed" for name in then}
    return [f"{name} {was} -> {now[name]}, {'declared' if name in rule.options.packages else 'not declared: does not count'}"
            for name, was in then.items() if now[name] != was]


def _made(trace: Trace) -> dict[str, Any]:
    """Return what a result was made of, in short."""
    record = trace.record
    inputs = [f"{given['path']} ({given['digest'][:8]})" for given in record["inputs"]]
    with reading(f"The record of {trace.label}"):
        arguments = {name: _short(value) for name, value in record["ingredients"].get("arguments", {}).items()}
    return {"made": trace.made, "recipe": record["recipe"]["name"], "place": record["recipe"].get("place"),
            "seconds": record["seconds"], "holds": [what(trace, name) for name in trace.outputs],
            "inputs": inputs, "arguments": arguments, "sample": trace.epoch, "adopted": bool(record.get("adopted")),
            "key": trace.key, "fingerprint": trace.fingerprint}


def _short(value: Any) -> str:
    """Return an argument in a few words."""
    if isinstance(value, dict):
        if "template" in value:
            return ", ".join(f"template {name}" if name else f"{text!r}" for name, text in value["template"].items())
        spec = value.get("llm") or value.get("embedder")
        if spec:
            return ", ".join(f"{part}={_short(one)}" if part != "name" else _short(one) for part, one in spec.items()
                             if part != "weights")
        value = value.get("value", value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 70 else f"{text[:69]}…"


def _lines(told: Told) -> list[str]:
    """Return what is said of a target, line by line."""
    lines = [f"{told.target} is fresh." if told.verdict == "fresh" else f"{told.verdict} {told.target}: {told.why}"]
    lines += _shortened([f"  {one['verdict']} {one['target']}: {one['why']}" for one in told.path])
    lines += _of_made(told.made) if told.made else []
    lines += _of_changes(told.changes)
    lines += ["", f"{told.target} itself:", *_of_changes(told.own)] if told.own else []
    if told.packages:
        lines += ["", "packages since it was made:", *(f"  {line}" for line in told.packages)]
    return lines


def _of_changes(found: Sequence[Change]) -> Iterator[str]:
    """Yield the lines that tell of changes, an empty one before each."""
    for change in found:
        yield from ("", f"{change.what}{': ' if change.told else ''}{change.told}", *map(_coloured, change.diff))


def _shortened(lines: list[str]) -> list[str]:
    """Return the lines of a path, of a very long one its ends."""
    left = len(lines) - 2 * ENDS
    return lines if left <= 1 else [*lines[:ENDS], f"  … {left:,} more between", *lines[-ENDS:]]


def _coloured(line: str) -> str:
    """Return a line of a diff, indented, in the colour that it has on a terminal."""
    return click.style(f"  {line}", fg={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))


def _of_made(made: dict[str, Any]) -> list[str]:
    how = f"{made['recipe']} ({made['place']}) in {duration(made['seconds'])}"
    facts: Sequence[tuple[str, str]] = [
        ("made", f"{when(made['made'])} by {how}" + ("; adopted after an edit" if made["adopted"] else "")),
        ("holds", ", ".join(made["holds"])),
        *(("from", given) for given in made["inputs"]),
        *((name, value) for name, value in made["arguments"].items()),
        *([("sample", str(made["sample"]))] if made["sample"] else []),
        ("key", made["key"]),
        ("fingerprint", made["fingerprint"]),
    ]
    return table(facts, indent=1)
