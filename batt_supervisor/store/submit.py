"""Write operations of a submission: an unsealed run, its tasks in chunks, the seal. And its expiry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store.pacing import paced
from batt_supervisor.store.transaction import Transaction
from batt_supervisor.store.values import Created, NewRun, NewTask

DISCARD_ROWS: Final = 10_000
"""Most tasks that one operation removes, however fast the machine is."""


def create_run(tx: Transaction, run: NewRun) -> Created:
    """Write an unsealed run, or find the one that this key, or its unique name, made before."""
    found = _existing(tx, run)
    if found is not None:
        return found
    run_id = tx.db.execute(
        "INSERT INTO runs (name, submit_key, cwd, env, created_at_ms, deadline_s, python, seed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (run.name, run.key, run.cwd, json.dumps(run.env), tx.now_ms, run.deadline_s, run.python, run.seed),
    ).lastrowid
    assert run_id is not None
    for number, stage in enumerate(run.stages):
        work, limits = stage.work, stage.work.limits
        tx.db.execute(
            "INSERT INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id, number, stage.name, work.function, _command(work.command),
                work.shell, limits.timeout_s, limits.soft_timeout_s, limits.max_attempts, limits.retry_delay_s,
                json.dumps(stage.after), limits.cpu_limit_s, limits.stall_timeout_s, limits.memory_limit_bytes,
                limits.thread_limit, limits.output_limit_bytes, work.allow_children, work.need_memory_bytes,
                work.need_threads, work.name,
            ),
        )  # fmt: skip
    tx.journal.add(None, run_id, None, "created", None, "receiving", reason=run.name)
    tx.point("submit")
    return Created(run_id, 0, sealed=False, existing=False)


def _existing(tx: Transaction, run: NewRun) -> Created | None:
    """The run that this submission's key, or its name where that is to be unique, has made before.

    Raises:
        Refused: That one was submitted otherwise, so it is not this submission that was repeated.
    """
    select = (
        "SELECT id, task_count, sealed_at_ms IS NOT NULL, name, cwd, env, python, seed, deadline_s FROM runs WHERE "
    )
    called, value = "key", run.key
    row = tx.db.execute(f"{select} submit_key = ?", (run.key,)).fetchone() if run.key is not None else None
    if row is None and run.unique_name:
        called, value = "name", run.name
        there = "name = ? AND NOT going AND (sealed_at_ms IS NOT NULL OR closing IS NULL)"  # not one that was given up
        row = tx.db.execute(f"{select} {there} ORDER BY id DESC LIMIT 1", (run.name,)).fetchone()
    if row is None:
        return None
    run_id, tasks, sealed, name, cwd, env, python, seed, deadline_s = row
    stages = tx.db.execute(
        "SELECT function, command, shell, after FROM stages WHERE run_id = ? ORDER BY number", (run_id,)
    ).fetchall()
    # Not their limits and needs: those that were left out are the service's own, which may be others by now.
    compared = {
        "name": (name, run.name),
        "cwd": (cwd, run.cwd),
        "env": (json.loads(env), dict(run.env)),
        "python": (python, run.python),
        "seed": (seed, run.seed),
        "deadline": (deadline_s, run.deadline_s),
        "function or command": (
            [row[:3] for row in stages],
            [(stage.work.function, _command(stage.work.command), stage.work.shell) for stage in run.stages],
        ),
        "order of stages": ([row[3] for row in stages], [json.dumps(stage.after) for stage in run.stages]),
    }
    for what, (theirs, ours) in compared.items():
        if theirs != ours:
            raise Refused(
                f"the {called} {value!r} belongs to run r{run_id}, which was submitted with another {what}; "
                f"choose another {called}"
            )
    return Created(run_id, tasks, bool(sealed), existing=True)


def _command(words: tuple[str, ...]) -> str | None:
    return json.dumps(words) if words else None


def add_tasks(tx: Transaction, run_id: int, offset: int, tasks: Sequence[NewTask]) -> Created:
    """Write tasks at their places in an unsealed run; those that are there already are to be the same.

    Of a sealed run, all of them are to be there: it was somebody else who has sealed the same submission.

    Raises:
        Refused: The run is sealed and has not so many, the chunk leaves a gap, or names a stage the run has not; or
            what is there is another submission's.
    """
    count, sealed = _open_for_tasks(tx, run_id)
    if sealed and offset + len(tasks) > count:
        raise Refused(
            f"run r{run_id} was submitted with {count} tasks, and takes no more; "
            "a submission of more needs another key or name"
        )
    if offset > count:
        raise Refused(f"tasks from {offset} on leave a gap: run r{run_id} has {count} so far")
    if offset < count:
        _compare(tx, run_id, offset, tasks[: count - offset])
    if sealed:
        return Created(run_id, count, sealed=True, existing=True)
    waits = {
        row[0]: State.WAITING if row[1] != "[]" else State.QUEUED
        for row in tx.db.execute("SELECT number, after FROM stages WHERE run_id = ?", (run_id,))
    }
    fresh = tasks[count - offset :]
    for task in fresh:
        if task.stage not in waits:
            raise Refused(f"a task names stage {task.stage}: run r{run_id} has stages 0 to {len(waits) - 1}")
    if not fresh:
        return Created(run_id, count, sealed=False, existing=False)
    states = [waits[task.stage] for task in fresh]
    # There is one writer, so ids that are still free stay free.
    last_id = tx.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tasks'").fetchone()
    first_id = (last_id[0] if last_id else 0) + 1
    _insert(tx, run_id, count, first_id, tx.journal.created(run_id, first_id, states), fresh, states)
    tx.db.execute("UPDATE runs SET task_count = ? WHERE id = ?", (count + len(fresh), run_id))
    for stage, state in waits.items():
        tx.tally(run_id, stage, state, None, sum(task.stage == stage for task in fresh))
    tx.point("submit")
    return Created(run_id, count + len(fresh), sealed=False, existing=False)


def _compare(tx: Transaction, run_id: int, offset: int, tasks: Sequence[NewTask]) -> None:
    """See that these tasks are there as they are.

    Raises:
        Refused: One of them is another.
    """
    rows = tx.db.execute(
        "SELECT idx, stage, args, task_key FROM tasks WHERE run_id = ? AND idx >= ? AND idx < ? ORDER BY idx",
        (run_id, offset, offset + len(tasks)),
    )
    for (index, *theirs), task in zip(rows, tasks, strict=True):
        if tuple(theirs) != (task.stage, task.args, task.key):
            raise Refused(
                f"task {index} of run r{run_id} is there already, and is another: it was submitted with other items; "
                "choose another key or name"
            )


def _insert(
    tx: Transaction, run_id: int, index: int, task_id: int, seq: int, tasks: Sequence[NewTask], states: Sequence[State]
) -> None:
    """Write rows of tasks; index, id and number of the event are those of the first, the others' follow on."""
    stage, state = tasks[0].stage, states[0]
    if all(task.stage == stage and task.key is None for task in tasks):
        # The usual case, at a third of the cost: executemany gives the interpreter lock up at every row, and has to
        # win it back from the thread that reads the next request. json_each would cut a key at a NUL; JSON has none.
        tx.db.execute(
            "INSERT INTO tasks (id, run_id, idx, stage, args, state, moved_at_ms, event_seq) "
            "SELECT ? + key, ?, ? + key, ?, value, ?, ?, ? + key FROM json_each(?)",
            (task_id, run_id, index, stage, state, tx.now_ms, seq, json.dumps([task.args for task in tasks])),
        )
        return
    tx.db.executemany(
        "INSERT INTO tasks (id, run_id, idx, stage, task_key, args, state, moved_at_ms, event_seq) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (task_id + place, run_id, index + place, task.stage, task.key, task.args, state, tx.now_ms, seq + place)
            for place, (task, state) in enumerate(zip(tasks, states, strict=True))
        ],
    )


def seal(tx: Transaction, run_id: int, submitted: int | None = None) -> Created:
    """End a submission: from now on its tasks may start. Sealing a sealed run changes nothing.

    Args:
        submitted: How many tasks whoever submits them has sent.

    Raises:
        Refused: The run is gone; or it has another number of tasks, so it is another submission's.
    """
    row = tx.db.execute(
        "SELECT task_count, sealed_at_ms IS NOT NULL, deadline_s, closing FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if row is None or (row[3] is not None and not row[1]):
        raise Refused(f"run r{run_id} is gone: its submission was given up")
    tasks, sealed, deadline_s, _ = row
    if submitted is not None and submitted != tasks:
        raise Refused(
            f"run r{run_id} has {tasks} tasks, and {submitted} were submitted now: it was submitted with other items; "
            "choose another key or name"
        )
    if sealed:
        return Created(run_id, tasks, sealed=True, existing=True)
    deadline_at_ms = None if deadline_s is None else tx.now_ms + round(deadline_s * 1000)
    tx.db.execute(
        "UPDATE runs SET sealed_at_ms = ?, deadline_at_ms = ? WHERE id = ?", (tx.now_ms, deadline_at_ms, run_id)
    )
    tx.journal.add(None, run_id, None, "sealed", "receiving", "running")
    tx.point("submit")
    tx.touched.add(run_id)  # one without open tasks has ended with that
    return Created(run_id, tasks, sealed=True, existing=False)


def discard(tx: Transaction, run_id: int) -> bool:
    """Remove a run whose submission was given up, or a part of its tasks; whether it is gone. Repeat until it is.

    From the first part on it takes no more tasks, and its key is free.

    Raises:
        Refused: It is sealed.
    """
    row = tx.db.execute("SELECT sealed_at_ms FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        return True
    if row[0] is not None:
        raise Refused(f"run r{run_id} is sealed: it is cancelled, not removed")
    tx.db.execute("UPDATE runs SET closing = ?, submit_key = NULL WHERE id = ?", (Closing.CANCEL, run_id))
    for at_once in paced(DISCARD_ROWS, 1_000):  # each may have a megabyte of arguments
        delete = "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE run_id = ? LIMIT ?)"
        if tx.db.execute(delete, (run_id, at_once)).rowcount < at_once:
            break
    else:
        return False
    tx.db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
    tx.journal.add(None, run_id, None, "discarded", "receiving", reason="its submission was given up")
    tx.forget(run_id)
    return True


def expire_unsealed(tx: Transaction, older_than_ms: int) -> bool:
    """Remove a submission that nobody has gone on with, or a part of it; whether there is none left."""
    row = tx.db.execute(
        "SELECT id FROM runs WHERE sealed_at_ms IS NULL AND created_at_ms < ? LIMIT 1", (tx.now_ms - older_than_ms,)
    ).fetchone()
    if row is None:
        return True
    discard(tx, row[0])
    return False


def _open_for_tasks(tx: Transaction, run_id: int) -> tuple[int, bool]:
    """How many tasks a run has, and whether it is sealed."""
    row = tx.db.execute(
        "SELECT task_count, sealed_at_ms IS NOT NULL, closing, going FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if row is not None and row[3]:
        raise Refused(f"run r{run_id} is gone: it is being removed")
    if row is None or (row[2] is not None and not row[1]):
        raise Refused(f"run r{run_id} is gone: its submission was given up")
    return int(row[0]), bool(row[1])
