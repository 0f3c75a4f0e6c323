"""Copies a database as it stands at one moment, while battd goes on writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batt_supervisor.errors import BackupFailed, StoreDamaged
from batt_supervisor.store import trouble
from batt_supervisor.store.snapshot import Snapshot, held

STEP_PAGES: Final = 1024
"""Pages (of 4 KiB) copied between two words of progress: some milliseconds."""

OF_THE_TARGET: Final = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE")
"""Errors of SQLite that only the file that is written can have given."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a copied database holds and names.

    Attributes:
        tasks: How many are in each state.
        results: Names below results/ of files that its rows name.
        logs: Names below logs/, and up to which byte its rows know each.
    """

    schema: int
    runs: int
    tasks: dict[str, int]
    results: list[str]
    logs: dict[str, int]


def copy(source: Path, target: Path, told: Callable[[int, int], None] = lambda done, total: None) -> Contents:
    """Copy a database of any known schema into a new file that needs no other beside it.

    The transaction that `held` has begun is what makes it one state. Without it SQLite's backup begins anew whenever
    another process has written between two of its steps, which beside a busy battd is for ever. VACUUM INTO would do as
    well, but says nothing of its progress.

    Args:
        target: What is left of it after an error is the caller's to remove.
        told: Is told how many pages are copied, and of how many.

    Raises:
        SchemaTooNew: A later version has written it.
        StoreDamaged: It is no sound database.
        StoreUnavailable: It cannot be read.
        BackupFailed: The copy cannot be written.
    """
    try:
        with held(source) as found, closing(sqlite3.connect(target, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = OFF")  # nobody needs half a copy back
            db.execute("PRAGMA synchronous = OFF")
            found.db.backup(db, pages=STEP_PAGES, progress=lambda _, left, total: told(total - left, total), sleep=0.0)
        return _finished(target, source)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") in OF_THE_TARGET:
            raise BackupFailed(f"a copy of the database cannot be written beside the backup: {error}") from error
        raise trouble.told(error, source) from error


def _finished(target: Path, source: Path) -> Contents:
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # one file, whatever battd had it in
        db.execute("PRAGMA synchronous = OFF")
        damage = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if damage != "ok":
            torn = " ".join(damage.split())
            raise StoreDamaged(f"the database {source} is damaged: {torn}; see docs/operations.md")
        # Where these run is no matter of the copy's: a battd that serves it would end them as left over by itself.
        db.execute("UPDATE attempts SET worker_pid = NULL, worker_started = NULL WHERE ended_at_ms IS NULL")
        found = Snapshot(db)
        results = [name for _, name in found.result_files()]
        return Contents(found.schema, found.runs(), found.tasks(), results, found.log_ends())


LEAPS: Final = {"runs": 1_000, "tasks": 1_000_000}
"""How many ids a restored database leaves out: as many as may have been given since the backup was made."""

LEAP_EVENTS: Final = 1_000_000_000


def leap(path: Path) -> None:
    """Leave out numbers that the database which was backed up may have given since.

    Whoever had read its events or results up to one of them, or has noted a run's id, would otherwise take what comes
    now for what it knows.
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = DELETE")  # one file, as it came
        db.execute("BEGIN IMMEDIATE")
        for table, count in LEAPS.items():
            db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (count, table))
        db.execute("UPDATE counters SET settled_seq = settled_seq + ?", (LEAP_EVENTS,))
        if any(row[1] == "event_seq" for row in db.execute("PRAGMA table_info(counters)")):
            db.execute("UPDATE counters SET event_seq = event_seq + ?", (LEAP_EVENTS,))
        db.execute("COMMIT")
    finally:
        db.close()
