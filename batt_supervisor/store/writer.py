"""The one thread that writes. Callers hand it operations; those that wait together share one synced commit."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.errors import StoreUnavailable

T = TypeVar("T")

GROUP_S: Final = 0.05
"""Longest time that operations are gathered into one transaction, so that nobody waits long for its commit."""

GROUP_MAX: Final = 512

TallyKey = tuple[int, int, State, str]


class Transaction:
    """What an operation works with: the connection, and the tallies it changes.

    Attributes:
        db: The writer's connection, inside a transaction.
        now_ms: Wall time of the transaction.
        touched: Runs whose tasks or own row the transaction changed.
    """

    def __init__(self, db: sqlite3.Connection, now_ms: int) -> None:
        self.db = db
        self.now_ms = now_ms
        self.touched: set[int] = set()
        self._tallies: Counter[TallyKey] = Counter()
        self._settled_seq: int | None = None

    def next_settled(self) -> int:
        """The next number in the order in which tasks settle."""
        if self._settled_seq is None:
            self._settled_seq = self.db.execute("SELECT settled_seq FROM counters").fetchone()[0]
        self._settled_seq += 1
        return self._settled_seq

    def tally(self, run_id: int, stage: int, state: State, outcome: str | None, count: int) -> None:
        """Count tasks into (or, negative, out of) a state."""
        self._tallies[run_id, stage, state, outcome or ""] += count
        self.touched.add(run_id)

    def snapshot(self) -> tuple[Counter[TallyKey], set[int]]:
        """What `restore` needs to forget an operation that failed. A settled number it drew stays drawn."""
        return self._tallies.copy(), set(self.touched)

    def restore(self, kept: tuple[Counter[TallyKey], set[int]]) -> None:
        self._tallies, self.touched = kept

    def forget(self, run_id: int) -> None:
        """A run's rows are gone, and so is what was to be counted of it."""
        for key in [key for key in self._tallies if key[0] == run_id]:
            del self._tallies[key]

    def open_tasks(self, run_id: int) -> int:
        """How many tasks of a run have not settled, with all that this transaction has moved."""
        self._write_tallies()
        count: int = self.db.execute(_OPEN_LEFT, (run_id,)).fetchone()[0]
        return count

    def close(self) -> None:
        """Write the tallies, and mark runs whose last task has settled."""
        if self._settled_seq is not None:
            self.db.execute("UPDATE counters SET settled_seq = ?", (self._settled_seq,))
        for run_id in self.touched:
            if not self.open_tasks(run_id):
                self.db.execute(
                    "UPDATE runs SET ended_at_ms = ? WHERE id = ? AND ended_at_ms IS NULL AND sealed_at_ms IS NOT NULL",
                    (self.now_ms, run_id),
                )

    def _write_tallies(self) -> None:
        changed = [(*key, count) for key, count in self._tallies.items() if count]
        self._tallies.clear()
        if changed:
            self.db.executemany(
                "INSERT INTO tallies (run_id, stage, state, outcome, count) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET count = count + excluded.count",
                changed,
            )


_OPEN_LEFT: Final = (
    "SELECT coalesce(sum(count), 0) FROM tallies WHERE run_id = ? AND state IN ("
    + ", ".join(f"'{state}'" for state in sorted(OPEN))
    + ")"
)

Operation = Callable[[Transaction], T]


Item = tuple[Operation[object], Future[object]]


class Writer:
    """Runs operations in order, grouped into transactions.

    Attributes:
        on_commit: Called in the writer's thread after each commit with the runs it touched.
        beat_s: Monotonic time of its last round; a watchdog reads it.
    """

    def __init__(self, db: sqlite3.Connection, on_commit: Callable[[set[int]], None] = lambda runs: None) -> None:
        self._db = db
        self._queue: SimpleQueue[list[Item] | None] = SimpleQueue()
        self.on_commit = on_commit
        self.beat_s = time.monotonic()
        self._ended = False

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; the future resolves only after its transaction is committed and synced.

        The future raises what the operation raised (nothing of it is kept then), or StoreUnavailable.
        """
        future: Future[T] = Future()
        self.submit_all([(operation, future)])  # type: ignore[list-item]
        return future

    def submit_all(self, items: list[Item]) -> None:
        """Queue several operations, each with its future, for one transaction."""
        self._queue.put(items)
        if self._ended:
            self._refuse_rest()

    def stop(self) -> None:
        """Ask the thread to end once everything queued so far is written."""
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life."""
        self._serve()
        self._ended = True
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Answer whoever came after the stop."""
        while True:
            try:
                items = self._queue.get_nowait()
            except Empty:
                return
            for _, future in items or ():
                if future.set_running_or_notify_cancel():
                    future.set_exception(StoreUnavailable("the store is closed: battd is going down"))

    def _serve(self) -> None:
        while True:
            self.beat_s = time.monotonic()
            try:
                first = self._queue.get(timeout=1.0)
            except Empty:
                continue
            if first is None:
                return
            if self._group(first):
                return

    def _group(self, first: list[Item]) -> bool:
        """Run one transaction; whether a stop was met."""
        stopping = False
        answers: list[tuple[Future[object], object, Exception | None]] = []
        pending: list[Future[object]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._db, time.time_ns() // 1_000_000)
            until = time.monotonic() + GROUP_S
            items: list[Item] | None = first
            while items is not None:
                # A caller that has gone away (its connection was closed) wants nothing done.
                wanted = [(operation, future) for operation, future in items if future.set_running_or_notify_cancel()]
                pending += [future for _, future in wanted]
                for operation, future in wanted:
                    answers.append((future, *self._one(transaction, operation)))
                if len(pending) >= GROUP_MAX or time.monotonic() > until:
                    break
                try:
                    items = self._queue.get_nowait()
                except Empty:
                    break
                stopping = items is None
            transaction.close()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            begun = pending or [future for _, future in first if future.set_running_or_notify_cancel()]
            for future in begun:
                future.set_exception(StoreUnavailable(f"the store cannot write: {error}"))
            return stopping
        # Told first, so that a caller that goes on at once already finds it done.
        self.on_commit(transaction.touched)
        for future, value, refusal in answers:
            if refusal is None:
                future.set_result(value)
            else:
                future.set_exception(refusal)
        return stopping

    def _one(self, transaction: Transaction, operation: Operation[object]) -> tuple[object, Exception | None]:
        """Run one operation; an error of its own, whatever it is, undoes only its own work and is its caller's."""
        kept = transaction.snapshot()
        self._db.execute("SAVEPOINT one")
        value, refusal = None, None
        try:
            value = operation(transaction)
        except Exception as error:
            if not self._db.in_transaction:
                raise  # it has ended the whole transaction (disk full), and every caller of it is told so
            self._db.execute("ROLLBACK TO one")
            transaction.restore(kept)
            is_sql = isinstance(error, sqlite3.Error)
            refusal = StoreUnavailable(f"the store cannot write: {error}") if is_sql else error
        self._db.execute("RELEASE one")
        return value, refusal
