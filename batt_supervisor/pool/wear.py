"""What a worker has served and loaded so far, and whether it may serve another attempt."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from batt_supervisor.pool import reports
from worker import fresh

STAMPS_S: Final = 0.1
"""How often the files that an idle worker has loaded are compared with those on disk, if no new run has come since."""


class Wear:
    """The wear of a slot's present worker. It belongs to the loop's thread.

    Args:
        results: The folder in which a worker lists its modules, where they are many.

    Attributes:
        served: How many attempts it has made.
    """

    def __init__(self, results: Path) -> None:
        self.served = 0
        self._results = results
        self._stamps: dict[str, fresh.Stamp] = {}
        self._compared_s = 0.0
        self._changed = ""
        self._recycle = ""

    def renew(self, stamps: Mapping[str, fresh.Stamp]) -> None:
        """Begin anew, with a worker whose preloaded modules came from these files."""
        self.served, self._stamps, self._changed, self._recycle = 0, dict(stamps), "", ""

    def learn(self, report: reports.Report) -> None:
        """Note what the report of an attempt says of the worker itself.

        Raises:
            OSError: The list of modules that it names cannot be read.
            ValueError: That is no such list.
        """
        modules = report.modules
        if report.modules_file:
            path = self._results / report.modules_file
            listed = path.read_bytes()
            with suppress(OSError):  # of a file system that takes no writes any more; the next start finds it
                path.unlink()
            modules = reports.read_modules(listed)
        self._stamps.update(modules)
        self._recycle = report.recycle or self._recycle
        self.served += 1

    def distrust(self) -> None:
        """Compare what the worker has loaded with the disk before it is used again."""
        self._compared_s = 0.0

    def spent(self, now_s: float) -> str:
        """Why the worker, idle now, must serve no further attempt; empty while it may."""
        if self._recycle:
            return self._recycle
        if now_s - self._compared_s >= STAMPS_S and not self._changed:
            self._compared_s = now_s
            changed = next((path for path, stamp in self._stamps.items() if fresh.stamp(path) != stamp), None)
            self._changed = f"{changed} has changed on disk since it was loaded" if changed else ""
        return self._changed
