"""What `make` prints: the plan, and the summary of a run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Plan, Verdict
from ddmake.engine.run import Done

Row = Sequence[str]
SHOWN = 40  # results told one by one after a run


def plan(flow: Workflow, plan: Plan, last: Mapping[str, Any] | None, verbose: bool) -> str:
    """Return the plan as a table: verdict, target, why."""
    shown = [v for v in plan.verdicts if verbose or v.word != "fresh"]
    rows = [(v.word, _targets(v), v.reason) for v in shown]
    lines = [*_knobs(flow, last), *(table([("", "target", "why"), *rows]) if rows else []), _counts(plan, verbose)]
    return "\n".join(lines)


def plan_json(flow: Workflow, plan: Plan) -> str:
    """Return the plan as JSON."""
    rules = [{"targets": list(v.rule.outputs.values()), "verdict": v.word, "why": v.reason, "key": v.key} for v in plan.verdicts]
    return json.dumps({"ddfile": flow.file.name, "knobs": flow.knobs, "rules": rules}, indent=2)


def damaged(count: int) -> str:
    """Return what is said of records whose checksum doesn't fit."""
    return (f".ddmake/traces.db: {count} damaged record{'s' * (count != 1)} left out; "
            "what they told of is made again, finished calls are kept.")


def nothing_to_do(plan: Plan, verbose: bool) -> str:
    """Return what is said where there is nothing to make."""
    held = [v for v in plan.verdicts if v.word not in ("fresh", "manual") or verbose]
    lines = table([(v.word, _targets(v), v.reason) for v in held]) if held else []
    return "\n".join([*lines, _counts(plan, verbose)])


def summary(flow: Workflow, results: Sequence[Done], seconds: float, stopped: bool) -> str:
    """Return what a run has done, a line a target, and what went wrong in sentences."""
    words = Counter(done.word for done in results)
    told = ("made", "restored", "adopted", "fresh", "failed", "not run", "waiting", "edited")
    counts = [f"{word} {words[word]}" for word in told if words[word] or word in ("made", "fresh")]
    lines = [f"{'stopped: ' if stopped else ''}{', '.join(counts)} in {duration(seconds)}"]
    made = [done for done in results if done.word in ("made", "restored", "adopted")]
    lines += table([line for done in made[:SHOWN] for line in _made(done)], indent=1)
    lines += [f"  and {len(made) - SHOWN:,} more"] if len(made) > SHOWN else []
    held = [done for done in results if done.word in ("waiting", "edited")]
    lines += table([(done.rule.label, f"{done.word}: {done.told}") for done in held], indent=1)
    for done in results:
        if done.word == "failed":
            lines += ["", *_failure(flow, done, results)]
    if words["made"] and not words["failed"] + words["waiting"] + words["edited"] and not stopped:
        lines.append(f"Next: ddmake{'' if flow.file.name == 'Ddfile' else f' -f {flow.file.name}'} cards")
    if stopped:
        lines.append("What was made is kept, finished calls and checkpoints too: ddmake goes on from there.")
    return "\n".join(lines)


def table(rows: Sequence[Row], indent: int = 0) -> list[str]:
    """Return rows as aligned lines."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    pad = "  "
    lines = (pad.join([*(cell.ljust(width) for cell, width in zip(row, widths) if width), row[-1]]) for row in rows)
    return [(pad * indent + line).rstrip() for line in lines]


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def rows(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def _targets(verdict: Verdict) -> str:
    return ", ".join(verdict.rule.outputs.values())


def _knobs(flow: Workflow, last: Mapping[str, Any] | None) -> list[str]:
    if not flow.knobs:
        return []
    now = " ".join(f"{name}={_value(value)}" for name, value in flow.knobs.items())
    before = {name: last[name] for name in flow.knobs if last and name in last and last[name] != _plain(flow.knobs[name])}
    had = "        last run had " + " ".join(f"{name}={_value(value)}" for name, value in before.items()) if before else ""
    return [f"knobs: {now}{had}"]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _counts(plan: Plan, verbose: bool) -> str:
    words = Counter(v.word for v in plan.verdicts)
    parts = [f"{word} {words[word]}" for word in ("make", "restore", "adopt", "maybe", "waiting", "edited") if words[word]]
    fresh = f"{words['fresh']} fresh{'' if verbose or not words['fresh'] else ' (-v)'}."
    rest = ", ".join(parts)
    return f"{fresh} {rest[:1].upper()}{rest[1:]}." if parts else f"{fresh} Nothing to do."


def _made(done: Done) -> list[tuple[str, str]]:
    """Return a line for each output of a rule that was made: (path, what is to be said)."""
    lines = []
    for number, (name, out) in enumerate(done.trace.outputs.items() if done.trace else ()):
        facts = [rows(out["digest"]["rows"])] if "rows" in out["digest"] else []
        if number == 0 and done.trace:
            facts += _facts(done.word, done.trace.record) + ([f"{done.tries} tries"] if done.tries > 1 else [])
        lines.append((done.rule.outputs[name], "; ".join(facts)))
    return lines


def _facts(word: str, record: Mapping[str, Any]) -> list[str]:
    if word in ("restored", "adopted"):
        return [word]
    facts = []
    for name, used in record["usage"].items():
        sent = f"{used['sent']:,} sent" + (f", {used['cached']:,} cached" if used["cached"] else "")
        facts.append(f"{name}: {sent}")
        facts += [f"{used['failed']:,} failed, the first: {used['first_failure']}"] if used["failed"] else []
        facts += [f"{used['cut']:,} cut at max_tokens"] if used["cut"] else []
    facts += [f"{name} {value:.3g}" for name, value in record.get("metrics", {}).items() if name in ("train_loss", "eval_loss")]
    return [*facts, duration(record["seconds"])]


def _failure(flow: Workflow, done: Done, results: Sequence[Done]) -> list[str]:
    """Return what is to be said of a failure: the sentence, where the log is, what wasn't run for it."""
    behind = [other.rule.label for other in results if other.word == "not run" and done.rule.label in other.told]
    lines = [done.told if done.told.startswith(f"{done.rule.label}: ") else f"{done.rule.label}: {done.told}"]
    if done.log is not None:
        lines.append(f"  log: {done.log.relative_to(flow.root)}")
    return [*lines, f"  not run: {', '.join(behind)}"] if behind else lines
