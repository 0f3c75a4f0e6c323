"""The slots of a battd: `width` of them and one standby, and the nurseries their workers come from, kept in repair."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import structlog

from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.pool import kill
from batt_supervisor.pool.group import Groups
from batt_supervisor.pool.inbox import Answered, Event, Launched, Opened, Unbuilt
from batt_supervisor.pool.launch import Launcher
from batt_supervisor.pool.nurseries import Nurseries
from batt_supervisor.pool.nursery import Places
from batt_supervisor.pool.nursery import Settings as NurserySettings
from batt_supervisor.pool.process import Registry
from batt_supervisor.pool.protocol import Exit, Request, SlotStatus
from batt_supervisor.pool.slot import Slot

log = structlog.get_logger("pool")

REST_S: Final = 5.0
"""After so long without work, slots of several rooms are brought together."""

PAUSE_S: Final = (0.5, 5.0)
"""First and longest pause before something is built again that could not be, or did not come up."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What slots are made with.

    Attributes:
        nofile: Soft and hard limit of open files, for workers.
    """

    boot_timeout_s: float
    nofile: tuple[int, int]
    nursery: NurserySettings


class Builder:
    """Starts nurseries and opens slots, one after another: each may wait for a fork, and the loop never waits."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def add(self, job: Callable[[], None]) -> None:
        """Any thread: have this done. What goes wrong in it is its own to catch."""
        self._queue.put(job)

    def stop(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life."""
        while (job := self._queue.get()) is not None:
            job()


class Dying(Protocol):
    """Something that was thrown away."""

    def stop(self) -> None:
        """Begin to end it."""

    def gone(self) -> bool:
        """Whether nothing is left of it."""


class Reaper:
    """Sees what was thrown away to its end. It looks, and never joins: a pool's thread may take its time."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Dying | None] = SimpleQueue()
        self.waiting = 0

    def add(self, dying: Dying) -> None:
        self._queue.put(dying)

    def stop(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life; it ends when told to and nothing is left to see off, or 5 s later."""
        dying: list[Dying] = []
        until = float("inf")
        while time.monotonic() < until:
            with suppress(Empty):
                item = self._queue.get(timeout=0.02 if dying else 1.0)
                if item is None:
                    until = time.monotonic() + 5.0
                else:
                    item.stop()
                    dying.append(item)
            dying = [one for one in dying if not one.gone()]
            self.waiting = len(dying)
            if not dying and until < float("inf"):
                return


class Crew:
    """The pebble backend of `protocol.Pool`.

    Args:
        width: How many attempts may run at once; one slot more is kept.
        room: The room that slots start in.
    """

    def __init__(
        self, places: Places, settings: Settings, groups: Groups, width: int, room: Room, now_s: float
    ) -> None:
        self.builder, self.reaper, self.registry = Builder(), Reaper(), Registry()
        self.settings = settings
        self.groups = groups
        self.nurseries = Nurseries(places, self.registry, self.builder.add, self._woken)
        self._places = places
        self._home = room
        self._slots: dict[int, Slot] = {}
        self._inbox: deque[Event] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._serials = itertools.count(1 << 32)  # requests of our own; attempts count from below
        self._refused: dict[int, tuple[float, float, str]] = {}  # slot id -> (try again at, pause, why)
        self._exits: list[Exit] = []
        self._target = 0
        self._now_s = now_s
        self._closed = False
        self._worked_s = now_s
        self._strays = False  # something may be left of a nursery that has died
        self._moved = True
        self.resize(width, now_s)

    def put(self, event: Event) -> None:
        """Any thread: tell the loop."""
        self._inbox.append(event)
        self._woken()

    def _woken(self) -> None:
        os.eventfd_write(self._wake, 1)

    # protocol.Pool

    def descriptors(self) -> Sequence[int]:
        workers = [slot.process.descriptor() for slot in self._slots.values() if slot.process and slot.living()]
        return [self._wake, *workers, *self.nurseries.descriptors()]

    def poll(self, now_s: float, ready: Container[int]) -> list[Exit]:
        self._now_s = now_s
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        for slot in self._slots.values():
            process = slot.process
            if process is not None and slot.living() and process.descriptor() in ready:
                self._look_at_death(slot, now_s)
        exits, self._exits = self._exits, []
        while self._inbox:
            exits += self._on_event(self._inbox.popleft(), now_s)
        for slot in list(self._slots.values()):
            exits += slot.check(now_s)
            self._look_after(slot, now_s)
        rooms = {slot.room for slot in self._slots.values()}
        self._strays |= self.nurseries.look_after(rooms, self.settings.nursery, self.settings.boot_timeout_s, now_s)
        for slot in self._slots.values():
            if slot.room in self.nurseries.fresh:
                slot.pool.look()  # it waits for just this one
            elif slot.room != self._home and not slot.living() and self.nurseries.bad(slot.room, now_s):
                slot.move(self._home, now_s)
        self.nurseries.fresh.clear()
        self._retry(now_s)
        self._gather(now_s)
        if self._strays:
            self._strays = self.end_strays() > 0  # until a round finds none: what was killed may take a moment to go
        return exits

    def _gather(self, now_s: float) -> None:
        """Bring slots that have long been idle together in one room: a nursery for each of them is one too many."""
        if any(slot.phase is not SlotPhase.IDLE for slot in self._slots.values()):
            self._worked_s = now_s
        if now_s - self._worked_s <= REST_S:
            return
        rooms = [slot.room for slot in sorted(self._slots.values(), key=lambda slot: slot.room_since_s)]
        latest = next((room for room in reversed(rooms) if not room.apart), self._home)
        lonely = next((slot for slot in self._slots.values() if slot.room != latest), None)
        if lonely is not None:
            self.renew(lonely.id, latest)

    def _look_at_death(self, slot: Slot, now_s: float) -> None:
        process = slot.process
        if process is None or process.exit_code() is None:
            return
        slot.on_death(now_s)
        if process.orphaned:
            self._strays = True
        if process.survivors:
            log.warning("processes of a worker did not end", worker=process.id.pid, processes=process.survivors)

    def _look_after(self, slot: Slot, now_s: float) -> None:
        """Repair what is wrong with a slot, or throw it away."""
        if slot.phase is SlotPhase.IDLE:
            self._refused.pop(slot.id, None)
            self.nurseries.well(slot.room)
        limit_s = self.settings.boot_timeout_s
        if slot.boot_since_s is not None and now_s - slot.boot_since_s > limit_s and slot.phase is SlotPhase.BOOTING:
            # The worker may hang, or the pool's threads: somebody may have written into its pipe.
            slot.trouble = slot.stumbled = f"its worker did not boot within boot_timeout ({limit_s:g} s)"
        if slot.stumbled:
            self._stumbled(slot, now_s)
        if slot.phase is SlotPhase.BUSY:
            return
        if slot.trouble:
            self._replace(slot, now_s)
        elif slot.id >= self._target:
            self.reaper.add(self._slots.pop(slot.id))  # too many since a `resize`
            self._moved = True

    def _stumbled(self, slot: Slot, now_s: float) -> None:
        """A worker did not come up: its room has to wait, and its slot goes home; at home, it waits itself."""
        why, slot.stumbled = slot.stumbled, ""
        self._moved = True
        if slot.room != self._home:
            self.nurseries.blame(slot.room, why, now_s)
            slot.move(self._home, now_s)
            return
        pause_s = self._pause(slot, why, now_s)
        slot.launcher.not_before_s = now_s + pause_s
        log.warning("a worker did not come up", slot=slot.id, reason=why, again_in_s=pause_s)

    def _pause(self, slot: Slot, why: str, now_s: float) -> float:
        before_s = self._refused[slot.id][1] if slot.id in self._refused else 0.0
        pause_s = min(max(before_s * 2, PAUSE_S[0]), PAUSE_S[1])
        self._refused[slot.id] = (now_s + pause_s, pause_s, why)
        return pause_s

    def _on_event(self, event: Event, now_s: float) -> list[Exit]:
        slot = event.slot
        if self._slots.get(slot.id) is not slot:
            if isinstance(event, Launched):
                self.reaper.add(event.process)  # of a slot that was thrown away
            return []
        match event:
            case Opened():
                slot.opened = True
                slot.greet()
            case Launched():
                self._moved = True
                return slot.on_launched(event.process, next(self._serials), now_s)
            case Answered():
                self._moved = self._moved or slot.phase is SlotPhase.BOOTING
                return slot.on_answer(event)
            case Unbuilt():
                self.registry.refused()
                pause_s = self._pause(slot, event.error, now_s)
                log.warning("slot cannot be built", slot=slot.id, reason=event.error, again_in_s=pause_s)
                self.reaper.add(self._slots.pop(slot.id))
                self._moved = True
        return []

    def _replace(self, slot: Slot, now_s: float) -> None:
        """Throw a slot away and have another built in its place."""
        self._moved = True
        del self._slots[slot.id]
        self.reaper.add(slot)
        # A slot that breaks at once, again and again, must not keep the builder busy for ever.
        pause_s = 0.0 if slot.booted else self._pause(slot, slot.trouble, now_s)
        log.warning("slot replaced", slot=slot.id, reason=slot.trouble, again_in_s=pause_s)

    def bad_rooms(self, now_s: float) -> Mapping[Room, str]:
        return self.nurseries.bad_rooms(now_s)

    def _retry(self, now_s: float) -> None:
        for slot_id in range(self._target):
            if slot_id not in self._slots and self._refused.get(slot_id, (0.0,))[0] <= now_s and not self._closed:
                self._build(slot_id, now_s)

    def _build(self, slot_id: int, now_s: float) -> None:
        launcher = Launcher(
            places=self._places,
            registry=self.registry,
            room=self._home,
            nursery=self.nurseries.get,
            nofile=self.settings.nofile,
            launched=lambda process: None,
            group=self.groups.make(f"slot-{slot_id}-{self.registry.number()}"),
        )
        slot = self._slots[slot_id] = Slot(slot_id, launcher, self.put, now_s)
        self._moved = True

        def open_slot() -> None:
            try:
                slot.open()
            except Exception as error:  # refused a thread, a process, a descriptor; or a defect, of this slot alone
                self.put(Unbuilt(slot, f"{type(error).__name__}: {error}"))
            else:
                self.put(Opened(slot))

        self.builder.add(open_slot)

    def slots(self) -> Sequence[SlotView]:
        return [slot.view(self._now_s) for slot in self._slots.values()]

    def slot(self, slot_id: int) -> SlotView | None:
        slot = self._slots.get(slot_id)
        return slot.view(self._now_s) if slot else None

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

    def status(self) -> Sequence[SlotStatus]:
        return [
            SlotStatus(
                view=slot.view(self._now_s),
                worker_pid=slot.process.id.pid if slot.process else None,
                renewed=max(slot.renewed, 0),
                trouble=slot.trouble,
                progress=slot.progress(),
            )
            for slot in self._slots.values()
        ]

    def refusals(self) -> int:
        return self.registry.refusals

    def trouble(self) -> str:
        refused = next((slot.launcher.refused for slot in self._slots.values() if slot.launcher.refused), "")
        return refused or next((why for slot_id, (_, _, why) in self._refused.items()), "")

    def worker(self, slot_id: int) -> WorkerId | None:
        slot = self._slots.get(slot_id)  # it may have gone since it was chosen
        return slot.process.id if slot and slot.process else None

    def send(self, slot_id: int, requests: Sequence[Request]) -> None:
        slot = self._slots.get(slot_id)
        try:
            if slot is None or slot.phase is not SlotPhase.IDLE:
                raise SlotBroken("the slot went away before it could start")
            slot.send(requests)
        except SlotBroken:
            self._exits += [Exit(slot_id, request.serial, None, requeue=True) for request in requests]
            self._woken()
        except OSError as error:
            why = f"its arguments could not be written for its worker: {error.strerror}"
            self._exits += [Exit(slot_id, request.serial, None, begun=False, broken=why) for request in requests]
            self._woken()

    def called(self, slot_id: int, serial: int) -> float | None:
        slot = self._slots.get(slot_id)
        return slot.called(serial) if slot else None

    def returned(self, slot_id: int, serial: int) -> float | None:
        slot = self._slots.get(slot_id)
        return slot.returned(serial) if slot else None

    def sample(self, slot_id: int, serial: int, memory_limit: int | None) -> Sample | None:
        slot = self._slots.get(slot_id)
        return slot.sample(serial, memory_limit) if slot else None

    def ask_stacks(self, slot_id: int, serial: int) -> None:
        slot = self._slots.get(slot_id)
        if slot is not None:
            slot.ask_stacks(serial)

    def take_back(self, slot_id: int) -> None:
        slot = self._slots.get(slot_id)
        if slot is not None and (taken := slot.take_back()):
            self._exits += taken
            self._woken()

    def end(self, slot_id: int, serial: int) -> None:
        slot = self._slots.get(slot_id)
        if slot is not None:
            slot.end(serial)

    def distrust(self) -> None:
        for slot in self._slots.values():
            slot.distrust()

    def renew(self, slot_id: int, room: Room) -> None:
        self.nurseries.renew(room)
        self._slots[slot_id].renew(room, self._now_s)
        self._moved = True

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
        self.nurseries.close()
        self.builder.stop()
        self.reaper.stop()

    def wait(self, timeout_s: float) -> bool:
        """After `close`, and when the builder and the reaper have ended: wait for what they have left to go."""
        until_s = time.monotonic() + timeout_s
        while not (self.nurseries.gone() and self.end_strays() == 0):
            if time.monotonic() > until_s:
                return False
            time.sleep(0.005)
        self.groups.close()
        return True

    def renew_all(self) -> None:
        """Have every worker started anew, as it comes free: what nurseries are made with has changed."""
        self.nurseries.forget("the settings have changed")

    def end_strays(self) -> int:
        """Kill children of battd that are none of its nurseries: what a dead one left behind."""
        with self.registry.lock:
            return kill.end_strays(self.registry.pids())
