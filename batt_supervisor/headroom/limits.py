"""Limits that are no group's and no user's: the kernel's own on threads, and those of every single process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batt_supervisor.core.headroom import Limit, Resource
from batt_supervisor.headroom.files import Reader, told
from batt_supervisor.held import Held

__all__ = ["EachProcess", "Kernel"]

UNKNOWN: Final = 32_768
"""`kernel.pid_max` as it is by default on a machine of up to 32 CPUs: what is assumed where nothing can be read."""


class Kernel(Reader):
    """`kernel.threads-max` and `kernel.pid_max`, less all threads that the kernel has.

    The total is the whole kernel's, whatever pid namespace looks. Since Linux 6.14 a pid namespace may have a `pid_max`
    of its own; the total is then more than what counts there, never less. The lowest 300 numbers are not given out a
    second time, so up to 300 fewer than `pid_max` can be had: a refused fork counts as no room all the same.
    """

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._held = {f"kernel.{name}": Held(proc / "sys/kernel" / name) for name in ("threads-max", "pid_max")}
        self._limits: dict[str, int] = {}

    def refresh(self) -> None:
        self._slow = []
        for name, file in self._held.items():
            try:
                self._limits[name] = int(file.read())
            except (OSError, ValueError) as error:
                self._slow.append(told(file.path, error))  # what it said last serves

    def limits(self, total: int) -> Iterator[Limit]:
        """Both, with the total of threads and processes that there are."""
        for name, limit in self._limits.items():
            yield Limit(Resource.THREADS, name, self._held[name].path, limit, total)
        if not self._limits:
            yield Limit(Resource.THREADS, "kernel.pid_max", "assumed", UNKNOWN, total)


OF_EACH: Final = {"RLIMIT_AS": resource.RLIMIT_AS, "RLIMIT_DATA": resource.RLIMIT_DATA}


class EachProcess(Reader):
    """What one process may have of memory at most (`ulimit -v`, `ulimit -d`): workers inherit it.

    Nothing of it is used by others, so `used` is 0: what a worker has taken before its task comes is its own need.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limits: list[Limit] = []

    def refresh(self) -> None:
        self._limits = [
            Limit(Resource.MEMORY, name, "getrlimit", soft, 0, each=True)
            for name, number in OF_EACH.items()
            if (soft := resource.getrlimit(number)[0]) != resource.RLIM_INFINITY
        ]

    def limits(self) -> list[Limit]:
        return self._limits
