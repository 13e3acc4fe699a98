"""Datasets from the Hugging Face Hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddmake import step
from ddmake.ddfile.lock import DATASET, MAIN, DatasetName, HubName
from ddmake.errors import DdmakeError, did_you_mean


@step(version="1", columns=lambda inputs, arguments: arguments["columns"])
def hub(*, repo: DatasetName, name: str | None = None, split: str | None = None, revision: str | None = None,
        columns: Sequence[str] | None = None) -> Any:
    """Read a dataset from the Hugging Face Hub, at the commit that Ddfile.lock holds.

    `name` is one of its configurations, `split` one of its splits, which may be left out where there is just one;
    `columns` are those to keep.
    """
    import datasets

    from ddmake.backends.hub import commit

    asked = HubName(DATASET, repo, revision or MAIN)
    sha = commit(Path.cwd(), asked)
    datasets.disable_progress_bars()
    try:
        # without the prefix, a folder here of that name would be read
        found = datasets.load_dataset(f"hf://datasets/{repo}", name, revision=sha, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DdmakeError(f"{asked}: {error}") from None
    rows = _only(found, asked)
    if any(sha not in Path(file["filename"]).parts for file in rows.cache_files):
        # where the Hub can't be reached, load_dataset takes the newest commit that it has
        raise DdmakeError(f"{asked}: commit {sha[:7]} isn't in the local cache, and the Hub can't be reached. "
                          "Run ddmake again with the network on.")
    return rows if columns is None else _selected(rows, columns, asked)


def _only(found: Any, asked: HubName) -> Any:
    """Return the one split that there is. Raises DdmakeError where there are several."""
    if not isinstance(found, Mapping):
        return found
    if len(found) > 1:
        raise DdmakeError(f"{asked} has the splits {', '.join(found)}: name one by split=.")
    return next(iter(found.values()))


def _selected(rows: Any, columns: Sequence[str], asked: HubName) -> Any:
    for name in columns:
        if name not in rows.column_names:
            raise DdmakeError(f"{asked} has no column {name!r}. Columns: {', '.join(rows.column_names)}."
                              f"{did_you_mean(name, rows.column_names)}")
    return rows.select_columns(list(columns))
