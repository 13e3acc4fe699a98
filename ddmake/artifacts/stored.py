"""A dataset's rows as they are stored: what recipes that word prompts need of a Dataset, without `datasets`.

That takes a second to import, and is asked for where a view reorders rows or runs functions over them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddmake.artifacts.views import Steps, check_step

BATCH = 1000  # rows that are made Python's at once
PLAIN = {"Value", "List", "LargeList", "ClassLabel"}  # features that pyarrow reads as `datasets` does


@dataclass(frozen=True)
class Stored:
    """Rows in the form of a Dataset, as far as that goes."""

    table: pa.Table
    features: dict[str, Any]  # as `datasets` describes the columns

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return self.table.column_names

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), BATCH):
            yield from self[start:start + BATCH].to_pylist()

    def __getitem__(self, rows: slice) -> pa.Table:
        return self.table.slice(rows.start, rows.stop - rows.start)

    def with_format(self, form: str, columns: Sequence[str] | None = None) -> "Stored":
        """Return the rows, or some of their columns; as Arrow has them, which is the only form here."""
        return self if columns is None else Stored(self.table.select(columns), self.features)


def rows_at(path: Path, steps: Steps) -> Stored | None:
    """Return the dataset at a path, seen through a view's steps; None where that takes `datasets`."""
    features = json.loads((path / "dataset_info.json").read_text(encoding="utf-8")).get("features") or {}
    if not _kinds(features) <= PLAIN or any(verb not in _STEPS for verb, _ in steps):
        return None
    files = json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]
    table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(f"{path}/{file['filename']}")).read_all() for file in files])
    for verb, args in steps:  # mapped, and never copied
        check_step(table.column_names, (verb, args), path.as_posix())
        table = _STEPS[verb](table, *args)
        if verb == "rename":
            features = {args[0].get(name, name): feature for name, feature in features.items()}
    return Stored(table, {name: features[name] for name in table.column_names if name in features})


def _kinds(features: Any) -> set[str]:
    """Return the kinds of features, however deep."""
    if isinstance(features, list):
        return {"list"}  # as older versions of `datasets` have them
    if not isinstance(features, dict):
        return set()
    kind = features.get("_type")
    found = {kind} if isinstance(kind, str) else set()
    return found.union(*(_kinds(value) for name, value in features.items() if name != "names"))


def _shard(table: pa.Table, number: int, of: int) -> pa.Table:
    size, more = divmod(table.num_rows, of)
    return table.slice(size * number + min(number, more), size + (number < more))


_STEPS: dict[str, Callable[..., pa.Table]] = {  # of views.py, those that neither read rows nor reorder them
    "take": lambda table, n: table.slice(0, n),
    "skip": lambda table, n: table.slice(min(n, table.num_rows)),
    "select": lambda table, *columns: table.select(list(columns)),
    "remove": lambda table, *columns: table.drop_columns(list(columns)),
    "rename": lambda table, names: table.rename_columns([names.get(name, name) for name in table.column_names]),
    "shard": _shard,
}
