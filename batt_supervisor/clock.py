"""Time, handed in: wall time for rows, monotonic time for deadlines, both read once a tick."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

TOGETHER_S: Final = 0.2
"""Readings of several clocks that belong together are at most so far from each other."""


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of the clocks.

    Attributes:
        mono_s: Seconds of CLOCK_MONOTONIC, which every process of this host shares since its boot.
        wall_ms: Milliseconds since 1970, for rows and for people. Somebody may set it.
        boot_s: Seconds of CLOCK_BOOTTIME: as `mono_s`, but it goes on while the host is suspended.
    """

    mono_s: float
    wall_ms: int
    boot_s: float = 0.0


class Clock(Protocol):
    """What can be read for the time. `testing.ManualClock` is another one, `daemon.faults` has a third."""

    def read(self) -> Now:
        """All clocks, now."""


class SystemClock:
    """The host's clocks."""

    def read(self) -> Now:
        while True:
            boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            now = Now(time.monotonic(), time.time_ns() // 1_000_000, boot_s)
            # Read far from each other, as when the process was stopped in between, they would look as if one was set.
            if time.clock_gettime(time.CLOCK_BOOTTIME) - boot_s < TOGETHER_S:
                return now
