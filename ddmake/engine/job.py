"""One job, from its command line to its trace. Runs in a process of its own, under the locks of its outputs.

The order is what makes a kill harmless: scratch, object, trace, swap; each step can be done again.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ddmake.artifacts import stage
from ddmake.ddfile import modules
from ddmake.ddfile.inputs import GIVEN
from ddmake.ddfile.rule import Rule
from ddmake.ddfile.target import Source
from ddmake.ddfile.workflow import Workflow
from ddmake.engine import recipes
from ddmake.engine.ingredients import ingredients, key_of
from ddmake.engine.opening import Opener
from ddmake.engine.plan import Planner, Verdict, digest_of
from ddmake.engine.record import record_of
from ddmake.errors import DdfileError, PlanAgain
from ddmake.fingerprint import hashes
from ddmake.store import Store
from ddmake.store.objects import Damaged
from ddmake.store.traces import Trace

Tell = Callable[[int, int, str], None]
Reload = Callable[[], Workflow]


@dataclass(frozen=True)
class Outcome:
    """How a job ended well: "made", "restored", or "fresh" where somebody else had done it meanwhile."""

    word: str
    trace: Trace


def perform(flow: Workflow, store: Store, rule: Rule, key: str, tell: Tell, reload: Reload) -> Outcome:
    """Do one job that was planned under `key`, and return how it ended.

    `reload` loads the Ddfile again, as it is on disk when the job is done.
    Raises PlanAgain where the key no longer holds, RecipeFailed where the recipe fails.
    """
    with locked(store, [*rule.outputs.values(), f"key {key}"], tell):
        planner, verdict = _decide(flow, store, rule)
        if verdict.key != key:
            raise PlanAgain(f"{rule.label}: the Ddfile, a template or a source changed during the run. Run ddmake again.")
        if verdict.word == "fresh" and verdict.trace:
            return Outcome("fresh", verdict.trace)
        if verdict.word == "restore" and verdict.trace:
            try:
                return Outcome("restored", _restore(store, rule, verdict.trace))
            except Damaged as error:
                print(f"{error}; {rule.label} is made again", flush=True)
        return Outcome("made", _make(flow, store, rule, planner, verdict, tell, reload))


@contextmanager
def locked(store: Store, names: Iterable[str], tell: Tell) -> Iterator[None]:
    """Hold the locks of a job's outputs and of its key, which two rules may share; they go with their holder's process."""
    with ExitStack() as held:
        for name in sorted(names):
            file = store.folder / "locks" / f"{hashes.of_value(name)[:32]}.lock"
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                tell(0, 0, f"waiting for process {_holder(file)}, which is making it")
                lock.acquire()
            held.callback(lock.release)
            file.with_suffix(".pid").write_text(str(os.getpid()))
        yield


def _holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".pid").read_text()
    except OSError:
        return "?"


def _decide(flow: Workflow, store: Store, rule: Rule) -> tuple[Planner, Verdict]:
    """Decide on one rule, its inputs being what was last placed at their paths."""
    planner = Planner(flow, store)
    for source in flow.sources(rule):
        before = flow.producer(source)
        placed = store.traces.at(source.path) if before else None
        if before is not None and placed is not None:
            planner.verdicts[id(before)] = Verdict(before, "fresh", trace=placed[0])
        elif before is not None:
            raise PlanAgain(f"{rule.label}: {source.path} isn't made any more. Run ddmake again.")
    return planner, planner.decide(rule)


def _restore(store: Store, rule: Rule, trace: Trace) -> Trace:
    """Put a result that is kept in the store back into place."""
    _intend(store, rule, trace)
    for name, path in rule.outputs.items():
        manifest = trace.record["outputs"][name]["manifest"]
        scratch = store.folder / "scratch" / f"restore-{hashes.of_value(path)[:16]}"
        stage.remove(scratch)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        store.objects.get(manifest, scratch)
        _place(store, rule, name, scratch, manifest)
    store.traces.place(trace, rule.outputs)
    return trace


def _make(flow: Workflow, store: Store, rule: Rule, planner: Planner, verdict: Verdict, tell: Tell, reload: Reload) -> Trace:
    """Run the recipe and commit what it made."""
    folder = store.folder / "scratch" / str(verdict.key)[:32]
    stage.remove(folder / "output")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    scratch = {name: folder / "output" / str(i) / Path(path).name for i, (name, path) in enumerate(rule.outputs.items())}
    for path in scratch.values():
        path.parent.mkdir(parents=True)
    before, started, process = _watched(flow, rule), time.time(), os.getpid()
    usage = _run(flow, store, rule, scratch, folder / "checkpoints", tell)
    if os.getpid() != process:
        os._exit(0)  # a recipe forked, and this is its child: what it made is its parent's to commit
    outputs = {name: _keep(store, path) for name, path in scratch.items()}
    now = _watched(flow, rule)
    if any(now.get(file) != sha for file, sha in before.items()):  # a module that was loaded meanwhile is no change
        _check_again(reload, store, rule, str(verdict.key))
    record = {**record_of(flow, rule, planner, verdict, started, usage, outputs), "metrics": _metrics(rule, scratch)}
    trace = store.traces.add(str(verdict.key), _fingerprint(flow, store, rule, planner), record)
    _intend(store, rule, trace)
    for name, path in scratch.items():
        _place(store, rule, name, path, outputs[name]["manifest"])
    store.traces.place(trace, rule.outputs)
    stage.remove(folder)
    return trace


def _run(flow: Workflow, store: Store, rule: Rule, scratch: dict[str, Path], checkpoints: Path, tell: Tell) -> dict[str, Any]:
    """Run the recipe on its opened inputs, and return what its llms were asked."""
    opener = Opener(flow, store, tell)
    given = dict(zip(GIVEN, (None, checkpoints, tell)))
    try:
        opened = {name: opener.open(value) for name, value in {**rule.inputs, **rule.arguments}.items()}
        recipes.run(rule, opened, given, scratch)
    finally:
        opener.close()
    return {name: {**asdict(used), "models": sorted(used.models)} for name, used in opener.usage.items()}


def _keep(store: Store, scratch: Path) -> dict[str, Any]:
    """Return an output's digest and manifest, its files kept as objects."""
    manifest = store.files.manifest(scratch)
    store.objects.put(scratch, manifest)
    return {"digest": digest_of(store, scratch), "manifest": manifest}


def _metrics(rule: Rule, outputs: dict[str, Path]) -> dict[str, Any]:
    """Return the numbers that a training has left in its model folder's metrics.json, curves aside."""
    file = outputs[""] / "metrics.json" if rule.recipe.kind == "train" and rule.single else None
    told = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    return {name: value for name, value in told.items() if isinstance(value, (int, float))} if isinstance(told, dict) else {}


def _intend(store: Store, rule: Rule, trace: Trace) -> None:
    """Note what is about to be put where, and put aside what lies there and isn't ours."""
    intents = store.traces.intents()
    for path in rule.outputs.values():
        if (store.root / path).exists() and path not in intents and store.traces.placed_at(path) is None:
            stage.put_aside(store.root / path)
    store.traces.intend(trace, rule.outputs)


def _place(store: Store, rule: Rule, name: str, scratch: Path, manifest: dict[str, str]) -> None:
    place = store.root / rule.outputs[name]
    stage.swap(scratch, place, store.folder / "trash")
    for part, sha in manifest.items():
        store.files.note(place / part if part else place, sha)


def _watched(flow: Workflow, rule: Rule) -> dict[str, str]:
    """Return the hashes of the files that a key is computed from: Ddfile, the user's modules, templates, sources."""
    files = {flow.file, *flow.root.glob("templates/**/*"), *modules.loaded(flow.root).values()}
    files |= {flow.root / source.path for source in flow.sources(rule) if flow.producer(source) is None}
    return {str(path): hashes.of_file(path) for path in sorted(files) if path.is_file()}


def _check_again(reload: Reload, store: Store, rule: Rule, key: str) -> None:
    """Raise PlanAgain where the key no longer holds for the Ddfile as it is now."""
    try:
        flow = reload()
        target = flow.targets.get(rule.label)
        holds = target is not None and _decide(flow, store, target.rule)[1].key == key
    except (DdfileError, PlanAgain):
        holds = False
    if not holds:
        raise PlanAgain(f"{rule.label}: the Ddfile, a template or a source changed while it was made; nothing was committed. "
                        "Run ddmake again: finished calls are kept.")


def _fingerprint(flow: Workflow, store: Store, rule: Rule, planner: Planner) -> str:
    """Return the hash of the recipe and of all recipes before it."""
    def identify(source: Source, columns: list[str] | None) -> Any:
        placed = store.traces.at(source.path) if flow.producer(source) else None
        return {"fingerprint": placed[0].fingerprint, "output": placed[1]} if placed else planner.digest(source)

    return key_of(ingredients(flow, rule, identify))
