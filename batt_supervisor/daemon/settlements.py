"""Ends of attempts on their way to the store: gathered, written together, and kept while it takes none."""

from __future__ import annotations

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Claim, Ending, Outcome
from batt_supervisor.daemon.attempt import Settling
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store import values

log = structlog.get_logger("attempts")


class Settlements:
    """Every end that is not on disk yet. One that the store could not take is written again until it does.

    Attributes:
        gathered: How many wait to be written.
    """

    def __init__(self, outbox: Outbox, runs: OpenRuns) -> None:
        self._outbox, self._runs = outbox, runs
        self._open: dict[Claim, Settling] = {}
        self._new: list[Settling] = []
        self._kept: list[Settling] = []  # those that the store could not take; no more than were in hand when it failed

    @property
    def gathered(self) -> int:
        return len(self._new)

    def empty(self) -> bool:
        return not self._open

    def runs(self) -> set[int]:
        """Runs of which one is here."""
        return {one.attempt.head.run_id for one in self._open.values()}

    def add(self, settling: Settling) -> None:
        """An attempt has ended."""
        attempt, ending = settling.attempt, settling.ending
        if ending.outcome is not Outcome.OK:
            # What a task does to itself alone is its own story; battctl tells it.
            tell = log.debug if ending.outcome is Outcome.EXCEPTION else log.info
            tell(
                "attempt ended badly",
                task=f"t{attempt.claim.task_id}",
                attempt=attempt.claim.attempt,
                outcome=ending.outcome.value,
                reason=ending.reason,
                next=settling.verdict.event.value,
            )
        self._open[attempt.claim] = settling
        self._new.append(settling)

    def write(self) -> None:
        """Hand what was gathered to the writer."""
        new, self._new = self._new, []
        if new:
            self._write(new)

    def hold_back(self) -> None:
        """The store is in trouble: what was gathered waits for `write_kept` with the others."""
        self._kept += self._new
        self._new = []

    def write_kept(self) -> bool:
        """Try those once more that the store could not take, all in one write; whether there are any."""
        kept, self._kept = self._kept, []
        if kept:
            self._write(kept)
        return bool(kept)

    def unwritten(self) -> list[Claim]:
        """Attempts whose ends the store could not take, unless one is on its way there."""
        return list(self._open) if len(self._kept) == len(self._open) else []

    def _write(self, ends: list[Settling]) -> None:
        written = [values.Settlement(one.attempt.claim, one.ending, one.verdict, one.place) for one in ends]

        def done(states: dict[Claim, State], now: Now) -> None:
            for settling in ends:
                self._settled(settling, states.get(settling.attempt.claim), now)

        def failed(error: Exception, now: Now) -> None:
            for settling in ends:
                if isinstance(error, StoreUnavailable):
                    self._kept.append(settling)
                elif len(ends) > 1:
                    self._write([settling])  # one of them cannot be written; the others can
                else:
                    self._unwritable(settling, error)

        self._outbox.write(lambda tx: tx.settle(written), done, failed)

    def _unwritable(self, settling: Settling, error: Exception) -> None:
        """The store does not take this end, and never will: the attempt ends with that."""
        log.error("an end cannot be written", task=f"t{settling.attempt.claim.task_id}", reason=str(error))
        if settling.ending.outcome is Outcome.BAD_RESULT:
            raise error  # not even this; there is nothing left to say
        settling.ending = Ending(Outcome.BAD_RESULT, f"its end could not be written: {type(error).__name__}")
        settling.place = None
        self._write([settling])

    def _settled(self, settling: Settling, state: State | None, now: Now) -> None:
        attempt = settling.attempt
        del self._open[attempt.claim]
        if state is None:
            log.warning("result dropped: the task moved on without this attempt", task=f"t{attempt.claim.task_id}")
            self._runs.queued(attempt.head.run_id)
        elif state is State.QUEUED:
            self._runs.queued(attempt.head.run_id)
        elif state is State.SCHEDULED:
            # The row's own time was taken in the writer, a little earlier than this one.
            self._runs.scheduled(now.wall_ms + round(settling.verdict.delay_s * 1000))
