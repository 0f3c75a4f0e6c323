"""The short form of `make chaos`: whoever is killed, whatever was acknowledged is kept and ends once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("supervisor", reason="supervisord is not installed; `make test` installs it")

import chaos_plan
import chaos_run
import chaos_story
from chaos_evidence import Evidence, Noted, Row

from batt_supervisor.core.lifecycle import State


@pytest.fixture(scope="module")
def run() -> Iterator[chaos_run.Chaos]:
    # Fault points kill it as often again.
    with chaos_run.Chaos(chaos_plan.draw(seed=5, tasks=300, kills=3), limit_s=200) as made:
        made.run()
        if made.seen is not None:
            print(chaos_run.told(made.seen))
        yield made


def test_nothing_acknowledged_is_lost_and_nothing_runs_twice_whoever_is_killed(run: chaos_run.Chaos) -> None:
    assert run.complaints == [], f"everything is in {run.folder}"


def test_a_plan_is_its_seeds_and_nothing_elses() -> None:
    plan = chaos_plan.draw(7, 5000, 50)
    assert plan == chaos_plan.draw(7, 5000, 50)
    assert plan != chaos_plan.draw(8, 5000, 50)
    assert plan.tasks == 5000
    assert {task.kind.name for run in plan.runs for task in run.tasks} == {kind.name for kind in chaos_plan.KINDS}
    assert sum(strike.victim in chaos_plan.OF_BATTD for strike in plan.strikes) == 50


# A story that never complains proves nothing: what that run has left is spoiled in one place at a time.

Where = tuple[str, int]
"""A run's name, and the place of one of its tasks."""


def a_task(seen: Evidence, fits: Callable[[str, Row], bool]) -> Where:
    """The first task that fits, by the name of its kind and its row."""
    for name, promise in seen.promises.items():
        for task, row in zip(promise.run.tasks, rows_of(seen, name), strict=True):
            if fits(task.kind.name, row):
                return name, row.index
    raise AssertionError("the run had no such task")


def a_success(seen: Evidence) -> Where:
    return a_task(seen, lambda kind, row: kind == "nothing" and row.state is State.SUCCEEDED)


def a_file(seen: Evidence) -> Where:
    return a_task(seen, lambda kind, row: kind == "file" and row.state is State.SUCCEEDED)


def a_failure(seen: Evidence) -> Where:
    return a_task(seen, lambda kind, row: kind == "raises" and row.state is State.FAILED)


def a_loss(seen: Evidence) -> Where:
    return a_task(seen, lambda _, row: any("battd went away" in attempt.reason for attempt in row.attempts))


def rows_of(seen: Evidence, run: str) -> list[Row]:
    return seen.disk.tasks[f"key of {run}"]


def row_of(seen: Evidence, where: Where) -> Row:
    return rows_of(seen, where[0])[where[1]]


def change(seen: Evidence, where: Where, **fields: Any) -> None:
    rows_of(seen, where[0])[where[1]] = replace(row_of(seen, where), **fields)


def change_last_attempt(seen: Evidence, where: Where, **fields: Any) -> None:
    *before, last = row_of(seen, where).attempts
    change(seen, where, attempts=(*before, replace(last, **fields)))


def notes_of(seen: Evidence, where: Where) -> list[Noted]:
    promise = seen.promises[where[0]]
    return seen.noted[where[0]].setdefault(promise.run.tasks[where[1]].name, [])


def lose_a_run(seen: Evidence) -> None:
    seen.disk.tasks.popitem()


def lose_a_task(seen: Evidence) -> None:
    next(iter(seen.disk.tasks.values())).pop(3)


def invent_a_run(seen: Evidence) -> None:
    seen.disk.tasks["r99"] = []


def leave_a_task_open(seen: Evidence) -> None:
    change(seen, a_success(seen), state=State.RUNNING)


def fail_what_succeeds(seen: Evidence) -> None:
    change(seen, a_success(seen), state=State.FAILED, outcome="exception")


def pass_what_fails(seen: Evidence) -> None:
    change(seen, a_failure(seen), state=State.SUCCEEDED, outcome="ok")


def cancel_what_nobody_cancelled(seen: Evidence) -> None:
    where = a_task(seen, lambda _, row: row.state is State.SUCCEEDED and not cancelled(seen, row))
    change(seen, where, state=State.CANCELLED, outcome="cancelled")


def cancelled(seen: Evidence, row: Row) -> bool:
    return any(row in rows_of(seen, name) for name, one in seen.promises.items() if one.cancel_asked)


def end_a_task_twice(seen: Evidence) -> None:
    where = a_success(seen)
    row = row_of(seen, where)
    more = replace(row.attempts[-1], number=row.attempt + 1)
    change(seen, where, attempt=row.attempt + 1, attempts=(*row.attempts, more))


def skip_a_number(seen: Evidence) -> None:
    change(seen, a_success(seen), attempt=40)


def leave_an_attempt_open(seen: Evidence) -> None:
    change_last_attempt(seen, a_success(seen), ended_at_ms=None)


def crash_for_no_reason(seen: Evidence) -> None:
    change_last_attempt(seen, a_failure(seen), outcome="crashed", signal="SIGKILL", worker_pid=1)


def lose_for_no_reason(seen: Evidence) -> None:
    where = a_loss(seen)
    lost = next(one for one in row_of(seen, where).attempts if "battd went away" in one.reason)
    seen.lives = [life for life in seen.lives if not lost.claimed_at_ms <= life.at_ms <= (lost.ended_at_ms or 0)]


def charge_too_much(seen: Evidence) -> None:
    # Not of a run that was retried: what is charged begins anew there.
    kept = [row for name, one in seen.promises.items() if not one.run.retry for row in rows_of(seen, name)]
    where = a_task(seen, lambda _, row: row.state is State.SUCCEEDED and not row.charged and row in kept)
    change(seen, where, charged=1)


def share_a_place_in_the_order(seen: Evidence) -> None:
    change(seen, a_success(seen), settled_seq=row_of(seen, a_failure(seen)).settled_seq)


def miscount(seen: Evidence) -> None:
    next(iter(seen.disk.tallies.values()))[State.QUEUED] = 1


def misstate_the_status(seen: Evidence) -> None:
    seen.answers.total[State.SUCCEEDED] -= 1


def lose_a_result(seen: Evidence) -> None:
    del seen.disk.results[row_of(seen, a_success(seen)).id]


def keep_the_wrong_result(seen: Evidence) -> None:
    name, index = a_success(seen)
    seen.answers.results[name][index] = seen.answers.results[name][index].model_copy(update={"value": "other"})


def lose_a_file(seen: Evidence) -> None:
    seen.disk.files.remove(str(seen.disk.results[row_of(seen, a_file(seen)).id][1]))


def leave_a_file(seen: Evidence) -> None:
    seen.disk.files.add("1-99.json")


def meet_itself(seen: Evidence) -> None:
    notes_of(seen, a_success(seen)).append(Noted("overlap", 1, 1.0))


def begin_too_often(seen: Evidence) -> None:
    where = a_success(seen)
    notes_of(seen, where).extend(Noted("start", 1, 1e9) for _ in row_of(seen, where).attempts)


def end_after_the_next_began(seen: Evidence) -> None:
    notes_of(seen, a_success(seen))[:] = [
        Noted("start", 1, 1.0),
        Noted("start", 2, 2.0),
        Noted("end", 2, 3.0),
        Noted("end", 1, 4.0),
    ]


def never_reach_the_end(seen: Evidence) -> None:
    notes_of(seen, a_success(seen)).clear()


def leave_a_process(seen: Evidence) -> None:
    seen.left = ["4711 (sleep)"]


def leave_a_group(seen: Evidence) -> None:
    seen.groups_left = ["/sys/fs/cgroup/pids/batt-1"]


def end_battd_for_no_reason(seen: Evidence) -> None:
    struck = next(kill for kill in seen.kills if kill.what == "battd")
    seen.kills = [kill for kill in seen.kills if kill is not struck]


def forget_a_retry(seen: Evidence) -> None:
    one = next(one for one in seen.promises.values() if one.retried)
    task = next(iter(one.retried))
    one.retried[task] += 40


def start_after_a_cancel(seen: Evidence) -> None:
    where = a_task(seen, lambda _, row: bool(row.attempts) and cancelled(seen, row))
    seen.promises[where[0]].cancelled_at_ms = 0


def kill_a_nursery(seen: Evidence) -> None:
    seen.log += "[warning  ] nursery ended, another one takes over pid=4711 reason='it ended: SIGKILL'\n"


def drop_an_event(seen: Evidence) -> None:
    del seen.events[len(seen.events) // 2]


def repeat_an_event(seen: Evidence) -> None:
    seen.events.insert(7, seen.events[6])


def drop_the_last_event(seen: Evidence) -> None:
    while seen.events.pop().task is None:
        pass


def raise_an_error_in_battd(seen: Evidence) -> None:
    seen.log += "Traceback (most recent call last):\n"


SPOILERS = {
    lose_a_run: "an acknowledged run is not there",
    lose_a_task: "tasks were submitted, and",
    invent_a_run: "a run that nobody submitted: r99",
    leave_a_task_open: "has not ended: running",
    fail_what_succeeds: "failed:",
    pass_what_fails: "succeeded after",
    cancel_what_nobody_cancelled: "nobody had asked for that",
    end_a_task_twice: "'ok', 'ok']",
    skip_a_number: "has had 40 attempts",
    leave_an_attempt_open: "has no end",
    crash_for_no_reason: "ended as crashed",
    lose_for_no_reason: "ended as lost",
    charge_too_much: "charged 1, uncharged",
    share_a_place_in_the_order: "as their place in the order of ends",
    miscount: "in rows,",
    misstate_the_status: "status told",
    lose_a_result: "its result is of attempt None",
    keep_the_wrong_result: "its result is wrong: 'other'",
    lose_a_file: "the result file",
    leave_a_file: "the file 1-99.json in results/ is nobody's",
    meet_itself: "was alive twice at one time",
    begin_too_often: "was begun",
    end_after_the_next_began: "was at it until 4.0",
    never_reach_the_end: "was never at its end",
    leave_a_process: "outlived everything: 4711",
    leave_a_group: "a control group was left",
    end_battd_for_no_reason: "nobody had ended it",
    forget_a_retry: "never ran again after their retry",
    start_after_a_cancel: "was claimed after the cancel had been acknowledged",
    kill_a_nursery: "a nursery (pid 4711) ended",
    drop_an_event: "is followed by event",
    repeat_an_event: "event 7 is followed by event 7",
    drop_the_last_event: "by its events t",
    raise_an_error_in_battd: "has a traceback",
}
"""Each with words of the complaint that must come of it."""


@pytest.mark.parametrize(("spoil", "words"), SPOILERS.items(), ids=[spoil.__name__ for spoil in SPOILERS])
def test_the_story_complains_of_whatever_does_not_hold(
    run: chaos_run.Chaos, spoil: Callable[[Evidence], None], words: str
) -> None:
    assert run.seen is not None, "the run did not come so far"
    seen = copy.deepcopy(run.seen)
    before = set(chaos_story.complaints(seen))
    spoil(seen)
    fresh = set(chaos_story.complaints(seen)) - before
    assert [complaint for complaint in fresh if words in complaint], fresh
