"""Curves as SVG: a title, two axes with their names, a line a series."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from ddmake.report.words import printable

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46  # room for what stands around the plot
TICKS = 5

Point = tuple[float, float]


def chart(what: str, across: str, series: Mapping[str, Sequence[Point]]) -> str:
    """Return a chart of some series by name, as an SVG element whose colours are the page's."""
    points = [point for line in series.values() for point in line]
    (x0, x1), (y0, y1) = (_span([point[axis] for point in points]) for axis in (0, 1))

    def at(point: Point) -> tuple[float, float]:
        return (LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM))

    ends = "; ".join(f"{name} from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in series.items())
    title = f"{what[:1].upper()}{what[1:]} by {across}"
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(f"{title}: {ends}")}">',
             _label(title, LEFT, 20, "title")]
    parts += [_rule(at((x0, y)), at((x1, y))) + _label(_number(y), LEFT - 8, at((x0, y))[1] + 4, "end") for y in _ticks(y0, y1)]
    parts += [_label(_number(x), at((x, y0))[0], HEIGHT - BOTTOM + 18, "middle") for x in _ticks(x0, x1)]
    parts.append(_label(across, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle name"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="middle name" transform="translate(14 {middle:.0f}) rotate(-90)">{_text(what)}</text>')
    for number, (name, line) in enumerate(series.items()):
        parts.append(_line(name, [at(point) for point in line], number))
        parts.append(_key(name, number) if len(series) > 1 else "")
    return "".join([*parts, "</svg>"])


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: those of the values, set apart where they are one."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the ends of an axis."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _line(name: str, spots: Sequence[tuple[float, float]], number: int) -> str:
    if len(spots) == 1:
        return f'<circle class="dot series-{number % 6}" cx="{spots[0][0]:.1f}" cy="{spots[0][1]:.1f}" r="4"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return f'<polyline class="line series-{number % 6}" points="{path}"><title>{_text(name)}</title></polyline>'


def _key(name: str, number: int) -> str:
    """Return a series' entry in the legend, which stands in the plot's right upper corner."""
    y = TOP + 14 + 18 * number
    return (f'<line class="line series-{number % 6}" x1="{WIDTH - 160}" x2="{WIDTH - 136}" y1="{y - 4}" y2="{y - 4}"/>'
            f'{_label(name, WIDTH - 130, y, "")}')


def _rule(one: tuple[float, float], other: tuple[float, float]) -> str:
    return f'<line class="grid" x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}"/>'


def _label(text: str, x: float, y: float, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_text(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _text(text: str) -> str:
    return escape(printable(text), {'"': "&quot;"})
