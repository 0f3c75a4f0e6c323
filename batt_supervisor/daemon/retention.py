"""Retention at work: looks now and then at what is to go, and removes it in steps between the loop's other business.

One step is with the writer at a time, and a pause as long as the step follows it, so that claims and ends of attempts
have the writer for half of the time at least. `core/retention.py` says what goes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.core import retention
from batt_supervisor.core.lifecycle import run_state
from batt_supervisor.core.retention import Ended, Excess, Rules
from batt_supervisor.daemon.leftovers import Leftovers
from batt_supervisor.daemon.outbox import Outbox
from batt_supervisor.errors import Refused
from batt_supervisor.pool.protocol import Pool
from batt_supervisor.store.files import Weighing
from batt_supervisor.store.protocol import Operation, Reads, Writes
from batt_supervisor.store.rows import Age, EndedRow
from batt_supervisor.store.values import Removed

T = TypeVar("T")

PAGE: Final = 200
"""Ended runs that are looked at in one round."""

AGAIN_S: Final = 1.0
"""How long to wait after something went wrong."""

FIRST: Final = (-1, 0)
"""Before the first place in the order of ends."""

log = structlog.get_logger("retention")


class Retention:
    """What goes, and its going.

    Args:
        folder: The state directory.
        rules: What is kept.

    Attributes:
        wake_s: When it wants the loop to go round; monotonic.
        working: Something is being removed.
    """

    def __init__(self, reader: Reads, outbox: Outbox, pool: Pool, folder: Path, rules: Rules, now: Now) -> None:
        self._reader, self._outbox, self._pool, self._folder = reader, outbox, pool, folder
        self._rules = rules
        self._left = Leftovers(folder, self._living_logs, reader.logs_named, now)
        self._going: list[int] = []
        self._asked = True  # an earlier battd may have left some half-way, and pages that it has not given back
        self._shrinking = True
        self._age: Age | None = None
        self._counted_s: float | None = None
        self._counted = self._told = False
        self._events_to = self._events_gone = 0
        self._weighing: Weighing | None = None
        self._files_bytes: int | None = None
        self._after: tuple[int, int] | None = None
        self._busy = False
        self._next_s = self._look_s = self.wake_s = now.mono_s

    @property
    def working(self) -> bool:
        return self._busy or self._asked or bool(self._going) or self._shrinking or self._left.results_left

    def change(self, rules: Rules, now: Now) -> None:
        """Go by these from now on."""
        self._rules = rules
        self._look_s = self._next_s = self.wake_s = now.mono_s

    def go_on(self, now: Now) -> None:
        """Somebody has said of a run that it is to go; that is on disk."""
        self._asked = True
        self._next_s = self.wake_s = now.mono_s

    def tick(self, now: Now) -> None:
        """A step, where it is time for one.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        if now.mono_s < self.wake_s:
            return
        self._left.tick(now)
        if not self._busy and now.mono_s >= self._next_s:
            self._step(now)
        self.wake_s = min(self._left.wake_s, float("inf") if self._busy else self._next_s)

    def _step(self, now: Now) -> None:
        self._next_s = now.mono_s
        if self._asked:
            self._going, self._asked = self._reader.going(), False
            self._tell_of_space()
        elif self._going:
            run_id = self._going[0]
            self._write(now, lambda tx: tx.remove_some(run_id), partial(self._removed, run_id))
        elif self._events_to > self._events_gone:
            up_to = self._events_to
            self._write(now, lambda tx: tx.forget_events(up_to), self._forgotten)
        elif self._shrinking:
            self._write(now, lambda tx: tx.shrink(), self._shrunk)
        elif self._counted:
            self._begin()
        elif self._weighing is not None:
            self._weigh()
        elif self._after is not None:
            self._look_at_page(now)
        elif now.mono_s >= self._look_s:
            self._look(now)
        else:
            self._next_s = self._look_s

    def _write(self, now: Now, operation: Operation[T], done: Callable[[T, Now], None]) -> None:
        self._busy = True
        sent_s = now.mono_s

        def written(answer: T, now: Now) -> None:
            self._busy = False
            self._next_s = self.wake_s = 2 * now.mono_s - sent_s
            done(answer, now)

        def failed(error: Exception, now: Now) -> None:
            self._busy = False
            log.warning("retention waits", reason=str(error))
            self._next_s = self.wake_s = now.mono_s + AGAIN_S

        self._outbox.write(operation, written, failed)

    def _tell_of_space(self) -> None:
        space = self._reader.space()
        if not (space.shrinks or self._told):
            self._told = True
            log.info("the database's file keeps its size when something is removed; see docs/operations.md, Retention")

    # What is being removed

    def _removed(self, run_id: int, removed: Removed, now: Now) -> None:
        freed = self._left.add(removed.results, removed.logs, now)
        if self._files_bytes is not None:
            self._files_bytes -= freed
        if removed.done:
            self._going.remove(run_id)
            log.info("run removed", run=f"r{run_id}")
            self._shrinking = True

    def _forgotten(self, events: int, now: Now) -> None:
        if events:
            self._shrinking = True
        else:
            self._events_gone = self._events_to

    def _shrunk(self, done: bool, now: Now) -> None:
        self._shrinking = not done

    # What is to be removed

    def _look(self, now: Now) -> None:
        """Let time pass, then look at the ended runs page by page."""
        self._look_s = now.mono_s + self._rules.look_s
        passed_ms = None if self._counted_s is None else round((now.mono_s - self._counted_s) * 1000)
        grain_ms, longest_ms = round(self._rules.look_s * 500), round(self._rules.longest_s * 1000)

        def counted(lived_ms: int, later: Now) -> None:
            self._counted_s, self._counted = now.mono_s, True

        self._write(now, lambda tx: tx.pass_time(passed_ms, grain_ms, longest_ms), counted)

    def _begin(self) -> None:
        age = self._age = self._reader.age()
        self._counted = False
        if self._rules.events_s is not None:
            self._events_to = retention.written_before(self._rules.events_s, age.lived_ms, age.marks)
        self._after = None if self._rules.youngest_s is None else FIRST
        if self._rules.size_bytes is not None:
            self._weighing = Weighing(self._folder / "results", self._folder / "logs")

    def _weigh(self) -> None:
        assert self._weighing is not None
        self._weighing.step()
        if self._weighing.done:
            self._files_bytes, self._weighing = self._weighing.size_bytes, None

    def _look_at_page(self, now: Now) -> None:
        """Say of some ended runs which go; it is gone on with when they are gone."""
        assert self._age is not None and self._after is not None
        lived_ms, marks = self._age.lived_ms, self._age.marks
        up_to = retention.written_before(self._rules.youngest_s or 0.0, lived_ms, marks)
        rows = self._reader.ended(self._after, up_to, PAGE)
        self._after = (rows[-1].ended_seq, rows[-1].id) if len(rows) == PAGE else None
        excess = self._excess()
        chosen: list[tuple[EndedRow, str]] = []
        for row in rows:
            state = run_state(row.counts, sealed=True, deadline_cut=row.deadline_cut)
            # What a run takes is known when it is gone; until then it is taken to be all that is too much.
            run = Ended(state, retention.age_s(row.ended_seq, lived_ms, marks), max(0, excess.size_bytes))
            if reason := retention.why_goes(run, self._rules, excess):
                chosen.append((row, reason))
                if excess.size_bytes > 0:
                    self._after = FIRST
                excess = excess.without(run)
        if chosen:
            self._write(now, lambda tx: _mark(tx, chosen), self._marked)

    def _excess(self) -> Excess:
        rules = self._rules
        runs = self._reader.ended_count() - rules.runs if rules.runs is not None else 0
        if rules.size_bytes is None or self._files_bytes is None:
            return Excess(runs)
        return Excess(runs, self._reader.space().used_bytes + self._files_bytes - rules.size_bytes)

    def _marked(self, chosen: list[tuple[EndedRow, str]], now: Now) -> None:
        for row, reason in chosen:
            log.info("run goes", run=f"r{row.id}", name=row.name, tasks=row.task_count, reason=reason)
        self._going.extend(row.id for row, _ in chosen)

    def _living_logs(self) -> set[str]:
        """The logs that workers have; what a worker begins after one of its own bears its name, too."""
        workers = (self._pool.worker(status.view.id) for status in self._pool.status())
        return {worker.log for worker in workers if worker is not None}


def _mark(tx: Writes, chosen: list[tuple[EndedRow, str]]) -> list[tuple[EndedRow, str]]:
    marked = []
    for row, reason in chosen:
        try:
            if tx.remove_run(row.id, reason):
                marked.append((row, reason))
        except Refused:
            continue  # a retry has just opened it again
    return marked
