"""The one thread that writes. Callers hand it operations; those that wait together share one synced commit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from batt_supervisor.clock import Clock
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store import trouble
from batt_supervisor.store.operations import Operations
from batt_supervisor.store.place import Place
from batt_supervisor.store.protocol import Item, Operation

T = TypeVar("T")

GROUP_S: Final = 0.05
"""Longest time that operations are gathered into one transaction, so that nobody waits long for its commit."""

GROUP_MAX: Final = 512

_COMMITTED: Final = {"submit": "submitted", "claim": "claimed", "settle": "settled"}


def _nothing(point: str) -> None:
    """Nobody asked to be told of points."""


class Writer:
    """Runs operations in order, grouped into transactions.

    Args:
        db: Its connection, which has opened the database's files by now.
        clock: Gives the wall time of rows.

    Attributes:
        on_commit: Called in the writer's thread after each commit with the runs it touched.
        on_point: Called in the writer's thread where an operation has written its rows ("submit", "claim", "settle"),
            and again when they are committed and nobody has been told yet ("submitted", "claimed", "settled").
        beat_s: Monotonic time of its last round; a watchdog reads it.
        place: The files that its connection has opened.
    """

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db = db
        self._path = trouble.path_of(db)
        self.place = Place(self._path)
        self._clock = clock
        self._queue: SimpleQueue[list[Item] | None] = SimpleQueue()
        self.on_commit: Callable[[set[int]], None] = lambda runs: None
        self.on_point: Callable[[str], None] = _nothing
        self.beat_s = time.monotonic()
        self._ended = False

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; the future resolves only after its transaction is committed and synced.

        The future raises what the operation raised (nothing of it is kept then), or StoreUnavailable.
        """
        future: Future[T] = Future()
        self.submit_all([(operation, future)])
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
        pending: list[Future[object]] | None = None
        try:
            self._db.execute("BEGIN IMMEDIATE")
            transaction = Operations(self._db, self._clock.read().wall_ms, self.on_point)
            until = time.monotonic() + GROUP_S
            items: list[Item] | None = first
            pending = []
            while items is not None:
                # A caller that was cancelled wants nothing done.
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
            self.place.check()
            self._db.execute("COMMIT")
        except (sqlite3.Error, StoreUnavailable) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if pending is None:
                pending = [future for _, future in first if future.set_running_or_notify_cancel()]
            for future in pending:  # each raises one of its own
                told = trouble.told(error, self._path) if isinstance(error, sqlite3.Error) else type(error)(str(error))
                future.set_exception(told)
            return stopping
        for point in transaction.passed:
            self.on_point(_COMMITTED[point])
        # Told first, so that a caller that goes on at once already finds it done.
        self.on_commit(transaction.touched)
        for future, value, refusal in answers:
            if refusal is None:
                future.set_result(value)
            else:
                future.set_exception(refusal)
        if transaction.checkpoint:
            self._checkpoint()
        return stopping

    def _checkpoint(self) -> None:
        with suppress(sqlite3.Error):  # SQLite's own checkpoints are silent, too: what is wrong shows at a commit
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _one(self, transaction: Operations, operation: Operation[object]) -> tuple[object, Exception | None]:
        """Run one operation; an error of its own, whatever it is, undoes only its own work and is its caller's."""
        mark = transaction.mark()
        self._db.execute("SAVEPOINT one")
        value, refusal = None, None
        try:
            value = operation(transaction)
        except Exception as error:
            if not self._db.in_transaction:
                raise  # it has ended the whole transaction (disk full), and every caller of it is told so
            self._db.execute("ROLLBACK TO one")
            transaction.restore(mark)
            refusal = trouble.told(error, self._path) if isinstance(error, sqlite3.Error) else error
        self._db.execute("RELEASE one")
        return value, refusal
