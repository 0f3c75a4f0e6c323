"""Chooses which queued tasks start now, and in which slots; says of the others what holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heapreplace
from typing import Final

from batt_supervisor.core.admission import PATIENCE_S, Hold, Need, Start, admit, clamped, least_alone, outstanding
from batt_supervisor.core.levels import scaled
from batt_supervisor.core.model import NOTHING, Head, Room, Space
from batt_supervisor.core.retry import need_of, runs_alone
from batt_supervisor.core.world import Begin, Closing, Command, Held, Line, Policy, Renew, SlotPhase, World

TENURE_S: Final = 2.0
"""A slot stays in a room that still has work for at least this long, or many small runs would only restart workers."""

YIELD_S: Final = 0.5
"""For so long after an attempt of ours another supervisor that waits may be the one that runs alone: it looks around
several times a second."""

WORKER_STARTS: Final = Hold("worker", 1, "waits for its worker to start")

SUSPECTS: Final = Hold("suspects", 1, "was lost together with others: these run one at a time")
"""Of a single task: those behind it go on."""


class Starter:
    """Chooses which queued tasks start, and in which slots.

    Runs take turns: fewest running first, then the one that has waited longest. A held line never blocks another, but
    for a task that must run alone and has waited long for that. One that has been held long for want of memory or
    threads has set aside for it what it needs.
    """

    def __init__(self, world: World, policy: Policy, closing: Mapping[int, Closing], renewed: set[int]) -> None:
        self._world = world
        self._policy = policy
        self._reserve = scaled(policy.reserve, world.free.total)
        self._width = policy.width if world.throttle is None else min(policy.width, world.throttle.at_once)
        self._idle = [slot for slot in world.slots if slot.phase is SlotPhase.IDLE and slot.id not in renewed]
        self._booting = [slot.room for slot in world.slots if slot.phase is SlotPhase.BOOTING]
        self._booting += [slot.room for slot in world.slots if slot.id in renewed]
        started = [attempt for attempt in world.running if attempt.slot_id is not None]
        self._active = len(started)
        self._ahead = len(world.running) - len(started)
        self._promised = sum((outstanding(attempt.need, attempt.sample) for attempt in started), NOTHING)
        self._lines: dict[Line, deque[Head]] = {}
        for run in world.runs:
            if run.id not in closing:
                self._line_up(world.heads.get(run.id, ()))
        self._in_flight = {line.run_id: 0 for line in self._lines}
        self._coming = dict(self._in_flight)  # heads of each run whose worker is on its way
        for attempt in world.running:
            if attempt.run_id in self._in_flight:
                self._in_flight[attempt.run_id] += 1
        self._alone = any(attempt.alone for attempt in world.running)
        self._apart = any(attempt.apart for attempt in world.running)
        rooms = {slot.room for slot in world.slots if slot.phase is not SlotPhase.BOOTING}
        self._may_claim_ahead = all(self._is_short(heads[0], rooms) for heads in self._lines.values())
        self._patient = self._longest_held()
        self._needs: dict[tuple[Line, bool], Need] = {}

    def _line_up(self, heads: Iterable[Head]) -> None:
        line: Line | None = None
        for head in heads:
            if line is None or (head.stage, head.tries.resource, runs_alone(head.tries)) != line[1:]:
                line = Line.of(head)
                self._lines.setdefault(line, deque())
            self._lines[line].append(head)

    def _longest_held(self) -> Line | None:
        """The line that room is made for."""
        held = [line for line in self._lines if line in self._world.held_since]
        first = min(held, key=self._world.held_since.__getitem__, default=None)
        late_s = self._world.now.mono_s - PATIENCE_S
        return first if first is not None and self._world.held_since[first] <= late_s else None

    def commands(self) -> Iterator[Command]:
        yield from self._make_way()
        turns = [self._turn(line) for line in self._lines]
        heapify(turns)
        while turns:
            line = turns[0][2]
            if turns[0] != (turn := self._turn(line)):  # another line of its run has had a turn
                heapreplace(turns, turn)
                continue
            command = self._next(line, self._lines[line][0])
            yield command
            if isinstance(command, Renew):
                yield Held(line.run_id, WORKER_STARTS, line)
            if isinstance(command, Held) and command.hold not in (WORKER_STARTS, SUSPECTS):
                heappop(turns)
                continue
            if isinstance(command, Begin):
                self._take(command)
            elif not (isinstance(command, Held) and command.hold is SUSPECTS):
                self._coming[line.run_id] += 1  # a worker is on its way to it: the one behind it may need another
            self._lines[line].popleft()
            if self._lines[line]:
                heapreplace(turns, self._turn(line))
            else:
                heappop(turns)

    def _make_way(self) -> Iterator[Held]:
        """Hold every other line while a task that must run alone has waited too long for that."""
        heads = (heads[0] for line, heads in self._lines.items() if line.alone and self._can_ever_fit(line))
        patient = [head for head in heads if self._has_waited(head)]
        if not patient:
            return
        first = min(patient, key=lambda head: head.task_id)
        for line in [line for line in self._lines if line != Line.of(first)]:
            del self._lines[line]
            reason = f"waits for task t{first.task_id}, which must run alone and has waited long for it"
            yield Held(line.run_id, Hold("machine", 1, reason), line)

    def _has_waited(self, head: Head) -> bool:
        """Whether a task was queued long ago; in the future means before the wall clock was set back."""
        return abs(self._world.now.wall_ms - head.since_ms) > PATIENCE_S * 1000

    def _can_ever_fit(self, line: Line) -> bool:
        """Whether what a line was declared to need is there once nothing of ours runs."""
        work, most = self._world.works[line.run_id, line.stage], self._most()
        return (work.need_memory_bytes or 0) <= most.memory_bytes and (work.need_threads or 0) <= most.threads

    def _most(self) -> Space:
        """What is free once the attempts of ours have ended that run now."""
        samples = [attempt.sample for attempt in self._world.running if attempt.sample is not None]
        held = Space(sum(one.memory_bytes for one in samples), sum(one.threads for one in samples))
        return self._world.free.space + held

    def _turn(self, line: Line) -> tuple[int, float, Line]:
        in_flight = self._in_flight[line.run_id] + self._coming[line.run_id]
        return in_flight, self._world.last_start_s.get(line.run_id, 0.0), line

    def _is_short(self, head: Head, rooms: set[Room]) -> bool:
        """Whether the head may be claimed before a slot is free for it."""
        work = self._world.works[head.run_id, head.stage]
        plain = not (head.tries.resource or head.tries.suspect or runs_alone(head.tries))
        return plain and work.kind in self._world.ahead and work.room in rooms

    def _next(self, line: Line, head: Head) -> Begin | Renew | Held:
        """Start this head, prepare a slot for it, or say what holds it."""
        work = self._world.works[head.run_id, head.stage]
        room = self._room(head)
        busy = self._active + self._coming[head.run_id] >= self._width
        # Where a run waits for a slot of its own, nothing is claimed that would take it first.
        may = self._may_claim_ahead and not (self._alone or head.tries.suspect)
        if busy and may and self._ahead < self._world.ahead.get(work.kind, 0):
            return Begin(head, None, self._need(line).space, alone=False)
        obstacle = self._obstacle(line, head, room, busy=busy)
        if obstacle is not None:
            return Held(head.run_id, obstacle, line)
        if head.tries.suspect:
            if self._apart:
                return Held(head.run_id, SUSPECTS, line)
            self._apart = True  # or it will be, once its worker is there
        need = self._need(line)
        fits = self._admit(line, need)
        if isinstance(fits, Hold):
            return Held(head.run_id, fits, line)
        slot = next((slot for slot in self._idle if slot.room == room), None)
        if slot is not None:
            return Begin(head, slot.id, need.space, line.alone)
        return self._make_room(line, room)

    def _obstacle(self, line: Line, head: Head, room: Room, *, busy: bool) -> Hold | None:
        """What else than room on the machine keeps a line from starting."""
        throttle = self._world.throttle
        if throttle is not None and throttle.held and not self._nobody():
            return Hold("machine", 1, throttle.held)
        if busy:
            if self._width < self._policy.width and throttle is not None:
                running = f"{self._width} of {self._policy.width} slots may run at once"
                return Hold("level", 1, f"waits for a slot: {running}, because {throttle.reason}")
            return Hold("slots", 1, f"waits for a slot: all {self._policy.width} run")
        if room in self._world.bad_rooms:
            reason = f"workers do not start in its directory and environment: {self._world.bad_rooms[room]}"
            return Hold("room", 1, reason)
        if self._alone or (line.alone and (self._active or self._ahead)):
            return Hold("machine", 1, "waits until nothing else runs: one of them runs alone")
        if line.alone and self._world.others.running and not self._has_waited(head):
            return Hold("machine", 1, "must run alone: waits for what other supervisors run, for a minute at most")
        return None

    def _nobody(self) -> bool:
        """Whether nothing runs, of ours or of this user's other supervisors, and it is our turn to be the only one."""
        if self._active or self._world.others.running:
            return False
        # One that has room promised though it runs nothing waits for it (`Gate.note`).
        waits = any(one.entry.promised.threads for one in self._world.others.holders)
        return not waits or self._world.now.mono_s - self._world.ended_s >= YIELD_S

    def _admit(self, line: Line, need: Need) -> Start | Hold:
        aside = NOTHING
        if self._patient is not None and line != self._patient:
            aside = self._set_aside(self._need(self._patient).space)
        return admit(
            need,
            free=self._world.free,
            promised=self._promised,
            others=self._world.others.promised,
            aside=aside,
            reserve=self._reserve,
            alone=self._nobody(),
        )

    def _set_aside(self, wanted: Space) -> Space:
        """What the others leave free for a line that has waited long: all that it needs, if it can ever get that.

        It can if there will be so much once the attempts of ours have ended that run now.
        """
        most = self._most() - self._reserve
        reachable = wanted.memory_bytes <= most.memory_bytes and wanted.threads <= most.threads
        return wanted if reachable and self._active else NOTHING

    def _room(self, head: Head) -> Room:
        """Where the head is to run: a suspect in a worker that is the only one of its nursery."""
        room = self._world.works[head.run_id, head.stage].room
        return replace(room, apart=True) if head.tries.suspect else room

    def _need(self, line: Line) -> Need:
        """What a line's next attempt is expected to take. One that has grown past an idle machine is what that has."""
        nobody = self._nobody()
        found = self._needs.get((line, nobody))
        if found is None:
            found = self._needs[line, nobody] = self._look_up(line, nobody)
        return found

    def _look_up(self, line: Line, nobody: bool) -> Need:
        given = self._world.needs.get((line.run_id, line.stage)) or Need(self._policy.need, known=False)
        base, free = given.space, self._world.free
        grown = need_of(base, line.resource, free.total)
        if not nobody:
            return Need(grown, given.known or line.resource > 0)
        work = self._world.works[line.run_id, line.stage]
        declared = Space(work.need_memory_bytes or 0, work.need_threads or 0)
        held_s = self._world.now.mono_s - self._world.held_since.get(line, float("inf"))
        least = least_alone(base, assumed=self._policy.need, declared=declared, held_s=held_s)
        return Need(clamped(grown, least, free.space), given.known or line.resource > 0)

    def _make_room(self, line: Line, room: Room) -> Renew | Held:
        """Move an idle slot into the head's room, unless one is on its way or every other is wanted where it is."""
        if room in self._booting:
            self._booting.remove(room)
            return Held(line.run_id, WORKER_STARTS, line)
        wanted = {self._room(heads[0]) for other, heads in self._lines.items() if heads and other.run_id != line.run_id}
        for slot in sorted(self._idle, key=lambda slot: slot.room in wanted):
            if slot.room not in wanted or self._world.now.mono_s - slot.room_since_s >= TENURE_S:
                self._idle.remove(slot)
                return Renew(slot.id, room, "another run's turn")
        if self._world.trouble:
            return Held(line.run_id, Hold("trouble", 1, f"no worker can be started: {self._world.trouble}"), line)
        return Held(line.run_id, Hold("worker", 1, "waits for a worker: none is free"), line)

    def _take(self, begin: Begin) -> None:
        self._in_flight[begin.head.run_id] += 1
        self._alone = self._alone or begin.alone
        if begin.slot_id is None:
            self._ahead += 1
            return
        self._active += 1
        self._idle = [slot for slot in self._idle if slot.id != begin.slot_id]
        self._promised += outstanding(begin.need, None)
