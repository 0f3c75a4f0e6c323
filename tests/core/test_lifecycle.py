"""The lifecycle table: what a task may do, and what its run is then."""

from itertools import product

import pytest

from batt_supervisor.core.lifecycle import (
    LIVE,
    OPEN,
    SETTLED,
    TRANSITIONS,
    Event,
    RunState,
    State,
    advance,
    run_state,
)
from batt_supervisor.errors import IllegalTransition


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_a_move_is_in_the_table_or_is_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"a task that is {state} cannot {event}"):
            advance(state, event)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_open_and_settled_share_the_states_between_them() -> None:
    assert set(State) == OPEN | SETTLED
    assert not OPEN & SETTLED
    assert LIVE < OPEN


@pytest.mark.parametrize("state", sorted(SETTLED))
def test_a_settled_task_leaves_its_state_only_by_a_retry(state: State) -> None:
    assert set(TRANSITIONS[state]) <= {Event.RETRY, Event.REWAIT}


def test_a_success_is_for_ever() -> None:
    assert not TRANSITIONS[State.SUCCEEDED]


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_task_can_be_cancelled(state: State) -> None:
    assert advance(state, Event.CANCEL) is State.CANCELLED


@pytest.mark.parametrize("state", sorted(State))
def test_only_a_claim_makes_a_task_run_and_only_from_the_queue(state: State) -> None:
    into = {event for event, target in TRANSITIONS[state].items() if target is State.RUNNING}
    assert into == ({Event.CLAIM} if state is State.QUEUED else set())


@pytest.mark.parametrize("state", sorted(LIVE))
@pytest.mark.parametrize("event", [Event.SUCCEED, Event.FAIL, Event.AGAIN, Event.LATER, Event.CANCEL])
def test_a_live_task_takes_every_end_an_attempt_can_have(state: State, event: Event) -> None:
    advance(state, event)


@pytest.mark.parametrize("event", sorted(TRANSITIONS[State.STOPPING]))
def test_a_task_that_was_told_to_stop_never_goes_again(event: Event) -> None:
    assert advance(State.STOPPING, event) in SETTLED


def test_every_state_can_be_reached_and_every_task_can_end() -> None:
    reached = {State.QUEUED, State.WAITING}
    while more := {target for state in reached for target in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    for start in State:
        found = {start}
        while more := {target for state in found for target in TRANSITIONS[state].values()} - found:
            found |= more
        assert found & SETTLED


S = State


@pytest.mark.parametrize(
    ("counts", "sealed", "cut", "state"),
    [
        ({}, False, False, RunState.RECEIVING),
        ({S.SUCCEEDED: 3}, False, False, RunState.RECEIVING),
        ({S.QUEUED: 1}, False, True, RunState.RECEIVING),
        ({}, True, False, RunState.SUCCEEDED),
        ({S.SUCCEEDED: 1}, True, False, RunState.SUCCEEDED),
        ({S.SUCCEEDED: 1, S.FAILED: 0, S.QUEUED: 0}, True, False, RunState.SUCCEEDED),
        ({S.SUCCEEDED: 9, S.FAILED: 1}, True, False, RunState.FAILED),
        ({S.SUCCEEDED: 9, S.FAILED: 1, S.CANCELLED: 1}, True, False, RunState.CANCELLED),
        ({S.CANCELLED: 1}, True, False, RunState.CANCELLED),
        ({S.SUCCEEDED: 9, S.CANCELLED: 1}, True, True, RunState.PARTIAL),
        ({S.FAILED: 1, S.CANCELLED: 1}, True, True, RunState.PARTIAL),
        # The deadline passed while tasks ran, and all of them ended by themselves before they could be stopped.
        ({S.SUCCEEDED: 9}, True, True, RunState.SUCCEEDED),
        ({S.SUCCEEDED: 9, S.FAILED: 1}, True, True, RunState.FAILED),
    ],
)
def test_a_run_is_what_its_tasks_are(counts: dict[State, int], sealed: bool, cut: bool, state: RunState) -> None:
    assert run_state(counts, sealed=sealed, deadline_cut=cut) is state


@pytest.mark.parametrize(("state", "cut"), list(product(sorted(OPEN), [False, True])))
def test_a_run_with_an_open_task_is_running(state: State, cut: bool) -> None:
    counts = {state: 1, State.SUCCEEDED: 5, State.FAILED: 5, State.CANCELLED: 5}
    assert run_state(counts, sealed=True, deadline_cut=cut) is RunState.RUNNING
