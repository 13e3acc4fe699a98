"""What is done to rows without a model: parting them, putting them together, making an artifact of a view."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Rows, StoredRows
from ddmake.ddfile.registry import here
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import Columns, free, need

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]


def _parts(validation: float, test: float) -> list[str]:
    """Return the names of the parts that a split makes."""
    for name, size in (("validation", validation), ("test", test)):
        if size < 0 or isinstance(size, float) and size >= 1:
            raise DdfileError(f"{here()}: split: {name} is a share of the rows, below 1, or a whole number of them, not {size}.")
    shares = [size for size in (validation, test) if size < 1]
    if sum(shares) >= 1:
        raise DdfileError(f"{here()}: split: validation and test take {sum(shares):g} of the rows; nothing is left to train on.")
    return ["train", *(["validation"] if validation else []), *(["test"] if test else [])]


def _split_by(inputs: Mapping[str, Any], arguments: Arguments) -> Columns:
    """Tell the columns of `split`, which may be told to look at one."""
    if arguments["stratify"] is not None and arguments["group"] is not None:
        raise DdfileError("split: give either stratify= or group=; a group can't be in two parts, as a class has to be.")
    for name in ("stratify", "group"):
        if arguments[name] is not None:
            need(inputs["rows"], arguments[name], f"to {name} by")
    return inputs["rows"]


@step(version="1", names=_parts, columns=_split_by)
def split(rows: Rows, *, validation: float = 0.1, test: float = 0.0, seed: int = 0, stratify: str | None = None,
          group: str | None = None) -> dict[str, Any]:
    """Split rows at random into train, validation and test; shares are rounded, and no part is empty.

    A size is a share of the rows, or a whole number of them. With `stratify`, a column of classes, each part has the classes as
    all rows have them, as far as whole rows allow; at least one row of each class is in train, so that a class of one row is
    there alone. With `group`, rows that have the same value of that column stay together: a part takes groups as long as they fit
    its size, and at least one.
    """
    order = rows.shuffle(seed=seed, keep_in_memory=True)
    sizes = {name: _size(size, len(rows)) for name, size in (("test", test), ("validation", validation)) if size}
    if sum(sizes.values()) >= len(rows):
        parts = ", ".join(_parts(validation, test))
        raise DdmakeError(f"split: {_are(len(rows), 'row')} too few for {parts}, each of which needs one or more. "
                          "Give it more rows, or make validation= and test= smaller: 0 leaves a part out.")
    if group is not None:
        taken = _grouped(_numbers(order, group), sizes)
    elif stratify is not None:
        taken = _stratified(_numbers(order, stratify), sizes)
    else:
        taken = _last(len(rows), sizes)
    parts = {"train": _rest(len(rows), taken), **taken}
    return {name: order.select(parts[name]) for name in _parts(validation, test)}


def _size(size: float, count: int) -> int:
    return max(1, round(size * count)) if size < 1 else int(size)


def _last(count: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return which rows of so many go where: the last ones, which makes the first ones train."""
    import numpy as np

    taken, end = {}, count
    for name, size in sizes.items():
        taken[name] = np.arange(end - size, end)
        end -= size
    return taken


def _rest(count: int, taken: Mapping[str, Any]) -> Any:
    """Return the numbers of the rows that no part has taken."""
    import numpy as np

    left = np.ones(count, bool)
    for numbers in taken.values():
        left[numbers] = False
    return np.flatnonzero(left)


def _numbers(rows: Any, column: str) -> list[int]:
    """Return a number for each row, the same for the same value of a column; null is a value, too."""
    import pyarrow as pa

    values = rows.select_columns([column]).with_format("arrow")[:].column(column)
    try:
        encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowException:
        raise DdmakeError(f"split: column {column!r} holds {values.type}, and texts or numbers are needed.") from None
    return encoded.indices.to_pylist()


def _are(number: int, noun: str, of: str = "") -> str:
    """Return "1 row is" or "3 rows are"."""
    return f"{number:,} {noun}{of} is" if number == 1 else f"{number:,} {noun}s{of} are"


def _stratified(classes: list[int], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Return which rows go where, so that each part has its size and of each class its share, train at least one."""
    members: dict[int, list[int]] = {}
    for number, one in enumerate(classes):
        members.setdefault(one, []).append(number)
    left = {one: len(numbers) - 1 for one, numbers in members.items()}  # one stays in train
    taken = {}
    for name, size in sizes.items():
        if size > sum(left.values()):
            kinds = f"{len(members)} class{'es' if len(members) != 1 else ''}"
            raise DdmakeError(f"split: {_are(len(classes), 'row', f' of {kinds}')} too few for {name} to have {size}, "
                              "since one row of each class stays in train.")
        quota = _quotas({one: len(numbers) for one, numbers in members.items()}, left, size)
        ends = {one: left[one] + 1 for one in members}
        taken[name] = sorted(number for one, count in quota.items() for number in members[one][ends[one] - count:ends[one]])
        left = {one: left[one] - count for one, count in quota.items()}
    return taken


def _quotas(counts: Mapping[int, int], most: Mapping[int, int], size: int) -> dict[int, int]:
    """Return how many of `size` rows each class gives: by its count, rounded to whole rows, the largest remainders up."""
    whole = sum(counts.values())
    quota = {one: min(size * count // whole, most[one]) for one, count in counts.items()}
    by_rest = sorted(counts, key=lambda one: (-(size * counts[one] % whole), one))
    while (lacking := size - sum(quota.values())) > 0:
        for one in [one for one in by_rest if quota[one] < most[one]][:lacking]:
            quota[one] += 1
    return quota


def _grouped(groups: list[int], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Return which rows go where, no group into two parts; groups are taken in the order in which they first come."""
    members: dict[int, list[int]] = {}
    for number, one in enumerate(groups):
        members.setdefault(one, []).append(number)
    if len(members) <= len(sizes):
        raise DdmakeError(f"split: {_are(len(members), 'group')} too few for {len(sizes) + 1} parts. Group by another column, or "
                          "leave out a part.")
    taken = {}
    for at, (name, size) in enumerate(sizes.items(), 1):
        taken[name] = _fitting(members, size, len(sizes) - at + 1)
    return {name: sorted(numbers) for name, numbers in taken.items()}


def _fitting(members: dict[int, list[int]], size: int, needed: int) -> list[int]:
    """Take groups out of those that are left: such as fit a size, else the smallest; so many stay for other parts."""
    taken: list[int] = []
    for one in list(members):
        if len(members) > needed and len(taken) + len(members[one]) <= size:
            taken += members.pop(one)
    return taken or members.pop(min(members, key=lambda one: len(members[one])))


def _together(inputs: Mapping[str, Any], arguments: Arguments) -> Columns:
    """Tell the columns of `concat`."""
    named = _named(inputs["parts"], "concat")
    known = [(name, columns) for name, columns in named.items() if columns is not None]
    for name, columns in known[1:]:
        _same(known[0], (name, columns))
    source = arguments["source"]
    if source is None:
        return known[0][1] if known else None
    free(known[0][1] if known else None, [source], "concat")
    return [*known[0][1], source] if known else None


def _same(first: tuple[Any, list[str]], other: tuple[Any, list[str]]) -> None:
    for (name, columns), (beside, known) in ((other, first), (first, other)):
        for column in known:
            if column not in columns:
                need(columns, column, f"in part {name!r}, as in {beside!r}")


def _named(parts: Any, recipe: str) -> dict[Any, Any]:
    """Return parts, or their columns, by name or number. Raises DdfileError for a single one, and for none."""
    if not isinstance(parts, (list, dict)) or not parts or isinstance(parts, list) and isinstance(parts[0], str):
        raise DdfileError(f'{recipe} takes several datasets, as in {recipe}("…", [a, b]).')
    return parts if isinstance(parts, dict) else dict(enumerate(parts))


@step(version="1", columns=_together)
def concat(parts: Any, *, source: str | None = None) -> "Batches":
    """Put datasets one behind the other: a list, or a dict by name. They have the same columns, whose types agree.

    `source` adds a column that tells where a row came from: the name of its part, or the number, counted from 0.
    """
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, read, schema_of

    named = _named(parts, "concat")
    names = next(iter(named.values())).column_names
    shown = {name: one.select_columns(names) for name, one in named.items()}
    schema = _agreed({name: schema_of(one) for name, one in shown.items()})
    features = _meant({name: one.features.to_dict() for name, one in shown.items()})
    if source is None:
        return Batches((batch for one in shown.values() for batch in read(one)), features, schema)
    kind = pa.string() if isinstance(parts, dict) else pa.int64()
    marked = (batch.append_column(source, pa.array([name] * len(batch), kind))
              for name, one in shown.items() for batch in read(one))
    return Batches(marked, features, schema.append(pa.field(source, kind)))


def _agreed(schemas: Mapping[Any, "pa.Schema"]) -> "pa.Schema":
    """Return the columns of parts, in types that hold the values of all. Raises DdmakeError where there are none."""
    import pyarrow as pa

    for name, schema in list(schemas.items())[1:]:
        try:
            pa.unify_schemas([next(iter(schemas.values())), schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise DdmakeError(f"concat: part {name!r} doesn't agree with part {next(iter(schemas))!r}: {error}") from None
    return pa.unify_schemas(list(schemas.values()), promote_options="permissive").remove_metadata()


def _meant(features: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    """Return what `datasets` says of the columns of all parts. Raises DdmakeError for labels with other names."""
    (beside, meant), *others = features.items()
    for name, told in others:
        for column in [column for column in meant if told[column] != meant[column]]:
            if "ClassLabel" in str((told[column], meant[column])):
                raise DdmakeError(f"concat: column {column!r} has other labels in part {name!r} than in {beside!r}. "
                                  "Make them texts by .map() first.")
            meant = {known: feature for known, feature in meant.items() if known != column}
    return meant


def _side_by_side(inputs: Mapping[str, Any], arguments: Arguments) -> Columns:
    """Tell the columns of `zipped`."""
    found: list[str] = []
    for columns in _named(inputs["parts"], "zipped").values():
        free(found, columns or (), "zipped")
        found += columns or ()
    return None if None in _named(inputs["parts"], "zipped").values() else found


@step(version="1", columns=_side_by_side)
def zipped(parts: Any) -> "Batches":
    """Put datasets of the same length side by side, row by row: a list, or a dict. No column is in two of them."""
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches, read, schema_of

    named = _named(parts, "zipped")
    (first, one), *others = named.items()
    for name, other in others:
        if len(other) != len(one):
            raise DdmakeError(f"zipped: part {name!r} has {len(other):,} rows, and {first!r} has {len(one):,}.")
    schema = pa.schema([field for part in named.values() for field in schema_of(part)])
    beside = (pa.RecordBatch.from_arrays([column for batch in batches for column in batch.columns], schema=schema)
              for batches in zip(*map(read, named.values())))
    return Batches(beside, {name: told for part in named.values() for name, told in _features(part).items()}, schema)


@step(version="1", columns=lambda inputs, arguments: inputs["rows"], by_row="rows")
def copy(rows: StoredRows) -> "Batches":
    """Make an artifact of rows as they are: of a view, or of rows for a file, as its suffix says (.jsonl .json .csv .parquet)."""
    from ddmake.artifacts.rows import Batches, read, schema_of

    return Batches(read(rows), _features(rows), schema_of(rows))


def _features(rows: Any) -> dict[str, Any]:
    """Return what `datasets` says of the columns."""
    from ddmake.artifacts.rows import features_of

    return features_of(rows)
