"""Opens connections and brings the schema up to date."""

from __future__ import annotations

import re
import sqlite3
import time
from importlib import resources
from pathlib import Path
from typing import Final

from batt_supervisor.errors import SchemaTooNew
from batt_supervisor.store import trouble

WAL_KEPT_BYTES: Final = 8 * 2**20
"""What the write-ahead log is cut back to when it begins anew; it needs half of that as a rule."""


def connect(path: Path, *, synchronous: str = "FULL", readonly: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode; transactions are always begun by hand.

    Args:
        path: The database file.
        synchronous: SQLite's own word: FULL syncs each commit, NORMAL may lose the last ones on power failure.
        readonly: The connection cannot write.
    """
    uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    db.execute("PRAGMA busy_timeout = 5000")
    db.execute("PRAGMA foreign_keys = ON")
    if not readonly:
        # For a file that is made just now: so it can be shortened later. An older one is left as it is by this.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        # Some builds of SQLite (Debian's) write noughts over all that is deleted, also over the pages that it leaves:
        # a removal would write as much as it frees, and take the writer's time threefold.
        db.execute("PRAGMA secure_delete = FAST")
        db.execute(f"PRAGMA synchronous = {synchronous}")
    return db


def migrations() -> list[tuple[int, str, str]]:
    """Every migration of this version as (number, name, SQL), in order."""
    found = []
    for entry in resources.files("batt_supervisor.store.migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name)
        if match:
            found.append((int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(db: sqlite3.Connection) -> None:
    """Apply what is missing, each migration in one transaction with its record.

    Raises:
        SchemaTooNew: A later version has written this database.
        StoreDamaged: The file is no database.
        StoreUnavailable: It cannot be read or written.
    """
    try:
        db.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_ms INTEGER NOT NULL) STRICT"
        )
        done = {row[0] for row in db.execute("SELECT number FROM migrations")}
        known = migrations()
        newest = known[-1][0]
        if done and max(done) > newest:
            raise SchemaTooNew(
                f"the database has schema {max(done)}, this version knows {newest}; "
                "run the version that wrote it, or a later one"
            )
        for number, name, sql in known:
            if number not in done:
                _apply(db, number, name, sql)
    except sqlite3.Error as error:
        raise trouble.told(error, trouble.path_of(db)) from error


def _apply(db: sqlite3.Connection, number: int, name: str, sql: str) -> None:
    record = f"INSERT INTO migrations VALUES ({number}, '{name}', {time.time_ns() // 1_000_000});"
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{sql}\n{record}\nCOMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
