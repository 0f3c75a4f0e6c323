"""The store as the daemon holds it: a file, its writer, and readers."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store.read import Reader
from batt_supervisor.store.schema import connect, migrate
from batt_supervisor.store.writer import Writer

SQLITE_MIN: Final = (3, 38, 0)
"""STRICT tables came with 3.37, the operator ->> with 3.38."""


class Store:
    """A database file.

    Args:
        path: The file; made when it is missing.
        synchronous: FULL syncs each commit; NORMAL may lose the last ones when the power fails.

    Raises:
        SchemaTooNew: A later version wrote it.
        StoreUnavailable: It is no database, or cannot be written.
    """

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self.path = path
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            needed = ".".join(map(str, SQLITE_MIN))
            raise StoreUnavailable(f"SQLite {needed} or newer is needed, this Python has {sqlite3.sqlite_version}")
        try:
            self._db = connect(path, synchronous=synchronous)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{path} cannot be opened: {error}") from error
        migrate(self._db)
        self.writer = Writer(self._db)

    def reader(self) -> Reader:
        """A new read connection, for one thread.

        Raises:
            StoreUnavailable: The file is gone or cannot be opened.
        """
        try:
            return Reader(connect(self.path, readonly=True))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.path} cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the writer's connection; its thread must have ended."""
        self._db.close()
