"""What verdicts come to: how often one side wins, how far judges agree."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import isfinite, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from ddmake import step
from ddmake.ddfile.inputs import StoredRows
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import Columns, free, need
from ddmake.rules.winners import winners

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Inputs, Arguments = Mapping[str, Any], Mapping[str, Any]
Verdicts = Counter[tuple[Any, ...]]  # how often judges gave these verdicts on the same row, null ones left out
Level = Literal["nominal", "ordinal", "interval"]

WON = ("wins", "losses", "ties", "unjudged", "n", "win_rate", "low", "high")


def _by(arguments: Arguments) -> list[str]:
    by = arguments["by"] or []
    return [by] if isinstance(by, str) else list(by)


def _won(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `win_rate`."""
    need(inputs["verdicts"], arguments["winner"], "that holds winners")
    if not 0 < arguments["confidence"] < 1:
        raise DdfileError(f"confidence is a share between 0 and 1, as 0.95, not {arguments['confidence']:g}.")
    for name in _by(arguments):
        need(inputs["verdicts"], name, "to count by")
    free(_by(arguments), WON, "win_rate")
    return [*_by(arguments), *WON]


@step(version="1", columns=_won)
def win_rate(verdicts: StoredRows, *, winner: str = "winner", by: str | Sequence[str] | None = None,
             confidence: float = 0.95) -> "Batches":
    """Count how often a won against b, with a confidence interval: one row, or a row for each value of the columns `by`.

    `wins` and `losses` are a's, `n` is these and `ties`. `win_rate` is the share of n that a won, a tie counting half, and `low`
    and `high` are Wilson's score interval of it (Wilson 1927), which is a little too wide where there are ties. Rows without a
    winner are told as `unjudged` and count for nothing else. Without judged rows the rate is null.
    """
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, features_of, read, schema_of

    names, stored = _by({"by": by}), schema_of(verdicts)
    counts: dict[tuple[Any, ...], Counter[str | None]] = {} if names else {(): Counter()}
    for batch in read(verdicts, [*names, winner]):
        groups = zip(*(_plain(batch.column(name), name) for name in names)) if names else [()] * batch.num_rows
        for group, won in zip(groups, winners(batch.column(winner), winner).to_pylist()):
            counts.setdefault(group, Counter())[won] += 1
    rows = [{**dict(zip(names, group)), **_rates(found, confidence)} for group, found in counts.items()]
    kinds = [pa.int64()] * 5 + [pa.float64()] * 3
    schema = pa.schema([*(stored.field(name) for name in names), *(pa.field(name, kind) for name, kind in zip(WON, kinds))])
    told = features_of(verdicts)
    return Batches([pa.RecordBatch.from_pylist(rows, schema)], {name: told[name] for name in names if name in told}, schema)


def _plain(column: Any, name: str) -> list[Any]:
    """Return a column's values. Raises DdmakeError for lists and the like, which nothing is counted by."""
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        raise DdmakeError(f"column {name!r} holds {column.type}, and texts or numbers are needed.")
    return column.to_pylist()


def _rates(found: Counter[str | None], confidence: float) -> dict[str, Any]:
    """Return what a group's winners come to."""
    wins, losses, ties = found["a"], found["b"], found["tie"]
    n = wins + losses + ties
    low, high = interval(wins + ties / 2, n, confidence) if n else (None, None)
    return dict(zip(WON, (wins, losses, ties, found[None], n, (wins + ties / 2) / n if n else None, low, high)))


def interval(successes: float, n: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / n, z * z / n
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _agreed(inputs: Inputs, arguments: Arguments) -> Columns:
    """Tell the columns of `agreement`."""
    columns = arguments["columns"]
    if isinstance(columns, str) or len(set(columns)) < max(2, len(columns)):
        raise DdfileError(f"columns names the columns of two or more judges, not {columns!r}.")
    for name in columns:
        need(inputs["rows"], name, "of a judge")
    return ["judges", "n", "left_out", "agreement", "kappa", "alpha"]


@step(version="1", columns=_agreed)
def agreement(rows: StoredRows, *, columns: Sequence[str], level: Level = "nominal",
              order: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Tell how far judges agree, whose verdicts on the same rows stand in `columns`: one row.

    `agreement` is the share of pairs of verdicts on a row that are the same. `kappa`, of two judges, is Cohen's, and `alpha`
    Krippendorff's, for any number of judges and with missing verdicts: 1 is full agreement, 0 what chance would give. The level
    says what counts as near: "nominal", nothing but the same; "ordinal", in the order of numbers, or of `order`, the verdicts
    from the lowest to the highest (kappa has linear weights); "interval", by the difference of numbers (squared weights). A row
    with fewer than two verdicts is `left_out`. What can't be told is null, as where all verdicts are the same (Cohen 1960, 1968;
    Krippendorff 2011, "Computing Krippendorff's alpha-reliability").
    """
    found: Verdicts = Counter()
    for given in zip(*(_column(rows, name, level, order) for name in columns)):
        found[given] += 1
    judged = Counter({given: count for given, count in found.items() if sum(one is not None for one in given) > 1})
    kappa = _kappa(judged, level) if len(columns) == 2 and judged else None
    yield {"judges": len(columns), "n": judged.total(), "left_out": found.total() - judged.total(),
           "agreement": _alike(judged) if judged else None, "kappa": kappa, "alpha": _alpha(judged, level) if judged else None}


def _column(rows: Any, name: str, level: Level, order: Sequence[str] | None) -> Iterator[Any]:
    """Yield a judge's verdicts, as exact numbers where their order counts. Raises DdmakeError for those that have none."""
    from ddmake.artifacts.rows import read

    for batch in read(rows, [name]):
        for value in _plain(batch.column(0), name):
            if level == "nominal" or value is None:
                yield value
            elif order is not None and value in order:
                yield order.index(value)
            elif order is None and isinstance(value, (int, float)) and isfinite(value):
                yield Fraction(value)
            else:
                remedy = "numbers, or order=, the verdicts from the lowest to the highest" if level == "ordinal" else "numbers"
                raise DdmakeError(f"column {name!r} holds {value!r}; level={level!r} takes {remedy if order is None else order}.")


def _alike(found: Verdicts) -> float:
    """Return the share of pairs of verdicts on the same row that are the same."""
    same = pairs = 0
    for given, count in found.items():
        there = [one for one in given if one is not None]
        same += count * sum(one * (one - 1) for one in Counter(there).values())
        pairs += count * len(there) * (len(there) - 1)
    return same / pairs


def _alpha(found: Verdicts, level: Level) -> float | None:
    """Return Krippendorff's alpha: one less what verdicts on the same row differ by, over what any two do."""
    values: Counter[Any] = Counter()
    for given, count in found.items():
        for one in given:
            values[one] += 0 if one is None else count
    del values[None]
    ranks = _ranks(values) if level == "ordinal" else dict(zip(values, values))
    within, n = Fraction(), values.total()
    for given, count in found.items():
        there = Counter(ranks[one] for one in given if one is not None)
        within += Fraction(count * _differing(there, level), there.total() - 1)
    between = _differing(Counter({ranks[value]: count for value, count in values.items()}), level)
    return float(1 - (n - 1) * within / between) if between else None


def _ranks(values: Counter[Any]) -> dict[Any, Fraction]:
    """Return the middle rank of each value: their differences are what ordinal verdicts differ by."""
    ordered = sorted(values)
    ends = accumulate(values[value] for value in ordered)
    return {value: end - Fraction(values[value], 2) for value, end in zip(ordered, ends)}


def _differing(values: Counter[Any], level: Level) -> Any:
    """Return what all pairs of values differ by, in both orders: 0 or 1, or squared differences."""
    n = values.total()
    if level == "nominal":
        return n * n - sum(count * count for count in values.values())
    total = sum(value * count for value, count in values.items())
    return 2 * (n * sum(value * value * count for value, count in values.items()) - total * total)


def _kappa(found: Verdicts, level: Level) -> float | None:
    """Return Cohen's kappa of two judges: one less what they differ by, over what two with their habits would."""
    if level == "ordinal":
        places = {value: place for place, value in enumerate(sorted({one for given in found for one in given}))}
        found = Counter({tuple(places[one] for one in given): count for given, count in found.items()})
    n = found.total()
    observed = sum(count * _distance(one, other, level) for (one, other), count in found.items()) / n
    habits: list[Counter[Any]] = [Counter(), Counter()]
    for given, count in found.items():
        for habit, one in zip(habits, given):
            habit[one] += count
    expected = _by_chance(*habits, level) / (n * n)
    return float(1 - observed / expected) if expected else None


def _distance(one: Any, other: Any, level: Level) -> Any:
    if level == "nominal":
        return Fraction(one != other)
    return Fraction(abs(one - other) if level == "ordinal" else (one - other) ** 2)


def _by_chance(one: Counter[Any], other: Counter[Any], level: Level) -> Any:
    """Return what two judges' values differ by, summed over all pairs of a value of each."""
    return sum(count * times * _distance(value, beside, level) for value, count in one.items() for beside, times in other.items())
