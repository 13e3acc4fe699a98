"""One job, from its command line to its trace. Runs in a process of its own, under the locks of its outputs."""

import json
import os
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.artifacts import stage
from ddmake.calls.model import Manner
from ddmake.ddfile.inputs import GIVEN
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import commit, recipes, repository, shards
from ddmake.engine.commit import Made, folder_of, settle
from ddmake.engine.ingredients import Reader
from ddmake.engine.locks import Tell, locked, names_of
from ddmake.engine.opening import Opener, Way
from ddmake.engine.plan import Planner, digest_of
from ddmake.engine.record import record_of
from ddmake.engine.schema import check_opened
from ddmake.engine.shards import Part, Shard
from ddmake.engine.verdicts import Edited, Verdict
from ddmake.engine.watched import watched
from ddmake.errors import DdfileError, DdmakeError, NoRows, PlanAgain, RecipeFailed
from ddmake.store import Store
from ddmake.store.objects import Damaged
from ddmake.store.traces import Trace

if TYPE_CHECKING:
    from ddmake.engine.parts import PartOpener

FAILED = "failed.jsonl"  # in the scratch folder: rows without a usable answer

Reload = Callable[[], Workflow]
Hashes = Mapping[str, str]  # of files, by path
Run = Callable[[Rule, dict[str, Any], dict[str, Any], dict[str, Path]], dict[str, int]]  # as recipes.run


@dataclass(frozen=True)
class Order:
    """What a head orders: the key that it planned under, and what of the user's wishes concerns the job."""

    key: str
    force: bool = False  # make it, be it fresh or not
    retry: bool = False  # and send its failed rows again
    caller: str | None = None  # where the run's caller is reached
    edited: Edited = "tell"
    apart: str | None = None  # the name of this try, on another machine than the head's, which commits what it makes
    shard: Shard | None = None  # which part of the rule is to be made, apart from the others
    joins: int = 0  # how many such parts are to be joined


@dataclass(frozen=True)
class Outcome:
    """How a job ended well: "made", "restored", "adopted", or "fresh" where somebody else had done it meanwhile.

    It has a trace, or, done apart, what is still to be committed; a "part" has neither.
    """

    word: str
    trace: Trace | None = None
    made: Made | None = None


@dataclass(frozen=True)
class Ran:
    """What is known of a recipe that ran: what its llms were asked, and how many rows it gave, by output.

    `given` are the rows and columns of the dataset that it was given, where that is just one; `more` is for the record.
    """

    usage: dict[str, Any]
    given: tuple[int, list[str]] | None
    counts: dict[str, int]
    more: dict[str, Any] = field(default_factory=dict)


def perform(flow: Workflow, files: Hashes, store: Store, rule: Rule, order: Order, tell: Tell, reload: Reload) -> Outcome:
    """Do one job, and return how it ended.

    `files` are those that the workflow was loaded from; `reload` loads it again, as it is on disk when the job is done.
    Raises PlanAgain where the key no longer holds, RecipeFailed where the recipe fails.
    """
    with locked(store, names_of(rule, order.key), tell) if order.apart is None else nullcontext():
        planner, verdict = _decide(flow, store, rule, order)
        if verdict.key != order.key:
            raise PlanAgain(f"{rule.label}: the Ddfile, a template or a source changed during the run. Run ddmake again. "
                            "(If nothing did, something at the Ddfile's top level differs each time it is loaded: ddmake lint.)")
        if verdict.word == "edited":
            raise DdmakeError(f"{rule.label}: {verdict.reason}.")
        if verdict.word != "make" and (order.shard or order.joins):
            raise PlanAgain(f"{rule.label}: somebody else has made it meanwhile. Run ddmake again.")
        if verdict.word == "fresh" and verdict.trace:
            return Outcome("fresh", verdict.trace)
        if verdict.word == "adopt":
            return Outcome("adopted", commit.adopt(store, rule, verdict, _base(planner, verdict)))
        if verdict.word == "restore" and verdict.trace:
            try:
                commit.restore(store, rule, verdict.trace)
                stage.remove(folder_of(store, order.key))  # of a kill after the trace was committed
                return Outcome("restored", verdict.trace)
            except Damaged as error:
                print(f"{error}; {rule.label} is made again", flush=True)
        if order.shard is not None:
            _make_part(flow, files, store, rule, order, order.shard, planner, verdict, tell, reload)
            return Outcome("part")
        made = _make(flow, files, store, rule, order, planner, verdict, tell, reload)
        if order.apart is not None:
            return Outcome("made", made=made)
        return Outcome("made", settle(store, rule, made))


def _decide(flow: Workflow, store: Store, rule: Rule, order: Order) -> tuple[Planner, Verdict]:
    """Decide on one rule, its inputs being what was last placed at their paths, and lies there.

    Raises PlanAgain for an input that has gone or was changed since the run was planned.
    """
    planner = Planner(flow, store, order.edited)
    planner.forced = {rule} if order.force else set()
    planner.retried = {rule} if order.retry else set()
    for source in flow.sources(rule):
        before = source.target.rule if source.target is not None else None
        if before is not None and before not in planner.verdicts and not planner.take_as_it_lies(before):
            raise PlanAgain(f"{rule.label}: {source.path} isn't what was made for it any more. Run ddmake again.")
    return planner, planner.decide(rule)


def _make(flow: Workflow, files: Hashes, store: Store, rule: Rule, order: Order, planner: Planner, verdict: Verdict,
          tell: Tell, reload: Reload) -> Made:
    """Run the recipe, and return what it made, ready to be committed."""
    folder = folder_of(store, order.key)
    room = folder / order.apart if order.apart else folder  # a try elsewhere that was given up may still write to its own
    scratch = {name: room / str(i) / os.path.basename(path) for i, (name, path) in enumerate(rule.outputs.items())}
    for place in scratch.values():
        stage.remove(place.parent)  # of a try that failed
        os.makedirs(place.parent)
    started = time.time()
    way = Way(Manner(verdict.epoch, order.retry), order.caller, room / FAILED, room, folder if order.apart else None)
    with _half_goes(room, scratch):
        if order.joins:
            ran = _join(rule, folder, order.joins, scratch, room / FAILED)
        else:
            ran = _run(rule, scratch, folder / "checkpoints", Opener(flow, store, rule, tell, way))
        outputs = commit.keep(store, scratch, rule)
    if _changed(flow, files, store, rule, planner):
        _check_again(reload, store, rule, order.key)
    record = record_of(flow, rule, planner, verdict, ran.more.get("started", started), ran.usage)
    record |= {**ran.more, "metrics": _metrics(rule, scratch), "git": repository.commit_of(flow.root, files),
               **_left(ran, outputs), **_counted(ran.counts, outputs)}
    texts, fingerprint = planner.reader.texts(verdict.ingredients or {}), _fingerprint(flow, rule, planner, verdict)
    return Made(order.key, _base(planner, verdict), verdict.epoch, fingerprint, outputs, record, texts,
                {name: str(place) for name, place in scratch.items()}, str(room / FAILED))


def _make_part(flow: Workflow, files: Hashes, store: Store, rule: Rule, order: Order, shard: Shard, planner: Planner,
               verdict: Verdict, tell: Tell, reload: Reload) -> None:
    """Run the recipe on a shard of its input, and write down what it made, unless an earlier try got so far."""
    from ddmake.engine.parts import PartOpener

    folder, started = folder_of(store, order.key), time.time()
    room = shards.room(folder, shard)
    own = room / str(order.apart)
    place = own / "rows" / "0"  # a dataset, whatever the rule's own output is
    if (room / shards.TOLD).exists():
        return
    stage.remove(own)
    os.makedirs(place.parent)
    way = Way(Manner(verdict.epoch, order.retry), order.caller, own / FAILED, own, room)
    opener = PartOpener(flow, store, rule, tell, way, shard)
    with _half_goes(own, {"": place}), _told_as(opener):
        ran = _run(rule, {"": place}, room / "checkpoints", opener, partial(_run_part, opener))
    if _changed(flow, files, store, rule, planner):
        _check_again(reload, store, rule, order.key)
    there, (given, columns) = place.exists(), ran.given or (0, [])
    size = sum(file.stat().st_size for file in place.iterdir()) if there else 0
    record = record_of(flow, rule, planner, verdict, started, ran.usage)
    shards.keep(folder, shard, Part(str(place) if there else "", size, str(own / FAILED), given, columns, opener.failed,
                                    opener.usable, opener.why, record))


def _join(rule: Rule, folder: Path, of: int, scratch: dict[str, Path], lost: Path) -> Ran:
    """Put the parts of a rule together, and return what running it in one piece would have told."""
    from ddmake.engine.parts import join

    there = shards.found(folder, of)
    if len(there) < of:
        raise PlanAgain(f"{rule.label}: {of - len(there)} of its {of} shards have gone. Run ddmake again.")
    made = [there[number] for number in range(of)]
    record, count = join(rule, made, scratch[""], lost)
    return Ran(record.pop("usage"), (sum(part.given for part in made), made[0].columns), {"": count}, record)


@contextmanager
def _told_as(opener: "PartOpener") -> Iterator[None]:
    """Have a failure say of which shard it is."""
    try:
        yield
    except DdmakeError as error:
        error.args = (f"{opener.told}: {error}",)
        raise


@contextmanager
def _half_goes(folder: Path, scratch: dict[str, Path]) -> Iterator[None]:
    """Remove what a job that fails has written so far, but for its checkpoints: it may be what has filled the disk."""
    process = os.getpid()
    try:
        yield
    except BaseException:
        if os.getpid() == process:  # and not a child that the recipe forked
            for place in scratch.values():
                shutil.rmtree(place.parent, ignore_errors=True)
            with suppress(OSError):
                (folder / FAILED).unlink(missing_ok=True)
                folder.rmdir()
        raise


def _run(rule: Rule, scratch: dict[str, Path], checkpoints: Path, opener: Opener, run: Run = recipes.run) -> Ran:
    """Run the recipe on its opened inputs."""
    given, process = dict(zip(GIVEN, (None, checkpoints, opener.tell))), os.getpid()
    if "checkpoints" in rule.recipe.signature.parameters:
        checkpoints.mkdir(parents=True, exist_ok=True)
    try:
        opened = opener.given()
        check_opened(rule, opened)
        counts = run(rule, opened, given, scratch)
    finally:
        opener.close()
    if os.getpid() != process:
        os._exit(0)  # a recipe forked, and this is its child: what it made is its parent's to commit
    usage = {name: {**asdict(used), "models": sorted(used.models), **opener.remarks.get(name, {})}
             for name, used in opener.usage.items()}
    rows = [opened[name] for name in rule.inputs if hasattr(opened[name], "column_names") and hasattr(opened[name], "__len__")]
    return Ran(usage, (len(rows[0]), list(rows[0].column_names)) if len(rows) == 1 else None, counts)


def _run_part(opener: "PartOpener", rule: Rule, opened: dict[str, Any], given: dict[str, Any],
              scratch: dict[str, Path]) -> dict[str, int]:
    """Run the recipe on a shard's rows, of which there may be none, and which may come to nothing."""
    if not opener.range and opener.shard[0] > 0:  # the first one says what comes of no rows
        return {}
    try:
        return recipes.run(rule, opened, given, scratch)
    except RecipeFailed as error:
        if isinstance(error.__cause__, NoRows):
            return {}
        raise


def _left(ran: Ran, outputs: Mapping[str, Any]) -> dict[str, int]:
    """Return of how many rows a dataset was made that has fewer, and the same columns: so many were left out."""
    made, (given, columns) = outputs[""]["digest"] if "" in outputs else {}, ran.given or (0, [])
    return {"of_rows": given} if "rows" in made and made["rows"] < given and set(columns) == set(made["columns"]) else {}


def _counted(counts: Mapping[str, int], outputs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return how many rows there are in outputs that are files, whose digests don't tell."""
    found = {name: count for name, count in counts.items() if "rows" not in outputs[name]["digest"]}
    return {"rows": found} if found else {}


def _metrics(rule: Rule, outputs: dict[str, Path]) -> dict[str, Any]:
    """Return what a training has left in its model folder's metrics.json: numbers and texts, curves and settings aside."""
    file = outputs[""] / "metrics.json" if rule.recipe.kind == "train" and rule.single else None
    told = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    return {name: value for name, value in told.items() if isinstance(value, (int, float, str))} if isinstance(told, dict) else {}


def _changed(flow: Workflow, files: Hashes, store: Store, rule: Rule, planner: Planner) -> bool:
    """Tell whether a file that the key was computed from has changed since; a module that was loaded meanwhile is no change."""
    now = watched(flow, store)
    sources = (source for group in rule.reads for source in group if source.target is None)
    return (any(now.get(file) != sha for file, sha in files.items())
            or any(digest_of(store, source.path) != planner.digest(source) for source in sources))


def _check_again(reload: Reload, store: Store, rule: Rule, key: str) -> None:
    """Raise PlanAgain where the key no longer holds for the Ddfile as it is now."""
    try:
        flow = reload()
        target = flow.find(rule.label)
        holds = target is not None and _decide(flow, store, target.rule, Order(key))[1].key == key
    except (DdfileError, PlanAgain):
        holds = False
    if not holds:
        raise PlanAgain(f"{rule.label}: the Ddfile, a template or a source changed while it was made; nothing was committed. "
                        "Run ddmake again: finished calls are kept.")


def _base(planner: Planner, verdict: Verdict) -> str:
    """Return the key, were the sample epoch 0."""
    return planner.keys.of(verdict.ingredients or {}, epoch=0)


def _fingerprint(flow: Workflow, rule: Rule, planner: Planner, verdict: Verdict) -> str:
    """Return the hash of the recipe and of all recipes before it."""
    def identify(source: Source, columns: Container[str] | None) -> Any:
        trace = planner.verdicts[source.target.rule].trace if source.target is not None else None
        return {"fingerprint": trace.fingerprint, "output": source.target.output} if trace else planner.digest(source)

    return planner.keys.of({**(verdict.ingredients or {}), **Reader(flow, identify).given(rule)})
