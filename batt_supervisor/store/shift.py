"""Write operations that move times along with the wall clock, when that was set."""

from __future__ import annotations

import json
from typing import Final

from batt_supervisor.core.clockwatch import Jump
from batt_supervisor.store.transaction import Transaction

STEP: Final = 500
"""Most tasks that one operation moves: some 10 ms, or 30 where each lies on a page of its own."""


def shift_runs(tx: Transaction, jump: Jump | None) -> None:
    """Move deadlines of open runs, and what counts as the age of submissions. There are few of either.

    Args:
        jump: None: find what was written in the future, as the clock was set back while no battd ran.
    """
    rows = tx.db.execute(
        "SELECT id, created_at_ms, sealed_at_ms IS NOT NULL, deadline_at_ms, deadline_s FROM runs "
        "WHERE ended_at_ms IS NULL"
    ).fetchall()
    for run_id, created_ms, sealed, deadline_ms, deadline_s in rows:
        if not sealed:
            moved = _moved(tx, jump, created_ms)
            tx.db.execute("UPDATE runs SET created_at_ms = ? WHERE id = ?", (created_ms + moved, run_id))
        elif deadline_ms is not None:
            moved = _moved(tx, jump, deadline_ms - round(deadline_s * 1000))
            tx.db.execute("UPDATE runs SET deadline_at_ms = ? WHERE id = ?", (deadline_ms + moved, run_id))


def shift_some(tx: Transaction, jump: Jump | None, after: tuple[int, int] | None) -> tuple[int, int] | None:
    """Move when some scheduled tasks are due, with the time from which that is counted.

    They are gone through from that end which they are moved away to, so that none is met twice.

    Args:
        jump: As above.
        after: What the call before gave; None for the first.

    Returns:
        Where to go on; None: done.
    """
    forward = jump is not None and jump.by_ms > 0
    way, order = ("<", "DESC") if forward else (">", "ASC")
    due_ms, last_id = after or ((1 << 62, 0) if forward else (-1, 0))
    rows = tx.db.execute(
        "SELECT id, run_at_ms, moved_at_ms FROM tasks INDEXED BY tasks_scheduled WHERE state = 'scheduled' "
        f"AND run_at_ms {way}= ? AND (run_at_ms {way} ? OR id {way} ?) ORDER BY run_at_ms {order}, id {order} LIMIT ?",
        (due_ms, due_ms, last_id, STEP),
    ).fetchall()
    shifts = ((task_id, _moved(tx, jump, moved_ms)) for task_id, _, moved_ms in rows)
    tx.db.execute(
        "UPDATE tasks SET run_at_ms = run_at_ms + (j.value ->> 1), moved_at_ms = moved_at_ms + (j.value ->> 1) "
        "FROM json_each(?) j WHERE tasks.id = j.value ->> 0",
        (json.dumps([shift for shift in shifts if shift[1]]),),
    )
    return (rows[-1][1], rows[-1][0]) if len(rows) == STEP else None


def _moved(tx: Transaction, jump: Jump | None, written_ms: int) -> int:
    """By how much a time moves that was reckoned from what the clock showed then."""
    if jump is None:
        return min(0, tx.now_ms - written_ms)
    return jump.by_ms if jump.is_before(written_ms, tx.now_ms) else 0
