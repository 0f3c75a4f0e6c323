"""The attempts the loop has in hand: being claimed, in a slot, or with their end on its way to the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from batt_supervisor.core.model import Claim, Ending, Head, Space, Work
from batt_supervisor.core.plan import Running, Stop
from batt_supervisor.store.moves import LogSpan


@dataclass(slots=True)
class Attempt:
    """One attempt from the decision to start it until its end is on disk.

    Attributes:
        serial: Of the request to the slot; 0 while it is being claimed.
        since_s: When it was decided on, then when it was sent; monotonic.
        called_s: When its function was called; None until the worker says so.
        stop: The order to end it, once given.
        stop_asked: Somebody asked for its end; the plan makes the order of it.
    """

    head: Head
    work: Work
    slot_id: int
    need: Space
    alone: bool
    since_s: float
    serial: int = 0
    called_s: float | None = None
    stop: Stop | None = None
    stop_asked: bool = False

    @property
    def claim(self) -> Claim:
        return Claim(self.head.task_id, self.head.attempt + 1)

    def running(self, boot_timeout_s: float) -> Running:
        """As the plan sees it."""
        return Running(
            claim=self.claim,
            run_id=self.head.run_id,
            slot_id=self.slot_id,
            timeout_s=self.work.limits.timeout_s,
            sent_s=self.since_s,
            boot_timeout_s=boot_timeout_s,
            called_s=self.called_s,
            need=self.need,
            alone=self.alone,
            ending=self.stop is not None or not self.serial,
            stop_asked=self.stop_asked,
        )


@dataclass(slots=True)
class Settling:
    """An end that the store has not acknowledged yet; kept and tried again while the store is unavailable."""

    attempt: Attempt
    ending: Ending
    span: LogSpan | None
    retry_at_s: float | None = field(default=None)
