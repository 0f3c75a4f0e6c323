"""Bytes of a folder's files, counted a few at a time: a folder can hold a million, and nobody may wait for that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FILES_AT_ONCE: Final = 500
"""Files between two pauses: some 2 ms."""


class Weighing:
    """A count on its way.

    Attributes:
        size_bytes: What was found so far.
        done: There is nothing left to count.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = list(folders)
        self._entries = os.scandir(self._folders.pop())
        self.size_bytes = 0
        self.done = False

    def step(self) -> None:
        """Count some more."""
        for _ in range(FILES_AT_ONCE):
            entry = next(self._entries, None)
            if entry is None:
                if not self._folders:
                    self.done = True
                    return
                self._entries = os.scandir(self._folders.pop())
                continue
            self.size_bytes += _size(entry)

    def close(self) -> None:
        """Let go of the folder, counted or not."""
        self._entries.close()


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0  # it has just gone
