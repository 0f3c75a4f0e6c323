"""The supervisor's loop: look at the world, plan, carry it out. In battd's main thread; it never waits for disk."""

from __future__ import annotations

import itertools
import json
import os
import select
import shlex
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from batt_supervisor.clock import Clock, Now
from batt_supervisor.config import Settings
from batt_supervisor.core import plan as planning
from batt_supervisor.core.admission import Free, Hold
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Outcome, Work
from batt_supervisor.core.plan import Begin, CloseRun, Command, Held, Renew, SlotPhase, Stop, World, plan
from batt_supervisor.core.retry import judge
from batt_supervisor.daemon.attempts import Attempt, Settling
from batt_supervisor.daemon.endings import ending_of
from batt_supervisor.daemon.runs import OpenRun
from batt_supervisor.errors import ClaimLost, StoreUnavailable
from batt_supervisor.headroom.machine import Headroom
from batt_supervisor.pool.protocol import Exit, Pool, Request, SlotStatus
from batt_supervisor.store import Store, moves, submit
from batt_supervisor.store.read import Reader, RunRow

REST_S: Final = 0.25
"""Longest the loop sleeps: headroom may come back, and the watchdog wants a sign of life."""

STORE_RETRY_S: Final = 1.0

SUBMISSION_TTL_MS: Final = 3_600_000
"""A submission nobody has gone on with for so long is given up."""

log = structlog.get_logger("loop")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The loop's view for people, replaced whole several times a second; any thread may read it."""

    slots: tuple[SlotStatus, ...]
    tasks: dict[int, int]  # slot id -> task id
    free: Free
    promised_memory_bytes: int
    promised_threads: int
    holds: dict[int, Hold]
    draining: bool
    store: str


@dataclass(frozen=True, slots=True)
class RunChanged:
    """Somebody changed a run's own row: it was sealed, is to be closed, or takes tasks again."""

    run_id: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody asked for the end of a running task."""

    task_id: int


class Loop:
    """battd's decisions and their carrying out, one tick after another.

    Attributes:
        beat_s: Monotonic time of the last tick; a watchdog reads it.
        snapshot: See Snapshot.
    """

    def __init__(self, store: Store, pool: Pool, headroom: Headroom, clock: Clock, settings: Settings) -> None:
        self.settings = settings
        self._store, self._pool, self._headroom, self._clock = store, pool, headroom, clock
        self._reader: Reader = store.reader()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inbox: deque[Callable[[Now], None]] = deque()
        self._runs: dict[int, OpenRun] = {}
        self._works: dict[tuple[int, int], Work] = {}
        self._attempts: dict[int, Attempt] = {}  # by slot
        self._settling: dict[int, Settling] = {}  # by task
        self._serials = itertools.count(1)
        self._holds: dict[int, Hold] = {}
        self._last_start_s: dict[int, float] = {}
        self._next_due_ms: int | None = self._reader.next_due_ms()
        self._promoting = False
        self._next_expiry_ms = 0
        self._store_trouble = ""
        self._store_retry_s = 0.0
        self._drain_until_s: float | None = None
        self._wake_s = float("inf")
        now = clock.read()
        self.beat_s = now.mono_s
        self._snapshot_s = 0.0
        self.snapshot = Snapshot((), {}, headroom.read(now.mono_s), 0, 0, {}, False, "ok")
        for row in self._reader.open_runs():
            self._adopt(row)

    # What other threads may call

    def post(self, change: RunChanged | StopAsked) -> None:
        """Any thread: say that something was written that the loop must act on."""
        match change:
            case RunChanged(run_id):
                self._put(lambda now: self._read_run(run_id))
            case StopAsked(task_id):
                self._put(lambda now: self._note_stop(task_id))

    def touched(self, run_ids: set[int]) -> None:
        """The writer's thread: these runs' tasks have moved."""
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is not None:
                run.touched = True

    def drain(self) -> None:
        """A signal handler: start nothing more, wait for what runs; the second time, at once."""
        now_s = self._clock.read().mono_s
        first = self._drain_until_s is None
        self._drain_until_s = now_s + (self.settings.drain_timeout if first else 0.0)
        os.eventfd_write(self._wake, 1)

    def reload(self, settings: Settings) -> None:
        """The loop's own thread: go by these settings from the next tick on."""
        self.settings = settings
        self._pool.resize(settings.slots, self._clock.read().mono_s)

    def _put(self, note: Callable[[Now], None]) -> None:
        self._inbox.append(note)
        os.eventfd_write(self._wake, 1)

    # The loop

    def run(self, each_round: Callable[[], None]) -> None:
        """Tick until drained, with `each_round` after every tick."""
        while not self._drained():
            self.tick()
            each_round()
            self._rest()

    def nudge(self) -> None:
        """A signal handler: go round now."""
        os.eventfd_write(self._wake, 1)

    def tick(self) -> None:
        """One round."""
        now = self._clock.read()
        self.beat_s = now.mono_s
        while self._inbox:
            self._inbox.popleft()(now)
        for seen in self._pool.poll(now.mono_s):
            self._on_exit(seen, now)
        self._tidy(now)
        world = self._look(now)
        self._holds.clear()
        for command in plan(world, self.settings.policy()):
            self._carry_out(command, now)
        self._wake_s = planning.wake_at(world)
        self._publish(world)

    def _rest(self) -> None:
        now = self._clock.read()
        until_s = min(self._wake_s, now.mono_s + REST_S)
        if self._next_due_ms is not None:
            until_s = min(until_s, now.mono_s + (self._next_due_ms - now.wall_ms) / 1000)
        waiter = select.poll()
        for fd in (self._wake, *self._pool.descriptors()):
            waiter.register(fd, select.POLLIN)
        # Rounded up: a deadline is met by waking just after it, not by spinning just before it.
        waiter.poll(max(0.0, until_s - now.mono_s) * 1000 + 1)
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _look(self, now: Now) -> World:
        for attempt in self._attempts.values():
            if attempt.serial and attempt.called_s is None:
                attempt.called_s = self._pool.called(attempt.slot_id, attempt.serial)
        taken = {attempt.head.task_id for attempt in self._attempts.values()}
        if not self._store_trouble:
            for run in self._runs.values():
                run.refill(self._reader, taken)
        slots = [
            planning.SlotView(slot.id, SlotPhase.BUSY, slot.room) if slot.id in self._attempts else slot
            for slot in self._pool.slots()
        ]
        return World(
            now=now,
            accepting=self._drain_until_s is None and not self._store_trouble,
            runs=[run.view for run in self._runs.values()],
            heads={run.row.id: run.queue for run in self._runs.values() if run.queue},
            works=self._works,
            running=[attempt.running(self.settings.boot_timeout) for attempt in self._attempts.values()],
            slots=slots,
            free=self._headroom.read(now.mono_s),
            trouble=self._pool.trouble(),
            last_start_s=self._last_start_s,
        )

    def _carry_out(self, command: Command, now: Now) -> None:
        match command:
            case Begin():
                self._claim(command, now)
            case Stop():
                attempt = self._attempts[command.slot_id]
                attempt.stop = command
                self._pool.end(command.slot_id, attempt.serial)
            case Renew(slot_id, room, reason):
                log.debug("slot renewed", slot=slot_id, cwd=room.cwd, reason=reason)
                self._pool.renew(slot_id, room)
            case CloseRun(run_id, why):
                log.info("run's deadline passed", run=f"r{run_id}")
                self._write(lambda tx: moves.ask_close(tx, run_id, why), lambda count, now: self._read_run(run_id))
            case Held(run_id, hold):
                self._holds.setdefault(run_id, hold)

    # Starting

    def _claim(self, begin: Begin, now: Now) -> None:
        head = begin.head
        run = self._runs[head.run_id]
        run.queue.remove(head)
        self._last_start_s[head.run_id] = now.mono_s
        attempt = Attempt(
            head, self._works[head.run_id, head.stage], begin.slot_id, begin.need, begin.alone, now.mono_s
        )
        self._attempts[begin.slot_id] = attempt
        worker = self._pool.worker(begin.slot_id)
        self._write(
            lambda tx: moves.claim(tx, head.task_id, head.attempt, worker),
            lambda claimed, now: self._start(attempt, claimed.args, now),
            lambda error, now: self._unclaimed(attempt, error),
        )

    def _unclaimed(self, attempt: Attempt, error: Exception) -> None:
        """It was not claimed: cancelled in the meantime, or the store cannot write. Nothing was started."""
        del self._attempts[attempt.slot_id]
        run = self._runs.get(attempt.head.run_id)
        if run is not None:
            run.dirty = True
            if isinstance(error, StoreUnavailable):
                run.queue.appendleft(attempt.head)

    def _start(self, attempt: Attempt, args: str, now: Now) -> None:
        attempt.serial = next(self._serials)
        attempt.since_s = now.mono_s
        work = attempt.work
        body: dict[str, Any] = {"task": attempt.claim.task_id, "attempt": attempt.claim.attempt}
        if work.function is not None:
            body |= {"op": "call", "function": work.function, "args": json.loads(args)}
            if work.limits.soft_timeout_s is not None:
                body["soft_timeout_s"] = work.limits.soft_timeout_s
        else:
            body |= {"op": "run", "command": _filled(work, args), "shell": work.shell}
        self._pool.send(attempt.slot_id, Request(attempt.serial, body))

    def _note_stop(self, task_id: int) -> None:
        for attempt in self._attempts.values():
            if attempt.head.task_id == task_id:
                attempt.stop_asked = True

    # Ending

    def _on_exit(self, seen: Exit, now: Now) -> None:
        attempt = self._attempts.get(seen.slot_id)
        if attempt is None or attempt.serial != seen.serial:
            return
        called_s = seen.called_s or attempt.called_s
        wall_s = round((seen.ended_s or now.mono_s) - (called_s or attempt.since_s), 6)
        ending = ending_of(seen, attempt.stop, called=called_s is not None, wall_s=wall_s)
        del self._attempts[seen.slot_id]
        span = moves.LogSpan(seen.log, seen.log_from, seen.log_to) if seen.log_to > seen.log_from else None
        self._settle(Settling(attempt, ending, span))

    def _settle(self, settling: Settling) -> None:
        attempt, ending = settling.attempt, settling.ending
        verdict = judge(ending.outcome, attempt.head.tries, attempt.work.limits, attempt.head.task_id)
        if ending.outcome is not Outcome.OK:
            # What a task does to itself alone is its own story; battctl tells it.
            tell = log.debug if ending.outcome is Outcome.EXCEPTION else log.info
            tell(
                "attempt ended badly",
                task=f"t{attempt.claim.task_id}", attempt=attempt.claim.attempt, outcome=ending.outcome.value,
                reason=ending.reason, next=verdict.event.value,
            )  # fmt: skip
        self._settling[attempt.claim.task_id] = settling
        settling.retry_at_s = None
        self._write(
            lambda tx: moves.settle(tx, attempt.claim, ending, verdict, settling.span),
            lambda state, now: self._settled(attempt, state, verdict.delay_s, now),
            lambda error, now: self._unsettled(settling, error, now),
        )

    def _settled(self, attempt: Attempt, state: State, delay_s: float, now: Now) -> None:
        del self._settling[attempt.claim.task_id]
        run = self._runs.get(attempt.head.run_id)
        if state is State.QUEUED and run is not None:
            run.dirty = True
        elif state is State.SCHEDULED:
            # The row's own time was taken in the writer, a little earlier than this one.
            due_ms = now.wall_ms + round(delay_s * 1000)
            self._next_due_ms = min(self._next_due_ms or due_ms, due_ms)

    def _unsettled(self, settling: Settling, error: Exception, now: Now) -> None:
        if isinstance(error, ClaimLost):
            log.warning("result dropped", reason=str(error))
            del self._settling[settling.attempt.claim.task_id]
        else:
            settling.retry_at_s = now.mono_s + STORE_RETRY_S

    # Runs

    def _read_run(self, run_id: int) -> None:
        row = self._reader.run(run_id)
        if row is None or row.sealed_at_ms is None or row.ended_at_ms is not None:
            self._drop(run_id)
            return
        known = self._runs.get(run_id)
        if known is None:
            self._adopt(row)
        else:
            known.row, known.dirty, known.touched = row, True, True
            if row.closing:
                known.queue.clear()

    def _adopt(self, row: RunRow) -> None:
        run = self._runs[row.id] = OpenRun(row, self._reader.stages(row))
        self._works |= {(row.id, stage.number): stage.work for stage in run.stages}

    def _drop(self, run_id: int) -> None:
        run = self._runs.pop(run_id, None)
        for stage in run.stages if run else ():
            del self._works[run_id, stage.number]
        self._last_start_s.pop(run_id, None)

    def _tidy(self, now: Now) -> None:
        """Everything that moves tasks without an attempt: due times, closing runs, stages, ends that had to wait."""
        for settling in list(self._settling.values()):
            if settling.retry_at_s is not None and now.mono_s >= settling.retry_at_s:
                self._settle(settling)
        if self._store_trouble and now.mono_s >= self._store_retry_s and not self._settling:
            self._store_trouble = ""  # the next claim tells
        if self._store_trouble:
            return
        if self._next_due_ms is not None and now.wall_ms >= self._next_due_ms and not self._promoting:
            self._promoting = True
            self._write(moves.promote, self._promoted, self._not_promoted)
        if now.wall_ms >= self._next_expiry_ms:
            self._next_expiry_ms = now.wall_ms + SUBMISSION_TTL_MS // 4
            self._write(lambda tx: submit.expire_unsealed(tx, SUBMISSION_TTL_MS), lambda count, now: None)
        in_flight = {attempt.head.run_id for attempt in self._attempts.values()}
        in_flight |= {settling.attempt.head.run_id for settling in self._settling.values()}
        for run in list(self._runs.values()):
            if run.touched and not run.busy:
                self._tidy_run(run, idle=run.row.id not in in_flight)

    def _tidy_run(self, run: OpenRun, *, idle: bool) -> None:
        run_id, why = run.row.id, run.row.closing
        if why is not None:
            self._some(run, lambda tx: moves.close_some(tx, run_id, why))
            return
        if len(run.stages) > 1:
            run.touched = False
            due = run.stages_due(self._reader)
            if due:
                self._some(run, lambda tx: moves.release(tx, run_id, due[0]))
                return
        if idle and not run.queue:
            run.touched = False
            self._read_run_end(run)

    def _some(self, run: OpenRun, operation: Callable[[Any], int]) -> None:
        """Run a chunked operation; it is repeated until it finds nothing to do."""
        run.busy, run.touched = True, False

        def done(count: int, now: Now) -> None:
            run.busy = False
            run.dirty = True
            run.touched = count > 0
            if not count:
                self._read_run_end(run)

        def failed(error: Exception, now: Now) -> None:
            run.busy, run.touched = False, True

        self._write(operation, done, failed)

    def _read_run_end(self, run: OpenRun) -> None:
        row = self._reader.run(run.row.id)
        if row is None or row.ended_at_ms is not None:
            self._drop(run.row.id)
            if row is not None:
                log.info("run ended", run=f"r{run.row.id}", name=run.row.name)

    def _promoted(self, run_ids: set[int], now: Now) -> None:
        self._promoting = False
        for run_id in run_ids:
            if run_id in self._runs:
                self._runs[run_id].dirty = True
        self._next_due_ms = self._reader.next_due_ms()

    def _not_promoted(self, error: Exception, now: Now) -> None:
        self._promoting = False

    # The store

    def _write(
        self,
        operation: Callable[[Any], Any],
        done: Callable[[Any, Now], None],
        failed: Callable[[Exception, Now], None] = lambda error, now: None,
    ) -> None:
        """Hand an operation to the writer; one of the two is called in a later tick."""
        self._store.writer.submit(operation).add_done_callback(partial(self._written, done, failed))

    def _written(
        self, done: Callable[[Any, Now], None], failed: Callable[[Exception, Now], None], future: Future[Any]
    ) -> None:
        """In the writer's thread."""

        def note(now: Now) -> None:
            error = future.exception()
            if error is None:
                done(future.result(), now)
                return
            assert isinstance(error, Exception)
            if isinstance(error, StoreUnavailable):
                if not self._store_trouble:
                    log.error("store unavailable", reason=str(error))
                self._store_trouble, self._store_retry_s = str(error), now.mono_s + STORE_RETRY_S
            failed(error, now)

        self._put(note)

    # The end

    def _drained(self) -> bool:
        """Whether nothing is left to wait for; past the time allowed, what runs is stopped and goes again later."""
        if self._drain_until_s is None:
            return False
        if not self._attempts and not self._settling:
            return True
        if self._clock.read().mono_s >= self._drain_until_s:
            for attempt in self._attempts.values():
                if attempt.stop is None and attempt.serial:
                    reason = "battd was stopped before it had ended"
                    attempt.stop = Stop(attempt.claim, attempt.slot_id, Outcome.LOST, reason)
                    self._pool.end(attempt.slot_id, attempt.serial)
        return False

    def _publish(self, world: World) -> None:
        if world.now.mono_s - self._snapshot_s < 0.1:
            return
        self._snapshot_s = world.now.mono_s
        young = [one for one in world.running if world.now.mono_s - one.sent_s < planning.PROMISE_S]
        self.snapshot = Snapshot(
            slots=tuple(self._pool.status()),
            tasks={slot_id: attempt.head.task_id for slot_id, attempt in self._attempts.items()},
            free=world.free,
            promised_memory_bytes=sum(one.need.memory_bytes for one in young),
            promised_threads=sum(one.need.threads for one in young),
            holds=dict(self._holds),
            draining=self._drain_until_s is not None,
            store=self._store_trouble or "ok",
        )

    def close(self) -> None:
        """Let go of descriptors and the read connection; the loop must have ended."""
        self._reader.close()
        os.close(self._wake)


def _filled(work: Work, args: str) -> list[str]:
    """A command's words with `{item}` filled in; quoted where a shell will read it."""
    given = json.loads(args)
    if not isinstance(given, dict) or "item" not in given:
        return list(work.command)
    item = str(given["item"])
    return [word.replace("{item}", shlex.quote(item) if work.shell else item) for word in work.command]
