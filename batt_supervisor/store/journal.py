"""The event log: every move of every task, gathered into one row for each transaction.

An event's number is its place in the log. A row holds the events of one transaction as a JSON array, numbered from its
`first` on; a bulk creation is one entry that stands for as many events as it made tasks. Each event of a task names the
one before it, and the task's row names its last: so a task's story is found without an index over all events, which
would cost every short task more than the rest of its end does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from batt_supervisor.jsontext import dumps

CREATED: Final = "created"
"""First word of an entry for tasks that were created together: [CREATED, run, first task, [[state, how many], ...]].

Every other entry is [task, run, attempt, event, from, to, outcome, reason, number of the task's event before], with
nulls where it is about a whole run or about the service.
"""


class Journal:
    """The events of one transaction, and the numbers they get.

    Args:
        db: The writer's connection, inside a transaction.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._entries: list[list[object]] = []
        self._before: int | None = None  # the last number that was given before this transaction
        self._last = 0

    def _next(self, count: int = 1) -> int:
        if self._before is None:
            self._before = self._last = self._db.execute("SELECT event_seq FROM counters").fetchone()[0]
        first = self._last + 1
        self._last += count
        return first

    def add(
        self,
        task_id: int | None,
        run_id: int | None,
        attempt: int | None,
        event: str,
        was: str | None = None,
        now_is: str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        prev: int | None = None,
    ) -> int:
        """Write an event down; its number."""
        self._entries.append([task_id, run_id, attempt, event, was, now_is, outcome, reason or None, prev])
        return self._next()

    def created(self, run_id: int, first_task: int, states: Sequence[str]) -> int:
        """Write down that tasks of consecutive ids were created in these states; the number of the first's event."""
        runs = [[state, sum(1 for _ in same)] for state, same in groupby(states)]
        self._entries.append([CREATED, run_id, first_task, runs])
        return self._next(len(states))

    def mark(self) -> tuple[int, int]:
        """What `forget` needs to take back whatever comes after."""
        return len(self._entries), self._last

    def forget(self, mark: tuple[int, int]) -> None:
        """The operation that wrote these down has failed, and left nothing behind."""
        del self._entries[mark[0] :]
        self._last = max(mark[1], self._before or 0)

    def close(self, now_ms: int) -> None:
        """Write the row."""
        if not self._entries:
            return
        assert self._before is not None
        self._db.execute(
            "INSERT INTO events (first, last, at_ms, body) VALUES (?, ?, ?, ?)",
            (self._before + 1, self._last, now_ms, dumps(self._entries)),
        )
        self._db.execute("UPDATE counters SET event_seq = ?", (self._last,))
