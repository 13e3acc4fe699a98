"""Including another Ddfile: its rules become rules of this one, under a prefix."""

import posixpath
import re
from pathlib import Path
from typing import Any

from ddmake.ddfile.load import execute
from ddmake.ddfile.modules import beside
from ddmake.ddfile.registry import here, shown, workflow
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, did_you_mean

PREFIX = re.compile(r"([^\W\d]\w*/)+")  # names, since the knobs are called by them


def include(path: str, /, prefix: str, **knobs: Any) -> Workflow:
    """Include a Ddfile: `qa = include("other/Ddfile", prefix="qa/", n=10)`; its targets are `qa["data/tweets"]` and so on.

    Its targets, aliases and knobs get the prefix (`qa/data/tweets`, `qa.n=10`); its sources, templates and modules lie beside
    its own file. Raises DdfileError for a file that isn't there or includes itself, and for a prefix that can't be one.
    """
    flow = workflow("include()")
    file = Path(posixpath.normpath(flow.root / path))
    _check_file(flow, path, file)
    _check_prefix(flow, prefix)
    child = _child(flow, file, prefix, knobs)
    with beside(flow.root, file.parent):
        execute(child)
    for name in sorted(knobs.keys() - child.knobs.keys()):
        has = f"It has: {', '.join(child.knobs)}." if child.knobs else "It has none."
        raise DdfileError(f"{here()}: {path} has no knob {name!r}. {has}{did_you_mean(name, child.knobs)}")
    return child


def _child(flow: Workflow, file: Path, prefix: str, knobs: dict[str, Any]) -> Workflow:
    """Return an empty workflow for an included file, which shares with its parent what both declare."""
    namespace = prefix.rstrip("/").replace("/", ".") + "."
    given, last = ({name.removeprefix(namespace): value for name, value in all_of.items() if name.startswith(namespace)}
                   for all_of in (flow.given, flow.last))
    base = posixpath.relpath(file.parent, flow.top.root)
    return Workflow(file, file.parent, {**knobs, **last, **given}, into=flow.into, within=flow.within + prefix,
                    base="" if base == "." else base, parent=flow, rules=flow.rules, targets=flow.targets, patterns=flow.patterns,
                    aliases=flow.aliases, files=flow.files)


def _check_file(flow: Workflow, path: str, file: Path) -> None:
    """Raise DdfileError for a file that isn't there, and for one that includes itself by way of others."""
    chain, one = [file], flow
    while one is not None:
        chain, one = [one.file, *chain], one.parent
    if file in chain[:-1]:
        around = " -> ".join(shown(str(each)) for each in chain[chain.index(file):])
        raise DdfileError(f"{here()}: a circle of includes: {around}. Take one of them away.")
    if not file.is_file():
        near = did_you_mean(file.name, (p.name for p in file.parent.glob("*Ddfile*"))) if file.parent.is_dir() else ""
        raise DdfileError(f"{here()}: there is no {path} beside {flow.file.name} to include.{near}")


def _check_prefix(flow: Workflow, prefix: str) -> None:
    if not PREFIX.fullmatch(prefix):
        raise DdfileError(f"{here()}: the prefix {prefix!r} isn't a folder of plain names that ends with a slash, as 'qa/' is.")
    if flow.within + prefix in flow.top.prefixes:
        raise DdfileError(f"{here()}: the prefix {prefix!r} is taken by another include(); give one of them another.")
    flow.top.prefixes.add(flow.within + prefix)
