"""Reads. Each Reader has a connection of its own, used by one thread, and never waits for the writer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Claim, Head, Limits, LiveAttempt, Room, Tries, Work, WorkerId
from batt_supervisor.core.needs import Learned
from batt_supervisor.core.world import Closing
from batt_supervisor.jsontext import dumps
from batt_supervisor.store import events, holdings, tries, trouble
from batt_supervisor.store.rows import (
    Age,
    AttemptRow,
    EndedRow,
    EventRow,
    EventsPage,
    RunRow,
    Space,
    Span,
    StageRow,
    TallyRow,
    TaskRow,
    Weight,
)

INT_MAX: Final = 2**63 - 1

HEADS_MAX: Final = 2048
"""Most heads of one run that are read at once, however many stages it has."""

_RUN: Final = (
    "SELECT id, name, cwd, env, task_count, created_at_ms, sealed_at_ms, deadline_at_ms, closing, deadline_cut, "
    "ended_at_ms, python, seed FROM runs WHERE NOT going "
)
"""A run that is being removed is seen by nobody."""

_TASK: Final = (
    "SELECT t.id, t.run_id, t.idx, t.stage, t.task_key, t.args, t.state, t.attempt, t.outcome, t.reason, "
    "t.settled_seq, a.wall_s, a.cpu_s, a.peak_memory_bytes, a.error, r.value, r.file FROM tasks t "
    "LEFT JOIN attempts a ON a.task_id = t.id AND a.number = t.attempt LEFT JOIN results r ON r.task_id = t.id "
)


class Reader:
    """Queries. Every method raises StoreUnavailable when the database cannot be read."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise trouble.told(error, trouble.path_of(self._db)) from error

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._told():
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        with self._told():
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row

    # Runs

    def run(self, run_id: int) -> RunRow | None:
        row = self._one(_RUN + "AND id = ?", (run_id,))
        return _run(row) if row else None

    def run_named(self, name: str) -> RunRow | None:
        """The latest run of that name."""
        row = self._one(_RUN + "AND name = ? ORDER BY id DESC LIMIT 1", (name,))
        return _run(row) if row else None

    def run_names(self, limit: int) -> list[str]:
        """Names of the latest runs, for suggestions."""
        return [
            row[0]
            for row in self._all("SELECT DISTINCT name FROM runs WHERE NOT going ORDER BY id DESC LIMIT ?", (limit,))
        ]

    def runs(self, limit: int) -> list[RunRow]:
        """The latest runs, newest first."""
        return [_run(row) for row in self._all(_RUN + "ORDER BY id DESC LIMIT ?", (limit,))]

    def open_runs(self) -> list[RunRow]:
        """Sealed runs that have not ended, oldest first."""
        return [_run(r) for r in self._all(_RUN + "AND ended_at_ms IS NULL AND sealed_at_ms IS NOT NULL ORDER BY id")]

    def stages(self, run: RunRow) -> list[StageRow]:
        room = Room(run.cwd, tuple(sorted(run.env.items())), run.python)
        rows = self._all(
            "SELECT number, name, after, function, command, shell, allow_children, timeout_s, soft_timeout_s, "
            "max_attempts, retry_delay_s, cpu_limit_s, stall_timeout_s, memory_limit_bytes, thread_limit, "
            "output_limit_bytes, need_memory_bytes, need_threads, kind_name FROM stages "
            "WHERE run_id = ? ORDER BY number",
            (run.id,),
        )
        return [
            StageRow(
                row[0],
                row[1],
                Work(
                    room=room,
                    limits=Limits(*row[7:16]),
                    function=row[3],
                    command=tuple(json.loads(row[4])) if row[4] else (),
                    shell=bool(row[5]),
                    allow_children=bool(row[6]),
                    seed=run.seed,
                    need_memory_bytes=row[16],
                    need_threads=row[17],
                    name=row[18],
                ),
                tuple(json.loads(row[2])),
            )
            for row in rows
        ]

    def tallies(self, run_id: int) -> list[TallyRow]:
        rows = self._all("SELECT stage, state, outcome, count FROM tallies WHERE run_id = ? AND count", (run_id,))
        return [TallyRow(row[0], State(row[1]), row[2], row[3]) for row in rows]

    def totals(self) -> list[TallyRow]:
        """Tallies over all runs that have been sealed."""
        rows = self._all(
            "SELECT 0, state, outcome, sum(count) FROM tallies WHERE run_id IN "
            "(SELECT id FROM runs WHERE sealed_at_ms IS NOT NULL AND NOT going) "
            "GROUP BY state, outcome HAVING sum(count)"
        )
        return [TallyRow(row[0], State(row[1]), row[2], row[3]) for row in rows]

    # The queue

    def heads(self, run_id: int, limit: int, behind: Mapping[int, int] | None = None) -> list[Head]:
        """The first queued tasks of each stage of a run, all in order of submission.

        Args:
            behind: For stages by number, the place in the run behind which to look; of the others, from the first on.

        Where many stages have queued tasks, fewer of each: at most `HEADS_MAX` in all, and at least one.
        """
        queued = "y.run_id = ? AND y.state = 'queued' AND y.count > 0"
        with_queued = self._one(f"SELECT count(*) FROM tallies y WHERE {queued}", (run_id,))
        stages = with_queued[0] if with_queued else 0
        if not stages:
            return []
        # CROSS JOIN is SQLite's way to say that the stages come first: each is one seek in the index.
        rows = self._all(
            f"SELECT t.id, t.stage, t.attempt, t.moved_at_ms, t.idx, {tries.COLUMNS} FROM tallies y "
            "CROSS JOIN tasks t ON t.id IN (SELECT q.id FROM tasks q WHERE q.run_id = y.run_id AND q.stage = y.stage "
            f"AND q.state = 'queued' AND q.idx > coalesce(? ->> ('$.' || y.stage), -1) ORDER BY q.idx LIMIT ?) "
            f"WHERE {queued} ORDER BY t.idx",
            (dumps(behind or {}), min(limit, max(1, HEADS_MAX // stages)), run_id),
        )
        return [Head(row[0], run_id, row[1], row[2], tries.of_row(row[5:]), row[3], row[4]) for row in rows]

    def history(self, task_id: int) -> Tries:
        """What a task has behind it; nothing for one that is not there."""
        row = self._one(f"SELECT {tries.COLUMNS} FROM tasks t WHERE t.id = ?", (task_id,))
        return tries.of_row(row) if row else Tries()

    def next_due_ms(self) -> int | None:
        """When the first scheduled task may be queued."""
        row = self._one("SELECT min(run_at_ms) FROM tasks WHERE state = 'scheduled'")
        return row[0] if row else None

    def live(self) -> list[tuple[LiveAttempt, int]]:
        """Every attempt held as running or stopping, with the number of its stage."""
        rows = self._all(
            "SELECT t.id, t.attempt, t.run_id, t.state, a.worker_pid, a.worker_started, a.log, t.stage, "
            f"{tries.COLUMNS} FROM tasks t "
            "JOIN attempts a ON a.task_id = t.id AND a.number = t.attempt "
            "WHERE t.state IN ('running', 'stopping')"
        )
        return [
            (
                LiveAttempt(
                    Claim(row[0], row[1]), row[2], State(row[3]), tries.of_row(row[8:]),
                    WorkerId(row[4], row[5], row[6] or "") if row[4] is not None else None,
                ),
                row[7],
            )
            for row in rows
        ]  # fmt: skip

    def kinds(self) -> list[Learned]:
        """What was learned of each kind, the one that was updated last at the end."""
        rows = self._all("SELECT kind, attempts, memory_peaks, thread_peaks FROM kinds ORDER BY updated_at_ms, kind")
        return [Learned(row[0], row[1], tuple(json.loads(row[2])), tuple(json.loads(row[3]))) for row in rows]

    # Tasks

    def task(self, task_id: int) -> TaskRow | None:
        row = self._one(_TASK + "JOIN runs u ON u.id = t.run_id WHERE t.id = ? AND NOT u.going", (task_id,))
        return _task(row) if row else None

    def tasks(self, run_id: int, *, state: State | None, by_settling: bool, after: int, limit: int) -> list[TaskRow]:
        """A page of a run's tasks.

        Args:
            by_settling: In the order in which they settled (settled ones only), else in order of submission.
            after: The `settled_seq` or `idx` behind which the page starts; -1 for the first.
        """
        column = "t.settled_seq" if by_settling else "t.idx"
        where, values = f"WHERE t.run_id = ? AND {column} > ?", [run_id, min(after, INT_MAX)]
        if state is not None:
            return self._tasks(where + f" AND t.state = ? ORDER BY {column} LIMIT ?", [*values, state, limit])
        return self._tasks(where + f" ORDER BY {column} LIMIT ?", [*values, limit])

    def _tasks(self, where: str, values: Sequence[object]) -> list[TaskRow]:
        return [_task(row) for row in self._all(_TASK + where, values)]

    def attempts(self, task_id: int) -> list[AttemptRow]:
        rows = self._all(
            "SELECT number, claimed_at_ms, ended_at_ms, outcome, reason, wall_s, cpu_s, peak_memory_bytes, "
            "peak_threads, exit_code, signal, error, worker_pid, log, log_from, log_to FROM attempts "
            "WHERE task_id = ? ORDER BY number",
            (task_id,),
        )
        return [AttemptRow(*row) for row in rows]

    def files_needed(self, names: Sequence[str]) -> set[str]:
        """Those of some names below results/ that a row names, or that are of an attempt which has not ended.

        An attempt's files are named after it: `12-1.json`, `12-1.json.tmp`, `modules-12-1.json`.
        """
        parts = [(name, name.removeprefix("modules-").partition(".")[0]) for name in names]
        found = self._all(
            # The number that a text begins with is what it is cast to, and none is 0.
            "SELECT j.value ->> 0 FROM json_each(?) j WHERE EXISTS (SELECT 1 FROM results r "
            "WHERE r.task_id = CAST(j.value ->> 1 AS INTEGER) AND r.file = j.value ->> 0) "
            "OR EXISTS (SELECT 1 FROM tasks t WHERE t.id = CAST(j.value ->> 1 AS INTEGER) "
            "AND t.state IN ('running', 'stopping') AND j.value ->> 1 = t.id || '-' || t.attempt)",
            (json.dumps(parts),),
        )
        return {row[0] for row in found}

    # The event log

    def events(self, after: int, limit: int, run_id: int | None = None) -> EventsPage:
        """Events with a greater number than `after`, of one run where it is named: as many as a short look finds."""
        with self._told():
            return events.page(self._db, after, limit, run_id)

    def events_kept(self) -> Span:
        """The numbers of the first event that is still kept and of the last that was written."""
        with self._told():
            return events.span(self._db)

    def story(self, task_id: int) -> list[EventRow]:
        """A task's events, oldest first; those that retention has removed are not in it."""
        with self._told():
            return events.story(self._db, task_id)

    # Retention

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside belongs together: nothing of it is removed in between."""
        with self._told():
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # a damaged page ends it as well
                self._db.execute("ROLLBACK")

    def ended(self, after: tuple[int, int], up_to: int, limit: int) -> list[EndedRow]:
        """Ended runs, those that ended first at the front, behind the place `after`, up to an event's number.

        A run's place is the number of the event of its end, and its own.
        """
        with self._told():
            return holdings.ended(self._db, after, up_to, limit)

    def ended_count(self) -> int:
        """How many ended runs there are."""
        row = self._one("SELECT count(*) FROM runs WHERE ended_at_ms IS NOT NULL AND NOT going")
        return row[0] if row else 0

    def was_there(self, run_id: int) -> bool:
        """Whether there has ever been a run of that number."""
        row = self._one("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        return row is not None and 0 < run_id <= row[0]

    def going(self) -> list[int]:
        """Runs that are being removed, and submissions that were given up."""
        return [row[0] for row in self._all(holdings.GOING)]

    def age(self) -> Age:
        """What age is reckoned from."""
        with self._told():
            return holdings.age(self._db)

    def logs_named(self, names: Sequence[str]) -> set[str]:
        """Those of these logs that some attempt's output lies in."""
        sql = "SELECT name FROM logs WHERE name IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._all(sql, (json.dumps(list(names)),))}

    def space(self) -> Space:
        """How large the database is, and how much of it is free."""
        with self._told():
            return holdings.space(self._db)

    def weigh(self, run_id: int, after: int, limit: int) -> Weight:
        """What a page of a run's tasks, behind the index `after`, takes in the database and in files."""
        with self._told():
            return holdings.weigh(self._db, run_id, after, limit)


def _run(row: tuple[Any, ...]) -> RunRow:
    run_id, name, cwd, env, count, created, sealed, deadline, closing, cut, *rest = row
    closed = Closing(closing) if closing else None
    return RunRow(run_id, name, cwd, json.loads(env), count, created, sealed, deadline, closed, bool(cut), *rest)


def _task(row: tuple[Any, ...]) -> TaskRow:
    fields: list[Any] = list(row)
    fields[6] = State(fields[6])
    return TaskRow(*fields)
