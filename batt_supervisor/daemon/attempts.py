"""The attempts in hand: being claimed, claimed ahead, in a slot, or with their end on its way to the store."""

from __future__ import annotations

import itertools
import json
import shlex
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.config import Settings
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import NOTHING, Claim, Ending, Head, Outcome, Space, Work, WorkerId
from batt_supervisor.core.plan import PROMISE_S, Begin, Running, SlotView, Stop
from batt_supervisor.core.retry import Verdict, judge
from batt_supervisor.daemon.endings import ending_of
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.pool.protocol import Exit, Pool, Request
from batt_supervisor.store import moves

SHORT_S: Final = 0.02
"""A kind whose attempts take less is claimed ahead of a free slot: the next one then need not wait for the disk."""

AHEAD_S: Final = 0.01
"""How much work of a short kind is claimed ahead for each slot: what it does while a batch of claims is written."""

AHEAD_MAX: Final = 32
"""Most attempts that are claimed ahead for each slot; they are what a kill of battd loses beside those that run."""

GATHER_S: Final = 0.003
"""How long claims and ends of short attempts are gathered into one write while slots have work in hand."""

GATHER_MAX: Final = 64

PACE_WEIGHT: Final = 0.2
"""How much of a kind's pace the latest attempt makes."""

KINDS_MAX: Final = 1000
"""Kinds whose pace is remembered."""

SETTLE_RETRY_S: Final = 1.0

log = structlog.get_logger("attempts")


@dataclass(slots=True)
class Attempt:
    """One attempt from the decision to start it until its end is on disk.

    Attributes:
        slot_id: None while it was claimed ahead and waits for a slot.
        since_s: When it was decided on, then when it was sent; monotonic.
        args: Its arguments as JSON, which come with the claim; None while it is being claimed.
        serial: Of the request to the slot; 0 until it is sent.
        called_s: When its function was called; None until the worker says so.
        stop: The order to end it, once given.
        stop_asked: Somebody asked for its end; the plan makes the order of it.
    """

    head: Head
    work: Work
    slot_id: int | None
    need: Space
    alone: bool
    since_s: float
    args: str | None = None
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
            ending=self.stop is not None or self.args is None,
            stop_asked=self.stop_asked,
        )

    def request(self) -> dict[str, Any]:
        """What its worker is told; see `worker.entry`."""
        args: Any = json.loads(self.args or "[]")
        work, claim = self.work, self.claim
        body: dict[str, Any] = {"task": claim.task_id, "attempt": claim.attempt}
        if work.function is None:
            return body | {"op": "run", "command": _filled(work, args), "shell": work.shell}
        soft = {} if work.limits.soft_timeout_s is None else {"soft_timeout_s": work.limits.soft_timeout_s}
        return body | {"op": "call", "function": work.function, "args": args, **soft}


@dataclass(slots=True)
class Settling:
    """An end that the store has not acknowledged yet; kept, and tried again, while the store is unavailable."""

    attempt: Attempt
    ending: Ending
    place: moves.Place | None
    retry_at_s: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What becomes of the task; the task's id is the seed of its backoff."""
        head = self.attempt.head
        return judge(self.ending.outcome, head.tries, self.attempt.work.limits, head.task_id)


class Attempts:
    """Starts, stops and settles attempts, as the plan orders.

    Attributes:
        changed: A slot has come free for which nothing was claimed ahead, or claims run low: time to plan.
        started_s: When each run last had a start, monotonic.
        wake_s: Earliest deadline of attempts started since this was last reset.
        draining: Nothing starts any more.
    """

    def __init__(self, pool: Pool, outbox: Outbox, runs: OpenRuns, settings: Settings) -> None:
        self.settings = settings
        self.changed = True
        self.draining = False
        self.started_s: dict[int, float] = {}
        self.wake_s = float("inf")
        self._pool, self._outbox, self._runs = pool, outbox, runs
        self._by_slot: dict[int, Attempt] = {}
        self._ahead: deque[Attempt] = deque()
        self._settling: dict[Claim, Settling] = {}
        self._claims: list[Attempt] = []
        self._ends: list[Settling] = []
        self._gathered_s: float | None = None
        self._pace_s: dict[str, float] = {}
        self._serials = itertools.count(1)

    def __iter__(self) -> Iterator[Attempt]:
        return iter((*self._by_slot.values(), *self._ahead))

    def in_slot(self, slot_id: int) -> Attempt | None:
        return self._by_slot.get(slot_id)

    def tasks(self) -> dict[int, int]:
        """The task in each slot."""
        return {slot_id: attempt.head.task_id for slot_id, attempt in self._by_slot.items()}

    def runs_in_flight(self) -> set[int]:
        """Runs with an attempt in hand, or with an end that is not on disk yet."""
        return {one.head.run_id for one in self} | {one.attempt.head.run_id for one in self._settling.values()}

    def empty(self) -> bool:
        return not (self._by_slot or self._ahead or self._settling)

    def ahead(self) -> dict[str, int]:
        """For each short kind, how many attempts may be claimed before a slot is free for them."""
        slots = self.settings.slots
        return {
            kind: slots * max(1, min(AHEAD_MAX, round(AHEAD_S / max(pace_s, 1e-6))))
            for kind, pace_s in self._pace_s.items()
            if pace_s < SHORT_S
        }

    def promised(self, now: Now) -> Space:
        """Needs of attempts too young to have taken them."""
        total = NOTHING
        for attempt in self._by_slot.values():
            if now.mono_s - attempt.since_s < PROMISE_S:
                total += attempt.need
        return total

    def look(self) -> None:
        """Learn from the workers' boards which functions have been called."""
        for slot_id, attempt in self._by_slot.items():
            if attempt.serial and attempt.called_s is None:
                attempt.called_s = self._pool.called(slot_id, attempt.serial)

    # Starting

    def begin(self, order: Begin, now: Now) -> None:
        """Claim a task; it starts when the claim is on disk."""
        head = order.head
        attempt = Attempt(
            head, self._runs.works[head.run_id, head.stage], order.slot_id, order.need, order.alone, now.mono_s
        )
        self.started_s[head.run_id] = now.mono_s
        if order.slot_id is None:
            self._ahead.append(attempt)
        else:
            self._by_slot[order.slot_id] = attempt
        self._claims.append(attempt)

    def flush(self, now: Now) -> None:
        """Hand claims and ends to the writer: at once, or, while slots have short work in hand, a batch at a time."""
        if not self._claims and not self._ends:
            return
        if self._gathered_s is None:
            self._gathered_s = now.mono_s
        in_hand = len(self._ahead) - len(self._claims)
        gathering = in_hand > self.settings.slots and len(self._claims) + len(self._ends) < GATHER_MAX
        if gathering and not self.draining and now.mono_s - self._gathered_s < GATHER_S:
            self.wake_s = min(self.wake_s, self._gathered_s + GATHER_S)
            return
        self._gathered_s = None
        if self._claims:
            self._write_claims(self._claims)
            self._claims = []
        if self._ends:
            self._write_ends(self._ends)
            self._ends = []

    def _write_claims(self, claims: list[Attempt]) -> None:
        wanted = [moves.Wanted(one.head.task_id, one.head.attempt, self._worker(one)) for one in claims]

        def done(claimed: dict[int, str], now: Now) -> None:
            for attempt in claims:
                args = claimed.get(attempt.head.task_id)
                if args is None:
                    self._unclaimed(attempt)
                else:
                    self._claimed(attempt, args, now)

        def failed(error: Exception, now: Now) -> None:
            for attempt in claims:
                self._unclaimed(attempt)

        self._outbox.write(lambda tx: moves.claim(tx, wanted), done, failed)

    def _worker(self, attempt: Attempt) -> WorkerId | None:
        return None if attempt.slot_id is None else self._pool.worker(attempt.slot_id)

    def _claimed(self, attempt: Attempt, args: str, now: Now) -> None:
        attempt.args = args
        if attempt.stop is not None or self.draining:
            self._give_back(attempt)
        elif attempt.slot_id is not None:
            self._send(attempt, attempt.slot_id, now)

    def _unclaimed(self, attempt: Attempt) -> None:
        """It was not claimed: cancelled in the meantime, or the store cannot write. Nothing was started."""
        self._forget(attempt)
        self._runs.queued(attempt.head.run_id)

    def start_next(self, slot: SlotView, now: Now, *, fits: bool) -> bool:
        """Start an attempt that was claimed ahead in a slot that has come free; whether there was one for it.

        Args:
            fits: Whether the machine has room for one more of what was claimed ahead.
        """
        policy = self.settings.policy()
        worn = slot.spent or (policy.max_tasks and slot.served >= policy.max_tasks)
        if not fits or self.draining or worn or slot.id in self._by_slot or len(self._by_slot) >= policy.width:
            return False
        if any(attempt.alone for attempt in self._by_slot.values()):
            return False
        for attempt in self._ahead:
            if attempt.args is not None and attempt.stop is None and attempt.work.room == slot.room:
                self._ahead.remove(attempt)
                attempt.slot_id = slot.id
                self._by_slot[slot.id] = attempt
                self._send(attempt, slot.id, now)
                return True
        return False

    def _send(self, attempt: Attempt, slot_id: int, now: Now) -> None:
        attempt.serial, attempt.since_s = next(self._serials), now.mono_s
        soonest_s = min(attempt.work.limits.timeout_s, self.settings.boot_timeout)
        self.wake_s = min(self.wake_s, now.mono_s + soonest_s)
        self._pool.send(slot_id, Request(attempt.serial, attempt.request()))

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
                    self._pool.end(attempt.slot_id, attempt.serial)
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
                self.stop(Stop(attempt.claim, attempt.slot_id, Outcome.LOST, "battd was stopped before it had ended"))

    def _give_back(self, attempt: Attempt) -> None:
        """Settle an attempt that was claimed and never sent."""
        self._forget(attempt)
        if attempt.stop is not None:
            ending = Ending(attempt.stop.outcome, attempt.stop.reason)
        else:
            ending = Ending(Outcome.LOST, "battd was stopped before it had started")
        self._settle(Settling(attempt, ending, None))

    def on_exit(self, seen: Exit, now: Now) -> bool:
        """A slot's attempt has ended; whether the slot may take another."""
        attempt = self._by_slot.get(seen.slot_id)
        if attempt is None or attempt.serial != seen.serial:
            return False
        called_s = seen.called_s or attempt.called_s
        wall_s = round((seen.ended_s or now.mono_s) - (called_s or attempt.since_s), 6)
        ending = ending_of(seen, attempt.stop, called=called_s is not None, wall_s=wall_s)
        self._learn(attempt.work.kind, ending.wall_s or wall_s)
        del self._by_slot[seen.slot_id]
        place = moves.Place(seen.worker, seen.log_from, seen.log_to) if seen.worker else None
        self._settle(Settling(attempt, ending, place))
        return True

    def low(self) -> bool:
        """Whether more should be claimed ahead now."""
        return len(self._ahead) <= self.settings.slots

    def _learn(self, kind: str, wall_s: float) -> None:
        if len(self._pace_s) >= KINDS_MAX:
            self._pace_s.clear()
        before_s = self._pace_s.get(kind, wall_s)
        self._pace_s[kind] = before_s + PACE_WEIGHT * (wall_s - before_s)

    def settle_again(self, now: Now) -> None:
        """Try those ends once more that the store could not take."""
        for settling in self._settling.values():
            if settling.retry_at_s is not None and now.mono_s >= settling.retry_at_s:
                settling.retry_at_s = None
                self._ends.append(settling)

    def _settle(self, settling: Settling) -> None:
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
        self._settling[attempt.claim] = settling
        self._ends.append(settling)

    def _write_ends(self, ends: list[Settling]) -> None:
        written = [moves.Settlement(one.attempt.claim, one.ending, one.verdict, one.place) for one in ends]

        def done(states: dict[Claim, State], now: Now) -> None:
            for settling in ends:
                self._settled(settling, states.get(settling.attempt.claim), now)

        def failed(error: Exception, now: Now) -> None:
            for settling in ends:
                settling.retry_at_s = now.mono_s + SETTLE_RETRY_S

        self._outbox.write(lambda tx: moves.settle(tx, written), done, failed)

    def _settled(self, settling: Settling, state: State | None, now: Now) -> None:
        attempt = settling.attempt
        del self._settling[attempt.claim]
        if state is None:
            log.warning("result dropped: the task moved on without this attempt", task=f"t{attempt.claim.task_id}")
        elif state is State.QUEUED:
            self._runs.queued(attempt.head.run_id)
        elif state is State.SCHEDULED:
            # The row's own time was taken in the writer, a little earlier than this one.
            self._runs.scheduled(now.wall_ms + round(settling.verdict.delay_s * 1000))


def _filled(work: Work, args: Any) -> list[str]:
    """A command's words with `{item}` filled in; quoted where a shell will read it."""
    if not isinstance(args, dict) or "item" not in args:
        return list(work.command)
    item = str(args["item"])
    return [word.replace("{item}", shlex.quote(item) if work.shell else item) for word in work.command]
