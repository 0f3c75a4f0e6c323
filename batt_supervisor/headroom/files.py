"""Readers of kernel files that are kept open."""

from __future__ import annotations

import errno
from typing import Final

from batt_supervisor.held import Held

__all__ = ["STARVED", "Reader", "told"]

STARVED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""How the kernel says that it cannot open a file now, which says nothing of that file."""


class Reader:
    """What reads some files: a few at each look, and what changes slowly only now and then.

    A file that cannot be read is told, and what it said last serves.
    """

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._slow: list[str] = []  # of the last refresh
        self._quick: list[str] = []  # of the last look

    @property
    def complaints(self) -> list[str]:
        """What could not be read, and why, for people."""
        return self._slow + self._quick

    @property
    def descriptors(self) -> int:
        """Files that are open."""
        return sum(file.is_open for file in self._held.values())

    def refresh(self) -> None:
        """Read what changes slowly."""
        raise NotImplementedError

    def close(self) -> None:
        for file in self._held.values():
            file.close()


def told(path: str, error: Exception) -> str:
    """Why a file could not be read, for people."""
    return f"{path}: {getattr(error, 'strerror', None) or error or 'unreadable'}"
