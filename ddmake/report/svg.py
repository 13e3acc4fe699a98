"""A drawing as SVG, complete in itself: text, shapes, and colours for light and dark pages."""

import unicodedata
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from ddmake.engine.drawing import Box, Drawing, Spot, lay_out
from ddmake.report.words import shortened

FONT = 12.0
LINE = 17.0  # points from one line of text to the next
PAD_X, PAD_Y, MARGIN = 12.0, 9.0, 18.0
LEAST = 0.7  # of its size that a drawing has in a narrow page
MOST = 44  # characters of a line; a longer path loses its middle

STYLE = """
.page{fill:#fff} .box{fill:#f4f6f8;stroke:#8b96a3;stroke-width:1} .source{fill:none;stroke-dasharray:4 3}
.stale{fill:#fff2d8;stroke:#c98a12;stroke-width:1.4} .bad{fill:#fde4e1;stroke:#c5372c;stroke-width:1.4}
.path{fill:#1b232c} .note{fill:#5d6975} .arrow{fill:none;stroke:#8b96a3;stroke-width:1.2} .tip{fill:#8b96a3}
@media (prefers-color-scheme:dark){
.page{fill:#14181d} .box{fill:#232a32;stroke:#77838f} .source{fill:none} .stale{fill:#453515;stroke:#dba23a}
.bad{fill:#4b2320;stroke:#ea6f64} .path{fill:#e8edf2} .note{fill:#a3afba} .arrow{stroke:#77838f} .tip{fill:#77838f}}
"""
CLASSES = {"make": "stale", "maybe": "stale", "restore": "stale", "adopt": "stale", "waiting": "bad", "edited": "bad",
           "source": "source"}


def svg(drawing: Drawing) -> str:
    """Return a drawing as the text of an SVG file."""
    return "\n".join(_lines(drawing, STYLE, {}))


def inline(drawing: Drawing, links: Mapping[str, str]) -> str:
    """Return a drawing as a part of a page, which brings colours and may shrink it; `links` are boxes' places by first path."""
    return "\n".join(_lines(drawing, "", links))


def _lines(drawing: Drawing, style: str, links: Mapping[str, str]) -> Iterator[str]:
    page = lay_out(drawing, [_size(box) for box in drawing.boxes])
    width, height = page.width + 2 * MARGIN, page.height + 2 * MARGIN
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
           f'viewBox="{-MARGIN:.0f} {-MARGIN:.0f} {width:.0f} {height:.0f}" '
           f'style="min-width:{width * LEAST:.0f}px" '
           f'font-family="system-ui, -apple-system, \'Segoe UI\', \'DejaVu Sans\', sans-serif" font-size="{FONT:.0f}">')
    if style:
        yield f"<style>{style}</style>"
    yield ('<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
           '<path class="tip" d="M0 0.8L8 4L0 7.2z"/></marker>')
    yield f'<rect class="page" x="{-MARGIN:.0f}" y="{-MARGIN:.0f}" width="{width:.0f}" height="{height:.0f}"/>'
    yield from (_arrow(spots) for spots in page.arrows)
    for box, spot in zip(drawing.boxes, page.boxes):
        link = links.get(box.lines[0])
        yield from _box(box, spot) if link is None else (f'<a href="{_text(link)}">', *_box(box, spot), "</a>")
    yield "</svg>"


def _size(box: Box) -> tuple[float, float]:
    lines = [*(shortened(line, MOST) for line in box.lines), *([_note(box)] if _note(box) else [])]
    return max(map(_wide, lines)) + 2 * PAD_X, len(lines) * LINE + 2 * PAD_Y - 4


def _box(box: Box, spot: Spot) -> Iterator[str]:
    corner = 12 if box.word == "source" else 5
    yield (f'<g><title>{_text(", ".join(box.lines))}: {_text(box.word)}</title><rect class="box {CLASSES.get(box.word, "")}" '
           f'x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}" rx="{corner}"/>')
    y = spot.y + PAD_Y + FONT - 2
    for line in box.lines:
        yield f'<text class="path" x="{spot.x + PAD_X:.1f}" y="{y:.1f}">{_text(shortened(line, MOST))}</text>'
        y += LINE
    if _note(box):
        yield f'<text class="note" x="{spot.x + PAD_X:.1f}" y="{y:.1f}" font-size="11">{_text(_note(box))}</text>'
    yield "</g>"


def _note(box: Box) -> str:
    """Return what stands below a box's paths: its recipe, and its verdict where it isn't up to date."""
    return box.note if box.word in ("", "fresh", "source") else f"{box.note} · {box.word}"


def _arrow(spots: list[Spot]) -> str:
    """Return an arrow from its first spot to its last, through the bends between them."""
    x, y = spots[0].x + spots[0].width, spots[0].middle
    path = f"M{x:.1f} {y:.1f}"
    for spot in spots[1:]:
        half = (spot.x - x) / 2
        path += f"C{x + half:.1f} {y:.1f} {spot.x - half:.1f} {spot.middle:.1f} {spot.x:.1f} {spot.middle:.1f}"
        x, y = spot.x, spot.middle
        if spot is not spots[-1]:
            x += spot.width
            path += f"L{x:.1f} {y:.1f}"
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'


def _wide(line: str) -> float:
    """Return about how wide a line is: fonts differ, so that it is meant to be enough for a wide one."""
    return sum(FONT * (1.05 if unicodedata.east_asian_width(c) in "WF" else 0.62) for c in line)


def _text(line: str) -> str:
    """Return text as XML may hold it: escaped, control characters shown as such."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line), {'"': "&quot;"})
