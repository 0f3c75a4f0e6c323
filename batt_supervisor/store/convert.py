"""Writes a database of an older version anew, so that its file can be shortened bit by bit from then on.

Databases are made so today. Older ones are not, and SQLite changes that only by writing the whole file anew, during
which nobody else writes. At a start of battd that is done where it takes less than a second or so; for a large file

    python -m batt_supervisor.store STATE_DIR/queue.db

does it while battd is stopped. Without it nothing is lost: what is free in the file is used again.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Final

from batt_supervisor.store.prune import INCREMENTAL

SMALL_BYTES: Final = 64 * 2**20
"""Largest file that is written anew at a start."""

COPIES: Final = 3
"""How much room is asked for, in sizes of the file: a copy, the write-ahead log of it, and some to spare."""


def convert(db: sqlite3.Connection, path: Path, most_bytes: int | None = SMALL_BYTES) -> bool:
    """Have the file be one that can be shortened; whether it is.

    Args:
        db: A connection outside any transaction.
        most_bytes: A larger file is left as it is.

    Raises:
        sqlite3.Error: It could not be written; it is as it was.
    """
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] == INCREMENTAL:
        return True
    size: int = db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
    if (most_bytes is not None and size > most_bytes) or shutil.disk_usage(path.parent).free < COPIES * size:
        return False
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return True
