"""`ddmake graph`: what is made of what, as Mermaid, dot or SVG."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click

from ddmake.ddfile.load import load
from ddmake.engine.drawing import Box, Drawing, draw
from ddmake.engine.plan import Planner
from ddmake.errors import DdfileError
from ddmake.report.svg import CLASSES, svg
from ddmake.store import open_store

COLOURS = {"stale": ("#fff2d8", "#c98a12"), "bad": ("#fde4e1", "#c5372c")}  # fill and line, dark text on them


def graph(file: Path, targets: list[str], knobs: dict[str, str], form: str, to: Path | None) -> int:
    """Print the graph of targets and all that they need, or write it to a file, and return the exit code."""
    to = None if to is None else to.absolute()
    flow = load(file, **knobs)
    os.chdir(flow.root)
    with closing(open_store(flow.root)) as store:
        plan = Planner(flow, store).survey(flow.select(targets) if targets else flow.rules)
    text = WRITERS[form](draw(plan))
    if to is None:
        click.echo(text)
        return 0
    try:
        to.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DdfileError(f"-o {to}: {error.strerror}. Name a file in a folder that is there.") from None
    return 0


def mermaid(drawing: Drawing) -> str:
    """Return a drawing as Mermaid's flowchart."""
    lines = ["flowchart LR"]
    for number, box in enumerate(drawing.boxes):
        label = "<br>".join(map(_mermaid_text, [*box.lines, *_note(box)]))
        shape = f'(["{label}"])' if box.word == "source" else f'["{label}"]'
        lines.append(f"  n{number}{shape}" + (f":::{style}" if (style := CLASSES.get(box.word)) else ""))
    lines += [f"  n{before} --> n{after}" for before, after in drawing.arrows]
    lines += [f"  classDef {name} fill:{fill},stroke:{line},color:#1b232c" for name, (fill, line) in COLOURS.items()]
    return "\n".join([*lines, "  classDef source stroke-dasharray:4 3"])


def dot(drawing: Drawing) -> str:
    """Return a drawing in Graphviz's language."""
    lines = ["digraph ddmake {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif", fontsize=11];']
    for number, box in enumerate(drawing.boxes):
        label = "\\n".join(map(_dot_text, [*box.lines, *_note(box)]))
        lines.append(f'  n{number} [label="{label}"{_dot_style(box)}];')
    return "\n".join([*lines, *(f"  n{before} -> n{after};" for before, after in drawing.arrows), "}"])


def _note(box: Box) -> list[str]:
    return [] if box.word == "source" else [box.note if box.word == "fresh" else f"{box.note} · {box.word}"]


def _mermaid_text(text: str) -> str:
    """Return text as Mermaid shows it as it is: HTML in its own notation for entities, and nothing that means Markdown."""
    return "".join(c if c.isalnum() or c in " /._-·,=" else f"#{ord(c)};" for c in text)


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _dot_style(box: Box) -> str:
    style = CLASSES.get(box.word, "")
    if style == "source":
        return ', style="rounded,dashed"'
    return f', style=filled, fillcolor="{COLOURS[style][0]}", color="{COLOURS[style][1]}"' if style else ""


WRITERS: dict[str, Callable[[Drawing], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}
