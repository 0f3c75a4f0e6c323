"""The states of a task and every legal move between them. Whatever affects a transition lives here, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from batt_supervisor.errors import IllegalTransition


class State(StrEnum):
    """Where a task stands."""

    SCHEDULED = "scheduled"  # waits for run_at_ms: a retry's backoff or a later start
    WAITING = "waiting"  # waits for the tasks of an earlier stage
    QUEUED = "queued"  # waits for admission
    RUNNING = "running"  # claimed on disk, by one attempt, before its worker has it
    STOPPING = "stopping"  # told to stop; its end has not been seen yet
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to a task."""

    DUE = "due"  # its time has come
    RELEASE = "release"  # the stages it waited for have ended
    CLAIM = "claim"  # an attempt takes it
    STOP = "stop"  # somebody asked, or the run's deadline passed, while it runs
    SUCCEED = "succeed"
    FAIL = "fail"  # the attempt ended badly and no further one is due
    AGAIN = "again"  # the attempt ended; another one may start at once
    LATER = "later"  # the attempt ended; another one starts after a backoff
    CANCEL = "cancel"
    RETRY = "retry"  # somebody asked for another go at a settled task
    REWAIT = "rewait"  # the same, where its stage comes after others


OPEN: Final = frozenset({State.SCHEDULED, State.WAITING, State.QUEUED, State.RUNNING, State.STOPPING})
SETTLED: Final = frozenset(State) - OPEN
LIVE: Final = frozenset({State.RUNNING, State.STOPPING})

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.SCHEDULED: {Event.DUE: State.QUEUED, Event.CANCEL: State.CANCELLED},
    State.WAITING: {Event.RELEASE: State.QUEUED, Event.CANCEL: State.CANCELLED},
    State.QUEUED: {Event.CLAIM: State.RUNNING, Event.CANCEL: State.CANCELLED},
    State.RUNNING: {
        Event.SUCCEED: State.SUCCEEDED,
        Event.FAIL: State.FAILED,
        Event.AGAIN: State.QUEUED,
        Event.LATER: State.SCHEDULED,
        Event.STOP: State.STOPPING,
        Event.CANCEL: State.CANCELLED,
    },
    # A result that came before the kill is kept. What would have gone again was asked to stop, and stops.
    State.STOPPING: {
        Event.SUCCEED: State.SUCCEEDED,
        Event.FAIL: State.FAILED,
        Event.AGAIN: State.CANCELLED,
        Event.LATER: State.CANCELLED,
        Event.CANCEL: State.CANCELLED,
    },
    State.SUCCEEDED: {},
    State.FAILED: {Event.RETRY: State.QUEUED, Event.REWAIT: State.WAITING},
    State.CANCELLED: {Event.RETRY: State.QUEUED, Event.REWAIT: State.WAITING},
}


def advance(state: State, event: Event) -> State:
    """The state that `event` leads to.

    Raises:
        IllegalTransition: The table has no such row.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a task that is {state} cannot {event}") from None


class RunState(StrEnum):
    """A run's state, derived from its tasks; never stored as a decision of its own."""

    RECEIVING = "receiving"  # tasks are still being submitted; nothing starts
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARTIAL = "partial"  # its deadline passed before all of its tasks had ended
    CANCELLED = "cancelled"


def run_state(counts: Mapping[State, int], *, sealed: bool, deadline_cut: bool) -> RunState:
    """The state of a run with so many tasks in each state.

    Args:
        counts: How many tasks stand in each state; absent means none.
        sealed: Whether submission has ended.
        deadline_cut: Whether the deadline passed while tasks were open.
    """
    if not sealed:
        return RunState.RECEIVING
    if any(counts.get(state) for state in OPEN):
        return RunState.RUNNING
    if deadline_cut and counts.get(State.CANCELLED):
        return RunState.PARTIAL
    if counts.get(State.CANCELLED):
        return RunState.CANCELLED
    return RunState.FAILED if counts.get(State.FAILED) else RunState.SUCCEEDED
