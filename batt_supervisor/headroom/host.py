"""The host itself: its memory and swap, its load and how many threads it has, the pressure it is under."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from batt_supervisor.core.headroom import Limit, Resource
from batt_supervisor.headroom.files import Reader, told
from batt_supervisor.headroom.pressure import OFF, RESOURCES, Stall, stalls, worst
from batt_supervisor.held import Held

__all__ = ["Host", "Memory"]

NAME: Final = "memory of the host"


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the host, in bytes."""

    limit: Limit
    swap_total: int = 0
    swap_free: int = 0


class Host(Reader):
    """Held files of /proc. What one of them said last serves when it cannot be read, and is told in `complaints`.

    psutil reads the same `meminfo`, but opens it anew and takes all of it apart: 44 µs instead of 8, and half of what a
    whole reading may take. It is asked only where the kernel does not say what is available (before Linux 3.14).

    Attributes:
        threads: Threads and processes of the whole kernel.
        load: Runnable processes, averaged over 1 minute; None where that cannot be read.
        stalls: Pressure, where the kernel measures it.
    """

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self.threads = 0
        self.load: float | None = None
        self.stalls: Mapping[Stall, float] = {}
        self._loadavg, self._meminfo = Held(proc / "loadavg"), Held(proc / "meminfo")
        self._pressure = {resource: Held(proc / "pressure" / resource) for resource in RESOURCES}
        self._held = {"loadavg": self._loadavg, "meminfo": self._meminfo, **self._pressure}
        self._memory: Memory | None = None

    def refresh(self) -> None:
        """Read what changes slowly: pressure. That of a while ago does not serve, for workers are ended by it."""
        self._slow = []
        self.stalls = worst(self._stalls())

    def look(self) -> Memory:
        """Memory as it is now; `threads` and `load` too."""
        self._quick = []
        try:
            one, _, _, running, *_ = self._loadavg.read().split()
            self.load, self.threads = float(one), int(running.partition(b"/")[2])
        except (OSError, ValueError) as error:
            self._complain(self._loadavg, error)
        try:
            self._memory = self._read_memory()
        except (OSError, ValueError) as error:
            self._complain(self._meminfo, error)
        return self._memory or Memory(_unused())

    def _read_memory(self) -> Memory:
        text = self._meminfo.read()
        total, available = _kib(text, b"MemTotal:"), _kib(text, b"MemAvailable:")
        if total is None:
            raise ValueError("it does not tell how much there is")
        if available is None:
            available = psutil.virtual_memory().available
        limit = Limit(Resource.MEMORY, NAME, self._meminfo.path, total, max(0, total - available))
        return Memory(limit, _kib(text, b"SwapTotal:") or 0, _kib(text, b"SwapFree:") or 0)

    def _stalls(self) -> Iterator[Mapping[Stall, float]]:
        for resource, file in self._pressure.items():
            try:
                yield stalls(resource, file.read())
            except (OSError, ValueError) as error:
                off = getattr(error, "errno", None) in OFF
                self._slow.append(f"{file.path}: the kernel does not measure it" if off else told(file.path, error))

    def _complain(self, file: Held, error: Exception) -> None:
        self._quick.append(told(file.path, error))


def _kib(text: bytes, key: bytes) -> int | None:
    """Bytes, from a line of meminfo."""
    start = text.find(key)
    if start < 0:
        return None
    start += len(key)
    return int(text[start : text.index(b"kB", start)]) * 1024


def _unused() -> Limit:
    """From sysinfo(2), where /proc does not say: without file cache that could be given back, so it is the least."""
    page, total, unused = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return Limit(Resource.MEMORY, NAME, "sysinfo", total * page, (total - unused) * page)
