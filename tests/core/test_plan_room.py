"""One plan where room is short: other supervisors, the level, lines that wait, and what is given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batt_supervisor.core.admission import PATIENCE_S, Need
from batt_supervisor.core.headroom import Entry, Holder, Others
from batt_supervisor.core.levels import Throttle
from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Outcome, Space, Tries
from batt_supervisor.core.plan import plan
from batt_supervisor.core.relief import EVICTIONS_MAX, PAUSE_S
from batt_supervisor.core.world import Begin, Held, Line, Renew, Running, SlotPhase, Stop
from tests.core.test_plan import MIB, NOW, POLICY, begun, free, head, heads, held, of, running, slot, world

SLOTS = [slot(number) for number in range(4)]


def others(promised_mib: int = 0, running: int = 0, oldest_s: float = float("inf")) -> Others:
    return Others((Holder(1, "/other", Entry(Space(promised_mib * MIB, 0), running=running, oldest_s=oldest_s)),))


def needs(**mib: int) -> dict[tuple[int, int], Need]:
    """`run1=300` for 300 MiB."""
    return {(int(name.removeprefix("run")), 0): Need(Space(size * MIB, 1)) for name, size in mib.items()}


# What a run declares or its kind was seen to take


def test_a_run_starts_with_what_it_needs_and_not_with_a_guess() -> None:
    given = world({1: heads(1, 9)}, slots=SLOTS, needs=needs(run1=1000), free=free(256 + 2500))
    assert [command.need.memory_bytes for command in of(Begin, plan(given, POLICY))] == [1000 * MIB] * 2


# Other supervisors


def test_what_others_have_promised_is_not_given_away_again() -> None:
    given = world({1: heads(1, 1)}, slots=SLOTS, free=free(600), others=others(promised_mib=300, running=1))
    commands = plan(given, POLICY)
    assert not begun(commands)
    assert "300 MiB promised by other supervisors" in of(Held, commands)[0].hold.reason


def test_the_reserve_is_for_the_only_one_on_the_host() -> None:
    queue = heads(1, 1)
    assert begun(plan(world({1: queue}, slots=SLOTS, free=free(200)), POLICY)) == [1]
    assert not begun(plan(world({1: queue}, slots=SLOTS, free=free(200), others=others(running=1)), POLICY))


def test_a_task_that_must_run_alone_waits_for_the_other_supervisors_but_not_for_ever() -> None:
    given = world({1: [head(1, tries=Tries(starved=2))]}, slots=SLOTS, others=others(running=1))
    assert held(plan(given, POLICY), 1) == "machine"
    given = replace(given, heads={1: [head(1, tries=Tries(starved=2), waited_s=PATIENCE_S + 1)]})
    assert begun(plan(given, POLICY)) == [1]


# The level


def test_no_more_run_at_once_than_the_level_allows() -> None:
    throttle = Throttle(4, 2.4, reason="t7 ended out_of_threads")
    commands = plan(world({1: heads(1, 9)}, slots=SLOTS, throttle=throttle), POLICY)
    assert len(begun(commands)) == 2
    assert "2 of 4 slots may run at once, because t7 ended out_of_threads" in of(Held, commands)[-1].hold.reason


def test_on_hold_nothing_starts_but_the_only_one() -> None:
    throttle = Throttle(4, 4.0, held="memory is nearly used up")
    commands = plan(world({1: heads(1, 9)}, slots=SLOTS, throttle=throttle), POLICY)
    assert len(begun(commands)) == 1
    commands = plan(world({1: heads(1, 9)}, slots=SLOTS, throttle=throttle, running=[running(1, 9)]), POLICY)
    assert not begun(commands)
    assert of(Held, commands)[0].hold.reason == "memory is nearly used up"


# Lines


def test_a_held_line_blocks_no_other_of_its_own_run() -> None:
    """A stage of large tasks, and one that has failed for want of memory before, in front of small ones."""
    large, grown, small = head(1, stage=1), head(1, tries=Tries(resource=2)), head(1)
    given = world(
        {1: [large, grown, small]},
        slots=SLOTS,
        running=[running(2, 9)],
        needs={(1, 1): Need(Space(1000 * MIB, 1))},
        free=free(256 + 300),
    )
    commands = plan(given, POLICY)
    assert [command.head for command in of(Begin, commands)] == [small]
    assert {command.line for command in of(Held, commands)} == {Line(1, 1), Line(1, 0, resource=2)}


def test_a_run_of_many_stages_has_no_more_turns_than_one_of_one() -> None:
    queues = {1: [head(1, stage=number % 3) for number in range(9)], 2: heads(2, 9)}
    assert sorted(begun(plan(world(queues, slots=SLOTS), POLICY))) == [1, 1, 2, 2]


def test_room_is_set_aside_for_a_line_that_has_waited_long() -> None:
    """It needs 1,000 MiB; 700 are free beside the reserve, and an attempt that runs holds 400."""
    busy = running(3, 9, sample=Sample(1.0, 400 * MIB, 1, 0, 0), need=Space(400 * MIB, 1))
    given = world(
        {1: heads(1, 1), 2: heads(2, 1)}, slots=SLOTS, running=[busy], needs=needs(run1=1000), free=free(256 + 700)
    )
    assert begun(plan(given, POLICY)) == [2]
    for waited_s, starts in ((PATIENCE_S - 1, [2]), (PATIENCE_S + 1, [])):
        waits = replace(given, held_since={Line(1, 0): NOW.mono_s - waited_s})
        assert begun(plan(waits, POLICY)) == starts
    assert "set aside" in next(one.hold.reason for one in of(Held, plan(waits, POLICY)) if one.run_id == 2)


def test_nothing_is_set_aside_for_what_it_would_not_help() -> None:
    busy = running(3, 9, sample=Sample(1.0, 10 * MIB, 1, 0, 0))
    given = world(
        {1: heads(1, 1), 2: heads(2, 1)},
        slots=SLOTS,
        running=[busy],
        needs=needs(run1=5000),
        free=free(256 + 700),
        held_since={Line(1, 0): NOW.mono_s - 2 * PATIENCE_S},
    )
    assert begun(plan(given, POLICY)) == [2]


def test_one_that_must_run_alone_and_never_fits_holds_nobody() -> None:
    large = head(1, tries=Tries(resource=3), waited_s=2 * PATIENCE_S)
    given = world({1: [large], 2: heads(2, 1)}, slots=SLOTS, free=free(1500))
    works = {**given.works, (1, 0): replace(given.works[1, 0], need_memory_bytes=2000 * MIB)}
    assert begun(plan(replace(given, works=works, needs=needs(run1=2000)), POLICY)) == [2]
    works[1, 0] = replace(works[1, 0], need_memory_bytes=1000 * MIB)
    assert begun(plan(replace(given, works=works, needs=needs(run1=1000)), POLICY)) == [1]


def test_a_suspect_is_not_claimed_ahead() -> None:
    given = world(
        {1: [head(1, tries=Tries(suspect=True))]},
        slots=[slot(1, phase=SlotPhase.BUSY)],
        running=[running(1, 1)],
        ahead={"run1:work": 8},
    )
    assert not begun(plan(given, replace(POLICY, width=1)))


# What is given up


def using(memory_mib: int, age_s: float, **given: Any) -> Running:
    sample = Sample(1.0, memory_mib * MIB, 3, 0, 0)
    return running(1, 10, sent_s=NOW.mono_s - age_s, called_s=NOW.mono_s - age_s, sample=sample, timeout_s=1e6, **given)


def stopped(*attempts: Running, free_mib: int = 10, **given: Any) -> list[Stop]:
    return of(Stop, plan(world({}, running=attempts, free=free(free_mib), **given), POLICY))


def test_the_youngest_and_largest_is_stopped_when_memory_runs_out() -> None:
    old, young, small = using(3000, 500.0), using(2000, 2.0), using(50, 1.0)
    (stop,) = stopped(old, young, small)
    assert (stop.claim, stop.outcome) == (young.claim, Outcome.EVICTED)
    assert stop.reason.startswith("stopped to save the rest: memory is short, 10 MiB free")


@pytest.mark.parametrize("free_mib", [128, 300, 5000])
def test_nobody_is_stopped_while_there_is_enough(free_mib: int) -> None:
    assert not stopped(using(3000, 500.0), using(2000, 2.0), free_mib=free_mib)


def test_the_only_one_is_never_stopped() -> None:
    assert not stopped(using(3000, 5.0))
    assert not stopped(using(3000, 5.0), others=others(running=1, oldest_s=NOW.mono_s - 1))
    assert len(stopped(using(3000, 5.0), others=others(running=1, oldest_s=NOW.mono_s - 60))) == 1


def test_a_task_is_not_stopped_for_ever() -> None:
    old, young = using(3000, 500.0), using(2000, 2.0, evicted=EVICTIONS_MAX)
    assert not stopped(old, young)
    (stop,) = stopped(old, young, using(100, 300.0))
    assert stop.claim not in (old.claim, young.claim)


def test_one_step_at_a_time() -> None:
    attempts = [using(3000, 500.0), using(2000, 2.0), using(1000, 3.0)]
    assert not stopped(*attempts, relieved_s=NOW.mono_s - PAUSE_S / 2)
    assert not stopped(*attempts, using(500, 9.0, ending=True))


def test_idle_workers_go_before_any_attempt() -> None:
    given = world({}, slots=[slot(1, served=3), slot(2)], running=[using(3, 9.0), using(2, 2.0)], free=free(10))
    commands = plan(given, POLICY)
    assert [command.slot_id for command in of(Renew, commands)] == [1]
    assert not of(Stop, commands)


def test_nothing_starts_in_the_plan_that_gives_something_up() -> None:
    given = world({1: heads(1, 3)}, slots=SLOTS, running=[using(3000, 500.0), using(2000, 2.0)], free=free(10))
    assert not begun(plan(given, POLICY))


def test_threads_run_short_as_memory_does() -> None:
    many = replace(using(1, 2.0), sample=Sample(1.0, MIB, 400, 0, 0))
    given = world({}, running=[using(3000, 500.0), many, using(9, 1.0)], free=free(8000, threads=3))
    (stop,) = of(Stop, plan(given, POLICY))
    assert stop.claim == many.claim
    assert "threads are short, 3 free" in stop.reason
