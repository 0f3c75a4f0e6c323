"""Keeps what battd has on disk right when somebody sets the wall clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.core.clockwatch import Jump, jump
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.store.protocol import Writes
from batt_supervisor.units import format_duration

Cursor = tuple[int, int] | None

log = structlog.get_logger("clock")


class ClockWatch:
    """Notices that the wall clock was set, and has the times in rows moved along with it, a bounded step at a time.

    At the start it has those found that an earlier battd wrote in what is now the future: the clock was set back while
    none ran. One that was set forward meanwhile cannot be told from time that has passed.

    Attributes:
        jumps: How often it was set since the start.
    """

    def __init__(self, outbox: Outbox, runs: OpenRuns, now: Now) -> None:
        self.jumps = 0
        self._outbox, self._runs, self._last = outbox, runs, now
        self._todo: deque[Jump | None] = deque([None])
        self._after: Cursor = None
        self._begun = self._busy = False
        runs.shifting = True

    def look(self, now: Now) -> None:
        """Every tick, before anything goes by the wall clock."""
        found = jump(self._last, now)
        self._last = now
        if found is not None:
            self.jumps += 1
            self._runs.shifting = True
            self._todo.append(found)
            log.warning("the wall clock was set", by_s=found.by_ms / 1000)

    def tend(self) -> None:
        """Hand over the next step, if there is something to be moved and none on its way."""
        if not self._todo or self._busy:
            return
        self._busy = True
        self._outbox.write(_step(self._todo[0], self._after, first=not self._begun), self._moved, self._failed)

    def _moved(self, after: Cursor, now: Now) -> None:
        self._busy, self._begun, self._after = False, after is not None, after
        if after is None:
            self._todo.popleft()
        if not self._todo:
            self._runs.shifting = False
            self._runs.read_all()

    def _failed(self, error: Exception, now: Now) -> None:
        self._busy = False


def _step(found: Jump | None, after: Cursor, *, first: bool) -> Callable[[Writes], Cursor]:
    def operation(tx: Writes) -> Cursor:
        if first:
            tx.shift_runs(found)
            if found is not None:
                tx.note("clock", told(found))
        return tx.shift_some(found, after)

    return operation


def told(found: Jump) -> str:
    """What was done to the clock, in words."""
    way = "forward" if found.by_ms > 0 else "back"
    return f"the wall clock was set {way} by {format_duration(abs(found.by_ms) / 1000)}"
