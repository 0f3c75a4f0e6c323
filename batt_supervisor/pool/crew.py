"""The slots of a battd: `width` of them and one standby, kept in repair by a builder and a reaper thread."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.pool import kill
from batt_supervisor.pool.launch import Launcher, Places, Registry
from batt_supervisor.pool.protocol import Exit, Request, SlotStatus
from batt_supervisor.pool.slot import Answered, Launched, Slot

log = structlog.get_logger("pool")

ROOM_PAUSE_S: Final = (0.5, 30.0)
"""First and longest time for which no slot is moved into a room whose workers have failed to start."""

ROOMS_MAX: Final = 100
"""Rooms whose failures are remembered."""

REBUILD_S: Final = (0.5, 5.0)
"""First and longest pause before a slot that could not be built is tried again."""


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """The builder was refused a thread, a process or a descriptor."""

    slot: Slot
    error: str


@dataclass(frozen=True, slots=True)
class BadRoom:
    """A room in which the last worker did not start."""

    failures: int
    until_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What slots are made with.

    Attributes:
        environ: battd's own environment, as workers are to see it.
    """

    boot_timeout_s: float
    preload: tuple[str, ...]
    environ: Mapping[str, str]


class Builder:
    """Opens slots, one after another: starting a pool may wait for a fork, and the loop never waits."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Slot, Crew] | None] = SimpleQueue()

    def add(self, slot: Slot, crew: Crew) -> None:
        self._queue.put((slot, crew))

    def stop(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life."""
        while (item := self._queue.get()) is not None:
            slot, crew = item
            try:
                slot.open()
            except Exception as error:  # refused a thread, a process, a descriptor; or a defect, of this slot alone
                crew.put(Unbuilt(slot, f"{type(error).__name__}: {error}"))


class Reaper:
    """Sees slots that were thrown away to their end. It looks, and never joins: a pool's thread may take its time."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Slot | None] = SimpleQueue()
        self.waiting = 0

    def add(self, slot: Slot) -> None:
        self._queue.put(slot)

    def stop(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life; it ends when told to and nothing is left to see off, or 5 s later."""
        dying: list[Slot] = []
        until = float("inf")
        while time.monotonic() < until:
            with suppress(Empty):
                item = self._queue.get(timeout=0.02 if dying else 1.0)
                if item is None:
                    until = time.monotonic() + 5.0
                else:
                    item.stop()
                    dying.append(item)
            dying = [slot for slot in dying if not slot.gone()]
            self.waiting = len(dying)
            if not dying and until < float("inf"):
                return


class Crew:
    """The pebble backend of `protocol.Pool`.

    Args:
        width: How many attempts may run at once; one slot more is kept.
        room: The room that slots start in.
    """

    def __init__(self, places: Places, settings: Settings, width: int, room: Room, now_s: float) -> None:
        self.builder, self.reaper, self.registry = Builder(), Reaper(), Registry()
        self.settings = settings
        self._places = places
        self._home = self._room = room
        self._bad_rooms: dict[Room, BadRoom] = {}
        self._slots: dict[int, Slot] = {}
        self._inbox: deque[Answered | Launched | Unbuilt] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._serials = itertools.count(1 << 32)  # requests of our own; attempts count from below
        self._refused: dict[int, tuple[float, float, str]] = {}  # slot id -> (try again at, pause, why)
        self._exits: list[Exit] = []
        self._target = 0
        self._closed = False
        self._strays = False  # something may be left of a worker that has died
        self._moved = True
        self.resize(width, now_s)

    def put(self, event: Answered | Launched | Unbuilt) -> None:
        """Any thread: tell the loop."""
        self._inbox.append(event)
        os.eventfd_write(self._wake, 1)

    # protocol.Pool

    def descriptors(self) -> Sequence[int]:
        return [self._wake, *(slot.process.pidfd for slot in self._slots.values() if slot.process and slot.living())]

    def poll(self, now_s: float, ready: Container[int]) -> list[Exit]:
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        deaths = False
        for slot in self._slots.values():
            process = slot.process
            if process is not None and process.pidfd in ready and slot.living() and process.exit_code() is not None:
                slot.on_death(now_s)
                deaths = True
        exits, self._exits = self._exits, []
        while self._inbox:
            exits += self._on_event(self._inbox.popleft(), now_s)
        for slot in list(self._slots.values()):
            exits += slot.check(now_s)
            if slot.phase is SlotPhase.IDLE:
                self._refused.pop(slot.id, None)
                self._bad_rooms.pop(slot.room, None)
            booting_s = now_s - slot.boot_since_s if slot.phase is SlotPhase.BOOTING else 0.0
            if not slot.trouble and booting_s > self.settings.boot_timeout_s:
                slot.trouble = f"its worker did not boot within boot_timeout ({self.settings.boot_timeout_s:g} s)"
            if slot.trouble and slot.phase is not SlotPhase.BUSY:
                self._replace(slot, now_s)
            if slot.id >= self._target and slot.phase is not SlotPhase.BUSY and slot.id in self._slots:
                self.reaper.add(self._slots.pop(slot.id))  # too many since a `resize`
        self._retry(now_s)
        if deaths or self._strays:
            self._strays = self.end_strays() > 0  # until a round finds none: what was killed may take a moment to go
        return exits

    def _on_event(self, event: Answered | Launched | Unbuilt, now_s: float) -> list[Exit]:
        if self._slots.get(event.slot.id) is not event.slot:
            if isinstance(event, Launched):
                if event.process.exit_code() is None:
                    kill.end_tree(event.process.id.pid)
                event.process.close()
            return []  # of a slot that was thrown away
        match event:
            case Launched():
                self._moved = True
                return event.slot.on_launched(event.process, next(self._serials), now_s)
            case Answered():
                self._moved = self._moved or event.slot.phase is SlotPhase.BOOTING
                return event.slot.on_answer(event)
            case Unbuilt():
                before_s = self._refused[event.slot.id][1] if event.slot.id in self._refused else 0.0
                pause_s = min(max(before_s * 2, REBUILD_S[0]), REBUILD_S[1])
                self._refused[event.slot.id] = (now_s + pause_s, pause_s, event.error)
                log.warning("slot cannot be built", slot=event.slot.id, reason=event.error, again_in_s=pause_s)
                self.reaper.add(self._slots.pop(event.slot.id))
                return []

    def _replace(self, slot: Slot, now_s: float) -> None:
        """Throw a slot away and have another built in its place."""
        self._moved = True
        del self._slots[slot.id]
        self.reaper.add(slot)
        # A slot that breaks at once, again and again, must not keep the builder busy for ever.
        pause_s = 0.0
        if not slot.booted and slot.room != self._home:
            self._blame_room(slot, now_s)
        elif not slot.booted:
            before_s = self._refused[slot.id][1] if slot.id in self._refused else 0.0
            pause_s = min(max(before_s * 2, REBUILD_S[0]), REBUILD_S[1])
        self._refused[slot.id] = (now_s + pause_s, pause_s, slot.trouble)
        log.warning("slot replaced", slot=slot.id, reason=slot.trouble, again_in_s=pause_s)
        self._room = self._home if slot.room in self._bad_rooms else slot.room

    def _blame_room(self, slot: Slot, now_s: float) -> None:
        """A worker did not start in a run's own room: the slot goes elsewhere, and the room has to wait."""
        failures = self._bad_rooms[slot.room].failures + 1 if slot.room in self._bad_rooms else 1
        pause_s = min(ROOM_PAUSE_S[0] * 2.0 ** (failures - 1), ROOM_PAUSE_S[1])
        if len(self._bad_rooms) >= ROOMS_MAX:
            del self._bad_rooms[next(iter(self._bad_rooms))]
        self._bad_rooms[slot.room] = BadRoom(failures, now_s + pause_s, slot.trouble)

    def bad_rooms(self, now_s: float) -> Mapping[Room, str]:
        return {room: bad.reason for room, bad in self._bad_rooms.items() if bad.until_s > now_s}

    def _retry(self, now_s: float) -> None:
        for slot_id in range(self._target):
            if slot_id not in self._slots and self._refused.get(slot_id, (0.0,))[0] <= now_s and not self._closed:
                self._build(slot_id, now_s)

    def _build(self, slot_id: int, now_s: float) -> None:
        launcher = Launcher(
            self._places, self.registry, self._room, self.settings.preload, lambda process: None, self.settings.environ
        )
        slot = self._slots[slot_id] = Slot(slot_id, launcher, self.put, now_s)
        self.builder.add(slot, self)

    def slots(self) -> Sequence[SlotView]:
        return [slot.view() for slot in self._slots.values()]

    def slot(self, slot_id: int) -> SlotView | None:
        slot = self._slots.get(slot_id)
        return slot.view() if slot else None

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

    def status(self) -> Sequence[SlotStatus]:
        return [
            SlotStatus(slot.view(), slot.process.id.pid if slot.process else None, max(slot.renewed, 0), slot.trouble)
            for slot in self._slots.values()
        ]

    def trouble(self) -> str:
        return next((why for slot_id, (_, _, why) in self._refused.items()), "")

    def worker(self, slot_id: int) -> WorkerId | None:
        process = self._slots[slot_id].process
        return process.id if process else None

    def send(self, slot_id: int, requests: Sequence[Request]) -> None:
        slot = self._slots.get(slot_id)
        try:
            if slot is None or slot.phase is not SlotPhase.IDLE:
                raise SlotBroken("the slot went away before it could start")
            slot.send(requests)
        except SlotBroken:
            self._exits += [Exit(slot_id, request.serial, None, requeue=True) for request in requests]
            os.eventfd_write(self._wake, 1)

    def called(self, slot_id: int, serial: int) -> float | None:
        slot = self._slots.get(slot_id)
        return slot.called(serial) if slot else None

    def end(self, slot_id: int, serial: int) -> None:
        slot = self._slots.get(slot_id)
        if slot is not None:
            slot.end(serial)

    def renew(self, slot_id: int, room: Room) -> None:
        slot = self._slots[slot_id]
        with suppress(SlotBroken):  # noted in its trouble; the slot is replaced at the next poll
            slot.renew(room, next(self._serials), time.monotonic())
        self._room = room

    def resize(self, width: int, now_s: float) -> None:
        self._target = width + 1
        for slot_id in range(self._target):
            if slot_id not in self._slots and slot_id not in self._refused:
                self._build(slot_id, now_s)
        for slot_id in [number for number in self._slots if number >= self._target]:
            if self._slots[slot_id].phase is not SlotPhase.BUSY:
                self.reaper.add(self._slots.pop(slot_id))
        for slot_id in [number for number in self._refused if number >= self._target]:
            del self._refused[slot_id]

    def close(self) -> None:
        self._closed = True
        for slot in self._slots.values():
            self.reaper.add(slot)
        self._slots.clear()
        self.builder.stop()
        self.reaper.stop()

    def end_strays(self) -> int:
        """Kill children of battd that are none of its workers: what a dead worker left behind."""
        with self.registry.lock:
            return kill.end_strays(self.registry.pids())
