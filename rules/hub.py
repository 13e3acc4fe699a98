"""Datasets from the Hugging Face Hub."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.lock import DATASET, MAIN, DatasetName, HubName
from ddmake.errors import DdfileError, DdmakeError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches


def _kept(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> Sequence[str] | None:
    """Tell the columns of `hub`, as far as the Ddfile does."""
    if arguments["take"] is not None and arguments["take"] < 1:
        raise DdfileError(f"hub: take is the number of rows to read, at least 1, not {arguments['take']}.")
    return arguments["columns"]


@step(version="1", columns=_kept)
def hub(*, repo: DatasetName, name: str | None = None, split: str | None = None, revision: str | None = None,
        columns: Sequence[str] | None = None, streaming: bool = False, take: int | None = None) -> Any:
    """Read a dataset from the Hugging Face Hub, at the commit that Ddfile.lock holds.

    `name` is one of its configurations, `split` one of its splits, which may be left out where there is just one;
    `columns` are those to keep, `take` is the number of rows, the first ones. With `streaming` rows are read over the network
    as they come, and no more files than these are in: for a part of a dataset that is too large to fetch.
    """
    import datasets

    from ddmake.backends.hub import commit

    asked = HubName(DATASET, repo, revision or MAIN)
    sha = commit(Path.cwd(), asked)
    datasets.disable_progress_bars()
    try:
        # without the prefix, a folder here of that name would be read
        found = datasets.load_dataset(f"hf://datasets/{repo}", name, revision=sha, split=split, streaming=streaming)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DdmakeError(f"{asked}: {error}") from None
    rows = _only(found, asked)
    if streaming:
        return _streamed(rows, columns, take, asked)
    if any(sha not in Path(file["filename"]).parts for file in rows.cache_files):
        # where the Hub can't be reached, load_dataset takes the newest commit that it has
        raise DdmakeError(f"{asked}: commit {sha[:7]} isn't in the local cache, and the Hub can't be reached. "
                          "Run ddmake again with the network on.")
    rows = rows if take is None else rows.select(range(min(take, len(rows))))
    return rows if columns is None else rows.select_columns(_there(rows.column_names, columns, asked))


def _streamed(rows: Any, columns: Sequence[str] | None, take: int | None, asked: HubName) -> "Batches":
    """Return the rows of an IterableDataset, read as they are written."""
    from ddmake.artifacts.rows import Batches

    if columns is not None:
        rows = rows.select_columns(_there(rows.column_names or list(next(iter(rows), {})), columns, asked))
    if rows.features is None:  # not told by the Hub: the rows tell
        return Batches(_batches(rows, take, asked))
    return Batches(_batches(rows, take, asked), rows.features.to_dict(), rows.features.arrow_schema.remove_metadata())


def _batches(rows: Any, take: int | None, asked: HubName) -> Iterator["pa.RecordBatch"]:
    """Yield the rows, or the first ones; rows.take() would look into the file after the last one's."""
    import datasets

    from ddmake.artifacts.rows import BATCH

    try:
        for table in rows.with_format("arrow").iter(BATCH if take is None else min(BATCH, take)):
            found = table if take is None else table.slice(0, take)
            yield from found.combine_chunks().to_batches()
            take = None if take is None else take - found.num_rows
            if take == 0:
                return
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DdmakeError(f"{asked}: {error}") from None


def _only(found: Any, asked: HubName) -> Any:
    """Return the one split that there is. Raises DdmakeError where there are several."""
    if not isinstance(found, Mapping):
        return found
    if len(found) > 1:
        raise DdmakeError(f"{asked} has the splits {', '.join(found)}: name one by split=.")
    return next(iter(found.values()))


def _there(known: Sequence[str], columns: Sequence[str], asked: HubName) -> list[str]:
    """Return the columns that are asked for. Raises DdmakeError for one that isn't there."""
    for name in columns:
        if name not in known:
            raise DdmakeError(f"{asked} has no column {name!r}. Columns: {', '.join(known)}.{did_you_mean(name, known)}")
    return list(columns)
