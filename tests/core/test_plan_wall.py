"""One plan: limits of running attempts, stacks that are asked for in time, suspects, workers that have grown old."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batt_supervisor.core.limits import ASK_S, Quiet, Sample
from batt_supervisor.core.model import Outcome, Tries
from batt_supervisor.core.plan import plan, wake_at
from batt_supervisor.core.world import WRITING_MAX_S, AskStacks, Begin, Held, Renew, SlotPhase, Stop
from tests.core.test_plan import HERE, NOW, POLICY, begun, head, heads, of, policy, running, slot, world

SUSPECT = Tries(uncharged=1, suspect=True)
APART = replace(HERE, apart=True)
QUIET = Sample(cpu_s=0.0, memory_bytes=0, threads=1, output_bytes=0, beats=0)


def stops(**facts: Any) -> list[Stop]:
    return of(Stop, plan(world({1: []}, running=[running(1, 1, **facts)]), POLICY))


def test_an_attempt_over_a_limit_is_stopped_and_told_why() -> None:
    [stop] = stops(cpu_limit_s=2.0, sample=replace(QUIET, cpu_s=2.5))
    assert (stop.outcome, stop.reason) == (Outcome.CPU_LIMIT, "it used 2.50 s of CPU, the limit is 2 s")


def test_what_was_not_measured_yet_is_over_no_limit() -> None:
    assert stops(cpu_limit_s=2.0) == []


@pytest.mark.parametrize(("quiet_s", "stopped"), [(4.9, False), (5.0, True)])
def test_an_attempt_without_a_sign_of_life_is_stalled(quiet_s: float, stopped: bool) -> None:
    found = stops(stall_timeout_s=5.0, quiet=Quiet(NOW.mono_s - quiet_s))
    assert [stop.outcome for stop in found] == [Outcome.STALLED] * stopped


def test_an_attempt_at_both_of_its_ends_has_reached_its_wall_limit() -> None:
    found = stops(timeout_s=9.0, stall_timeout_s=5.0, quiet=Quiet(NOW.mono_s - 6))
    assert [stop.outcome for stop in found] == [Outcome.TIMEOUT]


WRITING: dict[str, Any] = {
    "timeout_s": 5.0,
    "cpu_limit_s": 2.0,
    "stall_timeout_s": 1.0,
    "quiet": Quiet(NOW.mono_s - 9),
    "sample": replace(QUIET, cpu_s=9.0),
    "asked": False,
}
"""An attempt that has gone over everything there is."""


def test_no_limit_is_for_an_attempt_that_only_writes_its_result() -> None:
    given = world({1: []}, running=[running(1, 1, **WRITING, returned_s=NOW.mono_s - 60.0)])
    assert of(Stop, plan(given, POLICY)) + of(AskStacks, plan(given, POLICY)) == []
    assert wake_at(given) == NOW.mono_s - 60.0 + WRITING_MAX_S


def test_a_result_that_cannot_be_written_for_very_long_is_lost() -> None:
    [stop] = stops(**WRITING, returned_s=NOW.mono_s - WRITING_MAX_S)
    assert (stop.outcome, stop.reason) == (Outcome.LOST, "its result could not be written within 660 s")


def test_whoever_asks_for_its_end_need_not_wait_for_the_disk() -> None:
    [stop] = stops(**WRITING, returned_s=NOW.mono_s - 1.0, stop_asked=True)
    assert stop.outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("facts", "asks"),
    [
        ({"timeout_s": 9.9 + ASK_S / 2}, True),
        ({"timeout_s": 9.9 + ASK_S * 2}, False),
        ({"timeout_s": 9.9 + ASK_S / 2, "asked": True}, False),
        # A command has no stacks.
        ({"timeout_s": 9.9 + ASK_S / 2, "python": False}, False),
        # Too short a limit to be asked within it.
        ({"timeout_s": 0.15, "called_s": NOW.mono_s - 0.1}, False),
        ({"timeout_s": 0.25, "called_s": NOW.mono_s - 0.2}, True),
        # About to be called stalled.
        ({"stall_timeout_s": 5.0, "quiet": Quiet(NOW.mono_s - 5 + ASK_S / 2)}, True),
        ({"stall_timeout_s": 5.0, "quiet": Quiet(NOW.mono_s - 4)}, False),
        # Not called yet, or ending already.
        ({"called_s": None, "timeout_s": 5.0}, False),
        ({"timeout_s": 9.9 + ASK_S / 2, "ending": True}, False),
    ],
)
def test_stacks_are_asked_for_shortly_before_the_end(facts: dict[str, Any], asks: bool) -> None:
    attempt = running(1, 3, **{"asked": False} | facts)
    found = of(AskStacks, plan(world({1: []}, running=[attempt]), POLICY))
    assert found == [AskStacks(attempt.claim, 3)] * asks


@pytest.mark.parametrize(
    ("facts", "in_s"),
    [
        ({"timeout_s": 60.0, "called_s": NOW.mono_s, "asked": False}, 60 - ASK_S),
        ({"timeout_s": 60.0, "called_s": NOW.mono_s}, 60.0),
        ({"timeout_s": 60.0, "called_s": NOW.mono_s, "stall_timeout_s": 7.0, "quiet": Quiet(NOW.mono_s)}, 7.0),
    ],
)
def test_the_plan_is_made_again_when_stacks_or_signs_of_life_are_due(facts: dict[str, Any], in_s: float) -> None:
    assert wake_at(world({1: []}, running=[running(1, 1, **facts)])) == pytest.approx(NOW.mono_s + in_s)


# Suspects


def test_a_suspect_gets_a_worker_of_its_own_nursery() -> None:
    commands = plan(world({1: [head(1, tries=SUSPECT)]}, slots=[slot(1)]), POLICY)
    assert [renew.room for renew in of(Renew, commands)] == [APART]
    commands = plan(world({1: [head(1, tries=SUSPECT)]}, slots=[slot(1, APART)]), POLICY)
    assert [begin.slot_id for begin in of(Begin, commands)] == [1]


def test_suspects_run_one_at_a_time_and_those_behind_them_go_on() -> None:
    queue = [head(1, tries=SUSPECT), head(1, tries=SUSPECT), head(1)]
    commands = plan(world({1: queue}, slots=[slot(1, APART), slot(2, APART), slot(3)]), POLICY)
    assert [begin.head for begin in of(Begin, commands)] == [queue[0], queue[2]]
    commands = plan(world({1: queue[:2]}, slots=[slot(1, APART)], running=[running(1, 2, apart=True)]), POLICY)
    assert begun(commands) == []
    assert {command.hold.short for command in of(Held, commands)} == {"suspects"}


@pytest.mark.parametrize("boots", [False, True])
def test_one_worker_is_prepared_for_many_suspects(boots: bool) -> None:
    queue = [head(1, tries=SUSPECT) for _ in range(3)]
    slots = [slot(0), slot(1), slot(2)]
    if boots:
        slots[0] = slot(0, APART, SlotPhase.BOOTING)
    assert len(of(Renew, plan(world({1: queue}, slots=slots), POLICY))) == (0 if boots else 1)


def test_a_suspect_is_not_claimed_ahead() -> None:
    facts: dict[str, Any] = {"slots": [slot(1)], "running": [running(1, 1)], "ahead": {"run1:work": 4}}
    assert begun(plan(world({1: [head(1, tries=SUSPECT)]}, **facts), policy(width=1))) == []
    assert begun(plan(world({1: heads(1, 1)}, **facts), policy(width=1))) == [1]


def test_a_task_that_took_three_workers_down_waits_for_the_machine() -> None:
    poison = head(1, tries=Tries(charged=3, crashes=3))
    assert begun(plan(world({1: [poison]}, slots=[slot(1), slot(2)], running=[running(2, 3)]), POLICY)) == []
    [begin] = of(Begin, plan(world({1: [poison]}, slots=[slot(1)]), POLICY))
    assert begin.alone


# Age


@pytest.mark.parametrize(("served", "age_s", "renewed"), [(1, 99.0, False), (1, 100.0, True), (0, 1000.0, False)])
def test_an_old_worker_that_has_served_is_renewed(served: int, age_s: float, renewed: bool) -> None:
    old = replace(slot(1, served=served), age_s=age_s)
    commands = plan(world({}, slots=[old]), replace(POLICY, max_age_s=100.0))
    assert len(of(Renew, commands)) == renewed
    assert of(Renew, plan(world({}, slots=[old]), POLICY)) == []
