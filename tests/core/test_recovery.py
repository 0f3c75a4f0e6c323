"""What an attempt of an earlier battd is written off as."""

from batt_supervisor.core.lifecycle import Event, State
from batt_supervisor.core.model import Claim, Limits, LiveAttempt, Outcome, Tries
from batt_supervisor.core.recovery import recover


def left(state: State, tries: Tries = Tries()) -> LiveAttempt:  # noqa: B008 - frozen
    return LiveAttempt(Claim(7, 2), 1, state, tries)


def test_what_ran_is_lost_and_goes_again_uncharged() -> None:
    found = recover(left(State.RUNNING), Limits(1.0))
    assert (found.ending.outcome, found.verdict.event) == (Outcome.LOST, Event.AGAIN)
    assert found.verdict.tries == Tries(uncharged=1)


def test_what_was_being_stopped_is_cancelled() -> None:
    found = recover(left(State.STOPPING, Tries(charged=1)), Limits(1.0))
    assert (found.ending.outcome, found.verdict.event) == (Outcome.CANCELLED, Event.CANCEL)
    assert found.verdict.tries == Tries(charged=1)


def test_a_task_that_takes_battd_down_each_time_is_given_up() -> None:
    found = recover(left(State.RUNNING, Tries(uncharged=10)), Limits(1.0))
    assert found.verdict.event is Event.FAIL
    assert "lost 11 times" in found.verdict.reason
