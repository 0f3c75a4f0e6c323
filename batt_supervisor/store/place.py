"""Sees that all files of a database are where they belong: SQLite goes on without them, or makes new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from batt_supervisor.errors import StoreMissing, StoreUnavailable

ENDS: Final = ("", "-wal", "-shm")
"""Of the names of a database's files, while it is open."""


FILES_LOCK: Final = "files.lock"
"""Beside the database, and made after it: held shared while files that rows name must stay; battd takes it for itself
before it removes any."""


class Place:
    """The files that a connection has just opened.

    Args:
        path: Of the database.
    """

    def __init__(self, path: Path) -> None:
        found = {f"{path}{end}": _identity(f"{path}{end}") for end in ENDS}
        self._opened = {name: identity for name, identity in found.items() if identity is not None}

    def check(self) -> None:
        """See that they are there: before each commit, so it is one `stat` a file and no more.

        Raises:
            StoreMissing: One of them is gone, or another is in its place: what is written now would be lost.
        """
        for name, opened in self._opened.items():
            found = _identity(name)
            if found != opened:
                what = (
                    "is not there any more" if found is None else "is another file than the one that battd has opened"
                )
                raise StoreMissing(f"{name} {what}; put it back, or stop battd and restore a backup")


def see_whole(path: Path) -> None:
    """See, before a database is opened, that nothing of what an earlier battd has left of it is missing.

    SQLite would make a new file, and remove or replay what lies beside it: all that was acknowledged would be gone. A
    battd that left in order leaves neither log nor shared memory beside the file; one that was killed leaves both, for
    SQLite makes the log first and removes it last.

    Raises:
        StoreMissing: The database is gone and something of it is there, or its log is.
        StoreUnavailable: It cannot be looked at.
    """
    database, log, shared = (_stat(f"{path}{end}") for end in ENDS)
    if database is None or not database.st_size:
        if shared is not None or (log is not None and log.st_size) or _has_files(path.parent):
            raise StoreMissing(
                f"{path} is not there, and what belongs to it is: put it back, or restore a backup into another "
                "directory; to begin anew, remove the whole directory"
            )
    elif shared is not None and log is None:
        raise StoreMissing(
            f"{path}-wal is not there, though the last battd did not leave in order: put it back, or restore a backup; "
            f"to go on with what {path.name} itself holds, remove {path}-shm"
        )


def _has_files(state_dir: Path) -> bool:
    """Whether a battd has been at work there, which leaves results, logs, or at the least its lock on them."""
    try:
        if (state_dir / FILES_LOCK).exists():
            return True
        folders = (state_dir / name for name in ("results", "logs"))
        return any(any(folder.iterdir()) for folder in folders if folder.is_dir())
    except OSError as error:
        raise StoreUnavailable(f"{error.filename} cannot be looked at: {error.strerror}") from error


def _identity(name: str) -> tuple[int, int] | None:
    found = _stat(name)
    return None if found is None else (found.st_dev, found.st_ino)


def _stat(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)  # noqa: PTH116 - before each commit; a Path costs twice as much
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{name} cannot be looked at: {error.strerror}") from error
