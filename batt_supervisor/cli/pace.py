"""How fast a run goes on, from what was seen of it. The clock is handed in."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 30.0


class Pace:
    """Tasks settled a second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, now: float, settled: int) -> None:
        """Note how many tasks had settled at `now`; fewer than before (a retry) starts anew."""
        if self._seen and settled < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, settled))
        # One reading beyond the window stays, so that a slow run has a rate too.
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Tasks a second; None before there is anything to go by."""
        if len(self._seen) < 2:
            return None
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - then) if now > then and after > before else None

    def eta_s(self, still_open: int) -> float | None:
        """Seconds until nothing is open at this rate."""
        return still_open / self.rate if self.rate else None
