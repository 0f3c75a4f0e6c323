"""What write operations share within one transaction: the connection, the counts and the events they leave."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from batt_supervisor.core.lifecycle import OPEN, State, run_state
from batt_supervisor.store.journal import Journal

TallyKey = tuple[int, int, State, str]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a transaction stood; see `Transaction.mark`."""

    tallies: Counter[TallyKey]
    touched: set[int]
    journal: tuple[int, int]
    passed: int


class Transaction:
    """What an operation works with.

    Attributes:
        db: The writer's connection, inside a transaction.
        now_ms: Wall time of the transaction.
        touched: Runs whose tasks or own row the transaction changed.
        journal: Where every move is written down.
        passed: Points of the store's life that operations have passed, in order; see `Writer.on_point`.
        checkpoint: The file is to be brought up to date right after the commit.
    """

    def __init__(self, db: sqlite3.Connection, now_ms: int, on_point: Callable[[str], None] | None = None) -> None:
        self.db = db
        self.now_ms = now_ms
        self.touched: set[int] = set()
        self.journal = Journal(db)
        self.passed: list[str] = []
        self.checkpoint = False
        self._on_point = on_point
        self._tallies: Counter[TallyKey] = Counter()
        self._settled_seq: int | None = None

    def point(self, name: str) -> None:
        """An operation has written its rows."""
        self.passed.append(name)
        if self._on_point is not None:
            self._on_point(name)

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

    def mark(self) -> Mark:
        """What `restore` needs to forget an operation that failed. A settled number it drew stays drawn."""
        return Mark(self._tallies.copy(), set(self.touched), self.journal.mark(), len(self.passed))

    def restore(self, mark: Mark) -> None:
        """An operation has failed, and what it wrote to the database is taken back."""
        self._tallies, self.touched = mark.tallies, mark.touched
        self.journal.forget(mark.journal)
        del self.passed[mark.passed :]

    def forget(self, run_id: int) -> None:
        """A run's rows are gone, and so is what was to be counted of it."""
        for key in [key for key in self._tallies if key[0] == run_id]:
            del self._tallies[key]

    def stages_in(self, run_id: int, states: Sequence[State]) -> list[tuple[int, int]]:
        """Stages of a run that have tasks in these states, in order, and how many; with all that was moved here."""
        self._write_tallies()
        marks = ", ".join("?" * len(states))
        return self.db.execute(
            f"SELECT stage, sum(count) FROM tallies WHERE run_id = ? AND state IN ({marks}) "
            "GROUP BY stage HAVING sum(count) > 0 ORDER BY stage",
            (run_id, *states),
        ).fetchall()

    def open_tasks(self, run_id: int) -> int:
        """How many tasks of a run have not settled, with all that this transaction has moved."""
        self._write_tallies()
        count: int = self.db.execute(_OPEN_LEFT, (run_id,)).fetchone()[0]
        return count

    def close(self) -> None:
        """Write the tallies and the events, and mark runs whose last task has settled."""
        if self._settled_seq is not None:
            self.db.execute("UPDATE counters SET settled_seq = ?", (self._settled_seq,))
        for run_id in self.touched:
            if not self.open_tasks(run_id):
                self._end(run_id)
        self.journal.close(self.now_ms)

    def _end(self, run_id: int) -> None:
        row = self.db.execute(
            "UPDATE runs SET ended_at_ms = ? WHERE id = ? AND ended_at_ms IS NULL AND sealed_at_ms IS NOT NULL "
            "RETURNING deadline_cut",
            (self.now_ms, run_id),
        ).fetchone()
        if row is not None:
            counts: dict[State, int] = {}
            for state, count in self.db.execute(
                "SELECT state, sum(count) FROM tallies WHERE run_id = ? GROUP BY state", (run_id,)
            ):
                counts[State(state)] = count
            ended_as = run_state(counts, sealed=True, deadline_cut=bool(row[0]))
            seq = self.journal.add(None, run_id, None, "ended", "running", ended_as)
            self.db.execute("UPDATE runs SET ended_seq = ? WHERE id = ?", (seq, run_id))

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
