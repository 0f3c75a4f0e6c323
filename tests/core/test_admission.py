"""Admission: may one more attempt start, and if not, what is short and by how much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.core.admission import Free, Hold, Need, Start, admit, outstanding
from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import NOTHING, Space

MIB = 2**20


def free(memory_mib: int, threads: int) -> Free:
    return Free(
        Space(memory_mib * MIB, threads), "memory of the host", "kernel.pid_max (1 of 2)", Space(1 << 40, 1 << 22)
    )


def space(memory_mib: int, threads: int) -> Space:
    return Space(memory_mib * MIB, threads)


@pytest.mark.parametrize(
    ("need", "left", "promised", "reserve", "alone", "short", "missing"),
    [
        # Exactly what is there is enough; one byte or thread more is not.
        (space(128, 4), free(128, 4), NOTHING, NOTHING, False, None, 0),
        (Space(128 * MIB + 1, 4), free(128, 4), NOTHING, NOTHING, False, "memory", 1),
        (space(128, 5), free(128, 4), NOTHING, NOTHING, False, "threads", 1),
        # What was promised and what is kept back is not there.
        (space(128, 4), free(512, 100), space(256, 0), space(128, 0), False, None, 0),
        (space(129, 4), free(512, 100), space(256, 0), space(128, 0), False, "memory", MIB),
        (space(1, 4), free(512, 100), space(0, 32), space(0, 65), False, "threads", 1),
        # Threads are looked at first: without one nothing starts at all.
        (space(600, 400), free(512, 100), NOTHING, NOTHING, False, "threads", 300),
        # Alone: the reserve may be used, and what was promised is promised to nobody who runs.
        (space(500, 4), free(512, 100), NOTHING, space(256, 64), True, None, 0),
        (space(500, 4), free(512, 100), space(400, 4), space(256, 64), True, None, 0),
        (space(500, 40), free(512, 100), NOTHING, space(256, 64), True, None, 0),
        (space(500, 101), free(512, 100), NOTHING, NOTHING, True, "threads", 1),
        # Nothing is free, or even less than nothing.
        (space(1, 1), free(0, 0), NOTHING, NOTHING, False, "threads", 1),
        (space(1, 1), free(-5, 10), NOTHING, NOTHING, True, "memory", 6 * MIB),
    ],
)
def test_an_attempt_starts_where_it_fits(
    need: Space, left: Free, promised: Space, reserve: Space, alone: bool, short: str | None, missing: int
) -> None:
    verdict = admit(Need(need), free=left, promised=promised, reserve=reserve, alone=alone)
    if short is None:
        assert verdict == Start()
    else:
        assert isinstance(verdict, Hold)
        assert (verdict.short, verdict.missing) == (short, missing)


def test_a_hold_for_memory_gives_every_figure_it_was_decided_from() -> None:
    verdict = admit(
        Need(space(300, 4)), free=free(700, 100), promised=space(256, 4), reserve=space(256, 64), alone=False
    )
    assert verdict == Hold(
        "memory",
        112 * MIB,
        "112 MiB of memory short: 300 MiB needed, 700 MiB free by memory of the host, 256 MiB promised, "
        "256 MiB in reserve",
    )


def test_a_hold_for_threads_gives_every_figure_it_was_decided_from() -> None:
    verdict = admit(Need(space(1, 4)), free=free(700, 70), promised=space(0, 8), reserve=space(256, 64), alone=False)
    assert verdict == Hold(
        "threads",
        6,
        "6 threads short: 4 needed, 70 free by kernel.pid_max (1 of 2), 8 promised, 64 in reserve",
    )


amounts = st.builds(Space, st.integers(0, 1 << 40), st.integers(0, 1 << 22))


@given(amounts, amounts, amounts, amounts, st.booleans())
def test_a_need_larger_than_what_is_free_is_never_admitted(
    need: Space, left: Space, promised: Space, reserve: Space, alone: bool
) -> None:
    reading = Free(left, "m", "t", left)
    verdict = admit(Need(need), free=reading, promised=promised, reserve=reserve, alone=alone)
    if need.memory_bytes > left.memory_bytes or need.threads > left.threads:
        assert isinstance(verdict, Hold)
    if isinstance(verdict, Hold):
        assert verdict.missing > 0


@given(amounts, amounts, amounts, amounts)
def test_what_may_start_beside_others_may_start_alone(
    need: Space, left: Space, promised: Space, reserve: Space
) -> None:
    reading = Free(left, "m", "t", left)
    if isinstance(admit(Need(need), free=reading, promised=promised, reserve=reserve, alone=False), Start):
        assert isinstance(admit(Need(need), free=reading, promised=promised, reserve=reserve, alone=True), Start)


def test_a_hold_never_says_that_nothing_is_short() -> None:
    verdict = admit(
        Need(Space(128 * MIB + 1000, 1)), free=free(128, 100), promised=NOTHING, reserve=NOTHING, alone=False
    )
    assert isinstance(verdict, Hold)
    assert not verdict.reason.startswith("0 MiB")


def test_the_figures_of_a_hold_add_up_when_it_is_alone() -> None:
    verdict = admit(Need(space(600, 4)), free=free(512, 100), promised=space(256, 4), reserve=NOTHING, alone=True)
    assert verdict == Hold(
        "memory",
        88 * MIB,
        "88 MiB of memory short: 600 MiB needed, 512 MiB free by memory of the host, 0 MiB promised, 0 MiB in reserve",
    )


def test_a_guessed_number_of_threads_holds_nobody_who_is_alone() -> None:
    """Its worker is there, and may be all that it needs: this is how work goes on when nothing can be started."""
    full = free(512, 0)
    assert admit(Need(space(1, 4), known=False), free=full, promised=NOTHING, reserve=NOTHING, alone=True) == Start()
    for need, alone in ((Need(space(1, 4)), True), (Need(space(1, 4), known=False), False)):
        assert isinstance(admit(need, free=full, promised=NOTHING, reserve=NOTHING, alone=alone), Hold)


def test_what_others_have_promised_and_what_is_set_aside_is_not_there() -> None:
    verdict = admit(
        Need(space(300, 4)),
        free=free(700, 100),
        promised=NOTHING,
        others=space(200, 0),
        aside=space(250, 0),
        reserve=space(50, 0),
        alone=False,
    )
    assert verdict == Hold(
        "memory",
        100 * MIB,
        "100 MiB of memory short: 300 MiB needed, 700 MiB free by memory of the host, 0 MiB promised, 200 MiB promised "
        "by other supervisors, 250 MiB set aside for a task that has waited long, 50 MiB in reserve",
    )


def test_an_attempt_that_was_not_looked_at_has_its_worker_and_nothing_else() -> None:
    assert outstanding(space(100, 5), None) == space(100, 4)
    assert outstanding(space(100, 5), Sample(1.0, 60 * MIB, 5, 0, 0)) == space(40, 0)
    assert outstanding(space(100, 5), Sample(1.0, 160 * MIB, 50, 0, 0)) == NOTHING
