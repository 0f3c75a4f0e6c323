"""Times in rows go along with the wall clock, each once, however many there are."""

from typing import Any

import pytest

from batt_supervisor.core.clockwatch import Jump
from batt_supervisor.core.model import Outcome
from batt_supervisor.store import shift

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def due(desk: Any) -> dict[int, int]:
    """In how many milliseconds each scheduled task is due."""
    rows = desk.db.execute("SELECT id, run_at_ms FROM tasks WHERE state = 'scheduled'").fetchall()
    return {task_id: run_at_ms - desk.now_ms for task_id, run_at_ms in rows}


def schedule(desk: Any, tasks: int, apart_ms: int = 7) -> list[int]:
    """A run whose tasks have failed one after the other, and wait for their second attempts."""
    ids: list[int] = desk.tasks(desk.run(tasks))
    for task_id in ids:
        desk.finish(task_id, Outcome.EXCEPTION)
        desk.now_ms += apart_ms
    return ids


def move(desk: Any, jump: Jump | None) -> int:
    """Move all that there is, step by step; how many steps it took."""
    after, steps = None, 0
    desk.do(lambda tx: tx.shift_runs(jump))
    while True:
        after = desk.do(lambda tx, after=after: tx.shift_some(jump, after))
        steps += 1
        if after is None:
            return steps


def set_clock(desk: Any, by_ms: int, within_ms: int = 5) -> Jump:
    desk.now_ms += by_ms + within_ms
    return Jump(by_ms, desk.now_ms, within_ms)


@pytest.mark.parametrize("by_ms", [DAY_MS, HOUR_MS, -HOUR_MS, -DAY_MS])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_scheduled_task_is_due_as_if_nobody_had_set_the_clock(
    desk: Any, monkeypatch: pytest.MonkeyPatch, by_ms: int, step: int
) -> None:
    monkeypatch.setattr(shift, "STEP", step)
    ids = schedule(desk, 10)
    before = due(desk)
    jump = set_clock(desk, by_ms)
    late = schedule(desk, 2)  # by the new clock, before anything was moved
    expected = due(desk)
    assert move(desk, jump) == 12 // step + 1
    found = due(desk)
    passed_ms = 5 + 2 * 7
    assert {task_id: found[task_id] for task_id in ids} == {task_id: before[task_id] - passed_ms for task_id in ids}
    assert {task_id: found[task_id] for task_id in late} == {task_id: expected[task_id] for task_id in late}


def test_a_clock_that_is_set_forward_and_back_again_leaves_what_there_was(desk: Any) -> None:
    schedule(desk, 5)
    before = due(desk)
    jumps = [set_clock(desk, DAY_MS), set_clock(desk, -DAY_MS)]
    for jump in jumps:  # the store was in trouble until both had been
        move(desk, jump)
    assert due(desk) == {task_id: left_ms - 10 for task_id, left_ms in before.items()}


def test_what_was_scheduled_in_the_future_waits_its_own_delay_from_now(desk: Any) -> None:
    schedule(desk, 5)
    delays = dict(desk.db.execute("SELECT id, run_at_ms - moved_at_ms FROM tasks").fetchall())
    desk.now_ms -= DAY_MS  # while no battd ran
    move(desk, None)
    assert due(desk) == delays
    desk.now_ms += 10
    move(desk, None)
    assert due(desk) == {task_id: delay - 10 for task_id, delay in delays.items()}


@pytest.mark.parametrize("by_ms", [DAY_MS, -DAY_MS])
def test_a_runs_deadline_goes_along_and_that_of_a_later_run_does_not(desk: Any, by_ms: int) -> None:
    old = desk.run(1, deadline_s=60.0)
    left_ms = desk.reader.run(old).deadline_at_ms - desk.now_ms
    desk.now_ms += 1000
    jump = set_clock(desk, by_ms)
    new = desk.run(1, deadline_s=60.0)
    move(desk, jump)
    assert desk.reader.run(old).deadline_at_ms - desk.now_ms == left_ms - 1005
    assert desk.reader.run(new).deadline_at_ms - desk.now_ms == 60_000


def test_a_deadline_in_the_future_of_a_clock_set_back_while_no_battd_ran_is_counted_from_now(desk: Any) -> None:
    run = desk.run(1, deadline_s=60.0)
    desk.now_ms -= DAY_MS
    move(desk, None)
    assert desk.reader.run(run).deadline_at_ms - desk.now_ms == 60_000


def test_a_submission_is_as_old_as_it_is(desk: Any) -> None:
    run = desk.do(lambda tx: tx.create_run(desk.new(key="k"))).id
    jump = set_clock(desk, DAY_MS)
    move(desk, jump)
    assert desk.do(lambda tx: tx.expire_unsealed(HOUR_MS)) is True
    assert desk.reader.run(run) is not None
    desk.now_ms += HOUR_MS + 1
    assert desk.do(lambda tx: tx.expire_unsealed(HOUR_MS)) is False
    assert desk.reader.run(run) is None
