"""The plain values that travel between the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from batt_supervisor.core.lifecycle import State


class Outcome(StrEnum):
    """How an attempt ended. See `CHARGED`, `RESOURCE` and `UNCHARGED` for what it costs the task."""

    OK = "ok"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    BAD_RESULT = "bad_result"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_THREADS = "out_of_threads"
    LOST = "lost"
    CANCELLED = "cancelled"


CHARGED: Final = frozenset({Outcome.EXCEPTION, Outcome.TIMEOUT, Outcome.CRASHED, Outcome.BAD_RESULT})
RESOURCE: Final = frozenset({Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_THREADS})
UNCHARGED: Final = frozenset({Outcome.LOST})


@dataclass(frozen=True, slots=True)
class Space:
    """An amount of what tasks share: what is needed, free, promised or kept in reserve.

    Attributes:
        memory_bytes: Bytes of memory.
        threads: Threads and processes; the kernel counts both in one total.
    """

    memory_bytes: int
    threads: int

    def __add__(self, other: Space) -> Space:
        return Space(self.memory_bytes + other.memory_bytes, self.threads + other.threads)

    def __sub__(self, other: Space) -> Space:
        return Space(self.memory_bytes - other.memory_bytes, self.threads - other.threads)


NOTHING: Final = Space(0, 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker belongs to. Two tasks share a worker only if these are equal.

    Attributes:
        cwd: Working directory, absolute; first on the import path.
        env: Variables the run sets over battd's own, sorted pairs.
    """

    cwd: str
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may take, and how often a task is tried.

    Attributes:
        timeout_s: Wall seconds from the call of the function; the supervisor ends the attempt then.
        soft_timeout_s: Wall seconds after which `worker.guard.SoftTimeout` is raised in the task; None for never.
        max_attempts: How many charged attempts a task has.
        retry_delay_s: First backoff after a charged failure; doubled each time.
    """

    timeout_s: float
    soft_timeout_s: float | None = None
    max_attempts: int = 1
    retry_delay_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """What every task of one stage of a run has in common.

    Exactly one of `function` and `command` is set.

    Attributes:
        function: Import path, `package.module:name`.
        command: Words of a command line; `{item}` in them is filled in.
        shell: The command is one string for /bin/sh.
    """

    room: Room
    limits: Limits
    function: str | None = None
    command: tuple[str, ...] = ()
    shell: bool = False

    @property
    def kind(self) -> str:
        """Tasks that behave alike: the function, or the command's first word."""
        return self.function or self.command[0]


@dataclass(frozen=True, slots=True)
class Tries:
    """What a task has behind it.

    Attributes:
        charged: Attempts that counted against `max_attempts`.
        resource: Attempts that failed for want of memory or threads.
        uncharged: Attempts that were lost through no fault of the task.
    """

    charged: int = 0
    resource: int = 0
    uncharged: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """A queued task that could be next in its run."""

    task_id: int
    run_id: int
    stage: int
    attempt: int  # the number of attempts it has behind it
    tries: Tries
    since_ms: int  # when it was queued


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt's hold on one task: the fence of every later write."""

    task_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskError:
    """The exception a task ended with: qualified type name, message, traceback text; each capped."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended, with everything that is kept of it.

    Attributes:
        reason: One sentence for people; empty when the outcome says it all.
        value: The result as JSON text, for `ok` when it is kept in the row.
        value_file: Name of the file below the results folder that holds the JSON instead.
        wall_s: Seconds from the call of the function (from dispatch, where it was never called).
        cpu_s: CPU seconds of the attempt, its children included; None where nobody could read it.
        peak_memory_bytes: Largest resident set seen; None where nobody could read it.
    """

    outcome: Outcome
    reason: str = ""
    value: str | None = None
    value_file: str | None = None
    error: TaskError | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    exit_code: int | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A worker process that cannot be confused with a later one of the same pid.

    Attributes:
        started: Clock ticks since boot, field 22 of /proc/PID/stat.
        log: Name of its log below the state directory's `logs`.
    """

    pid: int
    started: int
    log: str = ""


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """An attempt the store holds as running or stopping; what recovery starts from."""

    claim: Claim
    run_id: int
    state: State
    tries: Tries
    worker: WorkerId | None = field(default=None)
