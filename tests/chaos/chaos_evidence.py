"""What is looked at when a chaos run is over: battd's answers, its database and files, and what tasks wrote down."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_clients import Promise
from chaos_killer import Kill
from chaos_plan import Plan
from chaos_service import Life

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import State
from batt_supervisor.wire import EventInfo, TaskResult

LOGS_READ = 20
"""Tasks that print whose logs are read."""


@dataclass
class Answers:
    """What battd said last, by run name, before it was stopped."""

    counts: dict[str, dict[State, int]] = field(default_factory=dict)
    results: dict[str, list[TaskResult]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # by task name
    total: dict[State, int] = field(default_factory=dict)


def ask(socket: Path, promises: Mapping[str, Promise]) -> Answers:
    """Everything that a client can see."""
    told = Answers()
    with Client(socket) as client:
        told.total = dict(client.service().counts)
        for name, promise in promises.items():
            told.counts[name] = dict(client.run(promise.id).counts)
            told.results[name] = []
            after = None
            while True:
                page = client.results(promise.id, after=after, limit=50)  # results are large
                told.results[name] += page.items
                after = page.next
                if after is None:
                    break
            for task, result in zip(promise.run.tasks, told.results[name], strict=False):
                if task.kind.name == "prints" and result.outcome == "ok" and len(told.logs) < LOGS_READ:
                    told.logs[task.name] = client.log(result.id).text
    return told


@dataclass(frozen=True)
class Attempt:
    """A row of the database."""

    number: int
    claimed_at_ms: int
    ended_at_ms: int | None
    outcome: str | None
    reason: str
    signal: str | None
    worker_pid: int | None


@dataclass(frozen=True)
class Row:
    """A task's row, with those of its attempts."""

    id: int
    index: int
    args: list[Any]
    state: State
    outcome: str | None
    reason: str
    attempt: int
    charged: int
    uncharged: int
    settled_seq: int | None
    attempts: tuple[Attempt, ...]


@dataclass
class Disk:
    """The state directory after the last battd has ended.

    Attributes:
        tasks: Of each run, by its key.
        tallies: What is counted of each run, by its key.
        results: Task ids with a result: attempt and file.
        files: Names below results/.
        broken: What SQLite says of its file.
    """

    tasks: dict[str, list[Row]]
    tallies: dict[str, dict[State, int]]
    results: dict[int, tuple[int, str | None]]
    files: set[str]
    broken: list[str]


def read(state_dir: Path) -> Disk:
    """Read all of it."""
    with closing(sqlite3.connect(f"file:{state_dir / 'queue.db'}?mode=ro", uri=True)) as db:
        broken = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
        broken += [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")]
        attempts: dict[int, list[Attempt]] = {}
        for task_id, *fields in db.execute(
            "SELECT task_id, number, claimed_at_ms, ended_at_ms, outcome, coalesce(reason, ''), signal, worker_pid "
            "FROM attempts ORDER BY task_id, number"
        ):
            attempts.setdefault(task_id, []).append(Attempt(*fields))
        tasks: dict[str, list[Row]] = {
            key or f"r{run}": [] for run, key in db.execute("SELECT id, submit_key FROM runs")
        }
        for key, task_id, index, args, state, outcome, reason, *counts in db.execute(
            "SELECT coalesce(submit_key, 'r' || runs.id), tasks.id, idx, args, state, outcome, coalesce(reason, ''), "
            "attempt, charged, uncharged, settled_seq FROM tasks JOIN runs ON runs.id = run_id ORDER BY run_id, idx"
        ):
            attempt, charged, uncharged, settled_seq = counts
            tried = tuple(attempts.pop(task_id, ()))
            tasks[key].append(
                Row(
                    task_id,
                    index,
                    json.loads(args),
                    State(state),
                    outcome,
                    reason,
                    attempt,
                    charged,
                    uncharged,
                    settled_seq,
                    tried,
                )
            )
        broken += [f"attempts of task {task_id}, which is not there" for task_id in attempts]
        tallies: dict[str, dict[State, int]] = {key: {} for key in tasks}
        for key, state, count in db.execute(
            "SELECT coalesce(submit_key, 'r' || run_id), state, sum(count) FROM tallies JOIN runs ON runs.id = run_id "
            "GROUP BY run_id, state HAVING sum(count) != 0"
        ):
            tallies[key][State(state)] = count
        results = {
            task_id: (attempt, file)
            for task_id, attempt, file in db.execute("SELECT task_id, attempt, file FROM results")
        }
    files = {entry.name for entry in (state_dir / "results").iterdir()}
    return Disk(tasks, tallies, results, files, broken)


@dataclass(frozen=True)
class Noted:
    """One line that a task wrote down; `at_s` is monotonic, for what escaped its start time in clock ticks."""

    what: str
    pid: int
    at_s: float


def noted(folder: Path) -> dict[str, list[Noted]]:
    """What the tasks of a run wrote down, by name."""
    found: dict[str, list[Noted]] = {}
    log = folder / "log"
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        name, what, pid, at_s = line.split()
        found.setdefault(name, []).append(Noted(what, int(pid), float(at_s)))
    return found


@dataclass
class Evidence:
    """All of it.

    Attributes:
        noted: By run name, by task name.
        events: The event log, as somebody followed it all the while.
        missed: How many of them could not be followed.
        stopped: supervisord's exit code.
        left: Processes that outlived it.
        groups_left: Control groups that did.
    """

    plan: Plan
    promises: Mapping[str, Promise]
    answers: Answers
    disk: Disk
    noted: dict[str, dict[str, list[Noted]]]
    events: list[EventInfo]
    missed: int
    kills: Sequence[Kill]
    lives: Sequence[Life]
    log: str
    stopped: int
    left: Sequence[str]
    groups_left: Sequence[str]
    wall_s: float
