"""The store as the daemon holds it: a file, its writer, and readers."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from batt_supervisor.clock import Clock, SystemClock
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store import place, trouble
from batt_supervisor.store.convert import convert
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
        clock: Gives the wall time of rows; the host's own without it.

    Raises:
        SchemaTooNew: A later version wrote it.
        StoreMissing: Something of it is there, and the rest is not.
        StoreDamaged: It is no database, or what opening it needs cannot be read.
        StoreUnavailable: It cannot be opened or written.
    """

    def __init__(self, path: Path, *, synchronous: str = "FULL", clock: Clock | None = None) -> None:
        self.path = path
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            needed = ".".join(map(str, SQLITE_MIN))
            raise StoreUnavailable(f"SQLite {needed} or newer is needed, this Python has {sqlite3.sqlite_version}")
        place.see_whole(path)
        try:
            self._db = connect(path, synchronous=synchronous)
        except sqlite3.Error as error:
            raise trouble.told(error, path) from error
        migrate(self._db)
        with suppress(sqlite3.Error):  # left as it is: no room, or somebody holds it; the next start tries again
            convert(self._db, path)
        self.writer = Writer(self._db, clock or SystemClock())

    def reader(self) -> Reader:
        """A new read connection, for one thread.

        Raises:
            StoreUnavailable: The file is gone or cannot be opened.
        """
        self.writer.place.check()  # a new connection would make what is missing
        try:
            return Reader(connect(self.path, readonly=True))
        except sqlite3.Error as error:
            raise trouble.told(error, self.path) from error

    def damage(self) -> str:
        """What is wrong with the file, by reading all of it; empty where it is sound. Some 8 s a gigabyte."""
        with closing(connect(self.path, readonly=True)) as db:
            try:
                found: str = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            except sqlite3.Error as error:
                return str(trouble.told(error, self.path))
        return "" if found == "ok" else f"the database {self.path} is damaged: {found}; see docs/operations.md"

    def close(self) -> None:
        """Close the writer's connection; its thread must have ended."""
        self._db.close()
