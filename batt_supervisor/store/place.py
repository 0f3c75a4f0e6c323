"""Sees that the files of a database are where they were opened: SQLite goes on with removed ones and says nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from batt_supervisor.errors import StoreUnavailable

ENDS: Final = ("", "-wal", "-shm")
"""Of the names of a database's files, while it is open."""


class Place:
    """The files that a connection has just opened.

    Args:
        path: Of the database.
    """

    def __init__(self, path: Path) -> None:
        found = {f"{path}{end}": _identity(f"{path}{end}") for end in ENDS}
        self._opened = {name: identity for name, identity in found.items() if identity is not None}

    def check(self) -> None:
        """See that they are there: some 4 us.

        Raises:
            StoreUnavailable: One of them is gone, or another is in its place: what is written now would be lost.
        """
        for name, opened in self._opened.items():
            found = _identity(name)
            if found != opened:
                what = (
                    "is not there any more" if found is None else "is another file than the one that battd has opened"
                )
                raise StoreUnavailable(f"{name} {what}; put it back, or stop battd and restore a backup")


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - before each commit; a Path costs twice as much
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{name} cannot be looked at: {error.strerror}") from error
    return found.st_dev, found.st_ino
