"""What becomes of a task after each outcome, and what its next attempt needs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.core.lifecycle import LIVE, Event, advance
from batt_supervisor.core.model import CHARGED, RESOURCE, Limits, Outcome, Space, Tries
from batt_supervisor.core.retry import (
    DELAY_MAX_S,
    LOST_DELAY_S,
    POISON_AFTER,
    RESOURCE_TRIES,
    STARVED_TRIES,
    UNCHARGED_CAP,
    judge,
    need_of,
    runs_alone,
)

ONCE = Limits(timeout_s=10.0)
THRICE = Limits(timeout_s=10.0, max_attempts=3, retry_delay_s=2.0)


def test_every_outcome_has_its_price() -> None:
    priced = [CHARGED, RESOURCE, {Outcome.OK, Outcome.CANCELLED}, {Outcome.STARVED, Outcome.LOST, Outcome.EVICTED}]
    assert sum(len(one) for one in priced) == len(Outcome)
    assert set().union(*priced) == set(Outcome)


@pytest.mark.parametrize(
    ("outcome", "event", "counted"),
    [
        (Outcome.OK, Event.SUCCEED, Tries()),
        (Outcome.CANCELLED, Event.CANCEL, Tries()),
        (Outcome.EXCEPTION, Event.FAIL, Tries(charged=1)),
        (Outcome.TIMEOUT, Event.FAIL, Tries(charged=1)),
        (Outcome.STALLED, Event.FAIL, Tries(charged=1)),
        (Outcome.CPU_LIMIT, Event.FAIL, Tries(charged=1)),
        (Outcome.MEMORY_LIMIT, Event.FAIL, Tries(charged=1)),
        (Outcome.THREAD_LIMIT, Event.FAIL, Tries(charged=1)),
        (Outcome.OUTPUT_LIMIT, Event.FAIL, Tries(charged=1)),
        (Outcome.BAD_RESULT, Event.FAIL, Tries(charged=1)),
        (Outcome.CRASHED, Event.FAIL, Tries(charged=1, crashes=1)),
        (Outcome.OUT_OF_MEMORY, Event.LATER, Tries(resource=1)),
        (Outcome.OUT_OF_THREADS, Event.LATER, Tries(resource=1)),
        (Outcome.STARVED, Event.LATER, Tries(starved=1)),
        (Outcome.LOST, Event.AGAIN, Tries(uncharged=1)),
    ],
)
def test_the_first_attempt_of_one_costs_what_the_outcome_says(outcome: Outcome, event: Event, counted: Tries) -> None:
    verdict = judge(outcome, Tries(), ONCE, seed=1)
    assert (verdict.event, verdict.tries) == (event, counted)


@pytest.mark.parametrize("outcome", sorted(Outcome))
@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_only_a_loss_leaves_or_makes_a_task_a_suspect(outcome: Outcome, suspect: bool, together: bool) -> None:
    verdict = judge(outcome, Tries(suspect=suspect), THRICE, seed=1, together=together)
    assert verdict.tries.suspect is (outcome is Outcome.LOST and (suspect or together))


def test_who_is_lost_with_others_goes_again_uncharged_up_to_the_cap() -> None:
    verdict = judge(Outcome.LOST, Tries(), ONCE, seed=1, together=True)
    assert (verdict.event, verdict.tries) == (Event.AGAIN, Tries(uncharged=1, suspect=True))
    last = judge(Outcome.LOST, Tries(uncharged=UNCHARGED_CAP), ONCE, seed=1, together=True)
    assert (last.event, last.reason) == (Event.FAIL, "gave up: lost 11 times")


def test_who_is_lost_at_once_again_and_again_is_given_time_in_between_and_no_more_attempts() -> None:
    tries, delays = Tries(), []
    for _ in range(UNCHARGED_CAP):
        verdict = judge(Outcome.LOST, tries, ONCE, seed=1, spaced=True)
        tries = verdict.tries
        delays.append(verdict.delay_s)
        assert verdict.event is (Event.LATER if verdict.delay_s else Event.AGAIN)
    assert delays[0] == 0, "most are lost once"
    for number, delay_s in enumerate(delays[1:]):
        assert LOST_DELAY_S / 2 <= delay_s / 2**number <= LOST_DELAY_S
    assert sum(delays) > 60, "a disk may have been tidied up by then"
    last = judge(Outcome.LOST, tries, ONCE, seed=1, spaced=True)
    assert (last.event, last.reason) == (Event.FAIL, "gave up: lost 11 times")


def test_who_was_lost_with_a_battd_goes_again_at_once() -> None:
    verdict = judge(Outcome.LOST, Tries(uncharged=5), ONCE, seed=1)
    assert (verdict.event, verdict.delay_s) == (Event.AGAIN, 0.0)


@pytest.mark.parametrize(
    ("before", "limits", "event", "reason"),
    [
        (Tries(), ONCE, Event.FAIL, ""),
        (Tries(charged=1, crashes=1), THRICE, Event.LATER, ""),
        (Tries(charged=2, crashes=2), THRICE, Event.FAIL, ""),
        (Tries(charged=3, crashes=2), replace(THRICE, max_attempts=9), Event.LATER, ""),
        (
            Tries(charged=3, crashes=3),
            replace(THRICE, max_attempts=9),
            Event.FAIL,
            "poison: took its worker down 4 times, the last time while it ran alone",
        ),
        (
            Tries(charged=3, crashes=3, suspect=True),
            replace(THRICE, max_attempts=9),
            Event.FAIL,
            "poison: took its worker down 4 times, the last time while it ran alone",
        ),
        # The last of its attempts says enough by itself.
        (Tries(charged=3, crashes=3), replace(THRICE, max_attempts=4), Event.FAIL, ""),
    ],
)
def test_a_task_that_takes_its_workers_down_is_given_up(
    before: Tries, limits: Limits, event: Event, reason: str
) -> None:
    verdict = judge(Outcome.CRASHED, before, limits, seed=1)
    assert (verdict.event, verdict.reason) == (event, reason)
    assert verdict.tries == Tries(charged=before.charged + 1, crashes=before.crashes + 1)


@pytest.mark.parametrize(
    ("before", "alone"),
    [
        (Tries(), False),
        (Tries(charged=99, uncharged=9, suspect=True), False),
        (Tries(resource=RESOURCE_TRIES - 1, starved=STARVED_TRIES - 1, crashes=POISON_AFTER - 1), False),
        (Tries(resource=RESOURCE_TRIES), True),
        (Tries(starved=STARVED_TRIES), True),
        (Tries(crashes=POISON_AFTER), True),
    ],
)
def test_who_runs_alone(before: Tries, alone: bool) -> None:
    assert runs_alone(before) is alone


@pytest.mark.parametrize("outcome", sorted(CHARGED))
def test_charged_attempts_end_at_max_attempts_and_not_before(outcome: Outcome) -> None:
    tries, events = Tries(), []
    for _ in range(3):
        verdict = judge(outcome, tries, THRICE, seed=1)
        tries = verdict.tries
        events.append(verdict.event)
    assert events == [Event.LATER, Event.LATER, Event.FAIL]
    assert tries == Tries(charged=3, crashes=3 if outcome is Outcome.CRASHED else 0)


@pytest.mark.parametrize("outcome", sorted(RESOURCE))
def test_the_resource_budget_ends_after_the_attempt_alone(outcome: Outcome) -> None:
    tries, alone, events, reason = Tries(), [], [], ""
    for _ in range(RESOURCE_TRIES + 1):
        alone.append(runs_alone(tries))
        verdict = judge(outcome, tries, ONCE, seed=1)
        tries, reason = verdict.tries, verdict.reason
        events.append(verdict.event)
    assert alone == [False] * RESOURCE_TRIES + [True]
    assert events == [Event.LATER] * RESOURCE_TRIES + [Event.FAIL]
    assert reason == "gave up after 4 attempts with a growing need"
    assert tries.charged == 0


def test_a_task_that_is_lost_again_and_again_is_given_up_at_the_cap() -> None:
    tries, events, reason = Tries(), [], ""
    for _ in range(UNCHARGED_CAP + 1):
        verdict = judge(Outcome.LOST, tries, ONCE, seed=1)
        tries, reason = verdict.tries, verdict.reason
        events.append(verdict.event)
    assert events == [Event.AGAIN] * UNCHARGED_CAP + [Event.FAIL]
    assert reason == f"gave up: lost {UNCHARGED_CAP + 1} times"


@pytest.mark.parametrize("outcome", sorted(Outcome))
@pytest.mark.parametrize("state", sorted(LIVE))
@pytest.mark.parametrize("tries", [Tries(), Tries(3, 3, 10), Tries(100, 100, 100)])
def test_every_verdict_is_a_legal_move_of_a_live_task(outcome: Outcome, state: str, tries: Tries) -> None:
    verdict = judge(outcome, tries, THRICE, seed=9)
    advance(state, verdict.event)  # type: ignore[arg-type]
    assert (verdict.delay_s > 0) == (verdict.event is Event.LATER)


tries = st.builds(
    Tries,
    st.integers(0, 999),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(0, 5),
    suspect=st.booleans(),
)
limits = st.builds(
    Limits,
    timeout_s=st.just(1.0),
    max_attempts=st.integers(1, 1000),
    retry_delay_s=st.floats(0.001, 365 * 86400),
)
seeds = st.integers(0, 2**63 - 1)


@given(st.sampled_from(sorted(Outcome)), tries, limits, seeds)
def test_a_verdict_is_repeatable_and_counts_one_attempt_once(
    outcome: Outcome, before: Tries, given_limits: Limits, seed: int
) -> None:
    verdict = judge(outcome, before, given_limits, seed)
    assert verdict == judge(outcome, before, given_limits, seed)
    expected = 0 if outcome in (Outcome.OK, Outcome.CANCELLED) else 1
    assert attempts(verdict.tries) - attempts(before) == expected
    assert verdict.tries.crashes - before.crashes == (outcome is Outcome.CRASHED)


def attempts(tries: Tries) -> int:
    """How many it counts; those that took their worker down are among the charged ones."""
    return tries.charged + tries.resource + tries.uncharged + tries.starved + tries.evicted


@given(st.integers(0, 998), limits, seeds)
def test_a_backoff_doubles_up_to_its_bound_and_keeps_half_of_it(number: int, given_limits: Limits, seed: int) -> None:
    patient = replace(given_limits, max_attempts=1000)
    delay_s = judge(Outcome.EXCEPTION, Tries(charged=number), patient, seed).delay_s
    ceiling = min(patient.retry_delay_s * 2.0**number, max(patient.retry_delay_s, DELAY_MAX_S))
    assert ceiling / 2 <= delay_s <= ceiling


def test_backoffs_of_many_tasks_do_not_come_at_the_same_time() -> None:
    delays = {judge(Outcome.EXCEPTION, Tries(), THRICE, seed=task_id).delay_s for task_id in range(200)}
    assert len(delays) > 190


def test_a_declared_delay_is_never_shortened_by_the_cap_of_its_doubling() -> None:
    hourly = replace(THRICE, retry_delay_s=3600.0)
    assert judge(Outcome.EXCEPTION, Tries(), hourly, seed=1).delay_s >= 1800.0


@pytest.mark.parametrize(
    ("resource", "need"),
    [(0, Space(100, 4)), (1, Space(200, 8)), (2, Space(400, 16)), (3, Space(800, 20)), (4, Space(1000, 20))],
)
def test_a_need_doubles_with_each_shortage_and_stops_at_the_machine(resource: int, need: Space) -> None:
    assert need_of(Space(100, 4), resource, total=Space(1000, 20)) == need


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 20), tries)
def test_no_need_is_ever_larger_than_the_machine(memory: int, threads: int, before: Tries) -> None:
    total = Space(1 << 34, 32768)
    need = need_of(Space(memory, threads), before.resource, total)
    assert need.memory_bytes <= total.memory_bytes
    assert need.threads <= total.threads
