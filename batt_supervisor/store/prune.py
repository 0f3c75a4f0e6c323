"""Write operations that take things out: ended runs, old events, pages of the file that hold nothing any more.

A run that is to go is marked first, and seen by nobody from then on. Its rows follow in steps, each of them short, so
that no other caller waits long for the writer; a battd that is killed between two of them goes on with the third.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from batt_supervisor.core.lifecycle import State, run_state
from batt_supervisor.errors import Refused
from batt_supervisor.store import submit
from batt_supervisor.store.pacing import paced
from batt_supervisor.store.transaction import Transaction
from batt_supervisor.store.values import Removed

TASKS_MAX: Final = 1_000
"""Most tasks that one step removes, however fast the machine is."""

TASKS_AT_ONCE: Final = 64
"""Most tasks between two looks at the time. Fewer at first: each may have a megabyte of arguments."""

EVENT_ROWS_AT_ONCE: Final = 16

PAGES_AT_ONCE: Final = 32

PAGES_MAX: Final = 2_048
"""Most pages by which one step shortens the file: freeing 8 MiB of a disk takes a few milliseconds."""

SLACK_PAGES: Final = 1_024
"""Free pages that are left in the file for what comes next, and a tenth of the file beyond that."""

_HELD: Final = "SELECT value FROM json_each(?)"


def remove_run(tx: Transaction, run_id: int, reason: str) -> bool:
    """Mark an ended run as going, by which it is gone for everybody; whether that was still to be done.

    Its key is free with that. `remove_some` does the rest.

    Raises:
        Refused: It has not ended, or takes tasks again.
    """
    row = tx.db.execute(
        "SELECT going, sealed_at_ms IS NOT NULL AND ended_at_ms IS NOT NULL, deadline_cut FROM runs WHERE id = ?",
        (run_id,),
    ).fetchone()
    if row is None or row[0]:
        return False
    if not row[1]:
        raise Refused(f"run r{run_id} has not ended: it is cancelled first, and removed then")
    counts = tx.db.execute("SELECT state, sum(count) FROM tallies WHERE run_id = ? GROUP BY state", (run_id,))
    state = run_state({State(row[0]): row[1] for row in counts}, sealed=True, deadline_cut=bool(row[2]))
    tx.db.execute("UPDATE runs SET going = 1, submit_key = NULL WHERE id = ?", (run_id,))
    tx.journal.add(None, run_id, None, "removed", state, reason=reason)
    return True


def remove_some(tx: Transaction, run_id: int) -> Removed:
    """Remove some tasks of a run that is going, at last the run itself. Repeat until it is done.

    A submission that was given up half-way is gone on with in the same way.

    Raises:
        Refused: Nobody has said that it is to go.
    """
    row = tx.db.execute(
        "SELECT going, sealed_at_ms IS NULL AND closing IS NOT NULL FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if row is None:
        return Removed(done=True)
    if row[1]:
        return Removed(done=submit.discard(tx, run_id))
    if not row[0]:
        raise Refused(f"run r{run_id} is not going")
    tasks, results, logs = 0, list[str](), Counter[str]()
    for at_once in paced(TASKS_MAX, TASKS_AT_ONCE):
        ids = [row[0] for row in tx.db.execute(_NEXT, (run_id, at_once))]
        if not ids:
            break
        _take_out(tx, json.dumps(ids), results, logs)
        tasks += len(ids)
    else:
        return Removed(False, tasks, tuple(results), _uncounted(tx, logs))
    tx.db.execute("DELETE FROM runs WHERE id = ?", (run_id,))  # its stages and tallies go with it
    tx.forget(run_id)
    return Removed(True, tasks, tuple(results), _uncounted(tx, logs))


_NEXT: Final = "SELECT id FROM tasks WHERE run_id = ? ORDER BY idx LIMIT ?"


def _take_out(tx: Transaction, ids: str, results: list[str], logs: Counter[str]) -> None:
    """Delete these tasks (a JSON array) with all that hangs on them; the files they named are added to the two."""
    db = tx.db
    for name, count in db.execute(
        f"SELECT log, count(*) FROM attempts WHERE task_id IN ({_HELD}) AND log_to > log_from GROUP BY log", (ids,)
    ):
        logs[name] += count
    results += [
        row[0]
        for row in db.execute(f"SELECT file FROM results WHERE task_id IN ({_HELD}) AND file IS NOT NULL", (ids,))
    ]
    # In this order: a cascade from the tasks would look for each row of these by itself.
    for table, column in (("results", "task_id"), ("attempts", "task_id"), ("tasks", "id")):
        db.execute(f"DELETE FROM {table} WHERE {column} IN ({_HELD})", (ids,))


def _uncounted(tx: Transaction, logs: Counter[str]) -> tuple[str, ...]:
    """Count these attempts' outputs off; the logs in which none is left."""
    gone = []
    for name, count in logs.items():
        tx.db.execute("UPDATE logs SET attempts = attempts - ? WHERE name = ?", (count, name))
        gone += tx.db.execute("DELETE FROM logs WHERE name = ? AND attempts <= 0 RETURNING name", (name,)).fetchall()
    return tuple(row[0] for row in gone)


def forget_events(tx: Transaction, up_to: int) -> int:
    """Remove some rows of the event log that hold no later event than that, from its front; how many events.

    Zero: done.
    """
    events = 0
    for rows in paced(TASKS_MAX, EVENT_ROWS_AT_ONCE):
        found = tx.db.execute("SELECT first, last FROM events WHERE last <= ? ORDER BY first LIMIT ?", (up_to, rows))
        spans = found.fetchall()
        if not spans:
            break
        tx.db.execute("DELETE FROM events WHERE first <= ?", (spans[-1][0],))
        events += sum(last - first + 1 for first, last in spans)
    return events


def shrink(tx: Transaction) -> bool:
    """Give some free pages at the end of the file back to the disk; whether there is nothing more to give.

    The file gets shorter at the checkpoint that follows, which the writer makes at once: put off, that of a large
    removal would take long.
    """
    for pages in paced(PAGES_MAX, PAGES_AT_ONCE):
        if not _beyond_slack(tx):
            return True
        for _ in range(pages):
            # Each call of this pragma moves one page: Python's sqlite3 takes one step of what gives no columns.
            tx.db.execute("PRAGMA incremental_vacuum(1)")
        tx.checkpoint = True
    return not _beyond_slack(tx)


def _beyond_slack(tx: Transaction) -> bool:
    if tx.db.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
        return False
    free: int = tx.db.execute("PRAGMA freelist_count").fetchone()[0]
    pages: int = tx.db.execute("PRAGMA page_count").fetchone()[0]
    return free > SLACK_PAGES + pages // 10


INCREMENTAL: Final = 2
"""What `PRAGMA auto_vacuum` says of a file that can be shortened bit by bit."""
