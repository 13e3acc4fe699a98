"""Commands as rules: programs that ddmake runs and whose results it keeps."""

import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import IO, Any

from ddmake.ddfile.inputs import Paths
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.registry import here
from ddmake.ddfile.rule import Options, Rule
from ddmake.ddfile.target import Source, Target
from ddmake.errors import DdfileError, DdmakeError, did_you_mean

BRACES = "A brace that is the shell's own is doubled: {{ or }}."


class Command(Recipe):
    """A recipe whose command is checked against inputs and outputs where its rule is declared."""

    def __call__(self, outputs: str | Mapping[str, str], *inputs: Any, **arguments: Any) -> Target:
        """Declare a rule, or a pattern of rules, and return its target."""
        target = super().__call__(outputs, *inputs, **arguments)
        given = target.rule.inputs["inputs"] if isinstance(target.rule, Rule) else None
        if given is not None:
            _check(target.rule.arguments["cmd"], given, target.rule.outputs)
        return target


def _command(function: Callable[..., Any]) -> Command:
    return Command(function, "step", Options(version="1"))


@_command
def shell(inputs: Paths, *, cmd: str, output: Path | dict[str, Path], environment: Mapping[str, str]) -> None:
    """Run a command by bash, from the project's folder, with its inputs' and outputs' paths in it."""
    outputs = output if isinstance(output, dict) else {"output": output}
    told = {**_by_name(inputs), **outputs}
    text = "".join(piece if name is None else _quoted(told[name]) for piece, name in _pieces(cmd))
    process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", text], env=dict(environment), stdin=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    assert process.stderr is not None
    last = _Passing(process.stderr)
    code = process.wait()
    last.join(1.0)  # what the command has left in the background may hold the pipe open
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise DdmakeError(f"the command {how}{': ' if last.line else ''}{last.line}")


class _Passing(threading.Thread):
    """Passes on what a command writes to its standard error, and keeps the last line of it."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(daemon=True)
        self.stream, self.line = stream, ""
        self.start()

    def run(self) -> None:
        """Read until the command has ended."""
        for line in self.stream:
            os.write(2, line)
            self.line = line.decode("utf-8", "replace").strip() or self.line


def _pieces(cmd: str) -> Iterator[tuple[str, str | None]]:
    """Yield a command's text and placeholders in order: (text, None) or ("", name)."""
    for text, name, form, conversion in Formatter().parse(cmd):
        yield text, None
        if name is not None:
            rest = f"!{conversion}" if conversion else f":{form}" if form else ""
            yield "", name + rest


def _by_name(inputs: Any) -> dict[str, Any]:
    """Return inputs by the placeholders that stand for them."""
    return dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}


def _quoted(paths: Any) -> str:
    """Return a path, or several with spaces between, as words of the shell."""
    return " ".join(shlex.quote(str(path)) for path in (paths if isinstance(paths, list) else [paths]))


def _check(cmd: str, inputs: Any, outputs: Mapping[str, str]) -> None:
    """Raise DdfileError for a placeholder that nothing stands behind, an input that isn't used, or one that has no path."""
    try:
        used = [name for _, name in _pieces(cmd) if name is not None]
    except ValueError as error:
        raise DdfileError(f"{here()}: shell: cmd: {error}. {BRACES}") from None
    given, made = _by_name(inputs), {name or "output" for name in outputs}
    for name in given.keys() & made:
        raise DdfileError(f"{here()}: shell: {name!r} is an input and an output; give one another name.")
    for name in used:
        if name not in given and name not in made:
            known = ", ".join(f"{{{known}}}" for known in [*given, *sorted(made)])
            near = did_you_mean(name, [*given, *made])
            raise DdfileError(f"{here()}: shell: cmd has {{{name}}}, and there are {known}.{near} {BRACES}")
    for name in sorted(made - set(used)):
        raise DdfileError(f"{here()}: shell: cmd has no {{{name}}}: write it where the result goes.")
    for name, value in given.items():
        _check_path(name, value)
        if name not in used and value not in ([], {}):
            raise DdfileError(f"{here()}: shell: the input {name!r} isn't used: write {{{name}}} in cmd, or leave it out.")


def _check_path(name: str, value: Any) -> None:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, Source):
            raise DdfileError(f"{here()}: shell: the input {name!r} is no path: inputs are targets and paths. "
                              "Other values are formatted into cmd by Python, as in f\"… {n}\".")
