"""The level: fewer at once after exhaustion, more after success, and an exit from each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.core.admission import Free
from batt_supervisor.core.headroom import CALM, Pressure
from batt_supervisor.core.levels import (
    CUT_S,
    GROW_S,
    Level,
    Throttle,
    exhausted,
    opened,
    pressed,
    resized,
    rested,
    scaled,
    succeeded,
)
from batt_supervisor.core.model import Space

MIB = 2**20
RESERVE = Space(256 * MIB, 64)


def free(memory_mib: int, threads: int = 1000) -> Free:
    return Free(Space(memory_mib * MIB, threads), "memory of x: 1 of 2 MiB", "pids.max of x: 1 of 2", Space(1 << 40, 1))


def cut(times: int, full: int = 8) -> Throttle:
    throttle = opened(full)
    for number in range(times):
        throttle = exhausted(throttle, full, "t7 ended out_of_threads", number * CUT_S)
    return throttle


@pytest.mark.parametrize(
    ("times", "width", "level"),
    [(0, 8, Level.OPEN), (1, 4, Level.REDUCED), (2, 2, Level.REDUCED), (3, 1, Level.SINGLE), (9, 1, Level.SINGLE)],
)
def test_each_exhaustion_halves_the_width_down_to_one(times: int, width: int, level: Level) -> None:
    throttle = cut(times)
    assert (throttle.at_once, throttle.level) == (width, level)
    assert bool(throttle.told()) == (level is not Level.OPEN)


def test_attempts_that_fail_together_count_once() -> None:
    once = exhausted(opened(8), 8, "t1", 100.0)
    assert exhausted(once, 8, "t2", 100.0 + CUT_S / 2) == once


def test_what_ran_is_halved_and_not_what_might_have() -> None:
    assert exhausted(opened(64), 4, "t1", 0.0).at_once == 2


def test_success_makes_it_wider_again_but_not_at_once() -> None:
    throttle = cut(3)
    assert succeeded(throttle, 100, throttle.cut_s + CUT_S / 2) == throttle
    now_s = throttle.cut_s + CUT_S
    seen = [throttle.level]
    for _ in range(100):
        throttle = succeeded(throttle, 1, now_s)
        if throttle.level is not seen[-1]:
            seen.append(throttle.level)
    assert seen == [Level.SINGLE, Level.REDUCED, Level.OPEN]
    assert throttle.reason == ""


def test_time_alone_leads_out_of_it_too() -> None:
    throttle = cut(5)
    now_s = throttle.cut_s
    for _ in range(7):
        now_s += GROW_S
        throttle = rested(throttle, now_s)
    assert throttle.level is Level.OPEN
    assert rested(throttle, now_s + GROW_S) == throttle


def test_a_single_slot_cannot_be_made_fewer() -> None:
    assert exhausted(opened(1), 1, "t1", 5.0).level is Level.OPEN


@pytest.mark.parametrize(
    ("memory_mib", "threads", "thrash", "held_before", "holds"),
    [
        (1000, 1000, None, False, False),
        (129, 1000, None, False, False),
        (127, 1000, None, False, True),
        (255, 1000, None, True, True),  # out of it only when all of the reserve is there again
        (257, 1000, None, True, False),
        (1000, 31, None, False, True),
        (1000, 63, None, True, True),
        (1000, 64, None, True, False),
        (1000, 1000, 24.0, False, False),
        (1000, 1000, 26.0, False, True),
        (1000, 1000, 11.0, True, True),
        (1000, 1000, 9.0, True, False),
    ],
)
def test_nothing_starts_when_nothing_is_left_and_it_does_not_flutter(
    memory_mib: int, threads: int, thrash: float | None, held_before: bool, holds: bool
) -> None:
    before = Throttle(4, 4.0, held="because" if held_before else "")
    after = pressed(before, free(memory_mib, threads), Pressure(memory_full=thrash), RESERVE)
    assert (after.level is Level.HOLD) == holds
    if holds:
        assert after.told()


def test_a_hold_says_in_figures_what_is_short() -> None:
    assert pressed(opened(2), free(0), CALM, RESERVE).told() == "memory is nearly used up (memory of x: 1 of 2 MiB)"


def test_more_slots_do_not_undo_a_decrease() -> None:
    assert resized(opened(4), 8).at_once == 8
    assert resized(cut(1), 16).at_once == 4
    assert resized(opened(8), 2).at_once == 2


def test_a_small_machine_keeps_a_small_reserve() -> None:
    assert scaled(RESERVE, Space(2**40, 32768)) == RESERVE
    assert scaled(RESERVE, Space(800 * MIB, 60)) == Space(100 * MIB, 7)


steps = st.lists(st.tuples(st.sampled_from(["exhausted", "succeeded", "rested"]), st.floats(0, 20)), max_size=60)


@given(st.integers(1, 64), steps)
def test_the_width_stays_between_one_and_all_and_a_level_has_its_reason(
    full: int, moves: list[tuple[str, float]]
) -> None:
    throttle, now_s = opened(full), 0.0
    for kind, wait_s in moves:
        now_s += wait_s
        match kind:
            case "exhausted":
                throttle = exhausted(throttle, throttle.at_once, "why", now_s)
            case "succeeded":
                throttle = succeeded(throttle, 3, now_s)
            case _:
                throttle = rested(throttle, now_s)
        assert 1 <= throttle.at_once <= full
        assert bool(throttle.told()) == (throttle.width < full)
