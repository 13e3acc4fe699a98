"""What Ddfiles say of data and models, for cards: kept beside the traces, so that cards of a store need no Ddfile.

What a Ddfile says takes the place of what it said before: under each folder that its targets were put under.
"""

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddmake.ddfile.facts import Said
from ddmake.store.database import Transaction

if TYPE_CHECKING:
    from sqlite_utils import Database


def m006_said(db: "Database") -> None:
    """Make the table of what is said, by Ddfile, folder and name."""
    columns = ("ddfile", "folder", "name", "license", "citation", "url")
    db["said"].create({"id": int, **dict.fromkeys(columns, str)}, pk="id")


def keep(db: sqlite3.Connection, ddfile: str, folder: str, said: Mapping[str, Said]) -> None:
    """Note what a Ddfile says now."""
    rows = [(ddfile, folder, name, one.license, one.citation, one.url) for name, one in said.items()]
    if db.execute("SELECT ddfile, folder, name, license, citation, url FROM said WHERE ddfile = ? AND folder = ? ORDER BY id",
                  (ddfile, folder)).fetchall() == rows:
        return
    with Transaction(db):
        db.execute("DELETE FROM said WHERE ddfile = ? AND folder = ?", (ddfile, folder))
        db.executemany("INSERT INTO said (ddfile, folder, name, license, citation, url) VALUES (?, ?, ?, ?, ?, ?)", rows)


def of(db: sqlite3.Connection) -> dict[str, Said]:
    """Return what is said, by name; of two Ddfiles what was noted last."""
    return {name: Said(*told) for name, *told in db.execute("SELECT name, license, citation, url FROM said ORDER BY id")}
