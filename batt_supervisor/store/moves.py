"""Write operations that move tasks through the lifecycle. The row is the fence: each names what it was decided from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from batt_supervisor.core.lifecycle import LIVE, SETTLED, TRANSITIONS, Event, State, advance
from batt_supervisor.core.model import Claim, Ending, Outcome, WorkerId
from batt_supervisor.core.plan import Closing
from batt_supervisor.core.retry import Verdict
from batt_supervisor.errors import ClaimLost, Refused
from batt_supervisor.store.writer import Transaction

CHUNK: Final = 2_000
"""Most rows that one operation moves: about 20 ms, so that no other caller waits long for the writer."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A task claimed for an attempt, with what the worker needs."""

    claim: Claim
    args: str


@dataclass(frozen=True, slots=True)
class LogSpan:
    """Where an attempt's output lies: bytes of a file below logs/."""

    log: str
    start: int
    end: int


def claim(tx: Transaction, task_id: int, attempt: int, worker: WorkerId | None) -> Claimed:
    """Make a queued task this attempt's, before any worker hears of it.

    Args:
        attempt: How many attempts it has had so far; the new one is the next.

    Raises:
        ClaimLost: The task is no longer queued, or has had another attempt.
    """
    row = tx.db.execute(
        "UPDATE tasks SET state = ?, attempt = attempt + 1, moved_at_ms = ? "
        "WHERE id = ? AND attempt = ? AND state = ? RETURNING run_id, stage, args",
        (advance(State.QUEUED, Event.CLAIM), tx.now_ms, task_id, attempt, State.QUEUED),
    ).fetchone()
    if row is None:
        raise ClaimLost(task_id, attempt + 1)
    run_id, stage, args = row
    tx.db.execute(
        "INSERT INTO attempts (task_id, number, claimed_at_ms, worker_pid, worker_started, log) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            task_id, attempt + 1, tx.now_ms, worker.pid if worker else None, worker.started if worker else None,
            worker.log if worker else None,
        ),
    )  # fmt: skip
    tx.tally(run_id, stage, State.QUEUED, None, -1)
    tx.tally(run_id, stage, State.RUNNING, None, 1)
    return Claimed(Claim(task_id, attempt + 1), args)


def settle(tx: Transaction, held: Claim, ending: Ending, verdict: Verdict, span: LogSpan | None = None) -> State:
    """Write the end of an attempt, its result and what becomes of the task, if the attempt still holds it.

    Raises:
        ClaimLost: The task moved on without this attempt; nothing is written.
    """
    row = tx.db.execute(
        "SELECT run_id, stage, state FROM tasks WHERE id = ? AND attempt = ?", (held.task_id, held.attempt)
    ).fetchone()
    if row is None or row[2] not in LIVE:
        raise ClaimLost(held.task_id, held.attempt)
    run_id, stage, was = row[0], row[1], State(row[2])
    now_is = advance(was, verdict.event)
    settled = now_is in SETTLED
    reason = "; ".join(part for part in (ending.reason, verdict.reason) if part)
    outcome = Outcome.CANCELLED if now_is is State.CANCELLED else ending.outcome
    run_at_ms = tx.now_ms + round(verdict.delay_s * 1000) if now_is is State.SCHEDULED else None
    tx.db.execute(
        "UPDATE tasks SET state = ?, moved_at_ms = ?, run_at_ms = ?, charged = ?, resource = ?, uncharged = ?, "
        "outcome = ?, reason = ?, settled_seq = ? WHERE id = ? AND attempt = ? AND state = ?",
        (
            now_is, tx.now_ms, run_at_ms, verdict.tries.charged, verdict.tries.resource, verdict.tries.uncharged,
            outcome, reason, tx.next_settled() if settled else None, held.task_id, held.attempt, was,
        ),
    )  # fmt: skip
    tx.db.execute(
        "UPDATE attempts SET ended_at_ms = ?, outcome = ?, reason = ?, wall_s = ?, cpu_s = ?, peak_memory_bytes = ?, "
        "exit_code = ?, signal = ?, error = ?, log = coalesce(?, log), log_from = ?, log_to = ? "
        "WHERE task_id = ? AND number = ?",
        (
            tx.now_ms, ending.outcome, reason, ending.wall_s, ending.cpu_s, ending.peak_memory_bytes,
            ending.exit_code, ending.signal, json.dumps(asdict(ending.error)) if ending.error else None,
            span.log if span else None, span.start if span else None, span.end if span else None,
            held.task_id, held.attempt,
        ),
    )  # fmt: skip
    if now_is is State.SUCCEEDED:
        tx.db.execute(
            "INSERT INTO results VALUES (?, ?, ?, ?)", (held.task_id, held.attempt, ending.value, ending.value_file)
        )
    tx.tally(run_id, stage, was, None, -1)
    tx.tally(run_id, stage, now_is, outcome if settled else None, 1)
    return now_is


def promote(tx: Transaction) -> set[int]:
    """Queue scheduled tasks whose time has come; their runs."""
    return _bulk(tx, Event.DUE, "state = 'scheduled' AND run_at_ms <= ?", (tx.now_ms,))[1]


def release(tx: Transaction, run_id: int, stage: int) -> int:
    """Queue tasks of a stage whose turn has come; how many."""
    return _bulk(tx, Event.RELEASE, "state = 'waiting' AND run_id = ? AND stage = ?", (run_id, stage))[0]


def ask_close(tx: Transaction, run_id: int, why: Closing) -> int:
    """Let nothing more of a run start; how many of its tasks were open. `close_some` does the rest."""
    open_tasks: int = tx.db.execute(
        "SELECT coalesce(sum(count), 0) FROM tallies WHERE run_id = ? AND state NOT IN (?, ?, ?)",
        (run_id, *sorted(SETTLED)),
    ).fetchone()[0]
    if open_tasks:
        tx.db.execute(
            "UPDATE runs SET closing = ?, deadline_cut = max(deadline_cut, ?) WHERE id = ? AND closing IS NULL",
            (why, why is Closing.DEADLINE, run_id),
        )
        tx.touched.add(run_id)
    return open_tasks


def close_some(tx: Transaction, run_id: int, why: Closing) -> int:
    """Cancel tasks of a closing run that have not started; how many. Zero: done."""
    reason = "the run's deadline passed before it started" if why is Closing.DEADLINE else "cancelled"
    return _bulk(tx, Event.CANCEL, "run_id = ? AND state IN ('queued', 'scheduled', 'waiting')", (run_id,), reason)[0]


def stop_task(tx: Transaction, task_id: int) -> State:
    """Cancel one task: at once when it has not started, else by asking for its end.

    Raises:
        Refused: It has settled.
    """
    run_id, stage, state = tx.db.execute("SELECT run_id, stage, state FROM tasks WHERE id = ?", (task_id,)).fetchone()
    was = State(state)
    if was is State.STOPPING:
        return was
    if was in SETTLED:
        raise Refused(f"task t{task_id} has ended already: {was}")
    if was is State.RUNNING:
        now_is = advance(was, Event.STOP)
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ? WHERE id = ? AND state = ?", (now_is, tx.now_ms, task_id, was)
        )
        tx.tally(run_id, stage, was, None, -1)
        tx.tally(run_id, stage, now_is, None, 1)
        return now_is
    _bulk(tx, Event.CANCEL, "id = ?", (task_id,), "cancelled")
    return State.CANCELLED


def retry_some(tx: Transaction, run_id: int, task_id: int | None, states: Iterable[State]) -> int:
    """Queue settled tasks once more, with a fresh count of attempts; how many. Zero: done."""
    wanted = [state for state in states if Event.RETRY in TRANSITIONS[state]]
    marks = ", ".join("?" * len(wanted))
    where = f"run_id = ? AND state IN ({marks})"
    if task_id is not None:
        moved = _bulk(tx, Event.RETRY, f"id = ? AND {where}", (task_id, run_id, *wanted))[0]
    else:
        moved = _bulk(tx, Event.RETRY, where, (run_id, *wanted))[0]
    if moved:
        tx.db.execute(
            "UPDATE runs SET ended_at_ms = NULL, closing = NULL, deadline_cut = 0, "
            "deadline_at_ms = CAST(? + deadline_s * 1000 AS INTEGER) WHERE id = ? AND (ended_at_ms IS NOT NULL OR closing IS NOT NULL)",
            (tx.now_ms, run_id),
        )
    return moved


def _bulk(
    tx: Transaction, event: Event, where: str, values: tuple[object, ...], reason: str | None = None
) -> tuple[int, set[int]]:
    """Move up to CHUNK tasks by one event, whatever state of it they are in; (how many, of which runs)."""
    rows: list[tuple[int, int, int, str, str | None]] = tx.db.execute(
        f"SELECT id, run_id, stage, state, outcome FROM tasks WHERE {where} LIMIT {CHUNK}", values
    ).fetchall()
    for task_id, run_id, stage, state, outcome in rows:
        was = State(state)
        now_is = advance(was, event)
        _move_one(tx, task_id, was, now_is, reason)
        tx.tally(run_id, stage, was, outcome if was in SETTLED else None, -1)
        tx.tally(run_id, stage, now_is, Outcome.CANCELLED if now_is is State.CANCELLED else None, 1)
    return len(rows), {row[1] for row in rows}


def _move_one(tx: Transaction, task_id: int, was: State, now_is: State, reason: str | None) -> None:
    if now_is is State.CANCELLED:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, run_at_ms = NULL, outcome = ?, reason = ?, settled_seq = ? "
            "WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, Outcome.CANCELLED, reason, tx.next_settled(), task_id, was),
        )
    elif was in SETTLED:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, outcome = NULL, reason = NULL, settled_seq = NULL, "
            "charged = 0, resource = 0, uncharged = 0 WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, task_id, was),
        )
    else:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, run_at_ms = NULL WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, task_id, was),
        )
