"""Memory of the host, and the kernel's thread total against its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import psutil

from batt_supervisor.core.admission import Free
from batt_supervisor.core.model import Space


class Headroom(Protocol):
    """Whatever says what is free; `testing.FixedHeadroom` is the other implementation."""

    def read(self, now_s: float) -> Free:
        """What is free, from a reading that is at most a moment old."""


class MachineHeadroom:
    """The host's own memory and threads.

    Memory is `MemAvailable` as psutil gives it. Threads are the kernel's total (/proc/loadavg, field 4) against
    the lower of kernel.threads-max and kernel.pid_max. Limits of cgroups and of the user are not read yet.

    Args:
        keep_s: How long a reading serves; promises cover what has been started since.
        proc: Where /proc is mounted.
    """

    def __init__(self, *, keep_s: float = 0.05, proc: Path = Path("/proc")) -> None:
        self._keep_s = keep_s
        self._loadavg = os.open(proc / "loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._limits = (proc / "sys/kernel/pid_max", proc / "sys/kernel/threads-max")
        self._last: tuple[float, Free] | None = None

    def read(self, now_s: float) -> Free:
        if self._last is None or not 0 <= now_s - self._last[0] < self._keep_s:
            try:
                self._last = (now_s, self._look())
            except OSError:
                # No descriptor to be had: the last reading serves, less what has been promised since.
                if self._last is None:
                    raise
        return self._last[1]

    def close(self) -> None:
        os.close(self._loadavg)

    def _look(self) -> Free:
        memory = psutil.virtual_memory()
        used = int(os.pread(self._loadavg, 128, 0).split()[3].split(b"/")[1])
        limit, name = min((int(path.read_text(encoding="ascii")), f"kernel.{path.name}") for path in self._limits)
        return Free(
            space=Space(memory.available, limit - used),
            memory_limit="memory of the host",
            threads_limit=f"{name} ({used} of {limit})",
            total=Space(memory.total, limit),
        )
