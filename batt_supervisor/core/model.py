"""The plain values that travel between the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from batt_supervisor.core.lifecycle import State


class Outcome(StrEnum):
    """How an attempt ended. See `CHARGED` and `RESOURCE` for what it costs the task; `core.retry` has the rest."""

    OK = "ok"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"  # the wall limit
    STALLED = "stalled"  # no CPU used and no heartbeat for as long as its run allows
    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    THREAD_LIMIT = "thread_limit"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    BAD_RESULT = "bad_result"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_THREADS = "out_of_threads"
    STARVED = "starved"  # the wall limit, of an attempt that the machine gave hardly any CPU
    EVICTED = "evicted"  # stopped by us to save the rest under pressure
    LOST = "lost"
    CANCELLED = "cancelled"


CHARGED: Final = frozenset(
    {
        Outcome.EXCEPTION,
        Outcome.TIMEOUT,
        Outcome.STALLED,
        Outcome.CPU_LIMIT,
        Outcome.MEMORY_LIMIT,
        Outcome.THREAD_LIMIT,
        Outcome.OUTPUT_LIMIT,
        Outcome.CRASHED,
        Outcome.BAD_RESULT,
    }
)
RESOURCE: Final = frozenset({Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_THREADS})


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
        python: Path of the interpreter; empty for battd's own.
        apart: For one suspect at a time: its worker shares the process that it is forked from with no other.
    """

    cwd: str
    env: tuple[tuple[str, str], ...] = ()
    python: str = ""
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may take, and how often a task is tried.

    Attributes:
        timeout_s: Wall seconds from the call of the function; the supervisor ends the attempt then.
        soft_timeout_s: Wall seconds after which `worker.guard.SoftTimeout` is raised in the task; None for never.
        max_attempts: How many charged attempts a task has.
        retry_delay_s: First backoff after a charged failure; doubled each time.
        cpu_limit_s: CPU seconds of the attempt's whole process tree; None for no limit, as below.
        stall_timeout_s: Seconds in which the tree may go without using CPU and without a heartbeat.
        memory_limit_bytes: Memory of the tree at any moment, the worker's own included.
        thread_limit: Threads and processes of the tree at any moment, the worker's own thread included.
        output_limit_bytes: What it may write to standard output and error.
    """

    timeout_s: float
    soft_timeout_s: float | None = None
    max_attempts: int = 1
    retry_delay_s: float = 1.0
    cpu_limit_s: float | None = None
    stall_timeout_s: float | None = None
    memory_limit_bytes: int | None = None
    thread_limit: int | None = None
    output_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What every task of one stage of a run has in common.

    Exactly one of `function` and `command` is set.

    Attributes:
        function: Import path, `package.module:name`.
        command: Words of a command line; `{item}` in them is filled in.
        shell: The command is one string for /bin/sh.
        allow_children: Processes and threads that an attempt leaves behind stay with its worker.
        seed: With a task's index it makes the seed of random generators; None: fresh entropy for each attempt.
        need_memory_bytes: What an attempt was declared to take; None: battd's default, and what its kind was seen to.
        need_threads: Threads and processes likewise, the attempt's own included.
        name: The name that was given to its kind; empty for none.
    """

    room: Room
    limits: Limits
    function: str | None = None
    command: tuple[str, ...] = ()
    shell: bool = False
    allow_children: bool = False
    seed: int | None = None
    need_memory_bytes: int | None = None
    need_threads: int | None = None
    name: str = ""

    @property
    def kind(self) -> str:
        """Tasks that behave alike: the name given for them, else the function, else the command's first word."""
        return self.name or self.function or self.command[0]


@dataclass(frozen=True, slots=True)
class Tries:
    """What a task has behind it.

    Attributes:
        charged: Attempts that counted against `max_attempts`.
        resource: Attempts that failed for want of memory or threads.
        uncharged: Attempts that were lost through no fault of the task.
        starved: Attempts that reached the wall limit while the machine gave them hardly any CPU.
        crashes: Attempts that took their worker down, which are charged as well.
        evicted: Attempts that were stopped to save the rest.
        suspect: Its last attempt was lost together with others; one of them may have been the cause.
    """

    charged: int = 0
    resource: int = 0
    uncharged: int = 0
    starved: int = 0
    crashes: int = 0
    evicted: int = 0
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """A queued task that could be next in its run."""

    task_id: int
    run_id: int
    stage: int
    attempt: int  # the number of attempts it has behind it
    tries: Tries
    since_ms: int  # when it was queued
    index: int = 0  # its place in the run


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
        peak_threads: Most threads and processes seen at once; None for an attempt too short to be looked at.
        together: Lost with whatever else had been forked from the same process, which died.
        own_limit: What was short is short by a limit that each process has for itself, not for want of room.
    """

    outcome: Outcome
    reason: str = ""
    value: str | None = None
    value_file: str | None = None
    error: TaskError | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    peak_threads: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    together: bool = False
    own_limit: bool = False


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
