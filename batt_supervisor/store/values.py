"""What is handed to the store and comes back from its writes: plain values, whatever database is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batt_supervisor.core.model import Claim, Ending, Tries, Work, WorkerId
from batt_supervisor.core.retry import Verdict

# A submission


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage of a run to be created; `after` holds the numbers of earlier stages."""

    name: str
    work: Work
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created.

    Attributes:
        key: Of the submission; one that is repeated with it creates nothing.
        unique_name: The name is such a key as well: there is to be no other run of that name.
    """

    name: str
    key: str | None
    cwd: str
    env: Mapping[str, str]
    deadline_s: float | None
    stages: tuple[NewStage, ...]
    python: str = ""
    seed: int | None = None
    unique_name: bool = False


class NewTask(NamedTuple):
    """A task to be created; `args` is JSON text. A tuple, for it is made a million times."""

    stage: int
    args: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A run just written, or found under its key."""

    id: int
    tasks: int
    sealed: bool
    existing: bool


# Attempts


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt ran, and where its output lies: bytes of the worker's log below logs/."""

    worker: WorkerId
    log_from: int
    log_to: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A queued task that an attempt is to take: it has had `attempt` attempts, and `worker` will have the next."""

    task_id: int
    attempt: int
    worker: WorkerId | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What its row says of a task that was claimed: arguments as JSON text, what it has behind it, place in its run."""

    args: str
    tries: Tries
    index: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of an attempt, and what becomes of its task."""

    claim: Claim
    ending: Ending
    verdict: Verdict
    place: Place | None = None


# Removal


@dataclass(frozen=True, slots=True)
class Removed:
    """What one step of a removal has taken out of the database; the files are the caller's to remove.

    Attributes:
        done: There is nothing left of it.
        results: Names of files below results/ that no row knows any more.
        logs: Names of files below logs/ that no attempt's output lies in any more.
    """

    done: bool
    tasks: int = 0
    results: tuple[str, ...] = ()
    logs: tuple[str, ...] = field(default=())
