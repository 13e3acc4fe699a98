"""What `.ddmake/` holds: traces, remembered hashes, objects; the calls' database lies beside them."""

from dataclasses import dataclass
from pathlib import Path

from ddmake.store.files import Files
from ddmake.store.objects import Objects
from ddmake.store.traces import Traces

FOLDER = ".ddmake"


@dataclass(frozen=True)
class Store:
    """The store of one project."""

    root: Path
    folder: Path
    traces: Traces
    files: Files
    objects: Objects

    def close(self) -> None:
        """Let go of the database."""
        self.traces.db.close()


def open_store(root: Path, to_read: bool = False) -> Store:
    """Open the store in a project's folder, made if it isn't there; its databases only `to_read` if that is said."""
    folder = root / FOLDER
    traces = Traces(folder, to_read)
    return Store(root, folder, traces, Files(traces.db, root), Objects(folder))
