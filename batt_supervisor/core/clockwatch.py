"""Was the wall clock set? Pure decisions over readings of the clocks.

Rows hold wall times, as only these outlive a restart of the host: when a task is due again, when a run's deadline
passes. Somebody may set that clock, by a day or a year. CLOCK_BOOTTIME goes on as time itself does, also while the host
is suspended; so whatever the two differ in is what the wall clock was set by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from batt_supervisor.clock import Now

JUMP_MS: Final = 1_000
"""Less is how clocks are kept right, and no harm."""


@dataclass(frozen=True, slots=True)
class Jump:
    """The wall clock was set.

    Attributes:
        by_ms: Forward; negative: back.
        at_ms: What it showed when this was seen.
        within_ms: That was so long after it was set, at most.
    """

    by_ms: int
    at_ms: int
    within_ms: int

    def is_before(self, then_ms: int, now_ms: int) -> bool:
        """Whether a time was written down before the clock was set.

        Args:
            then_ms: What the clock showed when it was written down.
            now_ms: What it shows now; what was written since lies before that.
        """
        if self.by_ms > 0:
            return then_ms <= self.at_ms - self.by_ms
        # Some of what was written as long ago as it was set back lies there, too. It waits that much longer.
        return not self.at_ms - self.within_ms <= then_ms <= now_ms


def jump(before: Now, now: Now) -> Jump | None:
    """By how much the wall clock was set between two readings; None: it was not."""
    passed_ms = round((now.boot_s - before.boot_s) * 1000)
    by_ms = now.wall_ms - before.wall_ms - passed_ms
    return Jump(by_ms, now.wall_ms, passed_ms) if abs(by_ms) > JUMP_MS else None
