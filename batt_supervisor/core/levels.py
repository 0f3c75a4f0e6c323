"""How wide the service is at the moment: fewer attempts at once after exhaustion, more after success.

Admission goes by what is free now, and by what attempts are expected to take. Where those expectations are wrong, or
somebody else takes what was free, attempts fail for want of it: then fewer run at once. Multiplicative decrease and
additive increase, as TCP has them against congestion (Chiu and Jain, 1989), find the width that holds, and share it
fairly among supervisors that do not know of each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from batt_supervisor.core.admission import Free
from batt_supervisor.core.headroom import Pressure
from batt_supervisor.core.model import Space

CUT_S: Final = 1.0
"""For so long after a decrease there is no other: attempts that were started together fail together."""

GROW_S: Final = 5.0
"""After so long without exhaustion the width grows by one, also where attempts take so long that none has succeeded."""

THRASH: Final = (25.0, 10.0)
"""Percent of the last 10 s in which every task waited for memory: from the first on nothing starts, until below the
second."""


class Level(StrEnum):
    """What the service allows itself, for people."""

    OPEN = "open"  # as many at once as there are slots
    REDUCED = "reduced"
    SINGLE = "single"  # one at a time
    HOLD = "hold"  # nothing starts


@dataclass(frozen=True, slots=True)
class Throttle:
    """How many attempts may run at once, and why not more.

    Attributes:
        full: As many as there are slots.
        width: As many as may, from 1 to `full`; it grows by parts.
        held: Why nothing starts at all; empty while something may.
        reason: Why the width is what it is; empty at its full.
        cut_s: When it was last made smaller, monotonic.
        grown_s: When it was last made larger by time alone.
    """

    full: int
    width: float
    held: str = ""
    reason: str = ""
    cut_s: float = float("-inf")
    grown_s: float = float("-inf")

    @property
    def level(self) -> Level:
        if self.held:
            return Level.HOLD
        if self.at_once >= self.full:
            return Level.OPEN
        return Level.REDUCED if self.at_once > 1 else Level.SINGLE

    @property
    def at_once(self) -> int:
        return int(self.width)

    def told(self) -> str:
        """Why the level is what it is."""
        return self.held or self.reason


def opened(full: int) -> Throttle:
    """At the beginning: nothing is known against the full width."""
    return Throttle(full, float(full))


def resized(throttle: Throttle, full: int) -> Throttle:
    """There are now so many slots."""
    if full == throttle.full:
        return throttle
    at_full = throttle.at_once >= throttle.full
    return replace(throttle, full=full, width=float(full) if at_full else min(throttle.width, float(full)))


def exhausted(throttle: Throttle, running: int, why: str, now_s: float) -> Throttle:
    """Something of ours failed for want of memory or threads.

    Args:
        running: How many ran at once then: half of those, whatever might have.
    """
    if now_s - throttle.cut_s < CUT_S:
        return throttle
    width = max(1.0, min(throttle.width, float(max(running, 1))) / 2)
    if width >= throttle.full:
        return replace(throttle, cut_s=now_s, grown_s=now_s)  # a single slot cannot be made fewer
    return replace(throttle, width=width, reason=why, cut_s=now_s, grown_s=now_s)


def succeeded(throttle: Throttle, count: int, now_s: float) -> Throttle:
    """So many attempts ended well: one more at once for every `width` of them."""
    if throttle.width >= throttle.full or now_s - throttle.cut_s < CUT_S:
        return throttle
    return _grown(throttle, count / throttle.width)


def rested(throttle: Throttle, now_s: float) -> Throttle:
    """Time has passed."""
    if throttle.width >= throttle.full or now_s - throttle.grown_s < GROW_S:
        return throttle
    return replace(_grown(throttle, 1.0), grown_s=now_s)


def _grown(throttle: Throttle, by: float) -> Throttle:
    width = min(throttle.width + by, float(throttle.full))
    return replace(throttle, width=width, reason="" if width >= throttle.full else throttle.reason)


def pressed(throttle: Throttle, free: Free, pressure: Pressure, reserve: Space) -> Throttle:
    """Stop and allow starts by what the machine has left, with a gap in between, so that it does not flutter.

    Nothing starts below half of the reserve, until all of the reserve is free again, nor while the machine thrashes.
    """
    part = 1.0 if throttle.held else 0.5
    thrash = pressure.memory_full or 0.0
    held = ""
    if free.space.memory_bytes < reserve.memory_bytes * part:
        held = f"memory is nearly used up ({free.memory_limit})"
    elif free.space.threads < reserve.threads * part:
        held = f"threads are nearly used up ({free.threads_limit})"
    elif thrash >= THRASH[1 if throttle.held else 0]:
        held = f"the machine thrashes: for {thrash:g} % of the last 10 s every task waited for memory"
    return throttle if held == throttle.held else replace(throttle, held=held)


def scaled(reserve: Space, total: Space) -> Space:
    """The reserve on a machine of this size: at most an eighth of it, or a small one would have nothing to give."""
    return Space(min(reserve.memory_bytes, total.memory_bytes // 8), min(reserve.threads, total.threads // 8))
