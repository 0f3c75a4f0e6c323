"""Write operations of a submission: an unsealed run, its tasks in chunks, the seal. And its expiry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Work
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store.writer import Transaction

DISCARD_ROWS: Final = 10_000
"""Most tasks that one operation removes: some 25 ms."""


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage of a run to be created; `after` holds the numbers of earlier stages."""

    name: str
    work: Work
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created."""

    name: str
    key: str | None
    cwd: str
    env: dict[str, str]
    deadline_s: float | None
    stages: tuple[NewStage, ...]
    python: str = ""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be created; `args` is JSON text."""

    stage: int
    args: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run just written, or found under its key."""

    id: int
    tasks: int
    sealed: bool
    existing: bool


def create_run(tx: Transaction, run: NewRun) -> RunRow:
    """Write an unsealed run, or find the one that this key made before."""
    if run.key is not None:
        found = tx.db.execute(
            "SELECT id, task_count, sealed_at_ms IS NOT NULL FROM runs WHERE submit_key = ?", (run.key,)
        ).fetchone()
        if found:
            return RunRow(found[0], found[1], bool(found[2]), existing=True)
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
                run_id, number, stage.name, work.function, json.dumps(work.command) if work.command else None,
                work.shell, limits.timeout_s, limits.soft_timeout_s, limits.max_attempts, limits.retry_delay_s,
                json.dumps(stage.after), limits.cpu_limit_s, limits.stall_timeout_s, limits.memory_limit_bytes,
                limits.thread_limit, limits.output_limit_bytes, work.allow_children, work.need_memory_bytes,
                work.need_threads, work.name,
            ),
        )  # fmt: skip
    return RunRow(run_id, 0, sealed=False, existing=False)


def add_tasks(tx: Transaction, run_id: int, offset: int, tasks: Sequence[NewTask]) -> RunRow:
    """Write tasks at their places in an unsealed run; those that are there already stay as they are.

    Raises:
        Refused: The run is sealed, the chunk leaves a gap, or names a stage the run has not.
    """
    count = _unsealed(tx, run_id)
    if offset > count:
        raise Refused(f"tasks from {offset} on leave a gap: run r{run_id} has {count} so far")
    waits = {
        row[0]: State.WAITING if row[1] != "[]" else State.QUEUED
        for row in tx.db.execute("SELECT number, after FROM stages WHERE run_id = ?", (run_id,))
    }
    fresh = tasks[count - offset :]
    for task in fresh:
        if task.stage not in waits:
            raise Refused(f"a task names stage {task.stage}: run r{run_id} has stages 0 to {len(waits) - 1}")
    tx.db.executemany(
        "INSERT INTO tasks (run_id, idx, stage, task_key, args, state, moved_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (run_id, count + place, task.stage, task.key, task.args, waits[task.stage], tx.now_ms)
            for place, task in enumerate(fresh)
        ],
    )
    tx.db.execute("UPDATE runs SET task_count = ? WHERE id = ?", (count + len(fresh), run_id))
    for stage, state in waits.items():
        tx.tally(run_id, stage, state, None, sum(task.stage == stage for task in fresh))
    return RunRow(run_id, count + len(fresh), sealed=False, existing=False)


def seal(tx: Transaction, run_id: int) -> RunRow:
    """End a submission: from now on its tasks may start. Sealing a sealed run changes nothing."""
    row = tx.db.execute(
        "SELECT task_count, sealed_at_ms IS NOT NULL, deadline_s FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if row is None:
        raise Refused(f"run r{run_id} is gone: its submission was given up")
    tasks, sealed, deadline_s = row
    if sealed:
        return RunRow(run_id, tasks, sealed=True, existing=True)
    deadline_at_ms = None if deadline_s is None else tx.now_ms + round(deadline_s * 1000)
    tx.db.execute(
        "UPDATE runs SET sealed_at_ms = ?, deadline_at_ms = ? WHERE id = ?", (tx.now_ms, deadline_at_ms, run_id)
    )
    tx.touched.add(run_id)  # one without open tasks has ended with that
    return RunRow(run_id, tasks, sealed=True, existing=False)


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
    tasks = tx.db.execute(
        "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE run_id = ? LIMIT ?)", (run_id, DISCARD_ROWS)
    ).rowcount
    if tasks == DISCARD_ROWS:
        return False
    tx.db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
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


def _unsealed(tx: Transaction, run_id: int) -> int:
    row = tx.db.execute(
        "SELECT task_count, sealed_at_ms IS NOT NULL, closing FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if row is None or (row[2] is not None and not row[1]):
        raise Refused(f"run r{run_id} is gone: its submission was given up")
    if row[1]:
        raise Refused(f"run r{run_id} is sealed: it takes no more tasks")
    return int(row[0])
