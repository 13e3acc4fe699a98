"""What `make` prints: the plan, and the summary of a run."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddmake.calls.money import Spent, dollars
from ddmake.cli import estimating
from ddmake.cli.estimating import Estimates
from ddmake.cli.lines import aligned, table
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import shards
from ddmake.engine.run import Done
from ddmake.engine.verdicts import Plan, Verdict
from ddmake.report.words import count, duration

SHOWN = 40  # results told one by one after a run
FEW = 8  # outputs of one rule that are named in a table
NOTHING: Estimates = {}
NOTHING_KEPT: Mapping[Rule, str] = {}
HELD_OUT = ("eval_accuracy", "eval_f1", "eval_spearman", "eval_reward", "eval_loss")
LEARNED = ("reward", "train_accuracy", "train_loss")


def plan(flow: Workflow, plan: Plan, last: Mapping[str, Any] | None, verbose: bool,
         estimates: Estimates = NOTHING, limit: float | None = None, away: bool = False) -> str:
    """Return the plan as a table: verdict, target, why; and what would be sent and paid, where a rule asks an llm.

    `limit` is what may be spent, in dollars; jobs would run `away`, on other machines.
    """
    if not plan.verdicts:
        return "\n".join([*_knobs(flow, last), _no_rules(flow)])
    shown = [v for v in plan.verdicts if verbose or v.word != "fresh"]
    rows = [(v.word, _targets(v), *(estimating.cells(v, estimates) if estimates else ()), _why(v, away)) for v in shown]
    head = ("", "target", *(estimating.COLUMNS if estimates else ()), "why")
    lines = aligned([head, *rows], range(2, len(head) - 1)) if rows else []
    return "\n".join([*_knobs(flow, last), *lines, f"{_counts(plan, verbose)}{estimating.sure(plan, estimates, limit)}"])


def plan_json(flow: Workflow, plan: Plan, estimates: Estimates = NOTHING) -> str:
    """Return the plan as JSON."""
    rules = [{"targets": list(v.rule.outputs.values()), "verdict": v.word, "why": v.reason, "key": v.key,
              **estimating.as_json(estimates.get(v.rule))} for v in plan.verdicts]
    return json.dumps({"ddfile": flow.file.name, "knobs": flow.knobs, "rules": rules}, indent=2)


def damaged(number: int) -> str:
    """Return what is said of records whose checksum doesn't fit."""
    return (f".ddmake/traces.db: {count(number, 'damaged records')} left out; "
            "what they told of is made again, finished calls are kept.")


def nothing_to_do(flow: Workflow, plan: Plan, verbose: bool) -> str:
    """Return what is said where there is nothing to make."""
    if not plan.verdicts:
        return _no_rules(flow)
    held = [v for v in plan.verdicts if v.word not in ("fresh", "manual") or verbose]
    lines = table([(v.word, _targets(v), v.reason) for v in held]) if held else []
    return "\n".join([*lines, _counts(plan, verbose)])


def summary(flow: Workflow, results: Sequence[Done], seconds: float, stopped: bool,
            spent: tuple[Spent, Spent] | None = None, kept: Mapping[Rule, str] = NOTHING_KEPT) -> str:
    """Return what a run has done, a line a target, and what went wrong in sentences.

    `spent` is what calls have cost in this run, and in all; `kept` says what is left of the work of rules that failed.
    """
    words = Counter(done.word for done in results)
    told = ("made", "restored", "adopted", "fresh", "failed", "not run", "waiting", "edited")
    counts = [f"{word} {words[word]}" for word in told if words[word] or word in ("made", "fresh")]
    lines = [f"{'stopped: ' if stopped else ''}{', '.join(counts)} in {duration(seconds)}"]
    made = [done for done in results if done.word in ("made", "restored", "adopted")]
    more = [(f"and {len(made) - SHOWN:,} more", "")] if len(made) > SHOWN else []
    held = [(done.rule.label, f"{done.word}: {done.told}") for done in results if done.word in ("waiting", "edited")]
    lines += table([*(line for done in made[:SHOWN] for line in _made(done)), *more, *held], indent=1)
    for done in results:
        if done.word == "failed":
            lines += ["", *_failure(flow, done, results, kept.get(done.rule))]
    spared = sum(done.word == "not run" and done.told == "stopped" for done in results)
    if words["failed"] and spared and not stopped:
        lines += ["", f"{count(spared, 'targets')} not run that could be: ddmake -k goes on after a failure."]
    last = [f"{spent[0].told} now, {spent[1].told} in all."] if spent is not None and spent[1].calls else []
    if words["made"] and not words["failed"] + words["waiting"] + words["edited"] and not stopped:
        last.append(f"Next: ddmake{'' if flow.file.name == 'Ddfile' else f' -f {flow.file.name}'} cards")
    lines += ["  ".join(last)] if last else []
    if stopped:
        lines.append("What was made is kept, finished calls and checkpoints too: ddmake goes on from there.")
    return "\n".join(lines)


def _why(verdict: Verdict, away: bool) -> str:
    """Return why a rule has its verdict, and in how many shards it is made, where it is."""
    of = shards.stated(verdict.rule) if away and verdict.word in ("make", "maybe") else 1
    return f"{verdict.reason}; {of} shards" if of > 1 else verdict.reason


def few(paths: Iterable[str]) -> str:
    """Return paths in a row, the first ones where they are many."""
    known = list(paths)
    more = f" and {len(known) - FEW:,} more" if len(known) > FEW else ""
    return ", ".join(known[:FEW]) + more


def rows(number: int) -> str:
    """Return a number of rows in words."""
    return count(number, "rows")


def _no_rules(flow: Workflow) -> str:
    if flow.patterns.all:
        label = flow.patterns.all[0].label
        return f"0 fresh. Nothing to do: {flow.file.name} has patterns only. Name a path that one makes, as in ddmake '{label}'."
    return f"0 fresh. Nothing to do: {flow.file.name} declares no rules."


def _targets(verdict: Verdict) -> str:
    return few(verdict.rule.outputs.values())


def _knobs(flow: Workflow, last: Mapping[str, Any] | None) -> list[str]:
    if not flow.knobs:
        return []
    now = " ".join(f"{name}={_value(value)}" for name, value in flow.knobs.items())
    before = {name: last[name] for name in flow.knobs if last and name in last and last[name] != _plain(flow.knobs[name])}
    had = " ".join(f"{name}={_value(value)}" for name, value in before.items())
    return [f"knobs: {now}        last run had {had} (--last)" if had else f"knobs: {now}"]


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
    for number, name in enumerate(done.trace.outputs) if done.trace else ():
        facts = [_rows_of(many, done)] if (many := done.trace.rows(name)) is not None else []
        if number == 0:
            facts += _published(done) + _facts(done.word, done.rule.label, done.trace.record)
            facts += ([f"{done.tries} tries"] if done.tries > 1 else [])
        lines.append((done.rule.outputs[name], "; ".join(facts)))
    return lines


def _published(done: Done) -> list[str]:
    """Return where a rule that publishes has put it, as what it made here tells."""
    if not (done.rule.recipe.packaged and done.rule.recipe.name == "publish" and done.word == "made"):
        return []
    place = Path(done.rule.label)
    told = json.loads((place / "published.json" if place.is_dir() else place).read_text(encoding="utf-8"))
    return [told["pull_request"] or told["url"]]


def _rows_of(number: int, done: Done) -> str:
    """Return how many rows there are, and of how many they are left."""
    of = done.trace.record.get("of_rows") if done.trace else None
    return rows(number) if of is None or of < number else f"{number:,} of {rows(of)}"


def _facts(word: str, path: str, record: Mapping[str, Any]) -> list[str]:
    if word in ("restored", "adopted"):
        return [word]
    facts, usage = [], record["usage"]
    for name, used in usage.items():
        sent = f"{used['sent']:,} sent" + (f", {used['cached']:,} cached" if used["cached"] else "")
        facts.append(f"{name}: {sent}" if len(usage) > 1 else sent)
        facts += ["$?" if used.get("cost") is None else dollars(used["cost"])] if used["sent"] and used.get("cost") != 0 else []
        facts += [f"{used['cut']:,} cut at max_tokens"] if used["cut"] else []
        lost = f"{used['failed']:,} failed, the first: {used['first_failure']} (ddmake show {path} --failed)"
        facts += [lost] if used["failed"] else []
    facts += _learned(record.get("metrics", {})) if record["recipe"]["name"] != "choose" else []
    facts += ["{chosen}, {chosen_by} {score:.4g}".format(**record["metrics"])] if record["recipe"]["name"] == "choose" else []
    facts += [f"{record['shards']} shards"] if "shards" in record else []
    return [*facts, duration(record["seconds"])]


def _learned(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a training's metrics say of its model: of held-out rows where there are any, else of those it learned from."""
    held = any(name in metrics for name in HELD_OUT)
    return [f"{name} {metrics[name]:.3g}" for name in (HELD_OUT if held else LEARNED) if name in metrics]


def _failure(flow: Workflow, done: Done, results: Sequence[Done], kept: str | None) -> list[str]:
    """Return what is to be said of a failure: the sentence, what is kept, where the log is, what wasn't run for it."""
    behind = [other.rule.label for other in results if other.word == "not run" and done.rule.label in other.told]
    lines = [done.told if done.told.startswith(f"{done.rule.label}: ") else f"{done.rule.label}: {done.told}"]
    lines += [f"  {kept}"] if kept else []
    if done.log is not None and done.log.exists():  # a job that never began has none
        lines.append(f"  log: {done.log.relative_to(flow.root)}")
    return [*lines, f"  not run: {', '.join(behind)}"] if behind else lines
