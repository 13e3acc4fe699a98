"""Taking in what a job has asked apart: on another machine, with databases of its own in the folder that it worked in."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ddmake.calls import cache
from ddmake.calls.cache import COLUMNS, put_aside
from ddmake.errors import DdmakeError
from ddmake.store.database import Migration, Transaction, connect, told

VECTORS = "embeddings.db"  # as `calls.embedding` has it, which takes numpy to import


def merge(project: Path, part: Path, anew: bool = False) -> None:
    """Take the answers and vectors in a job's folder into a project's; those asked `anew` take the place of what was known.

    Raises DdmakeError where a database can't be read or written. It may be done again.
    """
    if (part / cache.FILE).exists():
        with _both(project, part, cache.FILE, cache.MIGRATIONS) as db:
            if anew:
                known = "SELECT key FROM part.calls WHERE key IN (SELECT key FROM main.calls) AND checksum NOT IN " \
                        "(SELECT checksum FROM main.calls WHERE main.calls.key = part.calls.key)"
                put_aside(db, [key for key, in db.execute(known).fetchall()])
            db.execute(f"INSERT OR IGNORE INTO main.calls ({COLUMNS}) SELECT {COLUMNS} FROM part.calls")
    if (part / VECTORS).exists():
        from ddmake.calls import embedding

        with _both(project, part, embedding.FILE, embedding.MIGRATIONS) as db:
            columns = "key, vector, checksum"
            db.execute(f"INSERT OR IGNORE INTO main.vectors ({columns}) SELECT {columns} FROM part.vectors")


@contextmanager
def _both(project: Path, part: Path, name: str, migrations: Sequence[Migration]) -> Iterator[sqlite3.Connection]:
    """Open a project's database with a job's beside it, in one transaction."""
    try:
        with closing(connect(project / name, migrations, synchronous="NORMAL")) as db:
            db.execute("ATTACH DATABASE ? AS part", (str(part / name),))
            with Transaction(db):
                yield db
    except sqlite3.DatabaseError as error:
        raise DdmakeError(f"{part / name}: {told(error)}") from None
