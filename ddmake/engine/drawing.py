"""The graph of a plan as boxes and arrows, and where they lie on a page: layers from left to right, few crossings.

A simple form of Sugiyama's method (Sugiyama, Tagawa, Toda 1981): layers by longest path, an arrow that crosses layers
bends in each of them, layers are ordered by the mean place of their neighbours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddmake.ddfile.rule import Rule
from ddmake.engine.verdicts import Plan

SWEEPS = 6  # over all layers, to and fro
GAP_X, GAP_Y, BEND = 70.0, 22.0, 10.0  # points between layers, between boxes of one; the height that a bend takes


@dataclass(frozen=True)
class Box:
    """A rule with its outputs, or a source: the lines in it, a note below them, and its verdict ("source" for a source)."""

    lines: tuple[str, ...]
    note: str
    word: str


@dataclass(frozen=True)
class Drawing:
    """Boxes, and arrows between them by their numbers."""

    boxes: list[Box]
    arrows: list[tuple[int, int]]


@dataclass
class Spot:
    """Where a box, or a bend of an arrow, lies: its left upper corner."""

    width: float
    height: float
    x: float = 0.0
    y: float = 0.0

    @property
    def middle(self) -> float:
        """Return how far down the middle is."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Page:
    """A laid-out drawing: the spots of its boxes, and of each arrow the spots that it goes through."""

    boxes: list[Spot]
    arrows: list[list[Spot]]
    width: float
    height: float


def draw(plan: Plan) -> Drawing:
    """Return a plan's rules as boxes, sources apart."""
    return drawn((Box(tuple(v.rule.outputs.values()), v.rule.recipe.name, v.listed), read(v.rule)) for v in plan.verdicts)


def read(rule: Rule) -> list[str]:
    """Return the paths that a rule reads."""
    return [source.path for group in rule.reads for source in group]


def drawn(parts: Iterable[tuple[Box, Sequence[str]]]) -> Drawing:
    """Return boxes, each given with the paths that it reads, and a box for each source; what is read comes first."""
    boxes: list[Box] = []
    arrows: dict[tuple[int, int], None] = {}
    numbers: dict[str, int] = {}
    for box, reads in parts:
        for path in reads:
            if path not in numbers:
                numbers[path] = len(boxes)
                boxes.append(Box((path,), "", "source"))
        arrows.update({(numbers[path], len(boxes)): None for path in reads})
        numbers.update(dict.fromkeys(box.lines, len(boxes)))
        boxes.append(box)
    return Drawing(boxes, list(arrows))


def lay_out(drawing: Drawing, sizes: Sequence[tuple[float, float]]) -> Page:
    """Return where boxes of these widths and heights lie."""
    levels = _levels(drawing)
    spots = [Spot(*size) for size in sizes]
    layers: list[list[Spot]] = [[] for _ in range(max(levels, default=-1) + 1)]
    for level, spot in zip(levels, spots):
        layers[level].append(spot)
    arrows = [_bent(drawing, arrow, levels, spots, layers) for arrow in drawing.arrows]
    _order(layers, arrows)
    width = _across(layers)
    height = max((spot.y + spot.height for layer in layers for spot in layer), default=0.0)
    return Page(spots, arrows, width, height)


def _levels(drawing: Drawing) -> list[int]:
    """Return each box's layer: a rule's after all that it reads, a source's just before its first reader's."""
    levels = [0] * len(drawing.boxes)
    for before, after in drawing.arrows:  # in the order of the plan, so that what comes before is known
        levels[after] = max(levels[after], levels[before] + 1)
    first: dict[int, int] = {}
    for before, after in drawing.arrows:
        first[before] = min(levels[after], first.get(before, levels[after]))
    return [first.get(at, 1) - 1 if box.word == "source" else levels[at] for at, box in enumerate(drawing.boxes)]


def _bent(drawing: Drawing, arrow: tuple[int, int], levels: list[int], spots: list[Spot], layers: list[list[Spot]]) -> list[Spot]:
    """Return the spots that an arrow goes through, with a new one in each layer that it crosses."""
    before, after = arrow
    bends = [Spot(0.0, BEND) for _ in range(levels[before] + 1, levels[after])]
    for level, bend in enumerate(bends, levels[before] + 1):
        layers[level].append(bend)
    return [spots[before], *bends, spots[after]]


def _order(layers: list[list[Spot]], arrows: list[list[Spot]]) -> None:
    """Order each layer by where its neighbours lie, and move its spots towards them as far as there is room."""
    left: dict[int, list[Spot]] = {}
    right: dict[int, list[Spot]] = {}
    for arrow in arrows:
        for one, other in zip(arrow, arrow[1:]):
            right.setdefault(id(one), []).append(other)
            left.setdefault(id(other), []).append(one)
    for layer in layers:
        _stack(layer)
    for sweep in range(SWEEPS):
        neighbours, order = (left, layers) if sweep % 2 == 0 else (right, layers[::-1])
        for layer in order:
            _settle(layer, neighbours)
    top = min((spot.y for layer in layers for spot in layer), default=0.0)
    for layer in layers:
        for spot in layer:
            spot.y -= top


def _settle(layer: list[Spot], neighbours: dict[int, list[Spot]]) -> None:
    wished = {}
    for spot in layer:
        near = neighbours.get(id(spot), [spot])
        wished[id(spot)] = sum(other.middle for other in near) / len(near)
    layer.sort(key=lambda spot: wished[id(spot)])
    wishes = [wished[id(spot)] - spot.height / 2 for spot in layer]
    _stack(layer)
    # as near to where they want to be as the order lets them: blocks that touch move by the mean of their wishes
    blocks: list[tuple[float, int]] = []
    for wish, spot in zip(wishes, layer):
        offset, count = wish - spot.y, 1
        while blocks and blocks[-1][0] > offset:
            other, size = blocks.pop()
            offset, count = (other * size + offset * count) / (size + count), count + size
        blocks.append((offset, count))
    moves = [offset for offset, count in blocks for _ in range(count)]
    for spot, move in zip(layer, moves):
        spot.y += move


def _stack(layer: list[Spot]) -> None:
    y = 0.0
    for spot in layer:
        spot.y = y
        y += spot.height + GAP_Y


def _across(layers: list[list[Spot]]) -> float:
    """Set how far right each layer is, and return the width of all."""
    x = 0.0
    for layer in layers:
        wide = max(spot.width for spot in layer)
        for spot in layer:
            spot.x, spot.width = x, wide  # boxes of one layer are of one width
        x += wide + GAP_X
    return max(0.0, x - GAP_X)
