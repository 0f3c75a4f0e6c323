"""How many slots are built: fewer than configured where there is no room for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Need
from batt_supervisor.core.model import Space
from batt_supervisor.core.world import Held
from batt_supervisor.daemon.gate import Gate
from batt_supervisor.daemon.room import SLOT_THREADS
from batt_supervisor.pool.protocol import Pool

WIDEN_S: Final = 2.0
"""How often it is tried to build a slot more."""

NARROW_S: Final = 0.3
"""How long a slot that was given up may take to show in a reading."""

log = structlog.get_logger("loop")


class Width:
    """Builds slots and gives them up.

    Attributes:
        built: How many slots there are.
    """

    def __init__(self, pool: Pool, gate: Gate, settings: Settings, built: int) -> None:
        self._pool, self._gate = pool, gate
        self._settings = settings
        self.built = built
        self._changed_s = float("-inf")

    @property
    def short(self) -> bool:
        """Whether there are fewer than configured."""
        return self.built < self._settings.slots

    def reload(self, settings: Settings, now: Now) -> None:
        """Go by these settings."""
        if settings.slots != self._settings.slots:
            self.built = settings.slots  # else what is missing is `widen`'s
        self._settings = settings
        self._pool.resize(self.built, now.mono_s)

    def widen(self, promises: Callable[[], Space], now: Now) -> None:
        """Build a slot that there was no room for when battd was started, or that was given up."""
        if self.short and now.mono_s - self._changed_s >= WIDEN_S and not self._gate.held_since:
            self._changed_s = now.mono_s
            most = max((need.space.threads for need in self._gate.needs().values()), default=0)
            threads = max(most, self._settings.need_threads)
            need = Need(Space(self._settings.need_memory, SLOT_THREADS + threads))
            if self._gate.fits(need, promises(), 0, widening=True):
                self.built += 1
                log.info("one slot more", slots=self.built)
                self._pool.resize(self.built, now.mono_s)

    def narrow(self, held: Sequence[Held], working: bool, now: Now) -> None:
        """Give up an idle slot for a task that is short of threads though nothing runs: each takes some of its own.

        Args:
            working: Something runs here.
        """
        nobody = not working and not self._gate.others.running
        if self.built == 1 or not nobody or now.mono_s - self._changed_s < NARROW_S:
            return
        short = next((one for one in held if one.hold.short == "threads"), None)
        if short is not None:
            self._changed_s = now.mono_s
            self.built -= 1
            log.info("one slot fewer", slots=self.built, reason=short.hold.reason)
            self._pool.resize(self.built, now.mono_s)
