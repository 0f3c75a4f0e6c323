"""Result files that nothing needs: of attempts whose end was never written, or of rows that were removed since."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from batt_supervisor.daemon.leftovers import alone
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store.place import FILES_LOCK

FIRST: Final = 2_000
"""Files that are looked at before battd serves: some 20 ms. What a battd that was killed has left is among them, as a
rule."""

AT_ONCE: Final = 200
"""Files that are looked at in one round of the loop later on: about 1 ms."""

PAUSE_S: Final = 0.05

AGAIN_S: Final = 1.0
"""How long to wait for a store that cannot be read, or a backup that reads the files."""

REQUEST: Final = "request-"
"""What a slot hands to its worker begins with that: battd's own, from when it has workers."""

log = structlog.get_logger("recovery")


class Orphans:
    """Looks through results/ once in battd's life, and removes what nothing needs.

    There may be a million files, and tasks do not wait for them: all but the first are looked at between two rounds of
    the loop.

    Args:
        folder: The state directory.
        needed: Gives those of some names that a row names, or that are of an attempt which has not ended.
    """

    def __init__(self, folder: Path, needed: Callable[[Sequence[str]], set[str]]) -> None:
        self._folder, self._needed = folder, needed
        self._entries: Iterator[os.DirEntry[str]] | None = os.scandir(folder / "results")
        self._names: list[str] = []
        self._count = 0
        self._next_s = 0.0

    def begin(self, now_s: float) -> None:
        """Look at the first of them, before there are any workers and after all attempts have been written off."""
        self._look(now_s, FIRST, spared=())

    def tick(self, now_s: float) -> None:
        """Look at some more, when it is time."""
        if self._entries is not None and now_s >= self._next_s:
            self._look(now_s, AT_ONCE, spared=(REQUEST,))

    def _look(self, now_s: float, at_most: int, *, spared: tuple[str, ...]) -> None:
        assert self._entries is not None
        self._names = self._names or [entry.name for entry in islice(self._entries, at_most)]
        if not self._names:
            self._entries = None
            if self._count:
                log.info("removed result files that nothing needs", files=self._count)
            return
        self._next_s = now_s + AGAIN_S
        try:
            needed = self._needed(self._names)
        except StoreUnavailable:
            return  # whoever needs the store says so; this can wait
        orphans = [name for name in self._names if name not in needed and not name.startswith(spared)]
        if orphans and not self._removed(orphans):
            return
        self._names, self._next_s = [], now_s + PAUSE_S

    def _removed(self, names: list[str]) -> bool:
        # A backup may still want a file whose row was removed after it had begun.
        with alone(self._folder / FILES_LOCK) as mine:
            if mine:
                for name in names:
                    try:
                        (self._folder / "results" / name).unlink(missing_ok=True)
                    except OSError as error:
                        log.warning("a file cannot be removed", path=name, reason=error.strerror)
                self._count += len(names)
            return mine
