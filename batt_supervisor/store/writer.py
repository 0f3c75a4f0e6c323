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
from batt_supervisor.errors import BattError, StoreUnavailable

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

    def close(self) -> None:
        """Write the tallies, and mark runs whose last task has settled."""
        if self._settled_seq is not None:
            self.db.execute("UPDATE counters SET settled_seq = ?", (self._settled_seq,))
        changed = [(*key, count) for key, count in self._tallies.items() if count]
        if not changed:
            return
        self.db.executemany(
            "INSERT INTO tallies (run_id, stage, state, outcome, count) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            changed,
        )
        for run_id in {row[0] for row in changed if row[2] in OPEN and row[4] < 0}:
            if not self.db.execute(_OPEN_LEFT, (run_id,)).fetchone()[0]:
                self.db.execute(
                    "UPDATE runs SET ended_at_ms = ? WHERE id = ? AND ended_at_ms IS NULL AND sealed_at_ms IS NOT NULL",
                    (self.now_ms, run_id),
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

    def stop(self) -> None:
        """Ask the thread to end once everything queued so far is written."""
        self._queue.put(None)

    def run(self) -> None:
        """The thread's whole life."""
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
                pending += [future for _, future in items]
                for operation, future in items:
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
            for future in pending or [future for _, future in first]:
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
        """Run one operation; an error of its own undoes only its own work."""
        kept = transaction.snapshot()
        self._db.execute("SAVEPOINT one")
        value, refusal = None, None
        try:
            value = operation(transaction)
        except (BattError, sqlite3.Error) as error:
            # Raises in turn where the error has ended the whole transaction (disk full).
            self._db.execute("ROLLBACK TO one")
            transaction.restore(kept)
            is_sql = isinstance(error, sqlite3.Error)
            refusal = StoreUnavailable(f"the store cannot write: {error}") if is_sql else error
        self._db.execute("RELEASE one")
        return value, refusal
