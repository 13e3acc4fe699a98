"""Loading a Ddfile: executing it as Python, and telling its mistakes in a sentence."""

import re
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ddmake.ddfile.modules import importable
from ddmake.ddfile.registry import loading
from ddmake.ddfile.workflow import Workflow
from ddmake.errors import DdfileError, DdmakeError, did_you_mean


def load(path: str | Path = "Ddfile", **knobs: Any) -> Workflow:
    """Load a Ddfile with these knobs and return its workflow.

    Raises DdfileError, with file and line, for every mistake that can be found without running a rule.
    """
    file = Path(path).absolute()
    if file.is_dir():
        raise DdfileError(f"{path} is a folder, not a Ddfile. Name the file in it with -f FILE.")
    if not file.is_file():
        near = did_you_mean(file.name, (p.name for p in file.parent.glob("*Ddfile*"))) if file.parent.is_dir() else ""
        raise DdfileError(f"There is no {path} here.{near} Name another with -f FILE.")
    flow = Workflow(file, file.parent, dict(knobs))
    token = loading.set(flow)
    importable(flow.root)
    try:
        _execute(flow)
    finally:
        loading.reset(token)
    flow.check()
    _check_aliases(flow)
    return flow


def _execute(flow: Workflow) -> None:
    """Run the Ddfile's text in a module of its own."""
    module = ModuleType("Ddfile")
    module.__file__ = str(flow.file)
    sys.modules["Ddfile"] = module
    try:
        exec(compile(flow.file.read_text(encoding="utf-8"), str(flow.file), "exec"), module.__dict__)
    except DdmakeError:
        raise
    except UnicodeDecodeError as error:
        raise DdfileError(f"{flow.file.name} isn't UTF-8: {error}.") from None
    except SyntaxError as error:
        name = Path(error.filename or flow.file).name
        raise DdfileError(f"{name}:{error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    except SystemExit:
        raise DdfileError(f"{flow.file.name} called exit(); a Ddfile only declares rules.") from None
    except Exception as error:
        raise DdfileError(f"{_place(flow, error.__traceback__)}: {type(error).__name__}: {_tell(error, module)}") from error


def _place(flow: Workflow, traceback: TracebackType | None) -> str:
    """Return the user's innermost line in a traceback."""
    place = flow.file.name
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if file.is_relative_to(flow.root) and "site-packages" not in file.parts:
            place = f"{file.relative_to(flow.root)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _tell(error: Exception, module: ModuleType) -> str:
    """Return an exception's message, with the nearest name where one is unknown."""
    found = re.search(r"cannot import name '(\w+)' from '(ddmake[\w.]*)'", str(error))
    if found:
        known = [name for name in dir(sys.modules[found[2]]) if not name.startswith("_")]
        return f"{found[2]} has no {found[1]!r}.{did_you_mean(found[1], known)}"
    if isinstance(error, NameError) and error.name:
        return f"{error}.{did_you_mean(error.name, module.__dict__)}"
    return f"{error}"


def _check_aliases(flow: Workflow) -> None:
    for name, paths in flow.aliases.items():
        for path in paths:
            if path not in flow.targets:
                near = did_you_mean(path, flow.targets)
                raise DdfileError(f"The alias {name!r} names {path!r}, which no rule in {flow.file.name} makes.{near}")
