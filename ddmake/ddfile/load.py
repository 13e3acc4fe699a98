"""Loading a Ddfile: executing it as Python, and telling its mistakes in a sentence."""

import gc
import os
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ddmake.ddfile import facts
from ddmake.ddfile.modules import importable
from ddmake.ddfile.registry import loading, shown
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.fingerprint.source import is_users


def load(path: str | Path = "Ddfile", /, *, into: str | None = None, last: Mapping[str, Any] | None = None,
         **knobs: Any) -> Workflow:
    """Load a Ddfile with these knobs and return its workflow; `into` is a folder to put all targets under.

    `last` are the knobs of an earlier run, for those that aren't given; of these, unknown ones are passed over.
    Raises DdfileError, with file and line, for every mistake that can be found without running a rule.
    """
    file = Path(posixpath.abspath(path))
    if file.is_dir():
        raise DdfileError(f"{path} is a folder, not a Ddfile. Name the file in it with -f FILE.")
    if not file.is_file():
        raise DdfileError(f"There is no {path} here.{_near(file)} Name another with -f FILE.")
    flow = Workflow(file, file.parent, dict(knobs), dict(last or {}), _folder(file.parent, into))
    importable(flow.root)
    with _uncollected():
        execute(flow)
        flow.settle()
        facts.settle(flow)
    for unknown in sorted(name for name in flow.given if _is_unknown(flow, name)):
        has = f"It has: {', '.join(flow.knobs)}." if flow.knobs else "It has none."
        raise DdfileError(f"{flow.file.name} has no knob {unknown!r}. {has}{did_you_mean(unknown, flow.knobs)}")
    return flow


def _near(file: Path) -> str:
    """Return " Did you mean 'x'?" for a Ddfile of nearly this name, or of this name in a folder above, or an empty string."""
    names = (p.name for p in file.parent.iterdir() if "ddfile" in p.name.lower()) if file.parent.is_dir() else ()
    above = next((folder / file.name for folder in file.parent.parents if (folder / file.name).is_file()), None)
    return did_you_mean(file.name, names) or (f" Did you mean {os.path.relpath(above)!r}?" if above else "")


def _is_unknown(flow: Workflow, name: str) -> bool:
    """Tell whether a given knob is none; a mapping may hold an included Ddfile's, and a mapping's items aren't knobs."""
    parts = name.split(".")
    known = any(".".join(parts[:end]) in flow.knobs for end in range(1, len(parts) + 1))
    return not known and not isinstance(flow.given[name], Mapping)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collection, which would look through every rule again and again; hardly anything is dropped here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _folder(root: Path, into: str | None) -> str:
    """Return the folder for all targets with its slash, or nothing. Raises DdfileError where it isn't in the project."""
    if into is None:
        return ""
    path = posixpath.relpath(into, root) if posixpath.isabs(into) else posixpath.normpath(into)
    if path in (".", "..", ".ddmake") or path.startswith(("../", ".ddmake/")) or "{" in path or not into:
        raise DdfileError(f"--into {into}: name a folder inside of the Ddfile's, such as trial/.")
    return f"{path}/"


def execute(flow: Workflow) -> None:
    """Run a Ddfile's text in a module of its own, its declarations going to the workflow."""
    module = ModuleType("Ddfile" if flow.parent is None else f"Ddfile.{flow.namespace}")
    module.__file__ = str(flow.file)
    sys.modules[module.__name__] = module
    token = loading.set(flow)
    try:
        # where recipes run, too; standard output is for what ddmake prints: plans, JSON, graphs
        with chdir(flow.top.root), redirect_stdout(sys.stderr):
            exec(compile(flow.file.read_text(encoding="utf-8"), str(flow.file), "exec"), module.__dict__)
    except DdmakeError:
        raise
    except UnicodeDecodeError as error:
        raise DdfileError(f"{shown(str(flow.file))} isn't UTF-8: {error}.") from None
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""  # there is none where the file holds no text
        text = f": {error.text.strip()}" if error.text else ""
        raise DdfileError(f"{shown(error.filename or str(flow.file))}{line}: {error.msg}{text}") from None
    except SystemExit as error:
        raise DdfileError(f"{_place(flow, error.__traceback__)}: exit() is called; a Ddfile only declares rules.") from None
    except Exception as error:
        raise DdfileError(f"{_place(flow, error.__traceback__)}: {type(error).__name__}: {_tell(error, module)}") from error
    finally:
        loading.reset(token)


def _place(flow: Workflow, traceback: TracebackType | None) -> str:
    """Return the user's innermost line in a traceback."""
    place = shown(str(flow.file))
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if is_users(file):
            place = f"{shown(file)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _tell(error: Exception, module: ModuleType) -> str:
    """Return an exception's message, with the nearest name where one is unknown."""
    found = re.search(r"cannot import name '(\w+)' from '(ddmake[\w.]*)'", str(error))
    if found:
        known = [name for name in dir(sys.modules[found[2]]) if not name.startswith("_")]
        return f"{found[2]} has no {found[1]!r}.{did_you_mean(found[1], known)}"
    if isinstance(error, NameError) and error.name:
        return f"{error}.{did_you_mean(error.name, module.__dict__) or _import_of(error.name)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        own = (path.stem for path in Path(module.__file__ or "").parent.glob("*.py"))
        near = did_you_mean(error.name, ["ddmake", "ddmake.rules", *own])
        return f"{error}.{near or ' Install it, or put it beside the Ddfile if it is your own.'}"
    return f"{error}"


def _import_of(name: str) -> str:
    """Return the line that a name of ddmake's is imported by, or an empty string."""
    for module in ("ddmake", "ddmake.rules"):
        if module in sys.modules and name in getattr(sys.modules[module], "__all__", ()):
            return f" Do: from {module} import {name}"
    return ""

