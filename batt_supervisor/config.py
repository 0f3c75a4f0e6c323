"""battd's settings: one frozen model, read once from a TOML file, BATT_ variables and flags; flags win."""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from batt_supervisor.core.model import Limits, Space
from batt_supervisor.core.retention import Rules
from batt_supervisor.core.world import Policy
from batt_supervisor.errors import BadConfiguration, BadInput, nearest
from batt_supervisor.paths import default_socket, default_state_dir
from batt_supervisor.sentences import complaint
from batt_supervisor.units import format_size, parse_duration, parse_size


def _seconds(value: object) -> float:
    try:
        return parse_duration(value)  # type: ignore[arg-type]
    except BadInput as error:
        raise ValueError(str(error)) from error


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _bytes(value: object) -> int:
    try:
        return parse_size(value)  # type: ignore[arg-type]
    except BadInput as error:
        raise ValueError(str(error)) from error


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
DurationOrNone = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number)]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]

SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path that the kernel takes."""


MEMORY_LIMIT_MIN = 32 * 2**20
"""Bytes that a worker takes before its task has done anything: a limit below that ends every attempt at once."""


class Settings(BaseModel):
    """Every key of the configuration file, with its default. docs/configuration.md explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state_dir: Path
    socket: Path
    socket_group: str | None = None
    slots: Count = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=512)
    max_tasks: Count = Field(default=100, ge=0)
    preload: tuple[str, ...] = ()
    allow: tuple[str, ...] = ("*", "cmd:*")
    timeout: Duration = 600.0
    max_attempts: Count = Field(default=1, ge=1, le=1000)
    retry_delay: Duration = 1.0
    cpu_limit: DurationOrNone = 0.0
    stall_timeout: DurationOrNone = 0.0
    memory_limit: Size = 0
    thread_limit: Count = Field(default=512, ge=0)
    output_limit: Size = 64 * 2**20
    max_worker_memory: Size = 2**30
    max_worker_age: DurationOrNone = 3600.0
    start_method: Literal["nursery", "spawn"] = "nursery"
    cgroup_root: str = "auto"
    ledger: str = "auto"
    boot_timeout: Annotated[Duration, Field(le=3600)] = 60.0
    drain_timeout: Duration = 30.0
    watchdog: Duration = 10.0
    need_memory: Size = 128 * 2**20
    need_threads: Count = Field(default=4, ge=1)
    reserve_memory: Size = 256 * 2**20
    reserve_threads: Count = Field(default=64, ge=0)
    max_args_bytes: Size = 2**20
    max_result_bytes: Size = 64 * 2**20
    keep_succeeded: DurationOrNone = 90 * 86400.0
    keep_failed: DurationOrNone = 90 * 86400.0
    keep_cancelled: DurationOrNone = 90 * 86400.0
    keep_runs: Count = Field(default=0, ge=0)
    keep_bytes: Size = 0
    keep_at_least: DurationOrNone = 600.0
    keep_events: DurationOrNone = 30 * 86400.0
    synchronous: Literal["full", "normal"] = "full"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @field_validator("state_dir", "socket")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(f"{value}: {error}") from error

    @field_validator("socket")
    @classmethod
    def _fits(cls, value: Path) -> Path:
        size = len(os.fsencode(value))
        if size > SOCKET_PATH_MAX:
            raise ValueError(f"{value} is {size} bytes long, a unix socket's path has at most {SOCKET_PATH_MAX}")
        return value

    @field_validator("cgroup_root", "ledger")
    @classmethod
    def _hierarchies(cls, value: str) -> str:
        if value not in ("auto", "off") and not Path(value).is_absolute():
            raise ValueError(f"{value!r} is neither 'auto' nor 'off' nor an absolute path")
        return value

    @field_validator("memory_limit")
    @classmethod
    def _holds_a_worker(cls, value: int) -> int:
        if 0 < value < MEMORY_LIMIT_MIN:
            raise ValueError(_too_small(value))
        return value

    @field_validator("preload", mode="after")
    @classmethod
    def _modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is not a module's name")
        return value

    def policy(self) -> Policy:
        """What the plan goes by."""
        return Policy(
            width=self.slots,
            max_tasks=self.max_tasks,
            reserve=Space(self.reserve_memory, self.reserve_threads),
            need=Space(self.need_memory, self.need_threads),
            max_age_s=self.max_worker_age,
        )

    def rules(self) -> Rules:
        """What retention goes by."""
        return Rules(
            succeeded_s=self.keep_succeeded or None,
            failed_s=self.keep_failed or None,
            cancelled_s=self.keep_cancelled or None,
            runs=self.keep_runs or None,
            size_bytes=self.keep_bytes or None,
            events_s=self.keep_events or None,
            at_least_s=self.keep_at_least,
        )

    def limits(
        self,
        *,
        timeout_s: float | None = None,
        soft_timeout_s: float | None = None,
        max_attempts: int | None = None,
        retry_delay_s: float | None = None,
        cpu_limit_s: float | None = None,
        stall_timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
        thread_limit: int | None = None,
        output_limit_bytes: int | None = None,
    ) -> Limits:
        """A stage's limits, with these defaults where it says nothing.

        A CPU, stall, memory, thread or output limit of 0 means none, whatever the default is.

        Raises:
            BadInput: Two of them contradict each other, or no attempt could keep one.
        """
        limits = Limits(
            timeout_s=timeout_s or self.timeout,
            soft_timeout_s=soft_timeout_s,
            max_attempts=max_attempts or self.max_attempts,
            retry_delay_s=retry_delay_s or self.retry_delay,
            cpu_limit_s=_chosen(cpu_limit_s, self.cpu_limit),
            stall_timeout_s=_chosen(stall_timeout_s, self.stall_timeout),
            memory_limit_bytes=_chosen(memory_limit_bytes, self.memory_limit),
            thread_limit=_chosen(thread_limit, self.thread_limit),
            output_limit_bytes=_chosen(output_limit_bytes, self.output_limit),
        )
        if (
            limits.stall_timeout_s is not None
            and stall_timeout_s is None
            and limits.stall_timeout_s >= limits.timeout_s
        ):
            # A default that this stage's own timeout always comes before is no contradiction of anybody's.
            limits = replace(limits, stall_timeout_s=None)
        _refuse_contradictions(limits)
        return limits

    def allows(self, work: str) -> bool:
        """Whether a function's import path, or `cmd:` and a command's first word, may run.

        A pattern for functions allows no command: `*` is every function, `cmd:*` every command.
        """
        kind = work.startswith("cmd:")
        patterns = (pattern for pattern in self.allow if pattern.startswith("cmd:") == kind)
        return any(fnmatch.fnmatchcase(work, pattern) for pattern in patterns)


Amount = TypeVar("Amount", int, float)


def _chosen(given: Amount | None, default: Amount) -> Amount | None:
    """What a stage says, or else the default; 0 of either is no limit."""
    return (default if given is None else given) or None


def _refuse_contradictions(limits: Limits) -> None:
    for name, seconds in (("soft_timeout", limits.soft_timeout_s), ("stall_timeout", limits.stall_timeout_s)):
        if seconds is not None and seconds >= limits.timeout_s:
            raise BadInput(f"{name} ({seconds:g} s) must be shorter than timeout ({limits.timeout_s:g} s)")
    if limits.memory_limit_bytes is not None and limits.memory_limit_bytes < MEMORY_LIMIT_MIN:
        raise BadInput(f"memory_limit: {_too_small(limits.memory_limit_bytes)}")
    if limits.thread_limit is not None and limits.thread_limit < 1:
        raise BadInput(
            f"thread_limit must be at least 1, the task's own thread, or 0 for none, not {limits.thread_limit}"
        )


def _too_small(size_bytes: int) -> str:
    return (
        f"{format_size(size_bytes)} is less than a worker itself takes; give at least {format_size(MEMORY_LIMIT_MIN)}, "
        "or 0 for none"
    )


RELOADABLE = frozenset(
    {
        "slots", "max_tasks", "preload", "allow", "timeout", "max_attempts", "retry_delay", "cpu_limit",
        "stall_timeout", "memory_limit", "thread_limit", "output_limit", "max_worker_memory", "max_worker_age",
        "boot_timeout", "drain_timeout", "need_memory", "need_threads", "reserve_memory", "reserve_threads",
        "max_args_bytes", "keep_succeeded", "keep_failed", "keep_cancelled", "keep_runs", "keep_bytes", "keep_at_least",
        "keep_events", "log_level",
    }
)  # fmt: skip
"""Keys that SIGHUP puts into force; the others need a restart."""


OTHER_VARIABLES = frozenset({"BATT_CONFIG", "BATT_FAULTS", "BATT_WORKER_OF"})
"""Variables that are no keys: where the file is, fault points of tests, and what battd sets for its workers."""


def load(environ: Mapping[str, str], config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Read the settings.

    Args:
        environ: Where BATT_ variables are looked up.
        config: The TOML file; None for BATT_CONFIG, or no file.
        flags: What the command line gave; None values are ignored.

    Raises:
        BadConfiguration: A file that cannot be read, an unknown key, a value that cannot be meant.
    """
    for name in environ:
        if name.startswith("BATT_") and name not in OTHER_VARIABLES and name[5:].lower() not in Settings.model_fields:
            known = {f"BATT_{key.upper()}" for key in Settings.model_fields} | OTHER_VARIABLES
            raise BadConfiguration(f"unknown variable {name!r}{nearest(name, known)}")
    path = config or (Path(environ["BATT_CONFIG"]) if environ.get("BATT_CONFIG") else None)
    given: dict[str, Any] = _read(path) if path else {}
    if path:  # relative paths in the file are relative to the file
        for key in ("state_dir", "socket"):
            if isinstance(given.get(key), str) and not given[key].startswith("~"):
                given[key] = str(path.absolute().parent / given[key])
    for key in Settings.model_fields:
        variable = f"BATT_{key.upper()}"
        if environ.get(variable):
            given[key] = _from_variable(key, environ[variable])
    given |= {key: value for key, value in flags.items() if value is not None}
    given.setdefault("state_dir", default_state_dir(environ))
    try:
        if "socket" not in given:
            # The directory is checked first: an error is to name the key that was given.
            given["socket"] = default_socket({}, Settings(**{**given, "socket": Path("/")}).state_dir)
        return Settings(**given)
    except ValidationError as error:
        raise BadConfiguration(_sentence(error, path)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"the configuration {path} is not TOML: {error}") from error


def _from_variable(key: str, text: str) -> Any:
    """Lists are given as words with commas between them."""
    if key in ("allow", "preload"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _sentence(error: ValidationError, path: Path | None) -> str:
    """The first thing that is wrong, as one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "configuration"
    source = f" in {path}" if path else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{source}{nearest(key, Settings.model_fields)}"
    return f"{key}{source}: {complaint(first)} (given: {str(first['input'])!r})"
