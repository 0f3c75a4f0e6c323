"""The attempts in hand: being claimed, claimed ahead, or in a slot."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from batt_supervisor.clock import Now
from batt_supervisor.config import Settings
from batt_supervisor.core.admission import outstanding
from batt_supervisor.core.model import NOTHING, Claim, Ending, Outcome, Space, WorkerId
from batt_supervisor.core.world import AskStacks, Begin, Running, SlotView, Stop
from batt_supervisor.daemon.attempt import Attempt, Settling
from batt_supervisor.daemon.endings import ending_of
from batt_supervisor.daemon.faults import Point, no_fault
from batt_supervisor.daemon.gate import Gate
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.daemon.pace import Pace
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.daemon.settlements import Settlements
from batt_supervisor.pool.protocol import Exit, Pool
from batt_supervisor.store import values

GATHER_S: Final = 0.003
"""How long claims and ends of short attempts are gathered into one write while slots have work in hand."""

GATHER_MAX: Final = 128

PACK_PATIENCE_S: Final = 0.05
"""How long the current attempt of a pack may take before those behind it are given to other workers."""

SAMPLE_S: Final = 0.1
"""How often a running attempt is measured, the first time when it has run for so long."""

SAMPLE_SLOT_S: Final = 0.01
"""The same for each slot at work: a measurement takes 0.1 to 0.2 ms, so all of them together at most 2 % of a core."""


class Attempts:
    """Starts and stops attempts, as the plan orders, and hands over their ends.

    Attributes:
        changed: A slot has come free for which nothing was claimed ahead, or claims run low: time to plan.
        wake_s: Earliest deadline of attempts started since this was last reset.
        draining: Nothing starts any more.
        width: How many may run at once.
    """

    def __init__(
        self,
        pool: Pool,
        outbox: Outbox,
        runs: OpenRuns,
        ends: Settlements,
        settings: Settings,
        gate: Gate,
        point: Point = no_fault,
    ) -> None:
        self.settings = settings
        self._point = point
        self._gate = gate
        self.changed = True
        self.draining = False
        self.width = settings.slots
        self.wake_s = float("inf")
        self._pool, self._outbox, self._runs = pool, outbox, runs
        self._by_slot: dict[int, deque[Attempt]] = {}  # the first is the one its worker is at
        self._ahead: deque[Attempt] = deque()
        self._claims: list[Attempt] = []
        self._ends = ends
        self._gathered_s: float | None = None
        self._pace = Pace()
        self._aim = 0  # how many attempts the last plan could have claimed ahead
        self._serials = itertools.count(1)

    def __iter__(self) -> Iterator[Attempt]:
        return iter([*itertools.chain.from_iterable(self._by_slot.values()), *self._ahead])

    def running(self) -> list[Running]:
        """All of them, as the plan sees them."""
        boot_timeout_s = self.settings.boot_timeout
        current = {id(pack[0]) for pack in self._by_slot.values()}
        return [attempt.running(boot_timeout_s, current=id(attempt) in current) for attempt in self]

    def tasks(self) -> dict[int, int]:
        """The task that each slot is at."""
        return {slot_id: pack[0].head.task_id for slot_id, pack in self._by_slot.items()}

    def writing(self) -> frozenset[int]:
        """Tasks of which nothing is left but to write their result to the disk."""
        return frozenset(pack[0].head.task_id for pack in self._by_slot.values() if pack[0].returned_s is not None)

    def runs_in_flight(self) -> set[int]:
        """Runs with an attempt in hand, or with an end that is not on disk yet."""
        return {one.head.run_id for one in self} | self._ends.runs()

    def waiting(self) -> bool:
        """Whether anything was claimed that waits for a slot."""
        return bool(self._ahead)

    def empty(self) -> bool:
        return not (self._by_slot or self._ahead) and self._ends.empty()

    def ahead(self) -> dict[str, int]:
        """For each short kind, how many attempts may be claimed before a slot is free for them."""
        found = self._pace.ahead(self.settings.slots, self.settings.max_tasks)
        self._aim = max(found.values(), default=0)
        return found

    def active(self) -> list[Attempt]:
        """Those that slots are at."""
        return [pack[0] for pack in self._by_slot.values()]

    def promised(self) -> Space:
        """What they need and have not taken yet."""
        return sum((outstanding(pack[0].need, pack[0].sample) for pack in self._by_slot.values()), NOTHING)

    def look(self, now: Now) -> None:
        """Learn which functions have been called, and what those that take longer use."""
        every_s = max(SAMPLE_S, SAMPLE_SLOT_S * len(self._by_slot))
        for slot_id, pack in self._by_slot.items():
            attempt = pack[0]
            if len(pack) > 1 and attempt.serial:
                # It was to be over in no time. Those behind it need not wait for it.
                if now.mono_s - attempt.since_s >= PACK_PATIENCE_S:
                    self._pool.take_back(slot_id)
                else:
                    self.wake_s = min(self.wake_s, attempt.since_s + PACK_PATIENCE_S)
            if not attempt.serial or attempt.stop is not None:
                continue
            if attempt.called_s is None:
                called_s = self._pool.called(slot_id, attempt.serial)
                if called_s is None:
                    continue
                attempt.note_call(called_s)
            if attempt.returned_s is None:
                attempt.returned_s = self._pool.returned(slot_id, attempt.serial)
            if now.mono_s - attempt.sampled_s >= every_s:
                sample = self._pool.sample(slot_id, attempt.serial, attempt.work.limits.memory_limit_bytes)
                if sample is not None:
                    attempt.note(sample, now.mono_s)
            self.wake_s = min(self.wake_s, max(attempt.sampled_s, now.mono_s) + every_s)

    def ask_stacks(self, order: AskStacks) -> None:
        """Have an attempt say where it is, before its time is up."""
        attempt = next((pack[0] for pack in self._by_slot.values() if pack[0].claim == order.claim), None)
        if attempt is not None:
            attempt.asked = True
            self._pool.ask_stacks(order.slot_id, attempt.serial)

    # Starting

    def begin(self, order: Begin, now: Now) -> None:
        """Claim a task; it starts when the claim is on disk."""
        head = order.head
        attempt = Attempt(
            head, self._runs.works[head.run_id, head.stage], order.slot_id, order.need, order.alone, now.mono_s
        )
        if order.slot_id is None:
            self._ahead.append(attempt)
        else:
            self._by_slot[order.slot_id] = deque([attempt])
        self._claims.append(attempt)

    def flush(self, now: Now) -> None:
        """Hand claims and ends to the writer: at once, or, while slots have short work in hand, a batch at a time."""
        if self._outbox.trouble:
            self._ends.hold_back()
        waiting = len(self._claims) + self._ends.gathered
        if not waiting:
            return
        if self._gathered_s is None:
            self._gathered_s = now.mono_s
        in_hand = sum(attempt.args is not None for attempt in self._ahead)
        gathering = in_hand > self.settings.slots and waiting < GATHER_MAX
        if gathering and not self.draining and now.mono_s - self._gathered_s < GATHER_S:
            self.wake_s = min(self.wake_s, self._gathered_s + GATHER_S)
            return
        self._gathered_s = None
        if self._claims:
            self._write_claims(self._claims)
            self._claims = []
        self._ends.write()

    def _write_claims(self, claims: list[Attempt]) -> None:
        wanted = [values.Wanted(one.head.task_id, one.head.attempt, self._worker(one)) for one in claims]

        def done(claimed: dict[int, values.Claimed], now: Now) -> None:
            self.changed = True  # a slot may have waited for one that was claimed ahead
            for attempt in claims:
                found = claimed.get(attempt.head.task_id)
                if found is None:
                    self._unclaimed(attempt)
                else:
                    # The head may have been read before a cancel and a retry, with a count that no longer holds.
                    if (attempt.head.tries, attempt.head.index) != (found.tries, found.index):
                        attempt.head = replace(attempt.head, tries=found.tries, index=found.index)
                    self._claimed(attempt, found.args, now)

        def failed(error: Exception, now: Now) -> None:
            for attempt in claims:
                self._unclaimed(attempt)

        self._outbox.write(lambda tx: tx.claim(wanted), done, failed)

    def _worker(self, attempt: Attempt) -> WorkerId | None:
        return None if attempt.slot_id is None else self._pool.worker(attempt.slot_id)

    def _claimed(self, attempt: Attempt, args: str, now: Now) -> None:
        attempt.args = args
        if attempt.stop is not None or self.draining:
            self._give_back(attempt)
        elif attempt.slot_id is not None:
            self._send([attempt], attempt.slot_id, now)

    def _unclaimed(self, attempt: Attempt) -> None:
        """It was not claimed: cancelled in the meantime, or the store cannot write. Nothing was started."""
        self._forget(attempt)
        self._runs.queued(attempt.head.run_id)

    def start_next(self, slot: SlotView, now: Now) -> bool:
        """Start an attempt that was claimed ahead in a slot that has come free; whether there was one, and it fits."""
        max_tasks = self.settings.max_tasks
        worn = slot.spent or (max_tasks and slot.served >= max_tasks)
        if self.draining or worn or slot.id in self._by_slot or len(self._by_slot) >= self.width:
            return False
        if any(attempt.alone for attempt in self):
            return False
        ready = [one for one in self._ahead if one.args is not None and one.stop is None and one.work.room == slot.room]
        if not ready:
            return False
        if not self._gate.ample:
            first, held_s = ready[0], now.mono_s - ready[0].since_s
            if not self._gate.fits_ahead(first.work, first.need, held_s, self.promised(), len(self._by_slot)):
                return False
        size = self._pace.pack(ready[0].work.kind, len(ready), self.settings.slots)
        if max_tasks:
            size = min(size, max_tasks - slot.served)
        pack = [one for one in ready[:size] if one.packs_with(ready[0])]
        for attempt in pack:
            self._ahead.remove(attempt)
            attempt.slot_id = slot.id
        self._by_slot[slot.id] = deque(pack)
        self._send(pack, slot.id, now)
        return True

    def _send(self, pack: list[Attempt], slot_id: int, now: Now) -> None:
        for attempt in pack:
            attempt.serial = next(self._serials)
        self._turn(pack[0], now)
        self._point("send")
        self._pool.send(slot_id, [attempt.request() for attempt in pack])

    def _turn(self, attempt: Attempt, now: Now) -> None:
        """Its slot has come to it: its time begins."""
        attempt.since_s = now.mono_s
        self.wake_s = min(self.wake_s, now.mono_s + min(attempt.work.limits.timeout_s, self.settings.boot_timeout))

    def _forget(self, attempt: Attempt) -> None:
        if attempt.slot_id is None:
            self._ahead.remove(attempt)
        else:
            del self._by_slot[attempt.slot_id]
        self.changed = True

    # Ending

    def ask_stop(self, task_id: int) -> None:
        """Somebody asked for the end of a running task."""
        self.changed = True
        for attempt in self:
            if attempt.head.task_id == task_id:
                attempt.stop_asked = True

    def stop(self, order: Stop) -> None:
        """End an attempt, wherever it is."""
        for attempt in self:
            if attempt.claim == order.claim:
                attempt.stop = order
                if attempt.serial and attempt.slot_id is not None:
                    self._pool.end(attempt.slot_id, attempt.serial)  # has no effect before its turn in a pack
                elif attempt.args is not None:
                    self._give_back(attempt)

    def drain(self, *, now: bool) -> None:
        """Give back what has not started; with `now`, end what runs as well, to go again later."""
        self.draining = True
        for attempt in self:
            if not attempt.serial:
                if attempt.args is not None:
                    self._give_back(attempt)
            elif now and attempt.stop is None:
                what = "it had ended" if attempt.returned_s is None else "its result could be written"
                self.stop(Stop(attempt.claim, attempt.slot_id, Outcome.LOST, f"battd was stopped before {what}"))

    def _give_back(self, attempt: Attempt, why: str = "battd was stopped before it had started") -> None:
        """Settle an attempt that was claimed and of which nothing has happened."""
        self._forget(attempt)
        if attempt.stop is not None:
            ending = Ending(attempt.stop.outcome, attempt.stop.reason)
        else:
            ending = Ending(Outcome.LOST, why)
        self._ends.add(Settling(attempt, ending, None))

    def on_exit(self, seen: Exit, now: Now) -> bool:
        """A slot's attempt has ended; whether the slot may take another."""
        pack = self._by_slot.get(seen.slot_id, deque())
        attempt = next((one for one in pack if one.serial == seen.serial), None)
        if attempt is None:
            return False
        pack.remove(attempt)
        if not pack:
            del self._by_slot[seen.slot_id]
        elif not seen.requeue:
            self._turn(pack[0], now)
            if pack[0].stop is not None:
                self._pool.end(seen.slot_id, pack[0].serial)  # it was told to stop before its turn
        if seen.requeue:
            self._requeue(attempt)
        else:
            self._end(attempt, seen, now)
        return not pack

    def _requeue(self, attempt: Attempt) -> None:
        """Nothing of it has happened, and its claim still holds: it takes the next slot.

        But one for which a slot is chosen with care, as it runs alone or apart or needs more than others, goes back.
        """
        attempt.serial, attempt.slot_id = 0, None
        self._ahead.appendleft(attempt)
        tries = attempt.head.tries
        chosen = attempt.alone or tries.suspect or tries.resource > 0
        if self.draining or attempt.stop is not None:
            self._give_back(attempt)
        elif chosen:
            self._give_back(attempt, "its worker went away before it had started")

    def _end(self, attempt: Attempt, seen: Exit, now: Now) -> None:
        self._point("exit")
        called_s = seen.called_s or attempt.called_s
        wall_s = round((seen.ended_s or now.mono_s) - (called_s or attempt.since_s), 6)
        free = self._gate.free
        told = f"{free.space.memory_bytes >> 20} MiB free ({free.memory_limit})"
        ending = ending_of(seen, attempt, called=called_s is not None, wall_s=wall_s, memory_free=told)
        self._pace.learn(attempt.work.kind, ending.wall_s or wall_s)
        self._gate.ended(attempt, ending, len(self._by_slot) + 1, now)
        if seen.report is None:
            self._drop_result(attempt.claim)
        place = values.Place(seen.worker, seen.log_from, seen.log_to) if seen.worker else None
        self._ends.add(Settling(attempt, ending, place, spaced=not self.draining))

    def _drop_result(self, claim: Claim) -> None:
        """Remove what an attempt without a report may have written of its result."""
        for end in ("json", "json.tmp"):
            with suppress(OSError):  # of a file system that takes no writes; the next start finds it
                (self.settings.state_dir / "results" / f"{claim.task_id}-{claim.attempt}.{end}").unlink(missing_ok=True)

    def low(self) -> bool:
        """Whether more should be claimed ahead now."""
        return 2 * len(self._ahead) <= max(self._aim, 2 * self.settings.slots)

    def unwritten(self) -> list[Claim]:
        """Attempts whose ends the store could not take, if nothing else is in hand and none of them on its way."""
        return self._ends.unwritten() if not self._by_slot and not self._ahead else []
