"""One state of a database, held still while it is looked at; battd may go on writing meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batt_supervisor.errors import SchemaTooNew, StoreDamaged
from batt_supervisor.store import trouble
from batt_supervisor.store.schema import connect, migrations


class Snapshot:
    """What a database says of itself and of the files beside it, in any schema up to this version's.

    Every method raises sqlite3.Error where the database cannot be read.

    Attributes:
        db: A connection that only reads, inside a transaction: whatever is asked is asked of the same state.
        schema: Number of the last migration that it has had.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.schema: int = db.execute("SELECT max(number) FROM migrations").fetchone()[0] or 0

    def runs(self) -> int:
        count: int = self.db.execute("SELECT count(*) FROM runs").fetchone()[0]
        return count

    def tasks(self) -> dict[str, int]:
        """How many tasks are in each state, by counting them."""
        return dict(self.db.execute("SELECT state, count(*) FROM tasks GROUP BY state ORDER BY state"))

    def result_files(self) -> Iterator[tuple[int, str]]:
        """Each task whose result is in a file, and the file's name below results/."""
        return iter(self.db.execute("SELECT task_id, file FROM results WHERE file IS NOT NULL ORDER BY task_id"))

    def log_ends(self) -> dict[str, int]:
        """Names below logs/ of files that hold output of ended attempts, and where the last of it ends, in bytes.

        Other attempts may name a log, too: one without any output in it is removed when its worker has ended.
        """
        return dict(self.db.execute("SELECT log, max(log_to) FROM attempts WHERE log_to > log_from GROUP BY log"))

    def live(self) -> set[tuple[int, int]]:
        """Task and attempt of what is running."""
        return set(self.db.execute("SELECT id, attempt FROM tasks WHERE state IN ('running', 'stopping')"))

    def has(self, table: str, column: str) -> bool:
        """Whether its schema has a column yet."""
        found = self.db.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()
        return found is not None


@contextmanager
def held(path: Path) -> Iterator[Snapshot]:
    """The present state of a database, until the end of the block. The writer is not kept waiting by it.

    Its write-ahead log cannot begin anew before, and grows: let go of it as soon as may be.

    Raises:
        SchemaTooNew: A later version has written it.
        StoreDamaged: It is no database of battd's, or what is read first is torn.
        StoreUnavailable: It cannot be opened. What is read inside the block raises sqlite3.Error.
    """
    try:
        db = _opened(path)
    except sqlite3.Error as error:
        raise trouble.told(error, path) from error
    try:
        found = _known(db, path)
        yield found
    finally:
        db.close()


def _known(db: sqlite3.Connection, path: Path) -> Snapshot:
    try:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone():
            raise StoreDamaged(f"{path} holds no queue of battd's: it has no table of migrations")
        found = Snapshot(db)
    except sqlite3.Error as error:
        raise trouble.told(error, path) from error
    newest = migrations()[-1][0]
    if found.schema > newest:
        raise SchemaTooNew(
            f"the database has schema {found.schema}, this version knows {newest}; "
            "use the version that wrote it, or a later one"
        )
    return found


def _opened(path: Path) -> sqlite3.Connection:
    """A connection whose transaction has begun."""
    try:
        return _begun(connect(path, readonly=True))
    except sqlite3.OperationalError:
        wal = Path(f"{path}-wal")
        if os.access(path.parent, os.W_OK) or (wal.exists() and wal.stat().st_size):
            raise
        # SQLite wants to make its shared memory beside the file. On a read-only file system nobody writes, and where
        # no write-ahead log is left, everything is in the file itself.
        uri = f"{path.absolute().as_uri()}?immutable=1"
        return _begun(sqlite3.connect(uri, uri=True, isolation_level=None))


def _begun(db: sqlite3.Connection) -> sqlite3.Connection:
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # only the first read begins it
    except sqlite3.Error:
        db.close()
        raise
    return db
