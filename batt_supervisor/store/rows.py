"""Rows as they are read: plain values, whatever database is behind them."""

from __future__ import annotations

from dataclasses import dataclass

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Work
from batt_supervisor.core.world import Closing


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run's own row."""

    id: int
    name: str
    cwd: str
    env: dict[str, str]
    task_count: int
    created_at_ms: int
    sealed_at_ms: int | None
    deadline_at_ms: int | None
    closing: Closing | None
    deadline_cut: bool
    ended_at_ms: int | None
    python: str = ""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage with the work its tasks share."""

    number: int
    name: str
    work: Work
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task, what its last attempt gave, and its result."""

    id: int
    run_id: int
    idx: int
    stage: int
    key: str | None
    args: str
    state: State
    attempt: int
    outcome: str | None
    reason: str | None
    settled_seq: int | None
    wall_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    error: str | None
    value: str | None
    file: str | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt as it is stored."""

    number: int
    claimed_at_ms: int
    ended_at_ms: int | None
    outcome: str | None
    reason: str | None
    wall_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    peak_threads: int | None
    exit_code: int | None
    signal: str | None
    error: str | None
    worker_pid: int | None
    log: str | None
    log_from: int | None
    log_to: int | None


@dataclass(frozen=True, slots=True)
class TallyRow:
    """How many tasks of a stage stand in a state with an outcome ('' while there is none)."""

    stage: int
    state: State
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event: something moved, or happened to a run or to the service.

    Attributes:
        seq: Its place in the log; later events have greater numbers, and a number is never given twice, not even after
            a restore, which leaves out those that may have been given since the backup.
        task_id: None for an event of a whole run, as `run_id` for one of the service.
        event: A word of `core.lifecycle.Event`, or `created`, `sealed`, `closing`, `ended`, `reopened`, `discarded`,
            `removed` of a run or task, or of the service `started`, `stopped`, `clock` and `store`.
        was: The state it was in; None for what was not there before.
        now_is: The state it is in now.
        outcome: Of the attempt that ended with it.
    """

    seq: int
    at_ms: int
    task_id: int | None
    run_id: int | None
    attempt: int | None
    event: str
    was: str | None
    now_is: str | None
    outcome: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Some events, in order.

    Attributes:
        next: The number of the last event that was looked at: the page behind this one starts there.
        more: There are events behind that one.
    """

    events: tuple[EventRow, ...]
    next: int
    more: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers of the first event that is still kept, and of the last that was written; 0 for none."""

    first: int
    last: int


# Retention


@dataclass(frozen=True, slots=True)
class EndedRow:
    """An ended run as retention looks at it.

    Attributes:
        ended_seq: Number of the event of its end; 0 where it ended before there were any.
        counts: How many of its tasks are in each state.
    """

    id: int
    name: str
    task_count: int
    ended_at_ms: int
    ended_seq: int
    deadline_cut: bool
    counts: dict[State, int]


@dataclass(frozen=True, slots=True)
class Age:
    """What the age of a run or an event is reckoned from.

    Attributes:
        lived_ms: How much time battd has seen pass, as of its last look.
        marks: (that count, number of the last event then), oldest first.
    """

    lived_ms: int
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the database: in use, and free within the file.

    Attributes:
        shrinks: The file can be shortened bit by bit.
    """

    used_bytes: int
    free_bytes: int
    shrinks: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """What some tasks take, about; `files` are names below results/. `last` is the last task's index, None: no more."""

    in_database_bytes: int
    in_logs_bytes: int
    files: tuple[str, ...]
    last: int | None
