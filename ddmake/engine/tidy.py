"""What lies about and may be removed: outputs that no rule makes any more, leftovers of killed runs, `.bak` files.

Only what ddmake has put somewhere is ever listed, and of that nothing that somebody has edited since.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ddmake.artifacts import stage
from ddmake.ddfile.load import load
from ddmake.ddfile.workflow import Workflow
from ddmake.engine.keeping import busy
from ddmake.engine.plan import Planner
from ddmake.errors import DdmakeError
from ddmake.store import FOLDER, Store
from ddmake.store.traces import Trace

BAK = re.compile(r"\.bak\d*")
WORK = {"checkpoints": "checkpoints/*", "shards": "shards/*/part.json"}  # that a job has done before it ends, by where it lies


@dataclass(frozen=True)
class Loose:
    """A path that may be removed, or that `stays` though nothing needs it; and why."""

    path: str
    why: str
    stays: bool = False


def as_run(root: Path, store: Store) -> list[Workflow]:
    """Load the Ddfiles that were run in a folder and are still there, as they were last run under each `--into`."""
    last = {(run.ddfile, run.folder): run.knobs for run in reversed(store.traces.runs())}
    return [load(root / name, into=folder or None, last=knobs) for (name, folder), knobs in last.items()
            if (root / name).is_file() and (root / folder).is_dir()]


def loose(flow: Workflow, others: list[Workflow], store: Store, baks: bool) -> list[Loose]:
    """Return what may be removed of a project, and what of it has to stay; `others` are workflows that count, too."""
    return [*_unmade([flow, *others], store), *(_baks(flow, store) if baks else ()), *_leftovers(flow, store)]


def remove(flow: Workflow, store: Store, path: str) -> None:
    """Remove a path, and the folders that this leaves empty."""
    place = flow.root / path
    stage.remove(place)
    store.traces.displace(path)
    for folder in place.parents:
        if folder in (flow.root, store.folder) or any(folder.iterdir()):
            break
        folder.rmdir()


def _unmade(flows: list[Workflow], store: Store) -> Iterator[Loose]:
    """Yield the outputs that rules once made and none makes now."""
    for path, (trace, output) in sorted(store.traces.all_placed().items()):
        if not os.path.lexists(store.root / path) or any(flow.find(path) for flow in flows):
            continue
        made = f"made {trace.made[:10]}; no rule makes it any more"
        if _unchanged(store, path, trace, output):
            yield Loose(path, made)
        else:
            yield Loose(path, f"{made}, but it was edited since", stays=True)


def _unchanged(store: Store, path: str, trace: Trace, output: str) -> bool:
    try:
        return store.files.manifest(path) == trace.outputs[output]["manifest"]
    except DdmakeError:  # links and special files: not what was made
        return False


def _baks(flow: Workflow, store: Store) -> Iterator[Loose]:
    """Yield what ddmake has put aside to make room at a path of its own."""
    for path in sorted({*flow.targets, *store.traces.all_placed()}):
        place = flow.root / path
        for found in sorted(place.parent.glob("*.bak*")) if place.parent.is_dir() else ():
            if found.name.startswith(place.name) and BAK.fullmatch(found.name.removeprefix(place.name)):
                yield Loose(found.relative_to(flow.root).as_posix(), "put aside by ddmake")


def _leftovers(flow: Workflow, store: Store) -> Iterator[Loose]:
    """Yield what killed runs have left under `.ddmake`. While a job is under way, nobody can tell what is left over."""
    wanted = _wanted(flow, store)
    rooms: dict[str, Callable[[Path], str]] = {"runs": _of_run, "scratch": _of_job(wanted), "trash": lambda _: ""}
    found = [(place, stays(place)) for room, stays in rooms.items() for place in _inside(store.folder / room)]
    there = _of_cluster(store, wanted)
    held = "a job is under way" if found + there and busy(store) else ""
    if any(why for _, why in there) and not held:  # jobs work there, or have left what a run is to commit
        found = [(place, why or "jobs on a cluster may need it") for place, why in found]
    for place, why in found + there:
        path = f"{FOLDER}/{place.parent.name}/{place.name}"
        ended = "of a head that has ended" if place.name.startswith("head-") else "left by a run that was killed"
        yield Loose(path, held or why or ended, stays=bool(held or why))


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _of_run(folder: Path) -> str:
    """Return why a run's folder has to stay: its head lives."""
    try:
        os.kill(int((folder / "head").read_text()), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return ""
    except PermissionError:
        pass
    return "a run is under way"


def _of_job(wanted: Callable[[str], bool]) -> Callable[[Path], str]:
    """Return what tells why a job's scratch folder has to stay: it holds work that a run would go on from."""

    def stays(folder: Path) -> str:
        held = next((name for name, where in WORK.items() if any(folder.glob(where))), None)
        return f"{held} that a run goes on from" if held is not None and wanted(folder.name) else ""

    return stays


def _of_cluster(store: Store, wanted: Callable[[str], bool]) -> list[tuple[Path, str]]:
    """Return what heads on a cluster have left, and why it has to stay."""
    if not (store.folder / "slurm").is_dir():
        return []
    from ddmake.executors.slurm.leftovers import leftovers  # what other projects needn't load

    return list(leftovers(store.folder, wanted))


def _wanted(flow: Workflow, store: Store) -> Callable[[str], bool]:
    """Return what tells whether a run may ask for a job, by the key that it has or begins with."""

    @cache
    def keys() -> set[str]:
        return {str(verdict.key)[:32] for verdict in Planner(flow, store).survey(flow.rules).verdicts}

    # where inputs aren't settled, any of it may prove to be what is wanted
    return lambda key: key[:32] in keys() or "None" in keys()
