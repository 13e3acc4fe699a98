"""The SQLite databases under `.ddmake/`: opening, and migrations, which are only ever appended."""

import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.errors import DdmakeError
from ddmake.store.network import networked

if TYPE_CHECKING:
    from sqlite_utils import Database

REMEDIES = {  # by what SQLite says
    "malformed": "It is damaged: move the file away to start without what it holds.",
    "not a database": "It is damaged: move the file away to start without what it holds.",
    "full": "What it holds is kept. Make room, then run ddmake again.",
    "readonly": "What it holds is kept. Its disk is full, or ddmake isn't allowed to write there.",
    "unable to open": "ddmake has to be allowed to read and write it, and its folder.",
}

Migration = Callable[["Database"], None]


def connect(path: Path, migrations: Sequence[Migration], synchronous: str) -> sqlite3.Connection:
    """Open a database, brought up to date and in autocommit; one that can't be written is opened to be read.

    It is in WAL mode, whose readers don't hold up who writes, but for one on a network file system, where that isn't sound
    (https://sqlite.org/wal.html): it has a rollback journal there.

    Raises DdmakeError for one that is damaged or was written by a newer ddmake.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        if _version(connection) != len(migrations):
            _migrate(connection, path, migrations)
        if networked(path.parent):
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.DatabaseError as error:
        as_it_lies = _to_read(path, migrations) if isinstance(error, sqlite3.OperationalError) else None
        if as_it_lies is None:
            raise DdmakeError(f"{path}: {told(error)}") from None
        return as_it_lies
    except (FileExistsError, NotADirectoryError):
        raise DdmakeError(f"{path.parent} is a file, and ddmake keeps a folder of that name. Move it away.") from None
    return connection


def connect_to_read(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """Open a database that others may have written: to be read as it lies there, its schema not trusted.

    Raises DdmakeError for one that can't be read, and for one that isn't of this ddmake's form.
    """
    try:
        found = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=60, uri=True, isolation_level=None)
        found.execute("PRAGMA trusted_schema=OFF")
        version = _version(found)
    except sqlite3.OperationalError as error:
        as_it_lies = _to_read(path, migrations)
        if as_it_lies is None:
            raise DdmakeError(f"{path}: {told(error)}") from None
        return as_it_lies
    except sqlite3.DatabaseError as error:
        raise DdmakeError(f"{path}: {told(error)}") from None
    if version != len(migrations):
        remedy = "Upgrade with: pip install -U ddmake" if version > len(migrations) else "Run ddmake -n there once."
        raise DdmakeError(f"{path} was written by {'a newer' if version > len(migrations) else 'an older'} ddmake. {remedy}")
    return found


def _to_read(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection | None:
    """Open a database on a full disk, or one that mayn't be written, as it lies there.

    Return None where that would leave out what another process, or one that was killed, has just written.
    """
    written = Path(f"{path}-wal")
    if not path.is_file() or not path.stat().st_size or written.exists() and written.stat().st_size:
        return None
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    return connection if _version(connection) == len(migrations) else None


def told(error: Exception) -> str:
    """Return what is to be said of a database's failure; only a damaged one is to be given up."""
    remedy = next((remedy for word, remedy in REMEDIES.items() if word in str(error)), "What it holds is kept.")
    return f"{error}. {remedy}"


def _sqlite_utils() -> "type[Database]":
    """Import sqlite_utils without pandas, which it looks for, and which takes longer to import than a database to make."""
    absent = "pandas" not in sys.modules
    if absent:
        sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        from sqlite_utils import Database
    finally:
        if absent:
            del sys.modules["pandas"]
    return Database


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Apply the migrations that a database lacks; one process at a time."""
    from filelock import FileLock

    Database = _sqlite_utils()
    with FileLock(f"{path}.lock"):
        done = _version(connection)
        if done > len(migrations):
            raise DdmakeError(f"{path} was written by a newer ddmake. Upgrade with: pip install -U ddmake")
        if done == 0:
            connection.execute("PRAGMA page_size=16384")
            connection.execute(f"PRAGMA journal_mode={'DELETE' if networked(path.parent) else 'WAL'}")
        for number, migration in enumerate(migrations[done:], done + 1):
            connection.execute("BEGIN IMMEDIATE")
            migration(Database(connection))
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")


class Transaction:
    """All or nothing, on a connection in autocommit."""

    def __init__(self, db: sqlite3.Connection):
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.db.execute("COMMIT")
        elif self.db.in_transaction:  # SQLite itself takes back what a full disk has no room for
            self.db.execute("ROLLBACK")
