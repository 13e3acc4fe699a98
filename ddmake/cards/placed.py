"""Looks at what lies at a target, where it still is what its trace says: rows of results, configs of models."""

import json
import math
from pathlib import Path
from typing import Any

from ddmake.errors import DdmakeError
from ddmake.store import Store

MOST = 50  # rows; a longer artifact is data, not a table of results

Rows = list[dict[str, Any]]


def rows(store: Store, path: str, manifest: dict[str, str]) -> Rows | None:
    """Return the rows of a small dataset; None if they aren't there, were edited, or are too many."""
    if not _unchanged(store, path, manifest):
        return None
    table = _table(store.root / path)
    return None if table is None or table.num_rows > MOST else [_row(row) for row in table.to_pylist()]


def first(store: Store, path: str, manifest: dict[str, str], most: int) -> Rows:
    """Return the first rows of a dataset in a folder; none if it isn't there or was edited."""
    import pyarrow as pa

    if not _unchanged(store, path, manifest) or not (store.root / path / "state.json").is_file():
        return []
    files = json.loads((store.root / path / "state.json").read_text())["_data_files"]
    with pa.memory_map(str(store.root / path / files[0]["filename"])) as file:
        batch = next(iter(pa.ipc.open_stream(file)), None)
        return [] if batch is None else [_row(row) for row in batch.slice(0, most).to_pylist()]


def config(store: Store, path: str, manifest: dict[str, str], name: str) -> dict[str, Any]:
    """Return a JSON file of a model folder; {} if it isn't there or was edited."""
    file = store.root / path / name
    if name not in manifest or not file.is_file() or store.files.sha(f"{path}/{name}") != manifest[name]:
        return {}
    return json.loads(file.read_text(encoding="utf-8"))


def _unchanged(store: Store, path: str, manifest: dict[str, str]) -> bool:
    try:
        return store.files.manifest(path) == manifest
    except DdmakeError:  # links and special files: not what was made
        return False


def _table(place: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if place.is_dir():
        files = json.loads((place / "state.json").read_text())["_data_files"]
        return pa.concat_tables(pa.ipc.open_stream(str(place / entry["filename"])).read_all() for entry in files)
    readers = {".jsonl": pa.json.read_json, ".csv": pa.csv.read_csv, ".parquet": pa.parquet.read_table}
    return readers[place.suffix](str(place)) if place.suffix in readers else None


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in JSON's types; JSON has no NaN."""
    plain = json.loads(json.dumps(row, default=str))
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()}
