"""Committing a result: objects, trace, swap. The order is what makes a kill harmless; each step can be done again.

What lies at an output's path and isn't what the store put there is somebody's work: it is put aside, never overwritten.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddmake.artifacts import stage
from ddmake.artifacts.digest import digest
from ddmake.ddfile.rule import Rule
from ddmake.engine.verdicts import Verdict
from ddmake.fingerprint import hashes
from ddmake.store import Store, failed
from ddmake.store.files import Manifest, manifest_of
from ddmake.store.points import reached
from ddmake.store.traces import Trace


@dataclass(frozen=True)
class Made:
    """What a job has made, before it is committed: in plain values, since its head may do that on another machine."""

    key: str
    base: str  # the key, were the sample epoch 0
    epoch: int
    fingerprint: str
    outputs: dict[str, Any]
    record: dict[str, Any]
    texts: dict[str, str]  # of code, by the hashes that stand for them
    scratch: dict[str, str]  # where each output lies, by name
    lost: str  # the file that holds the rows without a usable answer


def keep(store: Store, scratch: dict[str, Path], rule: Rule) -> dict[str, Any]:
    """Return each output's path, digest and manifest, its files kept as objects."""
    reached("recipe done")
    outputs = {}
    for name, place in scratch.items():
        manifest = manifest_of(place)
        store.objects.put(place, manifest)
        outputs[name] = {"path": rule.outputs[name], "digest": digest(place, manifest), "manifest": manifest}
    reached("objects kept")
    return outputs


def commit(store: Store, rule: Rule, made: Made) -> Trace:
    """Record a job that has ended, with the rows that failed, and put its outputs from scratch into place."""
    trace = store.traces.commit(made.key, made.base, made.epoch, made.fingerprint, made.outputs, made.record, made.texts,
                                rule.outputs, failed.rows(Path(made.lost)))
    reached("trace committed")
    _put(store, rule, trace, {name: Path(place) for name, place in made.scratch.items()})
    return trace


def settle(store: Store, rule: Rule, made: Made) -> Trace:
    """Commit what a job has made, and clear away the folder that it worked in."""
    trace = commit(store, rule, made)
    stage.remove(folder_of(store, made.key))
    return trace


def folder_of(store: Store, key: str) -> Path:
    """Return the folder in which a job works."""
    return store.folder / "scratch" / key[:32]


def restore(store: Store, rule: Rule, trace: Trace) -> None:
    """Put a result that is kept in the store back into place. Raises Damaged."""
    scratch = {}
    for name, path in rule.outputs.items():
        place = scratch[name] = store.folder / "scratch" / f"restore-{hashes.of_value(path)[:16]}"
        stage.remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        store.objects.get(trace.outputs[name]["manifest"], place)
    store.traces.intend(trace, rule.outputs)
    _put(store, rule, trace, scratch)


def adopt(store: Store, rule: Rule, verdict: Verdict, base: str) -> Trace:
    """Make what lies at a rule's outputs its result: under today's key, with the record of what it was made of.

    Outputs that are gone are put back as they were. Raises Damaged.
    """
    assert verdict.trace is not None, "only what was made once can be edited"
    for name, path in rule.outputs.items():
        if not os.path.lexists(store.root / path):
            store.objects.get(verdict.trace.outputs[name]["manifest"], store.root / path)
    outputs = keep(store, {name: store.root / path for name, path in rule.outputs.items()}, rule)
    record = {**verdict.trace.record, "ingredients": verdict.ingredients, "adopted": True}
    record.pop("rows", None)  # of files, which may have others now
    trace = store.traces.commit(str(verdict.key), base, verdict.epoch, f"adopted {hashes.of_value(outputs)}", outputs, record,
                                {}, rule.outputs)
    _note(store, rule, trace)
    return trace


def _put(store: Store, rule: Rule, trace: Trace, scratch: dict[str, Path]) -> None:
    """Swap a trace's outputs into place, and say so."""
    for name, path in rule.outputs.items():
        _put_aside(store, path, trace.outputs[name]["manifest"])
        stage.swap(scratch[name], store.root / path, store.folder / "trash")
    _note(store, rule, trace)


def _put_aside(store: Store, path: str, coming: Manifest) -> None:
    """Put aside what lies at a path, unless it is a result of ours or already what is coming."""
    place = store.root / path
    if not os.path.lexists(place):
        return
    placed, lies = store.traces.at(path), store.files.manifest(path)
    if lies != coming and (placed is None or lies != placed[0].outputs[placed[1]]["manifest"]):
        print(f"what lay at {path} is put aside as {stage.put_aside(place).name}", flush=True)


def _note(store: Store, rule: Rule, trace: Trace) -> None:
    """Note that a trace's outputs lie at a rule's paths."""
    with store.traces.transaction():
        store.traces.place(trace, rule.outputs)
        for name, path in rule.outputs.items():
            store.files.note(path, trace.outputs[name]["manifest"])
    reached("placed")
