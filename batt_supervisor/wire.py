"""The shapes of the HTTP API, shared by battd, the client and battctl.

Times are milliseconds since 1970 (`_at_ms`), durations seconds (`_s`), sizes bytes (`_bytes`).
Runs are named `r7`, tasks `t123`; a run may also be named by its name, the latest of that name being meant.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from batt_supervisor.core.lifecycle import RunState, State

Json = Any
"""A value that json.loads can give."""

CHUNK = 5_000
"""Most tasks in one request; battd writes them in smaller transactions."""


class Wire(BaseModel):
    """Base of every shape: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Seconds = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=365 * 86400, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=365 * 86400, allow_inf_nan=False)]
Amount = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=2**62)]
Seed = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=2**63 - 1)]


def check_name(name: str) -> str:
    """A run's name, by which it can be found again; raises ValueError for what would be taken for something else."""
    if not name.strip() or not name.isprintable() or "/" in name or name in (".", "..") or len(name) > 200:
        raise ValueError(f"the name {name!r} cannot be used: it must be up to 200 printable characters without '/'")
    if (name[1:] if name[:1] in "rt" else name).isdecimal():
        raise ValueError(f"the name {name!r} would be taken for the id of a run or task; choose another")
    return name


RunName = Annotated[str, AfterValidator(check_name)]


class StageSpec(Wire):
    """One stage of a run: a task function or a command, and the limits of its attempts.

    Tasks of a stage start when every task of the stages named in `after` has ended, however it ended.
    Limits that are left out are battd's own; 0 for those from `cpu_limit_s` on is no limit, whatever battd's is.

    Attributes:
        allow_children: Processes and threads that an attempt leaves behind stay with its worker.
        need_memory_bytes: What an attempt is expected to take, at least; None: as learned from its kind.
        need_threads: Threads and processes likewise, its own included.
        kind: Name of tasks that behave alike; None: the function, or the command's first word.
    """

    name: str = Field(min_length=1, max_length=200)
    function: str | None = None
    command: tuple[str, ...] | None = None
    shell: bool = False
    timeout_s: Seconds | None = None
    soft_timeout_s: Seconds | None = None
    max_attempts: int | None = Field(default=None, ge=1, le=1000)
    retry_delay_s: Seconds | None = None
    cpu_limit_s: SecondsOrNone | None = None
    stall_timeout_s: SecondsOrNone | None = None
    memory_limit_bytes: Amount | None = None
    thread_limit: Amount | None = None
    output_limit_bytes: Amount | None = None
    allow_children: bool = False
    need_memory_bytes: Amount | None = None
    need_threads: Amount | None = None
    kind: str | None = Field(default=None, min_length=1, max_length=200)
    after: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind_of_work(self) -> StageSpec:
        if (self.function is None) == (self.command is None):
            raise ValueError(f"stage {self.name!r}: give exactly one of 'function' and 'command'")
        if self.command is not None and not self.command:
            raise ValueError(f"stage {self.name!r}: 'command' is empty")
        if self.shell and self.command is None:
            raise ValueError(f"stage {self.name!r}: 'shell' goes with 'command' only")
        if self.soft_timeout_s is not None and self.command is not None:
            raise ValueError(f"stage {self.name!r}: 'soft_timeout' is for functions; a command is ended by 'timeout'")
        if self.soft_timeout_s is not None and self.timeout_s is not None and self.soft_timeout_s >= self.timeout_s:
            raise ValueError(
                f"stage {self.name!r}: 'soft_timeout' ({self.soft_timeout_s:g} s) must be shorter than "
                f"'timeout' ({self.timeout_s:g} s)"
            )
        return self


class RunSpec(Wire):
    """A run to be created. It starts only after it has been sealed.

    Attributes:
        key: A submission repeated with the same key creates nothing and gives the run it made the first time.
        unique_name: The name is such a key as well; without it several runs may have the same.
        deadline_s: Seconds from sealing until what is left of the run is stopped.
        cwd: Absolute directory that tasks run in and import from first.
        env: Variables set over battd's own.
        python: Absolute path of the interpreter that functions run in; None for battd's own.
        seed: With a task's index it seeds random generators; None: fresh entropy for each attempt.
    """

    name: RunName
    key: str | None = Field(default=None, min_length=1, max_length=200)
    unique_name: bool = False
    deadline_s: Seconds | None = None
    cwd: str
    env: dict[str, str] = Field(default_factory=dict)
    python: str | None = Field(default=None, min_length=1)
    seed: Seed | None = None
    stages: tuple[StageSpec, ...] = Field(min_length=1, max_length=100)


StageNumber = Annotated[int, Field(ge=0)]
Args = dict[str, Json] | list[Json]
TaskKey = Annotated[str | None, Field(max_length=200)]


class TaskSpec(Wire):
    """One task: `args` are keyword arguments (object) or positional ones (array); for a command `{"item": TEXT}`."""

    stage: StageNumber = 0
    args: Args = Field(default_factory=list)
    key: TaskKey = None


class TaskFields(TypedDict, total=False):
    """A `TaskSpec` as it is read in bulk: a plain dict, for a model of each would be a sixth of battd's work on it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    stage: StageNumber
    args: Args
    key: TaskKey


class TaskChunk(Wire):
    """Some of a run's tasks, the first of them at `offset` in the run. Sending a chunk again changes nothing."""

    offset: int = Field(ge=0)
    tasks: tuple[TaskFields, ...] = Field(min_length=1, max_length=CHUNK)


class RunCreated(Wire):
    """A run's id, and whether it had been there already under its key."""

    run: str
    tasks: int
    sealed: bool
    existing: bool = False


class StageInfo(Wire):
    """One stage of a run as it stands."""

    name: str
    function: str | None
    command: tuple[str, ...] | None
    counts: dict[State, int]


class RunInfo(Wire):
    """A run as it stands."""

    run: str
    name: str
    state: RunState
    tasks: int
    created_at_ms: int
    sealed_at_ms: int | None
    deadline_at_ms: int | None
    ended_at_ms: int | None
    cwd: str
    counts: dict[State, int]
    outcomes: dict[str, int]
    stages: tuple[StageInfo, ...]
    hold: str | None = None


class TaskErrorInfo(Wire):
    """The exception that a task's last attempt ended with."""

    type: str
    message: str
    traceback: str


class TaskResult(Wire):
    """One line of `battctl results --jsonl`: a task and what its last attempt gave."""

    id: str
    run: str
    stage: str
    index: int
    key: str | None
    args: Json
    state: State
    outcome: str | None
    reason: str | None
    attempt: int
    wall_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    value: Json
    error: TaskErrorInfo | None


class ResultPage(Wire):
    """A page of results; `next` is the `after` of the page behind it, None at the end (for now)."""

    items: tuple[TaskResult, ...]
    next: int | None
    ended: bool


class AttemptInfo(Wire):
    """One attempt of a task."""

    number: int
    claimed_at_ms: int
    ended_at_ms: int | None
    outcome: str | None
    reason: str | None
    wall_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    peak_threads: int | None = None
    exit_code: int | None
    signal: str | None
    worker_pid: int | None
    error: TaskErrorInfo | None


class TaskInfo(Wire):
    """A task with all its attempts."""

    task: TaskResult
    function: str | None
    command: tuple[str, ...] | None
    attempts: tuple[AttemptInfo, ...]


class LogText(Wire):
    """What an attempt wrote to standard output and error; `truncated` when only its tail is here."""

    task: str
    attempt: int
    text: str
    truncated: bool


class EventInfo(Wire):
    """One event: a task has moved, or something has happened to a run or to the service.

    Attributes:
        seq: Its place in the log; later events have greater numbers, and no number is given twice.
        event: For a task a word of the lifecycle (docs/architecture.md) or `created`; for a run `created`, `sealed`,
            `closing`, `ended`, `reopened`, `discarded`, `removed`; for the service `started`, `stopped`, `clock`,
            `store`.
        run: None for an event of the service, as `task` for one of a whole run.
        attempt: The attempt that the task was at, from 1; None before the first.
        was: `from` in JSON: the state it was in; None for what was not there before.
        to: The state it is in now.
        outcome: Of the attempt that ended with it.
    """

    model_config = ConfigDict(populate_by_name=True)

    seq: int
    at_ms: int
    event: str
    run: str | None
    task: str | None
    attempt: int | None
    was: str | None = Field(alias="from")
    to: str | None
    outcome: str | None
    reason: str | None


class EventPage(Wire):
    """Some events, in order.

    Attributes:
        next: The `after` of the page behind it.
        first: Number of the first event that is still kept.
        missed: How many events behind `after` are no longer kept.
        more: There are more than were asked for.
    """

    items: tuple[EventInfo, ...]
    next: int
    first: int
    missed: int
    more: bool


class Why(Wire):
    """Why a task stands where it stands, in one sentence; `short` and `missing` when something holds it."""

    task: str
    state: State
    reason: str
    short: str | None = None
    missing: int | None = None


class Changed(Wire):
    """How many tasks a cancel or retry has touched or will touch."""

    run: str
    tasks: int


class SlotInfo(Wire):
    """One slot."""

    slot: int
    phase: str
    worker_pid: int | None
    served: int
    renewed: int
    cwd: str
    task: str | None
    progress: tuple[float, float] | None = None  # (done, total), where its task has said so


class HeadroomInfo(Wire):
    """The last reading: what is free by which limit, what is promised to attempts, what is kept in reserve.

    Attributes:
        memory_promised_bytes: Needs of running attempts, less what they have taken already; with those of this user's
            other supervisors on this host.
        level: `open`, `reduced`, `single` or `hold`.
        width: How many attempts may run at once at this level.
    """

    memory_free_bytes: int
    memory_limit: str
    threads_free: int
    threads_limit: str
    memory_promised_bytes: int
    threads_promised: int
    memory_reserve_bytes: int
    threads_reserve: int
    level: str = "open"
    level_reason: str = ""
    width: int = 0


class LimitInfo(Wire):
    """One limit that was read.

    Attributes:
        resource: `memory` (bytes) or `threads` (threads and processes).
        source: The file or call that it was read from.
        each: It is every single process's own, not shared by them.
        binds: It leaves least of its resource.
    """

    resource: str
    name: str
    source: str
    limit: int
    used: int
    free: int
    each: bool = False
    binds: bool = False


class PressureInfo(Wire):
    """How hard the machine presses; None where the kernel does not say. PSI in percent of the last 10 s."""

    memory_full: float | None
    memory_some: float | None
    cpu_some: float | None
    load: float | None
    cpus: float | None
    swap_total_bytes: int
    swap_free_bytes: int


class HolderInfo(Wire):
    """A supervisor in the ledger, and what it has promised to its attempts that they have not taken yet.

    Attributes:
        own: It is the one that answers.
    """

    pid: int
    name: str
    running: int
    memory_promised_bytes: int
    threads_promised: int
    own: bool = False


class PromiseInfo(Wire):
    """A running attempt: what it is expected to take, and what it was seen to take."""

    task: str
    kind: str
    memory_need_bytes: int
    threads_need: int
    memory_used_bytes: int | None
    threads_used: int | None


class LevelChange(Wire):
    """One change of the level."""

    at_ms: int
    level: str
    width: int
    reason: str


class HeadroomReport(Wire):
    """Everything that admission goes by.

    Attributes:
        missing: What could not be read, and why.
        ledger: Where the ledger is, or why there is none.
        level_changes: How often the level has changed since battd was started.
        recent_changes: The last of those.
        evictions: How many attempts were stopped to save the rest.
    """

    headroom: HeadroomInfo
    limits: tuple[LimitInfo, ...]
    pressure: PressureInfo
    missing: tuple[str, ...] = ()
    ledger: str
    holders: tuple[HolderInfo, ...]
    promises: tuple[PromiseInfo, ...]
    level_changes: int = 0
    recent_changes: tuple[LevelChange, ...] = ()
    evictions: int = 0


class KindInfo(Wire):
    """What attempts of a kind were seen to take, and what the next one is expected to take.

    Attributes:
        attempts: How many were learned from.
        memory_need_bytes: What the next attempt is expected to take, unless its run declares more.
        memory_peak_bytes: The most any of the last ones took.
    """

    kind: str
    attempts: int
    memory_need_bytes: int
    threads_need: int
    memory_peak_bytes: int
    threads_peak: int
    learned: bool


class ServiceInfo(Wire):
    """battd itself.

    Attributes:
        start_method: How workers are started.
        kill_by: How the process trees of attempts are ended.
        holds: Why runs are held, but for those that wait for a slot or its worker as in any service that is busy.
    """

    version: str
    pid: int
    started_at_ms: int
    draining: bool
    state_dir: str
    socket: str
    python_path: tuple[str, ...]
    start_method: str = ""
    kill_by: str = ""
    width: int
    slots: tuple[SlotInfo, ...]
    headroom: HeadroomInfo
    holds: dict[str, str]
    store: str
    counts: dict[State, int]
    outcomes: dict[str, int]
    runs: tuple[RunInfo, ...]


class PruneSpec(Wire):
    """Which ended runs are to be removed: those named, or those over a limit; where nothing is said, battd's own.

    Attributes:
        runs: By id or name; nothing else may be said beside them.
        older_than_s: Those that ended so long ago.
        state: Only those that ended like this; `cancelled` covers `partial`.
        keep: All but so many that ended last.
        max_bytes: Those that ended first, until database, results and logs take no more together.
        dry_run: Only say what would be removed.
        wait_s: How long the answer may wait until the disk is free of what is removed.
    """

    runs: tuple[str, ...] = ()
    older_than_s: Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)] | None = None
    state: Literal[RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED] | None = None
    keep: Amount | None = None
    max_bytes: Amount | None = None
    dry_run: bool = False
    wait_s: float = Field(default=20.0, ge=0, le=25)


class PrunedRun(Wire):
    """A run that was, or would be, removed, and why."""

    run: str
    name: str
    state: RunState
    tasks: int
    ended_at_ms: int
    reason: str


class StoreSize(Wire):
    """What the store takes on the disk.

    Attributes:
        database_bytes: Of the database, without the `database_free_bytes` in its file that what comes next will use.
        shrinks: What is free in the file beyond some slack is given back to the disk.
        removing: Something is being removed at this moment.
    """

    database_bytes: int
    database_free_bytes: int
    results_bytes: int
    logs_bytes: int
    shrinks: bool = True
    removing: bool = False


class Pruned(Wire):
    """What was, or would be, removed: for everybody it is gone already, where the disk may still have some of it."""

    runs: tuple[PrunedRun, ...]
    events: int
    dry_run: bool
    before: StoreSize
    after: StoreSize


class Problem(Wire):
    """What every refused request answers with."""

    error: str
    message: str


def run_name(run_id: int) -> str:
    return f"r{run_id}"


def task_name(task_id: int) -> str:
    return f"t{task_id}"


def dumps(value: Json) -> str:
    """Compact JSON; raises ValueError for what JSON cannot say (NaN, infinities)."""
    return "".join(_encode(value, 0))


# What json.dumps makes anew for every value, with the same arguments but for the first, a memory of what it is inside
# of: a value that contains itself is a RecursionError. Of a small task it took two thirds of the time.
_encode: Final = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, json.JSONEncoder().default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)
