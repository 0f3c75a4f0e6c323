"""The supervisor's loop: look at the world, plan, carry it out. In battd's main thread; it never waits for disk."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from batt_supervisor.clock import Clock, Now
from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Hold
from batt_supervisor.core.model import NOTHING, Head, Outcome, Space
from batt_supervisor.core.plan import plan, wake_at
from batt_supervisor.core.world import (
    AskStacks,
    Begin,
    CloseRun,
    Command,
    Held,
    Line,
    Renew,
    SlotPhase,
    SlotView,
    Stop,
    World,
)
from batt_supervisor.daemon.attempts import Attempts
from batt_supervisor.daemon.clockwatch import ClockWatch
from batt_supervisor.daemon.faults import Point, no_fault
from batt_supervisor.daemon.gate import Gate
from batt_supervisor.daemon.outbox import Inbox, Outbox
from batt_supervisor.daemon.retention import Retention
from batt_supervisor.daemon.room import SLOT_THREADS
from batt_supervisor.daemon.runs import OpenRuns
from batt_supervisor.daemon.settlements import Settlements
from batt_supervisor.daemon.snapshot import WELL, Promise, Snapshot, store_hold
from batt_supervisor.daemon.width import Width
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.pool.protocol import Pool
from batt_supervisor.store import values
from batt_supervisor.store.protocol import Store

REST_S: Final = 0.25
"""Longest the loop sleeps: headroom may come back, and the watchdog wants a sign of life."""

IDLE_S: Final = 0.5
"""The same while there is nothing to start and nothing runs."""

PUBLISH_S: Final = 0.1

NEAR_S: Final = 0.05
"""How often the machine is looked at while its memory is nearly used up."""

SAVE_S: Final = 1.0
"""How often what was learned of kinds goes to the store."""

log = structlog.get_logger("loop")


class Loop:
    """battd's decisions and their carrying out, one tick after another.

    Attributes:
        beat_s: Monotonic time of the last tick; a watchdog reads it.
        snapshot: See Snapshot.
        clockwatch: Whether the wall clock was set.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        gate: Gate,
        clock: Clock,
        settings: Settings,
        slots: int | None = None,
        point: Point = no_fault,
        damaged: Callable[[str], None] = lambda said: None,
        folder: Path | None = None,
    ) -> None:
        self._settings = settings
        self._width = Width(pool, gate, settings, slots or settings.slots)
        self._pool, self._gate, self._clock = pool, gate, clock
        self._reader = store.reader()
        self._inbox = Inbox()
        self._outbox = Outbox(store.writer, self._inbox, damaged)
        self._runs = OpenRuns(self._reader, self._outbox)
        self._point = point
        self._ends = Settlements(self._outbox, self._runs)
        self._attempts = Attempts(pool, self._outbox, self._runs, self._ends, settings, gate, point)
        self._holds: dict[int, Hold] = {}
        self._lines: dict[Line, Hold] = {}
        self._saving_s = 0.0
        self._drain_until_s: float | None = None
        self._watched: list[int] = []
        self._waiter = select.poll()
        self._ready: set[int] = set()
        self._wake_s = self._planned_s = self._published_s = 0.0
        now = clock.read()
        self.clockwatch = ClockWatch(self._outbox, self._runs, now)
        self._retention = (
            None if folder is None else Retention(self._reader, self._outbox, pool, folder, settings.rules(), now)
        )
        self._left: Sequence[values.Settlement] = ()
        self.beat_s = now.mono_s
        self.snapshot = Snapshot(
            (),
            {},
            gate.reading,
            gate.others,
            gate.throttle,
            NOTHING,
            gate.reserve,
            total=gate.free.total,
        )

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

    def store_failed(self, error: StoreUnavailable) -> None:
        """Any thread: the store could not be written or read for somebody else."""
        self._inbox.put(lambda now: self._outbox.failed(error, now))

    def store_hold(self) -> Hold | None:
        """Any thread: why nothing starts, while the store does not work."""
        return self.snapshot.held_by_store()

    def prune_asked(self) -> None:
        """Any thread: runs are to be removed; that is on disk."""
        if self._retention is not None:
            self._inbox.put(self._retention.go_on)

    def removing(self) -> bool:
        """Any thread: whether something is being removed."""
        return self._retention is not None and self._retention.working

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
        self._settings = self._attempts.settings = self._gate.settings = settings
        now = self._clock.read()
        self._width.reload(settings, now)
        self._attempts.changed = True
        if self._retention is not None:
            self._retention.change(settings.rules(), now)

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
        self.clockwatch.look(now)
        self._inbox.read(now)
        for seen in self._pool.poll(now.mono_s, self._ready):
            freed = self._attempts.on_exit(seen, now)
            # Where others may decide at the same time, what starts next is left to a plan, in a turn of the ledger.
            started = freed and self._gate.ample and self._start_next(seen.slot_id, now)
            if not started or self._attempts.low():
                self._attempts.changed = True
        self._tend(now)
        if self._due(now):
            self._plan(now)
        self._attempts.flush(now)
        self._outbox.flush()

    def _tend(self, now: Now) -> None:
        """Read and write what is to be, or, while the store is in trouble, find out whether it still is."""
        if self._outbox.trouble and (self._outbox.damaged or not self._outbox.mended):
            if self._outbox.is_due(now) and not self._write_left() and not self._ends.write_kept():
                self._outbox.probe(now)
            return
        self._ends.write_kept()  # what has ended while the others were written
        try:
            self._runs.catch_up()
            self._runs.tidy(now, self._attempts.runs_in_flight())
            if self._retention is not None and self._drain_until_s is None:
                self._retention.tick(now)
            if self._outbox.trouble:
                self._heads()
        except StoreUnavailable as error:
            self._outbox.failed(error, now)
            return
        if self._outbox.well(now):
            self._runs.read_all()  # what was written for others, and could not be told them, is on disk all the same
            self._attempts.changed = True
        self.clockwatch.tend()
        self._save_needs(now)

    def begin_with(self, left: Sequence[values.Settlement], error: StoreUnavailable) -> None:
        """Before the first tick: the store does not work, and these ends of an earlier battd's attempts come first."""
        self._left = left
        self._outbox.failed(error, self._clock.read())
        self.snapshot = replace(self.snapshot, store=self._outbox.trouble)  # the api serves before the first tick

    def _write_left(self) -> bool:
        """Write off what an earlier battd has left, if that could not be done at the start; whether there is any."""
        left = self._left

        def done(states: object, now: Now) -> None:
            self._left = ()
            log.warning("attempts of an earlier battd written off", attempts=len(left))

        if left:
            self._outbox.write(lambda tx: tx.settle(left), done)
        return bool(left)

    def _due(self, now: Now) -> bool:
        """Whether anything has happened that a plan could answer. Most ticks only hear from the disk."""
        moved = self._pool.moved() or self._attempts.changed or self._runs.changed
        return moved or now.mono_s >= min(self._wake_s, self._attempts.wake_s, self._planned_s + REST_S)

    def _plan(self, now: Now) -> None:
        self._attempts.changed = self._runs.changed = False
        self._attempts.wake_s, self._planned_s = float("inf"), now.mono_s
        self._attempts.look(now)
        self._gate.look(self._runs.works, len(self._attempts.active()), self._pool.refusals(), now)
        wanted = self._attempts.waiting() or self._runs.waiting() or self._width.short
        with self._gate.turn(wanted):
            self._width.widen(self._promises, now)
            self._attempts.width = min(self._width.built, self._gate.throttle.at_once)
            for slot in self._pool.slots():
                if slot.phase is SlotPhase.IDLE:
                    self._start_next(slot.id, now)
            world = self._look(now)
            self._holds.clear()
            self._lines.clear()
            held = []
            for command in plan(world, replace(self._settings.policy(), width=self._width.built)):
                self._carry_out(command, now)
                if isinstance(command, Held):
                    held.append(command)
            self._gate.held(held, now)
            self._width.narrow(held, bool(self._attempts.active()), now)
            self._gate.note(self._promises, self._attempts.active(), bool(held), now)
        self._wake_s = wake_at(world)
        if self._gate.is_near() and world.running:
            self._wake_s = min(self._wake_s, now.mono_s + NEAR_S)
        if now.mono_s - self._published_s >= PUBLISH_S:
            self._publish(world)

    def _promises(self) -> Space:
        """What attempts have been promised, and what slots still take that are on their way."""
        booting = sum(slot.phase is SlotPhase.BOOTING for slot in self._pool.slots())
        return self._attempts.promised() + Space(0, SLOT_THREADS * booting)

    def _look(self, now: Now) -> World:
        heads = self._heads_or_none(now)
        store_works = not self._outbox.trouble
        busy = self._attempts.tasks()
        return World(
            now=now,
            accepting=self._drain_until_s is None and store_works,
            runs=self._runs.views(),
            heads=heads,
            works=self._runs.works,
            running=self._attempts.running(),
            slots=[
                SlotView(slot.id, SlotPhase.BUSY, slot.room) if slot.id in busy else slot for slot in self._pool.slots()
            ],
            free=self._gate.free,
            ahead=self._attempts.ahead() if self._gate.ample else {},
            bad_rooms=self._pool.bad_rooms(now.mono_s),
            trouble=self._pool.trouble(),
            closed=Hold("service", 1, "battd is going down") if store_works else store_hold(self._outbox.trouble),
            last_start_s=self._runs.started_s,
            needs=self._gate.needs(),
            others=self._gate.others,
            pressure=self._gate.reading.pressure,
            throttle=self._gate.throttle,
            held_since=self._gate.held_since,
            relieved_s=self._gate.relieved_s,
            ended_s=self._gate.ended_s,
        )

    def _heads(self) -> dict[int, deque[Head]]:
        return self._runs.heads({attempt.head.task_id for attempt in self._attempts})

    def _heads_or_none(self, now: Now) -> dict[int, deque[Head]]:
        """What may start next; nothing where the store does not tell, and deadlines are kept all the same."""
        if self._outbox.trouble:
            return {}
        try:
            return self._heads()
        except StoreUnavailable as error:
            self._outbox.failed(error, now)
            return {}

    def _carry_out(self, command: Command, now: Now) -> None:
        match command:
            case Begin(head):
                self._runs.take(head, now)
                self._attempts.begin(command, now)
                if self._gate.held_since:
                    self._gate.started(Line.of(head))
            case Stop():
                if command.outcome is Outcome.EVICTED:
                    log.warning("an attempt is stopped", task=f"t{command.claim.task_id}", reason=command.reason)
                    self._gate.relieved(now)
                self._attempts.stop(command)
            case AskStacks():
                self._attempts.ask_stacks(command)
            case Renew(slot_id, room, reason):
                log.debug("slot renewed", slot=slot_id, cwd=room.cwd, reason=reason)
                if command.relief:
                    self._gate.relieved(now)
                self._pool.renew(slot_id, room)
            case CloseRun(run_id, why):
                self._runs.close(run_id, why)
            case Held(run_id, hold, line):
                if self._holds.get(run_id, hold).short == "slots":
                    self._holds[run_id] = hold  # what is out of the ordinary says more
                self._holds.setdefault(run_id, hold)
                if line is not None:
                    self._lines.setdefault(line, hold)

    def _start_next(self, slot_id: int, now: Now) -> bool:
        """Give a slot what was claimed ahead, if that still fits; whether something was started."""
        slot = self._pool.slot(slot_id)
        if slot is None or slot.phase is not SlotPhase.IDLE or self._outbox.trouble:
            return False
        return self._attempts.start_next(slot, now)

    def _save_needs(self, now: Now) -> None:
        """Have what was learned of kinds written, now and then."""
        if now.mono_s - self._saving_s < SAVE_S:
            return
        self._saving_s = now.mono_s
        rows = self._gate.learned.dirty()
        if rows:
            again = self._gate.learned.store_again
            names = [row.kind for row in rows]
            self._outbox.write(lambda tx: tx.save_kinds(rows), lambda done, now: None, lambda error, now: again(names))

    def _rest(self) -> None:
        now = self._clock.read()
        waits = self._runs.waiting() or not self._attempts.empty()
        until_s = min(self._wake_s, self._attempts.wake_s, now.mono_s + (REST_S if waits else IDLE_S))
        until_s = min(until_s, self._outbox.due_s())
        if self._runs.next_due_ms is not None and not self._outbox.trouble:
            until_s = min(until_s, now.mono_s + (self._runs.next_due_ms - now.wall_ms) / 1000)
        if self._retention is not None and not self._outbox.trouble and self._drain_until_s is None:
            until_s = min(until_s, self._retention.wake_s)
        descriptors = [self._inbox.wake, *self._pool.descriptors()]
        if descriptors != self._watched:
            self._watched, self._waiter = descriptors, select.poll()
            for fd in descriptors:
                self._waiter.register(fd, select.POLLIN)
        # Rounded up: a deadline is met by waking just after it, not by spinning just before it.
        self._ready = {fd for fd, _ in self._waiter.poll(max(0.0, until_s - now.mono_s) * 1000 + 1)}

    # The end

    def _drained(self) -> bool:
        """Whether nothing is left to wait for; past the time allowed, what runs is stopped and goes again later."""
        if self._drain_until_s is None:
            return False
        self._point("drain")
        now = self._clock.read()
        late = now.mono_s >= self._drain_until_s
        self._attempts.drain(now=late)
        self._attempts.flush(now)
        self._outbox.flush()
        if late and self._outbox.failed_s >= self._drain_until_s and (unwritten := self._attempts.unwritten()):
            log.error(
                "left with ends that could not be written: these attempts are lost, uncharged, at the next start",
                tasks=[f"t{task_id}" for task_id in sorted(claim.task_id for claim in unwritten)],
                reason=self._outbox.trouble,
            )
            return True
        return self._attempts.empty()

    def _publish(self, world: World) -> None:
        self._published_s = world.now.mono_s
        self.snapshot = Snapshot(
            slots=tuple(self._pool.status()),
            tasks=self._attempts.tasks(),
            reading=self._gate.reading,
            others=self._gate.others,
            throttle=self._gate.throttle,
            promised=self._attempts.promised(),
            reserve=self._gate.reserve,
            promises=tuple(Promise.of(one) for one in self._attempts.active()),
            holds=dict(self._holds),
            lines=dict(self._lines),
            changes=tuple(self._gate.changes),
            changed=self._gate.changed,
            evictions=self._gate.evictions,
            built=self._width.built,
            total=self._gate.free.total,
            ledger=self._gate.ledger.where or self._gate.ledger.why,
            draining=self._drain_until_s is not None,
            store=self._outbox.trouble or WELL,
            writing=self._attempts.writing(),
        )

    def close(self) -> None:
        """Let go of descriptors and the read connection; the loop must have ended."""
        self._reader.close()
        self._inbox.close()
