"""Rows as Parquet in the Hub's layout: data/train-00000-of-00002.parquet, one split a part.

The pages are cut where their content says so (content-defined chunking): of a dataset that has grown a little, the Hub's storage
finds most of the bytes again, and is sent the rest.
"""

import json
from collections.abc import Callable
from math import ceil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from ddmake.errors import DdmakeError

FOLDER = "data"
SHARD = 500_000_000  # bytes of rows, as they are in memory, in one file
GROUP = 32_000_000  # and in one row group, which a viewer reads at once
LINE = 1 << 26  # bytes of a JSON line that can be read


def read(place: Path) -> pa.Table:
    """Return the rows at a path, a dataset's mapped and not copied. Raises DdmakeError for what can't be read as rows."""
    if place.is_dir():
        return _dataset(place)
    try:
        return _READERS[place.suffix](place)
    except pa.ArrowException as error:
        raise DdmakeError(f"{place} can't be read as rows: {str(error).splitlines()[0]}") from None


def write(table: pa.Table, split: str, folder: Path) -> list[str]:
    """Write a split's files below a folder, and return their names there."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    shards = max(1, ceil(table.nbytes / SHARD))
    rows = ceil(table.num_rows / shards) or 1
    group = max(1, min(rows, int(GROUP / max(1.0, table.nbytes / max(1, table.num_rows)))))
    names = [f"{FOLDER}/{split}-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]
    for number, name in enumerate(names):
        pq.write_table(table.slice(number * rows, rows), folder / name, row_group_size=group, compression="zstd",
                       use_content_defined_chunking=True)
    return names


def _dataset(place: Path) -> pa.Table:
    """Return a dataset's table, with what `datasets` knows of its columns where it looks for that."""
    info, state = (json.loads((place / name).read_text(encoding="utf-8")) for name in ("dataset_info.json", "state.json"))
    parts = [pa.ipc.open_stream(pa.memory_map(str(place / entry["filename"]))).read_all() for entry in state["_data_files"]]
    table = pa.concat_tables(parts)
    told = json.dumps({"info": {"features": info["features"]}}) if info.get("features") else ""
    return table.replace_schema_metadata({"huggingface": told} if told else None)


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": lambda place: pq.read_table(place),
    ".csv": lambda place: pa.csv.read_csv(place, parse_options=pa.csv.ParseOptions(newlines_in_values=True)),
    ".jsonl": lambda place: pa.json.read_json(place, read_options=pa.json.ReadOptions(block_size=LINE)),
}
