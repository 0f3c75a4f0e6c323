from __future__ import annotations

import pytest

from batt_supervisor.core.lifecycle import RunState
from batt_supervisor.core.retention import Ended, Excess, Rules, age_s, in_words, why_goes, written_before

DAY = 86400.0
MIB = 2**20

AGES = Rules(succeeded_s=7 * DAY, failed_s=30 * DAY, cancelled_s=1 * DAY)


@pytest.mark.parametrize(
    ("state", "age", "why"),
    [
        (RunState.SUCCEEDED, 6.9 * DAY, None),
        (RunState.SUCCEEDED, 7 * DAY, "succeeded runs are kept for 7 days, it ended 7 days ago"),
        (RunState.FAILED, 29 * DAY, None),
        (RunState.FAILED, 40 * DAY, "failed runs are kept for 30 days, it ended 40 days ago"),
        (RunState.CANCELLED, 0.9 * DAY, None),
        (RunState.CANCELLED, 2 * DAY, "cancelled runs are kept for 24 h, it ended 2 days ago"),
        (RunState.PARTIAL, 2 * DAY, "partial runs are kept for 24 h, it ended 2 days ago"),
        (RunState.RUNNING, 900 * DAY, None),
        (RunState.RECEIVING, 900 * DAY, None),
    ],
)
def test_a_run_goes_at_the_age_that_its_state_has(state: RunState, age: float, why: str | None) -> None:
    assert why_goes(Ended(state, age), AGES, Excess()) == why


@pytest.mark.parametrize("state", list(RunState))
def test_without_a_rule_everything_stays(state: RunState) -> None:
    assert why_goes(Ended(state, 1e9, 2**50), Rules(), Excess(10**6, 2**60)) is None


def test_those_beyond_the_count_go_and_the_reason_counts_down() -> None:
    rules, excess, run = Rules(runs=2), Excess(runs=2), Ended(RunState.FAILED, 10.0)
    told = []
    for _ in range(4):
        why = why_goes(run, rules, excess)
        told.append(why)
        excess = excess.without(run) if why else excess
    assert told == ["2 ended runs are kept, and there are 4", "2 ended runs are kept, and there are 3", None, None]


def test_runs_go_until_the_rest_fits() -> None:
    rules, excess = Rules(size_bytes=100 * MIB), Excess(size_bytes=30 * MIB)
    gone = []
    for size in (20 * MIB, 1 * MIB, 40 * MIB, 50 * MIB):
        run = Ended(RunState.SUCCEEDED, 10.0, size)
        if why := why_goes(run, rules, excess):
            gone.append((size // MIB, why))
            excess = excess.without(run)
    assert gone == [
        (20, "100.0 MiB are kept, and there are 130.0 MiB"),
        (1, "100.0 MiB are kept, and there are 110.0 MiB"),
        (40, "100.0 MiB are kept, and there are 109.0 MiB"),
    ]


@pytest.mark.parametrize("rules", [Rules(runs=1, at_least_s=600.0), Rules(size_bytes=1, at_least_s=600.0)])
def test_what_has_just_ended_is_kept_whatever_count_and_size_say(rules: Rules) -> None:
    excess = Excess(1, 1)
    assert why_goes(Ended(RunState.SUCCEEDED, 599.0), rules, excess) is None
    assert why_goes(Ended(RunState.SUCCEEDED, 600.0), rules, excess) is not None


@pytest.mark.parametrize(
    ("seq", "age"),
    [
        (0, 90.0),  # it ended before there was a log: as old as the first mark
        (10, 90.0),
        (11, 70.0),  # after the first mark, so no older than the second
        (30, 70.0),
        (31, 0.0),  # no look has found it yet
    ],
)
def test_age_is_time_seen_to_pass_since_the_first_look_that_found_it(seq: int, age: float) -> None:
    assert age_s(seq, 100_000, [(10_000, 10), (30_000, 30)]) == age


@pytest.mark.parametrize(("older_s", "seq"), [(91.0, 0), (90.0, 10), (70.1, 10), (70.0, 30), (0.0, 30)])
def test_events_are_as_old_as_the_mark_behind_them(older_s: float, seq: int) -> None:
    assert written_before(older_s, 100_000, [(10_000, 10), (30_000, 30)]) == seq


def test_without_a_mark_nothing_has_an_age() -> None:
    assert (age_s(5, 10**9, []), written_before(0.0, 10**9, [])) == (0.0, 0)


@pytest.mark.parametrize(
    ("rules", "youngest", "look"),
    [
        (Rules(), None, 300.0),
        (AGES, DAY, 300.0),
        (Rules(succeeded_s=80.0), 80.0, 10.0),
        (Rules(succeeded_s=0.1), 0.1, 0.25),
        (Rules(runs=3, at_least_s=600.0), 600.0, 75.0),
        (Rules(runs=3), 0.0, 0.25),
        (Rules(events_s=16.0, failed_s=DAY), DAY, 2.0),
    ],
)
def test_looks_are_as_far_apart_as_the_shortest_rule_allows(rules: Rules, youngest: float | None, look: float) -> None:
    assert (rules.youngest_s, rules.look_s) == (youngest, look)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.5, "0.5 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (90 * DAY, "90 days")]
)
def test_times_are_told_in_words(seconds: float, said: str) -> None:
    assert in_words(seconds) == said
