"""The SQLite databases under `.ddmake/`: opening, and migrations, which are only ever appended."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from sqlite_utils import Database

Migration = Callable[["Database"], None]


def connect(path: Path, migrations: Sequence[Migration], synchronous: str) -> sqlite3.Connection:
    """Open a database, brought up to date, in WAL mode and in autocommit.

    Raises DdmakeError for one that is damaged or was written by a newer ddmake.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        if _version(connection) != len(migrations):
            _migrate(connection, path, migrations)
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except (sqlite3.DatabaseError, OSError) as error:
        raise DdmakeError(f"{path}: {told(error)}") from None
    return connection


def told(error: Exception) -> str:
    """Return what is to be said of a database's failure; only a damaged one is to be given up."""
    if any(word in str(error) for word in ("malformed", "not a database")):
        return f"{error}. It is damaged: move the file away to start without what it holds."
    return f"{error}. What it holds is kept."


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Apply the migrations that a database lacks; one process at a time."""
    from filelock import FileLock
    from sqlite_utils import Database  # half a second of imports, paid when a database is made

    with FileLock(f"{path}.lock"):
        done = _version(connection)
        if done > len(migrations):
            raise DdmakeError(f"{path} was written by a newer ddmake. Upgrade with: pip install -U ddmake")
        if done == 0:
            connection.execute("PRAGMA page_size=16384")
            connection.execute("PRAGMA journal_mode=WAL")
        for number, migration in enumerate(migrations[done:], done + 1):
            connection.execute("BEGIN IMMEDIATE")
            migration(Database(connection))
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
