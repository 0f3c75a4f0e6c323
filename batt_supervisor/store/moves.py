"""Write operations that move tasks through the lifecycle. The row is the fence: each names what it was decided from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Final

from batt_supervisor.core.lifecycle import SETTLED, TRANSITIONS, Event, State, advance
from batt_supervisor.core.model import Claim, Outcome
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.jsontext import dumps, loads
from batt_supervisor.store.transaction import Transaction
from batt_supervisor.store.tries import COLUMNS, of_row
from batt_supervisor.store.values import Claimed, Settlement, Wanted

CHUNK: Final = 2_000
"""Most rows that one operation moves: about 20 ms, so that no other caller waits long for the writer."""


_CLOSING: Final = {Closing.CANCEL: "cancelled", Closing.DEADLINE: "the run's deadline passed"}


# Claims and ends come in batches, each step of a batch being one statement: Python's sqlite3 gives the interpreter lock
# up around every statement, and a writer that has to win it back for every row would be the slowest part of battd.
# Words of an enumeration go in as plain text: pydantic's core takes far longer to write a member than its text.


def claim(tx: Transaction, wanted: Sequence[Wanted]) -> dict[int, Claimed]:
    """Make queued tasks these attempts', before any worker hears of them.

    Returns:
        What was claimed, by the task's id. A task that is no longer queued, or has had another attempt since, is not
        in it, and nothing of it was changed.
    """
    wanted = list({want.task_id: want for want in wanted}.values())
    keys = dumps([(want.task_id, want.attempt) for want in wanted])
    rows = loads(
        tx.db.execute(
            "SELECT json_group_array(json_array(t.id, t.run_id, t.stage, t.args, t.idx, t.attempt, t.event_seq, "
            f"{COLUMNS})) FROM json_each(?) j "
            "JOIN tasks t ON t.id = j.value ->> 0 AND t.attempt = j.value ->> 1 AND t.state = 'queued'",
            (keys,),
        ).fetchone()[0]
    )
    running = advance(State.QUEUED, Event.CLAIM)
    moved = Event.CLAIM.value, State.QUEUED.value, running.value
    add = tx.journal.add
    taken = [(row[0], row[5], add(row[0], row[1], row[5] + 1, *moved, prev=row[6])) for row in rows]
    tx.db.execute(
        "UPDATE tasks SET state = ?, attempt = tasks.attempt + 1, moved_at_ms = ?, event_seq = j.value ->> 2 "
        "FROM json_each(?) j "
        "WHERE tasks.id = j.value ->> 0 AND tasks.attempt = j.value ->> 1 AND tasks.state = ?",
        (running, tx.now_ms, dumps(taken), State.QUEUED),
    )
    claimed = {row[0]: Claimed(row[3], of_row(row[7:]), row[4]) for row in rows}
    attempts = [
        (
            want.task_id,
            want.attempt + 1,
            *((want.worker.pid, want.worker.started, want.worker.log) if want.worker else ()),
        )
        for want in wanted
        if want.task_id in claimed
    ]
    tx.db.execute(
        "INSERT INTO attempts (task_id, number, claimed_at_ms, worker_pid, worker_started, log) "
        "SELECT value ->> 0, value ->> 1, ?, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)",
        (tx.now_ms, dumps(attempts)),
    )
    for _, run_id, stage, *_ in rows:
        tx.tally(run_id, stage, State.QUEUED, None, -1)
        tx.tally(run_id, stage, running, None, 1)
    tx.point("claim")
    return claimed


def settle(tx: Transaction, settlements: Sequence[Settlement]) -> dict[Claim, State]:
    """Write ends of attempts, their results and what becomes of their tasks, where the attempt still holds its task.

    Returns:
        The state each task is in now, by claim. A task that moved on without its attempt is not in it, and nothing of
        that attempt was written.
    """
    keys = dumps([(one.claim.task_id, one.claim.attempt) for one in settlements])
    rows = loads(
        tx.db.execute(
            "SELECT json_group_array(json_array(t.id, t.attempt, t.run_id, t.stage, t.state, t.event_seq)) "
            "FROM json_each(?) j "
            "JOIN tasks t ON t.id = j.value ->> 0 AND t.attempt = j.value ->> 1 AND t.state IN ('running', 'stopping')",
            (keys,),
        ).fetchone()[0]
    )
    held = {Claim(row[0], row[1]): (row[2], row[3], State(row[4]), row[5]) for row in rows}
    moves: list[tuple[object, ...]] = []
    ends: list[tuple[object, ...]] = []
    results: list[tuple[object, ...]] = []
    states: dict[Claim, State] = {}
    logs: Counter[str] = Counter()
    for one in settlements:
        if one.claim not in held:
            continue
        run_id, stage, was, prev = held.pop(one.claim)
        now_is = states[one.claim] = advance(was, one.verdict.event)
        settled = now_is in SETTLED
        outcome = Outcome.CANCELLED if now_is is State.CANCELLED else one.ending.outcome
        reason = _text("; ".join(part for part in (one.ending.reason, one.verdict.reason) if part))
        reason = reason.replace("\0", "\\x00")  # SQLite's JSON functions would cut it there
        due_ms = tx.now_ms + round(one.verdict.delay_s * 1000) if now_is is State.SCHEDULED else None
        tries = one.verdict.tries
        task_id, attempt = one.claim.task_id, one.claim.attempt
        moved = one.verdict.event.value, was.value, now_is.value, one.ending.outcome.value
        seq = tx.journal.add(task_id, run_id, attempt, *moved, reason, prev)
        moves.append(
            (
                task_id, attempt, was.value, now_is.value, due_ms, tries.charged, tries.resource, tries.uncharged,
                outcome.value, reason, tx.next_settled() if settled else None,
                tries.starved, tries.crashes, tries.evicted, tries.suspect, seq,
            )
        )  # fmt: skip
        ends.append((task_id, attempt, reason, *_end(one)))
        if one.place is not None and one.place.log_to > one.place.log_from:
            logs[one.place.worker.log] += 1
        if now_is is State.SUCCEEDED:
            results.append((task_id, attempt, one.ending.value, one.ending.value_file))
        tx.tally(run_id, stage, was, None, -1)
        tx.tally(run_id, stage, now_is, outcome if settled else None, 1)
    _write_settled(tx, moves, ends, results)
    if logs:
        tx.db.executemany(
            "INSERT INTO logs VALUES (?, ?) ON CONFLICT DO UPDATE SET attempts = attempts + excluded.attempts",
            list(logs.items()),
        )
    tx.point("settle")
    return states


def _end(one: Settlement) -> tuple[object, ...]:
    ending, place = one.ending, one.place
    where = (place.worker.pid, place.worker.started, place.worker.log, place.log_from, place.log_to) if place else ()
    error = dumps({key: _text(text) for key, text in asdict(ending.error).items()}) if ending.error else None
    return (
        ending.outcome.value, ending.wall_s, ending.cpu_s, ending.peak_memory_bytes, ending.exit_code, ending.signal,
        error, ending.peak_threads, *where,
    )  # fmt: skip


def _text(text: str) -> str:
    """Text that can be stored as UTF-8: a file name that is none leaves half characters in an exception's message."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_settled(
    tx: Transaction,
    moves: list[tuple[object, ...]],
    ends: list[tuple[object, ...]],
    results: list[tuple[object, ...]],
) -> None:
    tx.db.execute(
        "UPDATE tasks SET state = j.value ->> 3, moved_at_ms = ?, run_at_ms = j.value ->> 4, charged = j.value ->> 5, "
        "resource = j.value ->> 6, uncharged = j.value ->> 7, outcome = j.value ->> 8, reason = j.value ->> 9, "
        "settled_seq = j.value ->> 10, starved = j.value ->> 11, crashes = j.value ->> 12, evicted = j.value ->> 13, "
        "suspect = j.value ->> 14, event_seq = j.value ->> 15 "
        "FROM json_each(?) j "
        "WHERE tasks.id = j.value ->> 0 AND tasks.attempt = j.value ->> 1 AND tasks.state = j.value ->> 2",
        (tx.now_ms, dumps(moves)),
    )
    tx.db.execute(
        "UPDATE attempts SET ended_at_ms = ?, reason = j.value ->> 2, outcome = j.value ->> 3, wall_s = j.value ->> 4, "
        "cpu_s = j.value ->> 5, peak_memory_bytes = j.value ->> 6, exit_code = j.value ->> 7, signal = j.value ->> 8, "
        "error = j.value ->> 9, peak_threads = j.value ->> 10, worker_pid = coalesce(j.value ->> 11, worker_pid), "
        "worker_started = coalesce(j.value ->> 12, worker_started), log = coalesce(j.value ->> 13, log), "
        "log_from = j.value ->> 14, log_to = j.value ->> 15 FROM json_each(?) j "
        "WHERE attempts.task_id = j.value ->> 0 AND attempts.number = j.value ->> 1",
        (tx.now_ms, dumps(ends)),
    )
    if results:
        tx.db.execute(
            "INSERT INTO results SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
            (dumps(results),),
        )


def promote(tx: Transaction) -> set[int]:
    """Queue scheduled tasks whose time has come; their runs."""
    return _bulk(tx, Event.DUE, "state = 'scheduled' AND run_at_ms <= ?", (tx.now_ms,))[1]


def release(tx: Transaction, run_id: int, stage: int) -> int:
    """Queue tasks of a stage whose turn has come; how many."""
    return _bulk(tx, Event.RELEASE, "state = 'waiting' AND run_id = ? AND stage = ?", (run_id, stage))[0]


def ask_close(tx: Transaction, run_id: int, why: Closing) -> int:
    """Let nothing more of a run start; how many of its tasks were open. `close_some` does the rest.

    A deadline that has not passed closes nothing: a retry may have moved it since somebody saw that it had.
    """
    if why is Closing.DEADLINE and not _overdue(tx, run_id):
        return 0
    open_tasks = tx.open_tasks(run_id)
    if open_tasks:
        closed = tx.db.execute(
            "UPDATE runs SET closing = ?, deadline_cut = max(deadline_cut, ?) WHERE id = ? AND closing IS NULL",
            (why, why is Closing.DEADLINE, run_id),
        ).rowcount
        if closed:
            tx.journal.add(None, run_id, None, "closing", reason=_CLOSING[why])
        tx.touched.add(run_id)
    return open_tasks


def _overdue(tx: Transaction, run_id: int) -> bool:
    due = "SELECT 1 FROM runs WHERE id = ? AND deadline_at_ms IS NOT NULL AND deadline_at_ms <= ?"
    return tx.db.execute(due, (run_id, tx.now_ms)).fetchone() is not None


def close_some(tx: Transaction, run_id: int, why: Closing) -> int:
    """Cancel tasks of a closing run that have not started; how many. Zero: done."""
    reason = "the run's deadline passed before it started" if why is Closing.DEADLINE else "cancelled"
    # The row is the fence: a run that was opened again in the meantime, or is closed for another reason by now, is
    # closed no further for this one.
    closing = "EXISTS (SELECT 1 FROM runs WHERE id = tasks.run_id AND closing = ?)"
    where = f"run_id = ? AND state IN ('queued', 'scheduled', 'waiting') AND {closing}"
    return _bulk(tx, Event.CANCEL, where, (run_id, why), reason)[0]


def stop_task(tx: Transaction, task_id: int) -> State:
    """Cancel one task: at once when it has not started, else by asking for its end.

    Raises:
        Refused: It has settled.
    """
    row = tx.db.execute(
        "SELECT run_id, stage, state, attempt, event_seq FROM tasks WHERE id = ?", (task_id,)
    ).fetchone()
    if row is None:
        raise Refused(f"task t{task_id} is gone: its submission was given up, or its run was removed")
    run_id, stage, state, attempt, prev = row
    was = State(state)
    if was is State.STOPPING:
        return was
    if was in SETTLED:
        raise Refused(f"task t{task_id} has ended already: {was}")
    if was is State.RUNNING:
        now_is = advance(was, Event.STOP)
        seq = tx.journal.add(task_id, run_id, attempt, Event.STOP, was, now_is, None, "somebody asked", prev)
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, event_seq = ? WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, seq, task_id, was),
        )
        tx.tally(run_id, stage, was, None, -1)
        tx.tally(run_id, stage, now_is, None, 1)
        return now_is
    _bulk(tx, Event.CANCEL, "id = ?", (task_id,), "cancelled")
    return State.CANCELLED


def retry_some(tx: Transaction, run_id: int, task_id: int | None, states: Iterable[State]) -> int:
    """Open settled tasks once more, with a fresh count of attempts; how many. Zero: done.

    Tasks of a stage that comes after others wait for these again, which may have been opened as well.

    Raises:
        Refused: The run is still being stopped, or has been removed.
    """
    row = tx.db.execute("SELECT closing, ended_at_ms FROM runs WHERE id = ? AND NOT going", (run_id,)).fetchone()
    if row is None:
        raise Refused(f"run r{run_id} is gone: it was removed")
    closing, ended = row
    if closing is not None and ended is None and tx.open_tasks(run_id):
        raise Refused(f"run r{run_id} is still being stopped; retry it when it has ended")
    wanted = [state for state in states if Event.RETRY in TRANSITIONS[state]]
    where = f"run_id = ? AND state IN ({', '.join('?' * len(wanted))})"
    values: tuple[object, ...] = (run_id, *wanted)
    if task_id is not None:
        where, values = f"id = ? AND {where}", (task_id, *values)
    else:
        # Stage by stage: one that waits for others must not be opened before all of them are.
        where, values = f"{where} AND stage <= ?", (*values, _up_to(tx.stages_in(run_id, wanted)))
    first = "stage IN (SELECT number FROM stages WHERE run_id = tasks.run_id AND after = '[]')"
    moved = _bulk(tx, Event.RETRY, f"{where} AND {first}", values)[0]
    moved += _bulk(tx, Event.REWAIT, f"{where} AND NOT {first}", values)[0]
    if moved:
        # What the deadline has cut stays cut until it, too, is retried: `deadline_cut` is not taken back.
        opened = tx.db.execute(
            "UPDATE runs SET ended_at_ms = NULL, closing = NULL, "
            "deadline_at_ms = CAST(? + deadline_s * 1000 AS INTEGER) WHERE id = ? "
            "AND (ended_at_ms IS NOT NULL OR closing IS NOT NULL)",
            (tx.now_ms, run_id),
        ).rowcount
        if opened:
            tx.journal.add(None, run_id, None, "reopened", None, "running", reason="a retry of some of its tasks")
    return moved


def _up_to(stages: Sequence[tuple[int, int]]) -> int:
    """The last of the first stages whose tasks are moved in one operation; the first one of all may need several."""
    total, last = 0, -1
    for stage, count in stages:
        if total and total + count > CHUNK:
            break
        total, last = total + count, stage
    return last


def _bulk(
    tx: Transaction, event: Event, where: str, values: tuple[object, ...], reason: str | None = None
) -> tuple[int, set[int]]:
    """Move up to CHUNK tasks by one event, whatever state of it they are in; (how many, of which runs)."""
    rows: list[tuple[int, int, int, str, str | None, int, int | None]] = tx.db.execute(
        f"SELECT id, run_id, stage, state, outcome, attempt, event_seq FROM tasks WHERE {where} LIMIT {CHUNK}", values
    ).fetchall()
    for task_id, run_id, stage, state, outcome, attempt, prev in rows:
        was = State(state)
        now_is = advance(was, event)
        cancelled = Outcome.CANCELLED if now_is is State.CANCELLED else None
        seq = tx.journal.add(task_id, run_id, attempt or None, event, was, now_is, cancelled, reason, prev)
        _move_one(tx, task_id, was, now_is, reason, seq)
        tx.tally(run_id, stage, was, outcome if was in SETTLED else None, -1)
        tx.tally(run_id, stage, now_is, cancelled, 1)
    return len(rows), {row[1] for row in rows}


def _move_one(tx: Transaction, task_id: int, was: State, now_is: State, reason: str | None, seq: int) -> None:
    if now_is is State.CANCELLED:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, run_at_ms = NULL, outcome = ?, reason = ?, settled_seq = ?, "
            "event_seq = ? WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, Outcome.CANCELLED, reason, tx.next_settled(), seq, task_id, was),
        )
    elif was in SETTLED:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, outcome = NULL, reason = NULL, settled_seq = NULL, "
            "charged = 0, resource = 0, uncharged = 0, starved = 0, crashes = 0, evicted = 0, suspect = 0, "
            "event_seq = ? WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, seq, task_id, was),
        )
    else:
        tx.db.execute(
            "UPDATE tasks SET state = ?, moved_at_ms = ?, run_at_ms = NULL, event_seq = ? WHERE id = ? AND state = ?",
            (now_is, tx.now_ms, seq, task_id, was),
        )
