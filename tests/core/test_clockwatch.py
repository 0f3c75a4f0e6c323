"""Whether the wall clock was set, and what was written before that."""

import pytest

from batt_supervisor.clock import Now
from batt_supervisor.core.clockwatch import JUMP_MS, Jump, jump

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOON_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("mono_s", "wall_ms", "boot_s", "by_ms"),
    [
        (0.25, 250, 0.25, 0),
        (0.25, 250 + JUMP_MS, 0.25, 0),  # what NTP does to a clock that is a little off
        (0.25, 251 + JUMP_MS, 0.25, JUMP_MS + 1),
        (0.25, 249 - JUMP_MS, 0.25, -JUMP_MS - 1),
        (0.25, 250 + DAY_MS, 0.25, DAY_MS),
        (0.25, 250 - DAY_MS, 0.25, -DAY_MS),
        (0.25, 250 + DAY_MS, 86_400.25, 0),  # the host was suspended for a day: time has passed
        (0.25, 250, 86_400.25, -DAY_MS),  # so it was, and woke with the clock that it fell asleep with
        (60.0, 60_000, 60.0, 0),  # the process stood still
    ],
)
def test_what_the_wall_clock_was_set_by(mono_s: float, wall_ms: int, boot_s: float, by_ms: int) -> None:
    before = Now(1000.0, NOON_MS, 5000.0)
    found = jump(before, Now(1000.0 + mono_s, NOON_MS + wall_ms, 5000.0 + boot_s))
    assert (found.by_ms if found else 0) == by_ms
    if found:
        assert (found.at_ms, found.within_ms) == (NOON_MS + wall_ms, round(boot_s * 1000))


FORWARD = Jump(by_ms=DAY_MS, at_ms=NOON_MS + DAY_MS, within_ms=500)
BACK = Jump(by_ms=-DAY_MS, at_ms=NOON_MS - DAY_MS, within_ms=500)


@pytest.mark.parametrize(
    ("found", "then_ms", "before"),
    [
        (FORWARD, NOON_MS - HOUR_MS, True),
        (FORWARD, NOON_MS, True),
        (FORWARD, NOON_MS + DAY_MS - 500, False),  # just set, and not seen yet
        (FORWARD, NOON_MS + DAY_MS + 1000, False),
        (BACK, NOON_MS - HOUR_MS, True),
        (BACK, NOON_MS, True),
        (BACK, NOON_MS - DAY_MS - 500, False),
        (BACK, NOON_MS - DAY_MS + 1000, False),  # written since
        (BACK, NOON_MS - DAY_MS - HOUR_MS, True),  # a day and an hour ago
    ],
)
def test_what_was_written_before_the_clock_was_set(found: Jump, then_ms: int, before: bool) -> None:
    assert found.is_before(then_ms, now_ms=found.at_ms + 2000) is before
