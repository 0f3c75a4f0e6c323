"""One look at the world, and what to do about it. Pure: the daemon's loop calls it once a tick and carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from batt_supervisor.clock import Now
from batt_supervisor.core.admission import Free, Hold, admit
from batt_supervisor.core.model import NOTHING, Claim, Head, Outcome, Room, Space, Work
from batt_supervisor.core.retry import need_of, runs_alone

TENURE_S: Final = 2.0
"""A slot stays in a room that still has work for at least this long, or many small runs would only restart workers."""

PATIENCE_S: Final = 60.0
"""A task that must run alone and has waited this long keeps others from starting."""

PROMISE_S: Final = 1.0
"""An attempt this young has not taken what it needs yet, so the last reading does not show it."""

WORKER_STARTS: Final = Hold("worker", 1, "waits for its worker to start")


class Closing(StrEnum):
    """Why a run takes no more starts."""

    CANCEL = "cancel"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class RunView:
    """An open run."""

    id: int
    deadline_at_ms: int | None = None
    closing: Closing | None = None  # already being closed


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that a slot works on, or will in a moment.

    Attributes:
        slot_id: None for one that was claimed ahead and takes the next slot that comes free.
        sent_s: When it was given to the slot, monotonic.
        called_s: When its function was called, monotonic; None until the worker says so.
        boot_timeout_s: How long that may take.
        ending: An end is under way: it is being killed, or its result is being stored.
        stop_asked: Somebody asked for its end.
    """

    claim: Claim
    run_id: int
    slot_id: int | None
    timeout_s: float
    sent_s: float
    boot_timeout_s: float
    called_s: float | None = None
    need: Space = NOTHING
    alone: bool = False
    ending: bool = False
    stop_asked: bool = False

    @property
    def deadline_s(self) -> float:
        """When the supervisor ends it, on the monotonic clock."""
        if self.called_s is None:
            return self.sent_s + self.boot_timeout_s
        return self.called_s + self.timeout_s


class SlotPhase(StrEnum):
    """What a slot is doing."""

    BOOTING = "booting"  # its worker is not there yet
    IDLE = "idle"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot as the plan sees it.

    Attributes:
        served: Attempts its present worker has had.
        room_since_s: When it entered its room, monotonic.
        spent: Why its worker should serve no further attempt; empty while it may.
    """

    id: int
    phase: SlotPhase
    room: Room
    served: int = 0
    room_since_s: float = 0.0
    spent: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decisions depend on.

    Attributes:
    """

    width: int
    max_tasks: int
    reserve: Space
    need: Space


@dataclass(frozen=True, slots=True)
class World:
    """Everything one plan is made from.

    Attributes:
        accepting: Whether anything may start.
        closed: Why nothing may, where `accepting` is false.
        heads: For each open run its first queued tasks, in order.
        ahead: For kinds of tasks so short that a slot would wait for the disk between two of them: how many attempts
            may be claimed before a slot is free for them. Absent: none.
        trouble: Why slots are missing, if any are.
        last_start_s: When each run last had a start, monotonic; absent means never.
    """

    now: Now
    accepting: bool
    runs: Sequence[RunView]
    heads: Mapping[int, Sequence[Head]]
    works: Mapping[tuple[int, int], Work]
    running: Sequence[Running]
    slots: Sequence[SlotView]
    free: Free
    ahead: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""
    closed: str = ""
    last_start_s: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CloseRun:
    """Cancel what of a run has not started."""

    run_id: int
    why: Closing


@dataclass(frozen=True, slots=True)
class Stop:
    """End an attempt now, with its whole process tree; it is settled with this outcome."""

    claim: Claim
    slot_id: int | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Give an idle slot another worker, in this room."""

    slot_id: int
    room: Room
    reason: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Claim a task for a slot and start it there; without a slot, start it in the next one that comes free."""

    head: Head
    slot_id: int | None
    need: Space
    alone: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A run's next task cannot start now; this is what `battctl why` says."""

    run_id: int
    hold: Hold


Command = CloseRun | Stop | Renew | Begin | Held


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
    ends = [_look_at(attempt, world.now.mono_s) for attempt in started]
    ends += [
        world.now.mono_s + (run.deadline_at_ms - world.now.wall_ms) / 1000
        for run in world.runs
        if run.deadline_at_ms is not None and run.closing is None
    ]
    return min(ends, default=float("inf"))


def _look_at(attempt: Running, now_s: float) -> float:
    """When an attempt may be at its deadline: one that was not called yet may be called any moment from now."""
    if attempt.called_s is not None:
        return attempt.deadline_s
    return min(attempt.deadline_s, max(now_s, attempt.sent_s) + attempt.timeout_s)


def _close_runs(world: World) -> Iterator[CloseRun]:
    for run in world.runs:
        if run.closing is None and run.deadline_at_ms is not None and run.deadline_at_ms <= world.now.wall_ms:
            yield CloseRun(run.id, Closing.DEADLINE)


def _stops(world: World, closing: Mapping[int, Closing]) -> Iterator[Stop]:
    for attempt in world.running:
        if attempt.ending:
            continue
        if attempt.stop_asked or attempt.run_id in closing:
            reason = "the run's deadline passed" if closing.get(attempt.run_id) is Closing.DEADLINE else "cancelled"
            yield Stop(attempt.claim, attempt.slot_id, Outcome.CANCELLED, reason)
        elif attempt.slot_id is not None and world.now.mono_s >= attempt.deadline_s:
            if attempt.called_s is None:
                reason = f"its worker did not call the function within boot_timeout ({attempt.boot_timeout_s:g} s)"
                yield Stop(attempt.claim, attempt.slot_id, Outcome.LOST, reason)
            else:
                reason = f"wall limit of {attempt.timeout_s:g} s reached"
                yield Stop(attempt.claim, attempt.slot_id, Outcome.TIMEOUT, reason)


def _renewals(world: World, policy: Policy) -> Iterator[Renew]:
    for slot in world.slots:
        if slot.phase is not SlotPhase.IDLE:
            continue
        if slot.spent:
            yield Renew(slot.id, slot.room, slot.spent)
        elif policy.max_tasks and slot.served >= policy.max_tasks:
            yield Renew(slot.id, slot.room, f"max_tasks ({policy.max_tasks}) reached")


class _Starter:
    """Chooses which queued tasks start, and in which slots.

    Runs take turns: fewest running first, then the one that has waited longest. A held run never blocks another.
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
        self._rooms = {slot.room for slot in world.slots if slot.phase is not SlotPhase.BOOTING}
        self._promised = NOTHING
        for attempt in started:
            if world.now.mono_s - attempt.sent_s < PROMISE_S:
                self._promised += attempt.need
        self._queues = {
            run.id: list(heads) for run in world.runs if run.id not in closing and (heads := world.heads.get(run.id))
        }
        self._in_flight = dict.fromkeys(self._queues, 0)
        for attempt in world.running:
            if attempt.run_id in self._in_flight:
                self._in_flight[attempt.run_id] += 1
        self._alone = any(attempt.alone for attempt in world.running)

    def commands(self) -> list[Command]:
        commands: list[Command] = []
        while self._queues:
            run_id = min(self._queues, key=self._turn)
            head = self._queues[run_id][0]
            command = self._next(head)
            if isinstance(command, Begin):
                commands.append(command)
                self._take(command)
            elif isinstance(command, Renew):
                commands += [command, Held(run_id, WORKER_STARTS)]
                self._count(head)  # a worker is on its way to it: the one behind it may need another
            elif command.hold is WORKER_STARTS:
                commands.append(command)
                self._count(head)
            else:
                commands.append(command)
                self._queues.pop(run_id, None)
        return commands

    def _turn(self, run_id: int) -> tuple[int, float, int]:
        return self._in_flight[run_id], self._world.last_start_s.get(run_id, 0.0), run_id

    def _next(self, head: Head) -> Begin | Renew | Held:
        """Start this head, prepare a slot for it, or say what holds it."""
        if self._active >= self._policy.width:
            work = self._world.works[head.run_id, head.stage]
            plain = not head.tries.resource and not self._alone
            if plain and self._ahead < self._world.ahead.get(work.kind, 0) and work.room in self._rooms:
                return Begin(head, None, self._policy.need, alone=False)
            reason = f"waits for a slot: all {self._policy.width} run"
            return Held(head.run_id, Hold("slots", 1, reason))
        alone = runs_alone(head.tries)
        waited_s = (self._world.now.wall_ms - head.since_ms) / 1000
        if self._alone or (alone and self._active):
            if alone and waited_s > PATIENCE_S:
                self._queues = {head.run_id: self._queues[head.run_id]}
            return Held(head.run_id, Hold("machine", 1, "waits until nothing else runs: one of them runs alone"))
        need = need_of(self._policy.need, head.tries, self._world.free.total)
        verdict = admit(
            need,
            free=self._world.free,
            promised=self._promised,
            reserve=self._policy.reserve,
            alone=self._active == 0,
        )
        if isinstance(verdict, Hold):
            return Held(head.run_id, verdict)
        room = self._world.works[head.run_id, head.stage].room
        slot = next((slot for slot in self._idle if slot.room == room), None)
        if slot is not None:
            return Begin(head, slot.id, need, alone)
        return self._make_room(head, room)

    def _make_room(self, head: Head, room: Room) -> Renew | Held:
        """Move an idle slot into the head's room, unless one is on its way or every other is wanted where it is."""
        if room in self._booting:
            self._booting.remove(room)
            return Held(head.run_id, WORKER_STARTS)
        wanted = {
            self._world.works[queue[0].run_id, queue[0].stage].room
            for run_id, queue in self._queues.items()
            if run_id != head.run_id
        }
        for slot in sorted(self._idle, key=lambda slot: slot.room in wanted):
            if slot.room not in wanted or self._world.now.mono_s - slot.room_since_s >= TENURE_S:
                self._idle.remove(slot)
                return Renew(slot.id, room, "another run's turn")
        if self._world.trouble and not self._world.slots:
            return Held(head.run_id, Hold("worker", 1, f"no worker can be started: {self._world.trouble}"))
        return Held(head.run_id, Hold("worker", 1, "waits for a worker: none is free"))

    def _take(self, begin: Begin) -> None:
        if begin.slot_id is None:
            self._ahead += 1
            self._active -= 1  # `_count` adds one, but no slot is taken
        self._idle = [slot for slot in self._idle if slot.id != begin.slot_id]
        self._promised += begin.need
        self._alone = self._alone or begin.alone
        self._count(begin.head)

    def _count(self, head: Head) -> None:
        self._active += 1
        self._in_flight[head.run_id] += 1
        queue = self._queues[head.run_id]
        queue.pop(0)
        if not queue:
            del self._queues[head.run_id]
