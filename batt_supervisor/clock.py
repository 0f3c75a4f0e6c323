"""Time, handed in: wall time for rows, monotonic time for deadlines, both read once a tick."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks.

    Attributes:
        mono_s: Seconds of CLOCK_MONOTONIC, which every process of this host shares since its boot.
        wall_ms: Milliseconds since 1970, for rows and for people.
    """

    mono_s: float
    wall_ms: int


class Clock(Protocol):
    """What can be read for the time; `testing.ManualClock` is the other implementation."""

    def read(self) -> Now:
        """Both clocks, now."""


class SystemClock:
    """The host's clocks."""

    def read(self) -> Now:
        return Now(time.monotonic(), time.time_ns() // 1_000_000)
