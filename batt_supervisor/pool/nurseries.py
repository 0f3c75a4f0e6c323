"""The nurseries of a battd: one for each room that has slots, started when needed, let go a while after."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from batt_supervisor.core.model import Room
from batt_supervisor.pool.nursery import Nursery, Places, Settings
from batt_supervisor.pool.process import Registry

log = structlog.get_logger("pool")

PAUSE_S: Final = (0.5, 30.0)
"""First and longest time for which no slot is moved into a room whose workers have failed to start."""

ROOMS_MAX: Final = 100
"""Rooms whose failures are remembered."""

LINGER_S: Final = 5.0
"""How long a nursery is kept that no slot uses: runs that take turns come back to their rooms."""

HEALTH_S: Final = 0.5
"""How often nurseries are looked at that have said nothing."""


@dataclass(frozen=True, slots=True)
class BadRoom:
    """A room in which the last worker or nursery did not start."""

    failures: int
    until_s: float
    reason: str


class Nurseries:
    """See the module. The loop's, but for `get`.

    Args:
        registry: Where their processes are noted, so that nobody takes them for strays.
        build: Has a job done in the builder's thread.
        wake: Makes the loop go round.

    Attributes:
        fresh: Rooms whose nursery has become ready since this was last cleared.
    """

    def __init__(
        self, places: Places, registry: Registry, build: Callable[[Callable[[], None]], None], wake: Callable[[], None]
    ) -> None:
        self.fresh: set[Room] = set()
        self._places, self._registry, self._build, self._wake = places, registry, build, wake
        self._open: dict[Room, Nursery] = {}
        self._leaving: list[Nursery] = []
        self._lost: list[Nursery] = []  # have failed, and may not have ended yet
        self._bad: dict[Room, BadRoom] = {}
        self._looked_s = 0.0

    def get(self, room: Room) -> Nursery | None:
        """Any thread: the nursery that forks workers for a room, if there is one."""
        nursery = self._open.get(room)
        return nursery if nursery is not None and nursery.ready and not nursery.trouble else None

    def descriptors(self) -> list[int]:
        """What becomes readable when `look_after` has something to do."""
        return [fd for nursery in self._open.values() for fd in nursery.descriptors()]

    def look_after(self, rooms: Collection[Room], settings: Settings, boot_timeout_s: float, now_s: float) -> bool:
        """Start what is needed and let go what is not; whether one dies, and something of it may be left.

        Args:
            rooms: Those that have slots.
        """
        unwell = now_s - self._looked_s >= HEALTH_S
        if unwell:
            self._looked_s = now_s
        for room, nursery in list(self._open.items()):
            was_ready = nursery.ready
            nursery.look()
            if nursery.ready and not was_ready:
                self._has_come(nursery)
            if unwell:
                self._check(nursery, boot_timeout_s, now_s)
            if room in rooms:
                nursery.since_s = now_s if nursery.ready else nursery.since_s
            elif now_s - nursery.since_s > LINGER_S and not nursery.workers:
                nursery.retire()
            if nursery.trouble:
                self._lost.append(nursery)
                self._has_ended(nursery, room in rooms, now_s)
        for room in rooms:
            if room not in self._open and not self.bad(room, now_s):
                self._start(room, settings, now_s)
        self._leaving = [one for one in self._leaving if not (one.workers == 0 and one.retire() and one.gone())]
        # Its socket closes some moments before its children become battd's: once more after it has ended.
        lost, self._lost = self._lost, [one for one in self._lost if not one.ended()]
        return bool(lost)

    def _start(self, room: Room, settings: Settings, now_s: float) -> None:
        nursery = self._open[room] = Nursery(room, self._places, settings, self._registry.number(), now_s)

        def start() -> None:
            try:
                with self._registry.lock:
                    child = nursery.start()
                    if child is not None:
                        self._registry.add(child)
            except (OSError, subprocess.SubprocessError) as error:
                nursery.trouble = f"{type(error).__name__}: {error}"
            self._wake()

        self._build(start)

    def _has_come(self, nursery: Nursery) -> None:
        self.fresh.add(nursery.room)
        if nursery.threads > 1:
            # A fork copies the one thread that calls it; a lock that another one holds is then held for ever.
            log.warning("preloaded modules have started threads, workers may hang", threads=nursery.threads)

    def _check(self, nursery: Nursery, boot_timeout_s: float, now_s: float) -> None:
        if nursery.wake():
            log.warning("a nursery was stopped by somebody, and goes on", pid=nursery.pid)
        if not nursery.ready and now_s - nursery.since_s > boot_timeout_s:
            nursery.fail(f"it was not ready within boot_timeout ({boot_timeout_s:g} s)")

    def _has_ended(self, nursery: Nursery, wanted: bool, now_s: float) -> None:
        del self._open[nursery.room]
        self._leaving.append(nursery)
        if wanted and not nursery.proved:
            self.blame(nursery.room, f"the nursery of its workers: {nursery.trouble}", now_s)
        elif wanted:
            log.warning("nursery ended, another one takes over", pid=nursery.pid, reason=nursery.trouble)

    def renew(self, room: Room) -> None:
        """Start another one in a room if a file that its preloaded modules came from has changed."""
        nursery = self._open.get(room)
        if nursery is not None and nursery.stale():
            log.info("nursery renewed: a preloaded module has changed on disk", pid=nursery.pid)
            self._leaving.append(self._open.pop(room))

    def forget(self, why: str) -> None:
        """Start others everywhere; those that are there stay while they have workers, which serve no further attempt.

        It is the nursery that is marked, not its workers: one may be on its way, which nobody here has heard of yet.
        """
        self._leaving += self._open.values()
        self._open.clear()
        for nursery in self._leaving:
            nursery.outdated = why

    # Rooms that are of no use

    def blame(self, room: Room, why: str, now_s: float) -> None:
        """A worker or nursery did not start in a room, which has to wait."""
        failures = self._bad[room].failures + 1 if room in self._bad else 1
        pause_s = min(PAUSE_S[0] * 2.0 ** (failures - 1), PAUSE_S[1])
        if len(self._bad) >= ROOMS_MAX:
            del self._bad[next(iter(self._bad))]
        self._bad[room] = BadRoom(failures, now_s + pause_s, why)
        log.warning("workers do not start in a room", cwd=room.cwd, reason=why, again_in_s=pause_s)

    def well(self, room: Room) -> None:
        """A worker has come up there."""
        self._bad.pop(room, None)
        if room in self._open:
            self._open[room].proved = True

    def bad(self, room: Room, now_s: float) -> bool:
        """Whether the room has to wait."""
        return room in self._bad and self._bad[room].until_s > now_s

    def bad_rooms(self, now_s: float) -> Mapping[Room, str]:
        """Those that have to wait, and why."""
        return {room: bad.reason for room, bad in self._bad.items() if bad.until_s > now_s}

    def close(self) -> None:
        """Let all of them end what is below them, and go."""
        self._leaving += self._open.values()
        self._open.clear()
        for nursery in self._leaving:
            nursery.retire()

    def gone(self) -> bool:
        """After `close`: whether all have gone."""
        self._leaving = [one for one in self._leaving if not (one.retire() and one.gone())]
        return not self._leaving
