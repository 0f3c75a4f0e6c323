"""The supervisor's loop: look at the world, plan, carry it out. In battd's main thread; it never waits for disk."""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from batt_supervisor.clock import Clock, Now
from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Free, Hold, Start, admit
from batt_supervisor.core.model import NOTHING, Space
from batt_supervisor.core.plan import plan, wake_at
from batt_supervisor.core.world import (
    AskStacks,
    Begin,
    CloseRun,
    Command,
    Held,
    Renew,
    SlotPhase,
    SlotView,
    Stop,
    World,
)
from batt_supervisor.daemon.attempts import Attempts
from batt_supervisor.daemon.outbox import Inbox, Outbox
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.headroom.machine import Headroom
from batt_supervisor.pool.protocol import Pool, SlotStatus
from batt_supervisor.store import Store

REST_S: Final = 0.25
"""Longest the loop sleeps: headroom may come back, and the watchdog wants a sign of life."""

PUBLISH_S: Final = 0.1

log = structlog.get_logger("loop")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The loop's view for people, replaced whole several times a second; any thread may read it."""

    slots: tuple[SlotStatus, ...]
    tasks: dict[int, int]  # slot id -> task id
    free: Free
    promised: Space
    holds: dict[int, Hold]  # by run
    draining: bool
    store: str


class Loop:
    """battd's decisions and their carrying out, one tick after another.

    Attributes:
        beat_s: Monotonic time of the last tick; a watchdog reads it.
        snapshot: See Snapshot.
    """

    def __init__(self, store: Store, pool: Pool, headroom: Headroom, clock: Clock, settings: Settings) -> None:
        self._settings = settings
        self._pool, self._headroom, self._clock = pool, headroom, clock
        self._reader = store.reader()
        self._inbox = Inbox()
        self._outbox = Outbox(store.writer, self._inbox)
        self._runs = OpenRuns(self._reader, self._outbox)
        self._attempts = Attempts(pool, self._outbox, self._runs, settings, self._memory_free)
        self._holds: dict[int, Hold] = {}
        self._drain_until_s: float | None = None
        self._watched: list[int] = []
        self._waiter = select.poll()
        self._ready: set[int] = set()
        self._wake_s = self._planned_s = self._published_s = 0.0
        now = clock.read()
        self.beat_s = now.mono_s
        self.snapshot = Snapshot((), {}, headroom.read(now.mono_s), NOTHING, {}, False, "ok")

    # What other threads may call

    def run_changed(self, run_id: int) -> None:
        """Any thread: a run was sealed, is to be closed, or takes tasks again; that is on disk."""

        def read(now: Now) -> None:
            self._pool.distrust()
            self._runs.read(run_id)

        self._inbox.put(read)

    def stop_asked(self, task_id: int) -> None:
        """Any thread: a running task is to be stopped; that is on disk."""
        self._inbox.put(lambda now: self._attempts.ask_stop(task_id))

    def touched(self, run_ids: set[int]) -> None:
        """The writer's thread: these runs' tasks have moved."""
        self._runs.touched(run_ids)

    def drain(self) -> None:
        """A signal handler: start nothing more, wait for what runs; the second time, at once."""
        first = self._drain_until_s is None
        self._drain_until_s = self._clock.read().mono_s + (self._settings.drain_timeout if first else 0.0)
        self.nudge()

    def nudge(self) -> None:
        """A signal handler: go round now."""
        self._inbox.nudge()

    def reload(self, settings: Settings) -> None:
        """The loop's own thread: go by these settings from the next tick on."""
        self._settings = self._attempts.settings = settings
        self._pool.resize(settings.slots, self._clock.read().mono_s)
        self._attempts.changed = True

    # The loop

    def run(self, each_round: Callable[[], None]) -> None:
        """Tick until drained, with `each_round` after every tick."""
        while not self._drained():
            self.tick()
            each_round()
            self._rest()

    def tick(self) -> None:
        """One round."""
        now = self._clock.read()
        self.beat_s = now.mono_s
        self._inbox.read(now)
        for seen in self._pool.poll(now.mono_s, self._ready):
            freed = self._attempts.on_exit(seen, now)
            if not (freed and self._start_next(seen.slot_id, now)) or self._attempts.low():
                self._attempts.changed = True
        self._outbox.try_again(now)
        if not self._outbox.trouble:
            self._attempts.settle_again(now)
            self._runs.tidy(now, self._attempts.runs_in_flight())
        if self._due(now):
            self._plan(now)
        self._attempts.flush(now)
        self._outbox.flush()

    def _due(self, now: Now) -> bool:
        """Whether anything has happened that a plan could answer. Most ticks only hear from the disk."""
        moved = self._pool.moved() or self._attempts.changed or self._runs.changed
        return moved or now.mono_s >= min(self._wake_s, self._attempts.wake_s, self._planned_s + REST_S)

    def _plan(self, now: Now) -> None:
        self._attempts.changed = self._runs.changed = False
        self._attempts.wake_s, self._planned_s = float("inf"), now.mono_s
        for slot in self._pool.slots():
            if slot.phase is SlotPhase.IDLE:
                self._start_next(slot.id, now)
        world = self._look(now)
        self._holds.clear()
        for command in plan(world, self._settings.policy()):
            self._carry_out(command, now)
        self._wake_s = wake_at(world)
        if now.mono_s - self._published_s >= PUBLISH_S:
            self._publish(world)

    def _look(self, now: Now) -> World:
        self._attempts.look(now)
        store_works = not self._outbox.trouble
        busy = self._attempts.tasks()
        taken = {attempt.head.task_id for attempt in self._attempts}
        return World(
            now=now,
            accepting=self._drain_until_s is None and store_works,
            runs=self._runs.views(),
            heads=self._runs.heads(taken) if store_works else {},
            works=self._runs.works,
            running=self._attempts.running(),
            slots=[
                SlotView(slot.id, SlotPhase.BUSY, slot.room) if slot.id in busy else slot for slot in self._pool.slots()
            ],
            free=self._headroom.read(now.mono_s),
            ahead=self._attempts.ahead(),
            bad_rooms=self._pool.bad_rooms(now.mono_s),
            trouble=self._pool.trouble(),
            closed="battd is going down" if store_works else self._outbox.trouble,
            last_start_s=self._runs.started_s,
        )

    def _carry_out(self, command: Command, now: Now) -> None:
        match command:
            case Begin(head):
                self._runs.take(head, now)
                self._attempts.begin(command, now)
            case Stop():
                self._attempts.stop(command)
            case AskStacks():
                self._attempts.ask_stacks(command)
            case Renew(slot_id, room, reason):
                log.debug("slot renewed", slot=slot_id, cwd=room.cwd, reason=reason)
                self._pool.renew(slot_id, room)
            case CloseRun(run_id, why):
                self._runs.close(run_id, why)
            case Held(run_id, hold):
                self._holds.setdefault(run_id, hold)

    def _start_next(self, slot_id: int, now: Now) -> bool:
        """Give a slot what was claimed ahead, if that still fits; whether something was started."""
        slot = self._pool.slot(slot_id)
        if slot is None or slot.phase is not SlotPhase.IDLE or self._outbox.trouble:
            return False
        policy = self._settings.policy()
        verdict = admit(
            policy.need,
            free=self._headroom.read(now.mono_s),
            promised=self._attempts.promised(now),
            reserve=policy.reserve,
            alone=not self._attempts.tasks(),
        )
        return self._attempts.start_next(slot, now, fits=isinstance(verdict, Start))

    def _rest(self) -> None:
        now = self._clock.read()
        until_s = min(self._wake_s, self._attempts.wake_s, now.mono_s + REST_S)
        if self._runs.next_due_ms is not None:
            until_s = min(until_s, now.mono_s + (self._runs.next_due_ms - now.wall_ms) / 1000)
        descriptors = [self._inbox.wake, *self._pool.descriptors()]
        if descriptors != self._watched:
            self._watched, self._waiter = descriptors, select.poll()
            for fd in descriptors:
                self._waiter.register(fd, select.POLLIN)
        # Rounded up: a deadline is met by waking just after it, not by spinning just before it.
        self._ready = {fd for fd, _ in self._waiter.poll(max(0.0, until_s - now.mono_s) * 1000 + 1)}

    def _memory_free(self) -> str:
        free = self._headroom.read(self._clock.read().mono_s)
        return f"{free.space.memory_bytes >> 20} MiB free by {free.memory_limit}"

    # The end

    def _drained(self) -> bool:
        """Whether nothing is left to wait for; past the time allowed, what runs is stopped and goes again later."""
        if self._drain_until_s is None:
            return False
        now = self._clock.read()
        self._attempts.drain(now=now.mono_s >= self._drain_until_s)
        self._attempts.flush(now)
        self._outbox.flush()
        return self._attempts.empty()

    def _publish(self, world: World) -> None:
        self._published_s = world.now.mono_s
        self.snapshot = Snapshot(
            slots=tuple(self._pool.status()),
            tasks=self._attempts.tasks(),
            free=world.free,
            promised=self._attempts.promised(world.now),
            holds=dict(self._holds),
            draining=self._drain_until_s is not None,
            store=self._outbox.trouble or "ok",
        )

    def close(self) -> None:
        """Let go of descriptors and the read connection; the loop must have ended."""
        self._reader.close()
        self._inbox.close()
