"""What the loop keeps in mind of each open run: little, and bounded, however long its queue is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.core.model import Head, Work
from batt_supervisor.core.world import Closing, RunView
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store.protocol import Reads, Writes
from batt_supervisor.store.rows import RunRow, StageRow

WINDOW: Final = 64
"""Queued tasks of a run that are kept in memory, without their arguments."""

END: Final = 2**62
"""Behind the place of every task."""

SUBMISSION_TTL_MS: Final = 3_600_000
"""A submission nobody has gone on with for so long is given up."""

T = TypeVar("T")

log = structlog.get_logger("runs")


@dataclass(slots=True)
class OpenRun:
    """A sealed run that has not ended.

    Attributes:
        queue: The first queued tasks of each of its stages.
        dirty: The store may have queued tasks that are not in `queue`.
        fresh: Some have been queued since it was read last.
        more: Stages that may have more queued than were read.
        behind: For each stage, the place in the run of the last one that was read. What is queued up to there is in
            `queue`, or taken, unless it is `fresh`.
        touched: The store has changed something of it since it was last tidied.
        busy: An operation that closes or releases some of its tasks is on its way to the writer.
        asked: That it is to be closed is on its way there.
    """

    row: RunRow
    stages: list[StageRow]
    queue: deque[Head] = field(default_factory=deque)
    dirty: bool = True
    fresh: bool = False
    more: set[int] = field(default_factory=set)
    behind: dict[int, int] = field(default_factory=dict)
    touched: bool = True
    busy: bool = False
    asked: bool = False

    @property
    def view(self) -> RunView:
        return RunView(self.row.id, self.row.deadline_at_ms, self.row.closing)

    def refill(self, reader: Reads, taken: Container[int]) -> None:
        """Read on in the queue where it has run empty, from its front where something is `fresh`.

        Args:
            taken: Tasks being claimed just now. There can be more of them than are read at once, and until their claims
                are on disk they stand at the front.
        """
        if not self.dirty or self.row.closing or not self._wants_more():
            return
        before, kept = ({}, []) if self.fresh else (self.behind, list(self.queue))
        heads = reader.heads(self.row.id, WINDOW, {**before, **{head.stage: END for head in kept}})
        self.fresh = False
        self.behind = {**before, **{head.stage: head.index for head in heads}}
        self.more = {head.stage for head in (*kept, *heads)}
        self.dirty = bool(self.more)
        kept += [head for head in heads if head.task_id not in taken]
        self.queue = deque(sorted(kept, key=lambda head: head.index))

    def _wants_more(self) -> bool:
        """Whether a stage may have queued tasks and none of them is in hand: those of another may be held for long."""
        if not self.queue:
            return True
        return len(self.stages) > 1 and (self.fresh or not self.more <= {head.stage for head in self.queue})

    def stages_due(self, reader: Reads) -> list[int]:
        """Stages with waiting tasks whose turn has come."""
        open_counts: dict[int, int] = {}
        waiting: set[int] = set()
        for tally in reader.tallies(self.row.id):
            if tally.state in OPEN:
                open_counts[tally.stage] = open_counts.get(tally.stage, 0) + tally.count
            if tally.state is State.WAITING:
                waiting.add(tally.stage)
        return [
            stage.number
            for stage in self.stages
            if stage.number in waiting and not any(open_counts.get(number) for number in stage.after)
        ]


class OpenRuns:
    """All open runs, and everything that moves their tasks without an attempt.

    Attributes:
        works: The work of each (run, stage).
        changed: Tasks may have become ready since this was last reset.
        started_s: When each of them last had a start, monotonic; absent means never.
        shifting: Times in rows are being moved along with the wall clock; nothing goes by them until that is done.
    """

    def __init__(self, reader: Reads, outbox: Outbox) -> None:
        self._reader, self._outbox = reader, outbox
        self._runs: dict[int, OpenRun] = {}
        self.works: dict[tuple[int, int], Work] = {}
        self.started_s: dict[int, float] = {}
        self.changed = True
        self.shifting = False
        self._next_due_ms: int | None = None
        self._promoting = False
        self._next_expiry_ms = 0
        self._known = False  # what the store had open at first
        self._due_known = False
        self._unread: set[int] = set()  # runs whose own rows may have changed
        self._over: set[int] = set()  # runs that may have ended

    def get(self, run_id: int) -> OpenRun | None:
        return self._runs.get(run_id)

    def views(self) -> list[RunView]:
        views = (run.view for run in self._runs.values())
        return [replace(view, deadline_at_ms=None) for view in views] if self.shifting else list(views)

    @property
    def next_due_ms(self) -> int | None:
        """When the first scheduled task may be queued; None: there is none, or it is seen to."""
        return None if self._promoting or self.shifting else self._next_due_ms

    def heads(self, taken: Container[int]) -> dict[int, deque[Head]]:
        """The front of each run's queue, read again where it has run empty."""
        for run in self._runs.values():
            run.refill(self._reader, taken)
        return {run.row.id: run.queue for run in self._runs.values() if run.queue}

    def waiting(self) -> bool:
        """Whether anything may be queued."""
        return any(run.queue or run.dirty for run in self._runs.values())

    def take(self, head: Head, now: Now) -> None:
        """This task is being claimed."""
        self.started_s[head.run_id] = now.mono_s
        self._runs[head.run_id].queue.remove(head)

    def touched(self, run_ids: set[int]) -> None:
        """The writer's thread: these runs' tasks have moved."""
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is not None:
                run.touched = True

    def queued(self, run_id: int) -> None:
        """A task of this run is queued again."""
        run = self._runs.get(run_id)
        if run is not None:
            run.dirty = run.fresh = self.changed = True

    def scheduled(self, due_ms: int) -> None:
        """A task may be queued at that time."""
        self._next_due_ms = min(self._next_due_ms or due_ms, due_ms)

    def read(self, run_id: int) -> None:
        """Somebody changed this run's own row: it was sealed, is to be closed, or takes tasks again."""
        self._unread.add(run_id)

    def read_all(self) -> None:
        """All of their rows may have changed, and when tasks are due."""
        self._unread |= self._runs.keys()
        self._due_known = False

    def catch_up(self) -> None:
        """Read what was found to have changed.

        Raises:
            StoreUnavailable: It cannot be read; what was not is read the next time.
        """
        if not self._known:
            for row in self._reader.open_runs():
                self._adopt(row)
            self._known = True
        if not self._due_known:
            self._next_due_ms = self._reader.next_due_ms()
            self._due_known = True
        while self._unread:
            run_id = next(iter(self._unread))
            self._read(run_id)
            self._unread.discard(run_id)
        while self._over:
            run_id = next(iter(self._over))
            self._look_at_end(run_id)
            self._over.discard(run_id)

    def _read(self, run_id: int) -> None:
        self.changed = True
        row = self._reader.run(run_id)
        if row is None or row.sealed_at_ms is None or row.ended_at_ms is not None:
            self._drop(run_id)
            return
        known = self._runs.get(run_id)
        if known is None:
            self._adopt(row)
            return
        known.row, known.dirty, known.fresh, known.touched = row, True, True, True
        if row.closing:
            known.queue.clear()

    def close(self, run_id: int, why: Closing) -> None:
        """Let nothing more of a run start; asked again where the store is in trouble."""
        run = self._runs.get(run_id)
        if run is None or run.asked or self._outbox.trouble:
            return
        run.asked = True
        log.info("run's deadline passed", run=f"r{run_id}")

        def done(count: int, now: Now) -> None:
            run.asked = False
            self.read(run_id)

        def failed(error: Exception, now: Now) -> None:
            run.asked = False

        self._outbox.write(lambda tx: tx.ask_close(run_id, why), done, failed)

    def tidy(self, now: Now, in_flight: Container[int]) -> None:
        """Queue what is due, go on closing and releasing, notice runs that have ended.

        Args:
            in_flight: Runs with an attempt in hand: they have not ended.
        """
        if self.next_due_ms is not None and now.wall_ms >= self.next_due_ms:
            self._promoting = True
            self._outbox.write(lambda tx: tx.promote(), self._promoted, self._not_promoted)
        # Neither earlier nor much later, wherever the wall clock is set to.
        until_ms = self._next_expiry_ms - now.wall_ms
        if not self.shifting and not 0 < until_ms <= SUBMISSION_TTL_MS:
            self._next_expiry_ms = now.wall_ms + SUBMISSION_TTL_MS // 4
            self._outbox.write(lambda tx: tx.expire_unsealed(SUBMISSION_TTL_MS), self._expired)
        for run in list(self._runs.values()):
            if run.touched and not run.busy:
                self._tidy_run(run, idle=run.row.id not in in_flight)

    def _expired(self, done: bool, now: Now) -> None:
        if not done:
            self._next_expiry_ms = now.wall_ms  # there is more to remove

    def _adopt(self, row: RunRow) -> None:
        run = self._runs[row.id] = OpenRun(row, self._reader.stages(row))
        self.works |= {(row.id, stage.number): stage.work for stage in run.stages}

    def _drop(self, run_id: int) -> None:
        self.started_s.pop(run_id, None)
        run = self._runs.pop(run_id, None)
        for stage in run.stages if run else ():
            del self.works[run_id, stage.number]

    def _tidy_run(self, run: OpenRun, *, idle: bool) -> None:
        run_id, why = run.row.id, run.row.closing
        if why is not None:
            self._some(run, lambda tx: tx.close_some(run_id, why))
            return
        if len(run.stages) > 1:
            due = self._looked(run, lambda: run.stages_due(self._reader))
            if due:
                self._some(run, lambda tx: tx.release(run_id, due[0]))
                return
        if idle and not run.queue:
            self._looked(run, lambda: self._look_at_end(run_id))

    def _looked(self, run: OpenRun, look: Callable[[], T]) -> T:
        """Look at what the store has changed of a run; it counts as looked at only if that could be read."""
        run.touched = False
        try:
            return look()
        except StoreUnavailable:
            run.touched = True
            raise

    def _some(self, run: OpenRun, operation: Callable[[Writes], int]) -> None:
        """Run a chunked operation; it is repeated until it finds nothing to do."""
        run_id, run.busy, run.touched = run.row.id, True, False

        def done(count: int, now: Now) -> None:
            run.busy, run.dirty, run.fresh = False, True, True
            run.touched = run.touched or count > 0  # others may have moved its tasks in the meantime
            self.changed = True
            if not count:
                self._over.add(run_id)

        def failed(error: Exception, now: Now) -> None:
            run.busy, run.touched = False, True

        self._outbox.write(operation, done, failed)

    def _look_at_end(self, run_id: int) -> None:
        row = self._reader.run(run_id)
        if row is None or row.ended_at_ms is not None:
            self._drop(run_id)
            if row is not None:
                log.info("run ended", run=f"r{run_id}", name=row.name)

    def _promoted(self, run_ids: set[int], now: Now) -> None:
        self._promoting = False
        for run_id in run_ids:
            self.queued(run_id)
        self._due_known = False

    def _not_promoted(self, error: Exception, now: Now) -> None:
        self._promoting = False
