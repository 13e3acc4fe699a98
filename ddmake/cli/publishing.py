"""`ddmake publish`: what lies at a target, sent to the Hub; `-n` lists what would be sent."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from ddmake.cards import hub
from ddmake.cards.upload import Upload
from ddmake.cards.wanted import Wanted
from ddmake.cli.show import count, table
from ddmake.ddfile.load import load
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.plan import Planner
from ddmake.engine.verdicts import Plan
from ddmake.errors import DdfileError, DdmakeError
from ddmake.report.words import amount
from ddmake.rules.publishing import Publishing, prepared
from ddmake.store import Store, open_store

VISIBLE = {True: "private", False: "public", None: "private if it is new, else as it is"}


def publish(file: Path, names: list[str], knobs: dict[str, Any], wanted: Wanted | None, dry_run: bool) -> int:
    """Publish a target, or list what would be sent, and return the exit code.

    `wanted` is None where no repository is named: then a rule that publishes is meant, and only looked at.
    Raises DdfileError for anything but one target, DdmakeError for one that isn't fresh.
    """
    if len(names) != 1:
        raise DdfileError("ddmake publish takes one target: ddmake publish data/tweets --repo me/tweets")
    flow = load(file, **knobs)
    os.chdir(flow.root)
    rules = flow.select(names)
    if len(rules) != 1:
        raise DdfileError(f"{names[0]} stands for {count(len(rules), 'targets')}, and one is published at a time.")
    rule, results = rules[0], ()
    target: Any = _parts(flow, rule, names[0])
    if isinstance(rule.recipe, Publishing):
        target, results, wanted = _by_rule(rule, wanted, dry_run)
    if wanted is None:
        raise DdfileError(f"ddmake publish needs to know where to: ddmake publish {names[0]} --repo me/name")
    with closing(open_store(flow.root)) as store:
        _refuse_stale(flow, store, rule, isinstance(rule.recipe, Publishing))
        with _scratch(store) as scratch:
            upload = prepared(store, target, wanted, results, scratch)
            click.echo("\n".join(_listed(upload) if dry_run else _done(upload)))
    return 0


def announced(store: Store, plan: Plan) -> Iterator[str]:
    """Yield what the rules of a plan that publish would send; of one whose inputs have to be made first, that it isn't known."""
    for verdict in (verdict for verdict in plan.todo if isinstance(verdict.rule.recipe, Publishing)):
        label, (target, results, wanted) = verdict.rule.label, _by_rule(verdict.rule, None, dry_run=True)
        if verdict.word != "make" or wanted.merged:
            why = "once all before it is made" if verdict.word != "make" else "once it is merged"
            yield f"{label}: what it sends to {wanted.repo} is known {why}: ddmake publish {label} -n"
            continue
        with _scratch(store) as scratch:
            try:
                yield from _listed(prepared(store, target, wanted, results, scratch))
            except DdmakeError as error:
                yield f"{label} can't be published as it is: {error}"


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    room = store.folder / "scratch"
    room.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="publish-", dir=room) as scratch:
        yield Path(scratch)


def _parts(flow: Workflow, rule: Rule, name: str) -> str | dict[str, str]:
    """Return the path that is named, or those of all outputs of a rule that has several, by name."""
    found = flow.find(name)
    if found is not None and (rule.single or found.output):
        return found.path
    return dict(rule.outputs) if not rule.single else rule.label


def _by_rule(rule: Rule, wanted: Wanted | None, dry_run: bool) -> tuple[Any, Any, Wanted]:
    """Return what a rule would publish. Raises DdfileError unless that is only to be looked at."""
    if wanted is not None or not dry_run:
        raise DdfileError(f"{rule.label} is a rule that publishes, and says itself where to. Do: ddmake {rule.label}; what it "
                          f"would send: ddmake publish {rule.label} -n")
    told = {name: value for name, value in rule.arguments.items() if name in Wanted.__dataclass_fields__}
    return _paths(rule.inputs["target"]), _paths(rule.arguments["results"]), Wanted(**told)


def _paths(given: Any) -> Any:
    if isinstance(given, dict):
        return {name: _paths(one) for name, one in given.items()}
    if isinstance(given, (list, tuple)):
        return [_paths(one) for one in given]
    return given.path if isinstance(given, Source) else given


def _refuse_stale(flow: Workflow, store: Store, rule: Rule, publishes: bool) -> None:
    """Raise DdmakeError unless what is to be published lies there as today's Ddfile makes it."""
    for verdict in Planner(flow, store).survey([rule]).verdicts:
        if verdict.word != "fresh" and not (publishes and verdict.rule is rule):
            told = verdict.word if verdict.word in ("edited", "waiting") else "stale"
            remedy = "" if told == "edited" else f" Do: ddmake {verdict.rule.label}"  # an edit's reason names its remedies
            raise DdmakeError(f"{verdict.rule.label} is {told}: {verdict.reason}. Only what is fresh is published.{remedy}")


def _listed(upload: Upload) -> Iterator[str]:
    wanted, whole = upload.wanted, sum(file.size for file in upload.files)
    how = "as a pull request" if wanted.pull_request else VISIBLE[wanted.private]
    branch = f", branch {wanted.revision}" if wanted.revision else ""
    yield f"would publish {', '.join(upload.of)} to the {upload.kind} {wanted.repo}{branch} ({how}):"
    yield from table([(file.name, amount(file.size)) for file in upload.files], indent=1)
    yield f"{count(len(upload.files), 'files')}, {amount(whole)}; what is there already isn't sent again. Nothing was sent."


def _done(upload: Upload) -> Iterator[str]:
    done = hub.send(upload)
    whole = sum(file.size for file in upload.files)
    yield f"published {', '.join(upload.of)}: {done.pull_request or done.url}"
    yield (f"  {count(len(upload.files), 'files')}, {amount(whole)}; commit {done.commit[:12]}; "
           f"{'a pull request' if done.pull_request else 'private' if done.private else 'public'}")
