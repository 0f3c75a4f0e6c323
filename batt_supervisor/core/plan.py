"""One look at the world, and what to do about it. Pure: the daemon's loop calls it once a tick and carries it out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heapreplace
from typing import Final

from batt_supervisor.core.admission import Hold, admit
from batt_supervisor.core.limits import breach
from batt_supervisor.core.model import NOTHING, Head, Outcome, Room, Space
from batt_supervisor.core.retry import need_of, runs_alone
from batt_supervisor.core.world import (
    AskStacks,
    Begin,
    CloseRun,
    Closing,
    Command,
    Held,
    Policy,
    Renew,
    Running,
    SlotPhase,
    Stop,
    World,
)

TENURE_S: Final = 2.0
"""A slot stays in a room that still has work for at least this long, or many small runs would only restart workers."""

PATIENCE_S: Final = 60.0
"""A task that must run alone and has waited this long keeps others from starting."""

PROMISE_S: Final = 1.0
"""An attempt this young has not taken what it needs yet, so the last reading does not show it."""

WORKER_STARTS: Final = Hold("worker", 1, "waits for its worker to start")

SUSPECTS: Final = Hold("suspects", 1, "was lost together with others: these run one at a time")
"""Of a single task: those behind it in its run go on."""


def plan(world: World, policy: Policy) -> list[Command]:
    """What to do now, in the order in which it is to be carried out."""
    commands: list[Command] = []
    commands += _close_runs(world)
    closing = {run.id: run.closing for run in world.runs if run.closing}
    closing |= {command.run_id: command.why for command in commands if isinstance(command, CloseRun)}
    commands += _stops(world, closing)
    if not world.accepting:
        commands += [Held(run.id, Hold("service", 1, world.closed)) for run in world.runs]
    else:
        renewals = list(_renewals(world, policy))
        commands += renewals
        commands += _Starter(world, policy, closing, {renewal.slot_id for renewal in renewals}).commands()
    return commands


def wake_at(world: World) -> float:
    """The monotonic time of the next deadline the plan has to keep, or infinity."""
    started = (attempt for attempt in world.running if attempt.slot_id is not None and not attempt.ending)
    ends = [min(_look_at(attempt, world.now.mono_s), attempt.stall_s, attempt.ask_s) for attempt in started]
    # A deadline that has passed was acted on by this world's plan; its closing may still be on its way to the disk.
    ends += [
        world.now.mono_s + (run.deadline_at_ms - world.now.wall_ms) / 1000
        for run in world.runs
        if run.deadline_at_ms is not None and run.closing is None and run.deadline_at_ms > world.now.wall_ms
    ]
    return min(ends, default=float("inf"))


def _look_at(attempt: Running, now_s: float) -> float:
    """When an attempt may be at its deadline: one that was not called yet may be called any moment from now."""
    if attempt.called_s is not None:
        return attempt.deadline_s
    return min(attempt.deadline_s, max(now_s, attempt.sent_s) + attempt.limits.timeout_s)


def _close_runs(world: World) -> Iterator[CloseRun]:
    for run in world.runs:
        if run.closing is None and run.deadline_at_ms is not None and run.deadline_at_ms <= world.now.wall_ms:
            yield CloseRun(run.id, Closing.DEADLINE)


def _stops(world: World, closing: Mapping[int, Closing]) -> Iterator[Stop | AskStacks]:
    for attempt in world.running:
        if attempt.ending:
            continue
        if attempt.stop_asked or attempt.run_id in closing:
            reason = "the run's deadline passed" if closing.get(attempt.run_id) is Closing.DEADLINE else "cancelled"
            yield Stop(attempt.claim, attempt.slot_id, Outcome.CANCELLED, reason)
        elif attempt.slot_id is not None:
            over = _over(attempt, world.now.mono_s)
            if over is not None:
                yield Stop(attempt.claim, attempt.slot_id, *over)
            elif world.now.mono_s >= attempt.ask_s:
                yield AskStacks(attempt.claim, attempt.slot_id)


def _over(attempt: Running, now_s: float) -> tuple[Outcome, str] | None:
    """Which of its limits an attempt has reached, and what is to be said of it."""
    limits = attempt.limits
    if attempt.called_s is None:
        if now_s < attempt.deadline_s:
            return None
        reason = f"its worker did not call the function within boot_timeout ({attempt.boot_timeout_s:g} s)"
        return Outcome.LOST, reason
    if attempt.sample is not None and (found := breach(limits, attempt.sample)) is not None:
        return found
    if now_s >= attempt.deadline_s:
        return Outcome.TIMEOUT, f"wall limit of {limits.timeout_s:g} s reached"
    if now_s >= attempt.stall_s:
        return Outcome.STALLED, f"no CPU used and no heartbeat for {limits.stall_timeout_s:g} s"
    return None


def _renewals(world: World, policy: Policy) -> Iterator[Renew]:
    for slot in world.slots:
        if slot.phase is not SlotPhase.IDLE:
            continue
        if slot.spent:
            yield Renew(slot.id, slot.room, slot.spent)
        elif policy.max_tasks and slot.served >= policy.max_tasks:
            yield Renew(slot.id, slot.room, f"max_tasks ({policy.max_tasks}) reached")
        elif policy.max_age_s and slot.served and slot.age_s >= policy.max_age_s:
            yield Renew(slot.id, slot.room, f"max_worker_age ({policy.max_age_s:g} s) reached")


class _Starter:
    """Chooses which queued tasks start, and in which slots.

    Runs take turns: fewest running first, then the one that has waited longest. A held run never blocks another, but
    for a task that must run alone and has waited long for that.
    """

    def __init__(self, world: World, policy: Policy, closing: Mapping[int, Closing], renewed: set[int]) -> None:
        self._world = world
        self._policy = policy
        self._idle = [slot for slot in world.slots if slot.phase is SlotPhase.IDLE and slot.id not in renewed]
        self._booting = [slot.room for slot in world.slots if slot.phase is SlotPhase.BOOTING]
        self._booting += [slot.room for slot in world.slots if slot.id in renewed]
        started = [attempt for attempt in world.running if attempt.slot_id is not None]
        self._active = len(started)
        self._ahead = len(world.running) - len(started)
        self._promised = NOTHING
        for attempt in started:
            if world.now.mono_s - attempt.sent_s < PROMISE_S:
                self._promised += attempt.need
        self._queues = {
            run.id: deque(heads) for run in world.runs if run.id not in closing and (heads := world.heads.get(run.id))
        }
        self._in_flight = dict.fromkeys(self._queues, 0)
        for attempt in world.running:
            if attempt.run_id in self._in_flight:
                self._in_flight[attempt.run_id] += 1
        self._coming = dict.fromkeys(self._queues, 0)  # heads of each run whose worker is on its way
        self._alone = any(attempt.alone for attempt in world.running)
        self._apart = any(attempt.apart for attempt in world.running)
        rooms = {slot.room for slot in world.slots if slot.phase is not SlotPhase.BOOTING}
        self._may_claim_ahead = all(self._is_short(queue[0], rooms) for queue in self._queues.values())

    def commands(self) -> Iterator[Command]:
        yield from self._make_way()
        turns = [self._turn(run_id) for run_id in self._queues]
        heapify(turns)
        while turns:
            run_id = turns[0][2]
            command = self._next(self._queues[run_id][0])
            yield command
            if isinstance(command, Renew):
                yield Held(run_id, WORKER_STARTS)
            if isinstance(command, Held) and command.hold not in (WORKER_STARTS, SUSPECTS):
                heappop(turns)
                continue
            if isinstance(command, Begin):
                self._take(command)
            elif not (isinstance(command, Held) and command.hold is SUSPECTS):
                self._coming[run_id] += 1  # a worker is on its way to it: the one behind it may need another
            self._queues[run_id].popleft()
            if self._queues[run_id]:
                heapreplace(turns, self._turn(run_id))
            else:
                heappop(turns)

    def _make_way(self) -> Iterator[Held]:
        """Hold every other run while a task that must run alone has waited too long for that."""
        late_ms = self._world.now.wall_ms - PATIENCE_S * 1000
        heads = (queue[0] for queue in self._queues.values())
        patient = [head for head in heads if runs_alone(head.tries) and head.since_ms < late_ms]
        if not patient:
            return
        first = min(patient, key=lambda head: (head.since_ms, head.task_id))
        for run_id in [run_id for run_id in self._queues if run_id != first.run_id]:
            del self._queues[run_id]
            reason = f"waits for task t{first.task_id}, which must run alone and has waited long for it"
            yield Held(run_id, Hold("machine", 1, reason))

    def _turn(self, run_id: int) -> tuple[int, float, int]:
        in_flight = self._in_flight[run_id] + self._coming[run_id]
        return in_flight, self._world.last_start_s.get(run_id, 0.0), run_id

    def _is_short(self, head: Head, rooms: set[Room]) -> bool:
        """Whether the head may be claimed before a slot is free for it."""
        work = self._world.works[head.run_id, head.stage]
        plain = not (head.tries.resource or head.tries.suspect or runs_alone(head.tries))
        return plain and work.kind in self._world.ahead and work.room in rooms

    def _next(self, head: Head) -> Begin | Renew | Held:
        """Start this head, prepare a slot for it, or say what holds it."""
        work = self._world.works[head.run_id, head.stage]
        room = self._room(head)
        if self._active + self._coming[head.run_id] >= self._policy.width:
            # Where a run waits for a slot of its own, nothing is claimed that would take it first.
            if self._may_claim_ahead and not self._alone and self._ahead < self._world.ahead.get(work.kind, 0):
                return Begin(head, None, self._policy.need, alone=False)
            reason = f"waits for a slot: all {self._policy.width} run"
            return Held(head.run_id, Hold("slots", 1, reason))
        if room in self._world.bad_rooms:
            reason = f"workers do not start in its directory and environment: {self._world.bad_rooms[room]}"
            return Held(head.run_id, Hold("room", 1, reason))
        alone = runs_alone(head.tries)
        if self._alone or (alone and (self._active or self._ahead)):
            return Held(head.run_id, Hold("machine", 1, "waits until nothing else runs: one of them runs alone"))
        if head.tries.suspect:
            if self._apart:
                return Held(head.run_id, SUSPECTS)
            self._apart = True  # or it will be, once its worker is there
        need = self._need(head)
        verdict = admit(
            need,
            free=self._world.free,
            promised=self._promised,
            reserve=self._policy.reserve,
            alone=self._active == 0,
        )
        if isinstance(verdict, Hold):
            return Held(head.run_id, verdict)
        slot = next((slot for slot in self._idle if slot.room == room), None)
        if slot is not None:
            return Begin(head, slot.id, need, alone)
        return self._make_room(head, room)

    def _room(self, head: Head) -> Room:
        """Where the head is to run: a suspect in a worker that is the only one of its nursery."""
        room = self._world.works[head.run_id, head.stage].room
        return replace(room, apart=True) if head.tries.suspect else room

    def _need(self, head: Head) -> Space:
        """What the head is expected to take. A need that has grown past what an idle machine has is what there is."""
        base, free = self._policy.need, self._world.free
        need = need_of(base, head.tries, free.total)
        if self._active:
            return need
        threads = free.space.threads - self._policy.reserve.threads
        return Space(
            min(need.memory_bytes, max(base.memory_bytes, free.space.memory_bytes)),
            min(need.threads, max(base.threads, threads)),
        )

    def _make_room(self, head: Head, room: Room) -> Renew | Held:
        """Move an idle slot into the head's room, unless one is on its way or every other is wanted where it is."""
        if room in self._booting:
            self._booting.remove(room)
            return Held(head.run_id, WORKER_STARTS)
        wanted = {self._room(queue[0]) for run_id, queue in self._queues.items() if queue and run_id != head.run_id}
        for slot in sorted(self._idle, key=lambda slot: slot.room in wanted):
            if slot.room not in wanted or self._world.now.mono_s - slot.room_since_s >= TENURE_S:
                self._idle.remove(slot)
                return Renew(slot.id, room, "another run's turn")
        if self._world.trouble:
            return Held(head.run_id, Hold("trouble", 1, f"no worker can be started: {self._world.trouble}"))
        return Held(head.run_id, Hold("worker", 1, "waits for a worker: none is free"))

    def _take(self, begin: Begin) -> None:
        self._in_flight[begin.head.run_id] += 1
        self._alone = self._alone or begin.alone
        if begin.slot_id is None:
            self._ahead += 1
            return
        self._active += 1
        self._idle = [slot for slot in self._idle if slot.id != begin.slot_id]
        self._promised += begin.need
