"""What the daemon and the API know of a store: narrow enough for another database to stand behind it.

A store has one writer, which runs operations in its own thread, several of them to a transaction, and any number of
readers, each used by one thread. Everything that is written has been committed and synced when its future resolves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from batt_supervisor.core.clockwatch import Jump
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Claim, Head, LiveAttempt, Tries
from batt_supervisor.core.needs import Learned
from batt_supervisor.core.world import Closing
from batt_supervisor.store.rows import (
    Age,
    AttemptRow,
    EndedRow,
    EventRow,
    EventsPage,
    RunRow,
    Space,
    Span,
    StageRow,
    TallyRow,
    TaskRow,
    Weight,
)
from batt_supervisor.store.values import Claimed, Created, NewRun, NewTask, Removed, Settlement, Wanted

T = TypeVar("T")


class Writes(Protocol):
    """What an operation may do, all of it in one transaction.

    Each may raise `Refused`, and nothing of its operation is kept then. Those that end in `_some` move a bounded number
    of tasks, so that no other caller waits long for the writer; they are repeated until they have found nothing to do.
    """

    # A submission: an unsealed run, its tasks in chunks, the seal

    def create_run(self, run: NewRun) -> Created:
        """Write an unsealed run, or find the one that its key, or its unique name, made before."""

    def add_tasks(self, run_id: int, offset: int, tasks: Sequence[NewTask]) -> Created:
        """Write tasks at their places in an unsealed run; those that are there already are to be the same."""

    def seal(self, run_id: int, tasks: int | None = None) -> Created:
        """End a submission of so many tasks: they may start from now on. Sealing a sealed run changes nothing."""

    def discard(self, run_id: int) -> bool:
        """Remove a run whose submission was given up, or a part of its tasks; whether it is gone."""

    def expire_unsealed(self, older_than_ms: int) -> bool:
        """Remove a submission that nobody has gone on with, or a part of it; whether there is none left."""

    # Attempts: the row is the fence

    def claim(self, wanted: Sequence[Wanted]) -> dict[int, Claimed]:
        """Make queued tasks these attempts'; what was claimed, by the task's id."""

    def settle(self, settlements: Sequence[Settlement]) -> dict[Claim, State]:
        """Write ends of attempts, their results and what becomes of their tasks; their states, where still held."""

    # Tasks that move without an attempt

    def promote(self) -> set[int]:
        """Queue scheduled tasks whose time has come; their runs."""

    def release(self, run_id: int, stage: int) -> int:
        """Queue tasks of a stage whose turn has come; how many."""

    def ask_close(self, run_id: int, why: Closing) -> int:
        """Let nothing more of a run start; how many of its tasks were open."""

    def close_some(self, run_id: int, why: Closing) -> int:
        """Cancel tasks of a closing run that have not started; how many."""

    def stop_task(self, task_id: int) -> State:
        """Cancel one task: at once when it has not started, else by asking for its end."""

    def retry_some(self, run_id: int, task_id: int | None, states: Iterable[State]) -> int:
        """Open settled tasks once more, with a fresh count of attempts; how many."""

    # Retention

    def remove_run(self, run_id: int, reason: str) -> bool:
        """Mark an ended run as going: nobody sees it any more; whether that was still to be done."""

    def remove_some(self, run_id: int) -> Removed:
        """Remove a part of a run that is going, or of a submission that was given up."""

    def forget_events(self, up_to: int) -> int:
        """Remove some events up to that number, from the front of the log; how many. Zero: done."""

    def shrink(self) -> bool:
        """Give some of the space that is free back to the disk; whether there is no more to give."""

    def pass_time(self, passed_ms: int | None, grain_ms: int, longest_ms: int) -> int:
        """Count time that battd has seen pass, by which everything ages; the count. None: this battd's first call."""

    # The wall clock

    def shift_runs(self, jump: Jump | None) -> None:
        """Move deadlines of open runs, and what counts as the age of submissions, along with a clock that was set."""

    def shift_some(self, jump: Jump | None, after: tuple[int, int] | None) -> tuple[int, int] | None:
        """Move when scheduled tasks are due along with it; where to go on behind, None: done.

        Without a jump: those only that were scheduled in the future, as the clock was set back while no battd ran.
        """

    # The rest

    def save_kinds(self, learned: Sequence[Learned]) -> None:
        """Store what was learned of these kinds, over what was known of them."""

    def note(self, event: str, reason: str) -> None:
        """Write an event of the service itself into the log."""


class Reads(Protocol):
    """Queries. Every method raises StoreUnavailable when the store cannot be read."""

    def close(self) -> None: ...

    def run(self, run_id: int) -> RunRow | None: ...

    def run_named(self, name: str) -> RunRow | None:
        """The latest run of that name."""

    def run_names(self, limit: int) -> list[str]:
        """Names of the latest runs, for suggestions."""

    def runs(self, limit: int) -> list[RunRow]:
        """The latest runs, newest first."""

    def open_runs(self) -> list[RunRow]:
        """Sealed runs that have not ended, oldest first."""

    def stages(self, run: RunRow) -> list[StageRow]: ...

    def tallies(self, run_id: int) -> list[TallyRow]:
        """How many tasks of a run stand where."""

    def totals(self) -> list[TallyRow]:
        """Tallies over all runs that have been sealed."""

    def heads(self, run_id: int, limit: int, behind: Mapping[int, int] | None = None) -> list[Head]:
        """The first queued tasks of each stage of a run, all in order of submission.

        Args:
            behind: For stages by number, the place in the run behind which to look; of the others, from the first on.
        """

    def history(self, task_id: int) -> Tries:
        """What a task has behind it; nothing for one that is not there."""

    def next_due_ms(self) -> int | None:
        """When the first scheduled task may be queued."""

    def live(self) -> list[tuple[LiveAttempt, int]]:
        """Every attempt held as running or stopping, with the number of its stage."""

    def kinds(self) -> list[Learned]:
        """What was learned of each kind, the one that was updated last at the end."""

    def task(self, task_id: int) -> TaskRow | None: ...

    def tasks(self, run_id: int, *, state: State | None, by_settling: bool, after: int, limit: int) -> list[TaskRow]:
        """A page of a run's tasks, in the order in which they settled or in order of submission."""

    def attempts(self, task_id: int) -> list[AttemptRow]: ...

    def files_needed(self, names: Sequence[str]) -> set[str]:
        """Those of some names below results/ that a row names, or that are of an attempt which has not ended."""

    def events(self, after: int, limit: int, run_id: int | None = None) -> EventsPage:
        """Events with a greater number than `after`, of one run where it is named: as many as a short look finds."""

    def events_kept(self) -> Span:
        """The numbers of the first event that is still kept and of the last that was written."""

    def story(self, task_id: int) -> list[EventRow]:
        """A task's events, oldest first; those that retention has removed are not in it."""

    # Retention

    def snapshot(self) -> AbstractContextManager[None]:
        """What is read inside belongs together: nothing of it is removed in between."""

    def ended(self, after: tuple[int, int], up_to: int, limit: int) -> list[EndedRow]:
        """Ended runs, those that ended first at the front, behind the place `after`, up to an event's number."""

    def ended_count(self) -> int:
        """How many ended runs there are."""

    def was_there(self, run_id: int) -> bool:
        """Whether there has ever been a run of that number."""

    def going(self) -> list[int]:
        """Runs that are being removed, and submissions that were given up."""

    def age(self) -> Age:
        """What age is reckoned from."""

    def logs_named(self, names: Sequence[str]) -> set[str]:
        """Those of these logs that some attempt's output lies in."""

    def space(self) -> Space:
        """How large the database is, and how much of it is free."""

    def weigh(self, run_id: int, after: int, limit: int) -> Weight:
        """What a page of a run's tasks, behind the index `after`, takes in the database and in files."""


Operation = Callable[[Writes], T]

Item = tuple[Operation[Any], "Future[Any]"]


class Writer(Protocol):
    """The one thread that writes.

    Attributes:
        on_commit: Called in the writer's thread after each commit with the runs it touched.
        on_point: Called in the writer's thread at points of an operation's life, for tests that break things there.
        beat_s: Monotonic time of its last round; a watchdog reads it.
    """

    on_commit: Callable[[set[int]], None]
    on_point: Callable[[str], None]
    beat_s: float

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; the future resolves when it is on disk, or raises what the operation raised."""

    def submit_all(self, items: list[Item]) -> None:
        """Queue several operations, each with its future, for one transaction."""

    def run(self) -> None:
        """The thread's whole life."""

    def stop(self) -> None:
        """Ask the thread to end once everything queued so far is written."""


class Store(Protocol):
    """A store that was opened: its schema is this version's."""

    @property
    def writer(self) -> Writer: ...

    def reader(self) -> Reads:
        """A new read connection, for one thread."""

    def damage(self) -> str:
        """What is wrong with what is stored, by reading all of it; empty where it is sound."""

    def close(self) -> None:
        """Let go of it; the writer's thread must have ended."""
