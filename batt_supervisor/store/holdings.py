"""Reads of what the store holds, as retention looks at it: ended runs, their age and size, the space that is free."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from batt_supervisor.core.lifecycle import State
from batt_supervisor.store.prune import INCREMENTAL
from batt_supervisor.store.rows import Age, EndedRow, Space, Weight

TASK_BYTES: Final = 350
"""What a task with one attempt takes in the database and its indexes, arguments and value left out."""

GOING: Final = (
    "SELECT id FROM runs WHERE going UNION ALL "
    "SELECT id FROM runs WHERE ended_at_ms IS NULL AND sealed_at_ms IS NULL AND closing IS NOT NULL ORDER BY 1"
)
"""Runs whose removal has begun; the second half uses the index of open runs."""


def ended(db: sqlite3.Connection, after: tuple[int, int], up_to: int, limit: int) -> list[EndedRow]:
    """A page of ended runs, in the order in which they ended."""
    rows = db.execute(
        "SELECT id, name, task_count, ended_at_ms, ended_seq, deadline_cut, (SELECT json_group_object(state, n) FROM "
        "(SELECT state, sum(count) AS n FROM tallies y WHERE y.run_id = runs.id GROUP BY state)) FROM runs "
        "WHERE ended_at_ms IS NOT NULL AND NOT going AND ended_seq >= ? AND (ended_seq > ? OR id > ?) "
        "AND ended_seq <= ? ORDER BY ended_seq, id LIMIT ?",
        (after[0], *after, up_to, limit),
    )
    found = []
    for run_id, name, tasks, at_ms, seq, cut, states in rows:
        counts = {State(state): count for state, count in json.loads(states).items() if count}
        found.append(EndedRow(run_id, name, tasks, at_ms, seq, bool(cut), counts))
    return found


def age(db: sqlite3.Connection) -> Age:
    """The count of time, and its marks."""
    lived_ms = db.execute("SELECT lived_ms FROM counters").fetchone()[0]
    return Age(lived_ms, tuple(db.execute("SELECT lived_ms, event_seq FROM marks ORDER BY lived_ms").fetchall()))


def space(db: sqlite3.Connection) -> Space:
    """The file in pages, as bytes."""
    size, pages, free, kind = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
    )
    return Space(size * (pages - free), size * free, shrinks=kind == INCREMENTAL)


def weigh(db: sqlite3.Connection, run_id: int, after: int, limit: int) -> Weight:
    """Some of a run's tasks, in order of submission."""
    ids = db.execute(
        "SELECT id, idx FROM tasks WHERE run_id = ? AND idx > ? ORDER BY idx LIMIT ?", (run_id, after, limit)
    ).fetchall()
    held = json.dumps([row[0] for row in ids])
    within = "IN (SELECT value FROM json_each(?))"
    args = db.execute(f"SELECT total(length(CAST(args AS BLOB))) FROM tasks WHERE id {within}", (held,)).fetchone()[0]
    attempts, errors, output = db.execute(
        f"SELECT count(*), total(length(error)), total(log_to - log_from) FROM attempts WHERE task_id {within}",
        (held,),
    ).fetchone()
    value = db.execute(
        f"SELECT total(length(CAST(value AS BLOB))) FROM results WHERE task_id {within}", (held,)
    ).fetchone()[0]
    files = db.execute(f"SELECT file FROM results WHERE task_id {within} AND file IS NOT NULL", (held,)).fetchall()
    return Weight(
        round(args + errors + value) + TASK_BYTES * max(len(ids), attempts),
        round(output),
        tuple(row[0] for row in files),
        ids[-1][1] if len(ids) == limit else None,
    )
