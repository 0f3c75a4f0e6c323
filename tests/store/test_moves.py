"""Moves of tasks on disk: the row is the fence, and every count is kept in the transaction that moves."""

import os
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import Event, State
from batt_supervisor.core.model import Claim, Ending, Outcome, TaskError, Tries, WorkerId
from batt_supervisor.core.recovery import recover
from batt_supervisor.core.retry import Verdict, judge
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store import moves, values

S = State
BOTH = [S.FAILED, S.CANCELLED]


def asked(desk: Any, run_id: int, why: Closing = Closing.CANCEL) -> int:
    count: int = desk.do(lambda tx: tx.ask_close(run_id, why))
    return count


def closed(desk: Any, run_id: int, why: Closing = Closing.CANCEL) -> list[int]:
    """Close a run to its end; how many each step moved."""
    asked(desk, run_id, why)
    counts = []
    while count := desk.do(lambda tx: tx.close_some(run_id, why)):
        counts.append(count)
    return counts


def retried(desk: Any, run_id: int, task_id: int | None = None, states: list[State] = BOTH) -> list[int]:
    counts = []
    while count := desk.do(lambda tx: tx.retry_some(run_id, task_id, states)):
        counts.append(count)
    return counts


# Claim


def test_a_claim_is_on_disk_with_its_worker_and_gives_the_arguments(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    worker = WorkerId(4711, 99, "slot-1.log")
    claimed = values.Claimed("[0]", Tries(), 0)
    assert desk.do(lambda tx: tx.claim([values.Wanted(task_id, 0, worker)])) == {task_id: claimed}
    assert desk.task(task_id).state is S.RUNNING
    ((live, stage),) = desk.reader.live()
    assert (live.claim, live.worker, stage) == (Claim(task_id, 1), worker, 0)
    assert desk.reader.attempts(task_id)[0].claimed_at_ms == desk.now_ms


def test_a_task_is_claimed_once(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.claim(task_id)
    for attempt in (0, 1, 2):
        with pytest.raises(desk.Lost):
            desk.claim(task_id, attempt)
    assert len(desk.reader.attempts(task_id)) == 1


def test_a_claim_that_expects_another_attempt_is_refused(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.settle(desk.claim(task_id), Outcome.LOST)
    assert desk.task(task_id).state is S.QUEUED
    with pytest.raises(desk.Lost):
        desk.claim(task_id, 0)
    assert desk.claim(task_id, 1) == Claim(task_id, 2)


def test_a_batch_claims_what_is_there_and_leaves_the_rest(desk: Any) -> None:
    one, two, three = desk.tasks(desk.run(3))
    desk.claim(two)
    wanted = [
        values.Wanted(one, 0, None),
        values.Wanted(two, 0, None),
        values.Wanted(999, 0, None),
        values.Wanted(three, 7, None),
    ]
    assert set(desk.do(lambda tx: tx.claim(wanted))) == {one}
    assert [desk.task(task_id).state for task_id in (one, two, three)] == [S.RUNNING, S.RUNNING, S.QUEUED]


def test_an_empty_batch_is_no_trouble(desk: Any) -> None:
    assert desk.do(lambda tx: tx.claim([])) == {}
    assert desk.do(lambda tx: tx.settle([])) == {}


def test_arguments_come_through_as_they_were_written(desk: Any) -> None:
    from batt_supervisor.wire import dumps

    texts = [
        dumps(args) for args in (["\0", "\ud800", "ä€😀", "'\"\\"], {"a": [1.5, None, True, 10**40]}, [{"n": [[[]]]}])
    ]
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, [values.NewTask(0, text) for text in texts]))
    desk.do(lambda tx: tx.seal(run_id))
    wanted = [values.Wanted(task_id, 0, None) for task_id in desk.tasks(run_id)]
    claimed = desk.do(lambda tx: tx.claim(wanted))
    assert [found.args for found in claimed.values()] == texts
    assert [found.index for found in claimed.values()] == [0, 1, 2]


def test_a_claim_gives_the_count_of_tries_that_holds_now(desk: Any) -> None:
    """A head that was read before a cancel and a retry has an old one."""
    run_id = desk.run(2)
    _, task_id = desk.tasks(run_id)
    desk.finish(task_id, Outcome.LOST, together=True)
    desk.finish(task_id, Outcome.STARVED)
    desk.now_ms += 10_000
    desk.do(moves.promote)
    (head,) = [head for head in desk.reader.heads(run_id, 9) if head.task_id == task_id]
    assert (head.tries, head.index, head.attempt) == (Tries(uncharged=1, starved=1), 1, 2)
    desk.do(lambda tx: tx.stop_task(task_id))
    retried(desk, run_id, task_id)
    claimed = desk.do(lambda tx: tx.claim([values.Wanted(task_id, head.attempt, None)]))
    assert claimed == {task_id: values.Claimed("[1]", Tries(), 1)}


def test_every_count_of_tries_is_kept(desk: Any) -> None:
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    before = Tries(charged=1, resource=2, uncharged=3, starved=4, crashes=5, evicted=6, suspect=True)
    held = desk.claim(task_id)
    assert desk.do(desk.settling(held, Ending(Outcome.LOST), Verdict(Event.AGAIN, before))) is S.QUEUED
    assert desk.tries(task_id) == before
    assert desk.reader.heads(run_id, 1)[0].tries == before
    assert desk.do(lambda tx: tx.claim([values.Wanted(task_id, 1, None)]))[task_id].tries == before
    ((live, _),) = desk.reader.live()
    assert live.tries == before
    desk.do(desk.settling(Claim(task_id, 2), Ending(Outcome.CRASHED), Verdict(Event.FAIL, before)))
    retried(desk, run_id)
    assert desk.tries(task_id) == Tries()


def test_a_cancelled_task_cannot_be_claimed(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.do(lambda tx: tx.stop_task(task_id))
    with pytest.raises(desk.Lost):
        desk.claim(task_id)


@pytest.mark.parametrize("state", [S.WAITING, S.SCHEDULED])
def test_what_waits_cannot_be_claimed(desk: Any, state: State) -> None:
    task_id = desk.tasks(desk.run([1, 1]))[1 if state is S.WAITING else 0]
    if state is S.SCHEDULED:
        desk.finish(task_id, Outcome.EXCEPTION)
    assert desk.task(task_id).state is state
    with pytest.raises(desk.Lost):
        desk.claim(task_id)


# Settle


def test_a_result_is_stored_with_the_end_of_its_attempt(desk: Any) -> None:
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    held = desk.claim(task_id)
    desk.now_ms += 250
    place = values.Place(WorkerId(4711, 99, "w.log"), 10, 20)
    ending = Ending(Outcome.OK, value='{"a":[1,2]}', wall_s=0.25, cpu_s=0.125, peak_memory_bytes=1 << 20)
    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    assert desk.do(lambda tx: tx.settle([values.Settlement(held, ending, verdict, place)])) == {held: S.SUCCEEDED}
    row = desk.task(task_id)
    assert (row.state, row.outcome, row.value, row.wall_s, row.cpu_s, row.peak_memory_bytes) == (
        S.SUCCEEDED, "ok", '{"a":[1,2]}', 0.25, 0.125, 1 << 20,
    )  # fmt: skip
    (attempt,) = desk.reader.attempts(task_id)
    assert (attempt.ended_at_ms - attempt.claimed_at_ms, attempt.outcome) == (250, "ok")
    assert (attempt.worker_pid, attempt.log, attempt.log_from, attempt.log_to) == (4711, "w.log", 10, 20)
    assert desk.ended(run_id)


def test_the_worker_noted_at_the_claim_stays_where_the_end_names_none(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.do(lambda tx: tx.claim([values.Wanted(task_id, 0, WorkerId(4711, 99, "w.log"))]))
    desk.settle(Claim(task_id, 1), Outcome.LOST)
    (attempt,) = desk.reader.attempts(task_id)
    assert (attempt.worker_pid, attempt.log, attempt.log_from) == (4711, "w.log", None)


def test_an_end_is_written_once(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    held = desk.claim(task_id)
    desk.settle(held, value="1")
    for outcome in (Outcome.OK, Outcome.EXCEPTION, Outcome.CANCELLED):
        with pytest.raises(desk.Lost):
            desk.settle(held, outcome, value="2")
    assert desk.task(task_id).value == "1"


def test_an_attempt_that_wakes_up_late_changes_nothing(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    first = desk.claim(task_id)
    desk.settle(first, Outcome.LOST)
    with pytest.raises(desk.Lost):
        desk.settle(first, value="1")
    second = desk.claim(task_id)
    with pytest.raises(desk.Lost):
        desk.settle(first, value="1")
    assert desk.task(task_id).state is S.RUNNING
    desk.settle(second, value="2")
    assert (desk.task(task_id).value, desk.task(task_id).attempt) == ("2", 2)


def test_an_attempt_that_was_written_off_at_a_restart_cannot_settle_any_more(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    held = desk.claim(task_id)
    ((live, _),) = desk.reader.live()
    found = recover(live, desk.new().stages[0].work.limits)
    assert desk.do(desk.settling(held, found.ending, found.verdict)) is S.QUEUED
    with pytest.raises(desk.Lost):
        desk.settle(held)
    assert desk.reader.live() == []


@pytest.mark.parametrize("task_id", [0, 999])
def test_the_end_of_a_task_that_is_not_there_is_dropped(desk: Any, task_id: int) -> None:
    desk.run(1)
    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    with pytest.raises(desk.Lost):
        desk.do(desk.settling(Claim(task_id, 1), Ending(Outcome.OK, value="1"), verdict))


def test_the_end_of_a_task_that_was_never_claimed_is_dropped(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    for attempt in (0, 1):
        with pytest.raises(desk.Lost):
            desk.settle(Claim(task_id, attempt))


def test_a_stale_end_is_dropped_from_a_batch_that_holds_the_current_one_as_well(make_desk: Any, tmp_path: Any) -> None:
    desk = make_desk(tmp_path / "other.db")
    (task_id,) = desk.tasks(desk.run(1))
    first = desk.claim(task_id)
    desk.settle(first, Outcome.LOST)
    second = desk.claim(task_id)
    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    ends = [values.Settlement(held, Ending(Outcome.OK, value=str(held.attempt)), verdict) for held in (first, second)]
    try:
        assert desk.do(lambda tx: tx.settle(ends)) == {second: S.SUCCEEDED}
        assert desk.task(task_id).value == "2"
        desk.check()
    finally:
        desk.close()


@pytest.mark.parametrize(
    ("outcome", "state", "kept"),
    [
        (Outcome.OK, S.SUCCEEDED, "ok"),  # a result that came before the kill is kept
        (Outcome.CANCELLED, S.CANCELLED, "cancelled"),
        (Outcome.EXCEPTION, S.CANCELLED, "cancelled"),  # it would have gone again
        (Outcome.LOST, S.CANCELLED, "cancelled"),
        (Outcome.OUT_OF_MEMORY, S.CANCELLED, "cancelled"),
    ],
)
def test_a_task_that_was_told_to_stop_ends_and_never_goes_again(
    desk: Any, outcome: Outcome, state: State, kept: str
) -> None:
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    held = desk.claim(task_id)
    assert desk.do(lambda tx: tx.stop_task(task_id)) is S.STOPPING
    assert desk.settle(held, outcome) is state
    assert desk.task(task_id).outcome == kept
    assert desk.reader.attempts(task_id)[0].outcome == outcome
    assert desk.ended(run_id)


def test_a_task_keeps_the_story_of_every_attempt(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    error = TaskError("zoo.Bad", "no ä€😀 \0 luck", "trace\nback")
    assert desk.finish(task_id, Outcome.EXCEPTION, reason="zoo.Bad: no", error=error) is S.SCHEDULED
    desk.now_ms += 10_000
    assert desk.do(moves.promote) == {desk.task(task_id).run_id}
    assert desk.finish(task_id, Outcome.CRASHED, reason="killed", signal="SIGSEGV") is S.FAILED
    one, two = desk.reader.attempts(task_id)
    assert (one.number, one.outcome, two.number, two.outcome, two.signal) == (1, "exception", 2, "crashed", "SIGSEGV")
    from batt_supervisor.api.show import error_info

    told = error_info(one.error)
    assert told is not None
    assert (told.type, told.message, told.traceback) == ("zoo.Bad", "no ä€😀 \0 luck", "trace\nback")
    assert desk.tries(task_id) == Tries(charged=2, crashes=1)


def test_a_task_that_was_given_up_says_why(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    for _ in range(11):
        state = desk.finish(task_id, Outcome.LOST, reason="its worker went away")
    assert state is S.FAILED
    assert desk.task(task_id).reason == "its worker went away; gave up: lost 11 times"


@pytest.mark.parametrize("text", ["plain", "ä€😀", "'quoted\" \\", "two\nlines", "NaN", "[1", "1e999", "null"])
def test_a_reason_is_kept_as_it_is(desk: Any, text: str) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.finish(task_id, Outcome.CRASHED, reason=text)
    assert desk.task(task_id).reason == text
    assert desk.reader.attempts(task_id)[0].reason == text


def test_a_reason_with_a_name_that_is_no_utf8_can_be_stored_and_read(make_desk: Any, tmp_path: Any) -> None:
    from worker import report

    desk = make_desk(tmp_path / "other.db")
    try:
        (task_id,) = desk.tasks(desk.run(1))
        told = report.of_error(FileNotFoundError("no such file: " + os.fsdecode(b"caf\xe9")))
        desk.finish(task_id, Outcome.EXCEPTION, reason=told["reason"])
        assert "no such file: caf" in desk.task(task_id).reason
    finally:
        desk.close()


@pytest.mark.parametrize(
    "value",
    [
        '"\\u0000"',
        '"\\ud800"',
        "1e400",
        "[" * 300 + "]" * 300,
        '{"a":"' + "x" * 10_000 + '"}',
        "12345678901234567890123",
        "0.1",
    ],
)
def test_a_value_is_kept_to_the_letter(desk: Any, value: str) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.finish(task_id, value=value)
    assert desk.task(task_id).value == value


def test_figures_are_kept_to_the_last_digit(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.finish(task_id, wall_s=0.1 + 0.2, cpu_s=1e-6, peak_memory_bytes=2**53 + 1, peak_threads=7, exit_code=0)
    (row,) = desk.reader.attempts(task_id)
    assert (row.wall_s, row.cpu_s, row.peak_memory_bytes) == (0.1 + 0.2, 1e-6, 2**53 + 1)
    assert (row.peak_threads, row.exit_code) == (7, 0)


def test_an_operation_that_fails_leaves_no_trace(desk: Any) -> None:
    one, two = desk.tasks(desk.run(2))
    desk.claim(one)
    before = "\n".join(desk.db.iterdump())
    with pytest.raises(desk.Lost):
        desk.group(desk.claiming(two), desk.claiming(one))
    assert "\n".join(desk.db.iterdump()) == before


# The end of a run


def test_a_run_ends_when_its_last_task_settles_and_not_before(desk: Any) -> None:
    run_id = desk.run(3)
    ends = []
    for task_id, outcome in zip(desk.tasks(run_id), (Outcome.OK, Outcome.CANCELLED, Outcome.OK), strict=True):
        desk.now_ms += 100
        desk.finish(task_id, outcome)
        ends.append(desk.ended(run_id))
    assert ends == [False, False, True]
    assert desk.reader.run(run_id).ended_at_ms == desk.now_ms
    assert desk.reader.open_runs() == []


def test_a_backoff_keeps_a_run_open(desk: Any) -> None:
    run_id = desk.run(1)
    desk.finish(desk.tasks(run_id)[0], Outcome.EXCEPTION)
    assert not desk.ended(run_id)


def test_a_task_claimed_and_settled_in_one_commit_ends_its_run(desk: Any) -> None:
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    desk.group(desk.claiming(task_id), desk.settling(Claim(task_id, 1), Ending(Outcome.OK, value="1"), verdict))
    assert desk.ended(run_id)


# Due times


def test_a_task_is_queued_when_its_time_has_come_and_not_before(desk: Any) -> None:
    one, two = desk.tasks(desk.run(2))
    desk.finish(one, Outcome.EXCEPTION)
    due_ms = desk.reader.next_due_ms()
    assert desk.now_ms + 500 <= due_ms <= desk.now_ms + 1000
    desk.now_ms = due_ms - 1
    assert desk.do(moves.promote) == set()
    desk.now_ms = due_ms
    assert desk.do(moves.promote) == {desk.task(one).run_id}
    assert desk.reader.next_due_ms() is None
    assert [head.task_id for head in desk.reader.heads(desk.task(one).run_id, 9)] == [one, two]


# Stages


def test_a_stage_is_released_whole_and_alone(desk: Any) -> None:
    run_id = desk.run([1, 2, 1])
    assert desk.do(lambda tx: tx.release(run_id, 1)) == 2
    assert desk.states(run_id) == [S.QUEUED, S.QUEUED, S.QUEUED, S.WAITING]
    assert desk.do(lambda tx: tx.release(run_id, 1)) == 0


def test_a_stage_of_another_run_is_left_alone(desk: Any) -> None:
    one, two = desk.run([1, 1]), desk.run([1, 1])
    desk.do(lambda tx: tx.release(one, 1))
    assert desk.states(two) == [S.QUEUED, S.WAITING]


# Closing


@pytest.mark.parametrize(
    ("why", "reason"),
    [(Closing.CANCEL, "cancelled"), (Closing.DEADLINE, "the run's deadline passed before it started")],
)
def test_closing_a_run_cancels_all_that_has_not_started(desk: Any, why: Closing, reason: str) -> None:
    run_id = desk.run([4, 1], deadline_s=60.0)
    desk.now_ms = desk.reader.run(run_id).deadline_at_ms
    done, runs, waits, queued, later = desk.tasks(run_id)
    desk.finish(done)
    held = desk.claim(runs)
    desk.finish(waits, Outcome.EXCEPTION)
    closed(desk, run_id, why)
    assert desk.states(run_id) == [S.SUCCEEDED, S.RUNNING, S.CANCELLED, S.CANCELLED, S.CANCELLED]
    assert {desk.task(task_id).reason for task_id in (waits, queued, later)} == {reason}
    assert {desk.task(task_id).outcome for task_id in (waits, queued, later)} == {"cancelled"}
    assert desk.reader.next_due_ms() is None
    assert not desk.ended(run_id)
    desk.settle(held, Outcome.CANCELLED)
    assert desk.ended(run_id)
    row = desk.reader.run(run_id)
    assert (row.closing, row.deadline_cut) == (why, why is Closing.DEADLINE)


def test_a_large_run_is_closed_in_steps_that_leave_the_writer_to_others(desk: Any) -> None:
    number = moves.CHUNK * 2 + 5
    run_id = desk.run(number)
    assert closed(desk, run_id) == [moves.CHUNK, moves.CHUNK, 5]
    assert desk.ended(run_id)
    assert retried(desk, run_id) == [moves.CHUNK, moves.CHUNK, 5]
    assert set(desk.states(run_id)) == {S.QUEUED}


def test_a_run_that_has_ended_is_not_closed(desk: Any) -> None:
    run_id = desk.run(1)
    desk.finish(desk.tasks(run_id)[0])
    assert asked(desk, run_id, Closing.DEADLINE) == 0
    assert (desk.reader.run(run_id).closing, desk.reader.run(run_id).deadline_cut) == (None, False)


def test_the_first_reason_to_close_a_run_stays(desk: Any) -> None:
    run_id = desk.run(1, deadline_s=60.0)
    desk.now_ms = desk.reader.run(run_id).deadline_at_ms
    assert asked(desk, run_id, Closing.CANCEL) == 1
    assert asked(desk, run_id, Closing.DEADLINE) == 1
    row = desk.reader.run(run_id)
    assert (row.closing, row.deadline_cut) == (Closing.CANCEL, False)


@pytest.mark.parametrize(("deadline_s", "early_ms", "open_tasks"), [(None, 0, 0), (60.0, 1, 0), (60.0, 0, 1)])
def test_a_deadline_closes_nothing_before_it_has_passed(
    desk: Any, deadline_s: float | None, early_ms: int, open_tasks: int
) -> None:
    run_id = desk.run(1, deadline_s=deadline_s)
    desk.now_ms += 60_000 - early_ms
    assert asked(desk, run_id, Closing.DEADLINE) == open_tasks
    assert desk.reader.run(run_id).closing == (Closing.DEADLINE if open_tasks else None)


def test_a_deadline_that_a_retry_has_moved_meanwhile_does_not_close_the_run(desk: Any) -> None:
    run_id = desk.run(1, deadline_s=60.0)
    desk.finish(desk.tasks(run_id)[0], Outcome.CANCELLED)
    desk.now_ms += 60_000
    retried(desk, run_id)
    assert closed(desk, run_id, Closing.DEADLINE) == []
    assert desk.states(run_id) == [S.QUEUED]
    assert desk.reader.run(run_id).closing is None


@pytest.mark.parametrize("why", Closing)
def test_a_run_that_is_closed_for_another_reason_by_now_is_closed_no_further(desk: Any, why: Closing) -> None:
    run_id = desk.run(2, deadline_s=60.0)
    desk.now_ms += 60_000
    other = next(one for one in Closing if one is not why)
    asked(desk, run_id, other)
    assert desk.do(lambda tx: tx.close_some(run_id, why)) == 0
    assert desk.states(run_id) == [S.QUEUED, S.QUEUED]
    assert desk.do(lambda tx: tx.close_some(run_id, other)) == 2


def test_closing_a_run_that_is_not_there_does_nothing(desk: Any) -> None:
    assert asked(desk, 99) == 0


def test_a_cancel_in_the_same_commit_as_a_retry_is_not_lost(desk: Any) -> None:
    run_id = desk.run(1)
    desk.finish(desk.tasks(run_id)[0], Outcome.CANCELLED)
    desk.group(lambda tx: tx.retry_some(run_id, None, BOTH), lambda tx: tx.ask_close(run_id, Closing.CANCEL))
    assert desk.reader.run(run_id).closing is Closing.CANCEL


def test_a_run_retried_and_cancelled_in_one_commit_has_ended(make_desk: Any, tmp_path: Any) -> None:
    desk = make_desk(tmp_path / "other.db")
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    for _ in range(11):
        desk.finish(task_id, Outcome.LOST)
    assert desk.task(task_id).state is S.FAILED
    desk.group(lambda tx: tx.retry_some(run_id, None, BOTH), lambda tx: tx.stop_task(task_id))
    ended = desk.ended(run_id)
    desk.close()
    assert ended


# One task's cancel


@pytest.mark.parametrize("state", [S.QUEUED, S.WAITING, S.SCHEDULED])
def test_a_task_that_has_not_started_is_cancelled_at_once(desk: Any, state: State) -> None:
    run_id = desk.run([1, 1])
    task_id = desk.tasks(run_id)[1 if state is S.WAITING else 0]
    if state is S.SCHEDULED:
        desk.finish(task_id, Outcome.EXCEPTION)
    assert desk.task(task_id).state is state
    assert desk.do(lambda tx: tx.stop_task(task_id)) is S.CANCELLED
    assert (desk.task(task_id).state, desk.task(task_id).reason) == (S.CANCELLED, "cancelled")


def test_a_running_task_is_told_to_stop_once(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.claim(task_id)
    assert desk.do(lambda tx: tx.stop_task(task_id)) is S.STOPPING
    assert desk.do(lambda tx: tx.stop_task(task_id)) is S.STOPPING


def test_a_settled_task_cannot_be_cancelled(desk: Any) -> None:
    (task_id,) = desk.tasks(desk.run(1))
    desk.finish(task_id)
    with pytest.raises(Refused, match=f"task t{task_id} has ended already: succeeded"):
        desk.do(lambda tx: tx.stop_task(task_id))


def test_cancelling_a_task_whose_submission_was_given_up_is_refused(desk: Any) -> None:
    with pytest.raises(Refused):
        desk.do(lambda tx: tx.stop_task(99))


# Retry


@pytest.mark.parametrize(
    ("states", "queued"),
    [([S.FAILED], 1), ([S.CANCELLED], 1), (BOTH, 2), ([S.SUCCEEDED], 0), ([S.RUNNING], 0), ([], 0), (list(S), 2)],
)
def test_only_failed_and_cancelled_tasks_go_again(desk: Any, states: list[State], queued: int) -> None:
    run_id = desk.run(4)
    good, bad, gone, live = desk.tasks(run_id)
    desk.finish(good)
    for _ in range(11):
        desk.finish(bad, Outcome.LOST)
    desk.finish(gone, Outcome.CANCELLED)
    desk.claim(live)
    assert sum(retried(desk, run_id, None, states)) == queued
    assert desk.states(run_id).count(S.QUEUED) == queued
    assert desk.states(run_id)[0] is S.SUCCEEDED


def test_a_retried_task_has_a_fresh_count_of_tries_and_goes_on_numbering(desk: Any) -> None:
    run_id = desk.run(1)
    (task_id,) = desk.tasks(run_id)
    for _ in range(2):
        desk.finish(task_id, Outcome.BAD_RESULT, reason="not JSON")
        desk.now_ms += 10_000
        desk.do(moves.promote)
    assert desk.ended(run_id)
    retried(desk, run_id)
    row = desk.task(task_id)
    assert (row.state, row.attempt, row.outcome, row.reason, row.settled_seq) == (S.QUEUED, 2, None, None, None)
    assert desk.tries(task_id) == Tries()
    assert not desk.ended(run_id)
    assert desk.finish(task_id) is S.SUCCEEDED
    assert desk.ended(run_id)
    assert len(desk.reader.attempts(task_id)) == 3


def test_one_task_goes_again_and_its_neighbours_do_not(desk: Any) -> None:
    run_id = desk.run(2)
    closed(desk, run_id)
    one, _ = desk.tasks(run_id)
    assert retried(desk, run_id, one) == [1]
    assert desk.states(run_id) == [S.QUEUED, S.CANCELLED]


def test_a_task_is_not_retried_as_one_of_another_run(desk: Any) -> None:
    one, two = desk.run(1), desk.run(1)
    closed(desk, one)
    assert retried(desk, two, desk.tasks(one)[0]) == []
    assert desk.states(one) == [S.CANCELLED]


def test_a_retried_run_has_its_whole_deadline_again(desk: Any) -> None:
    run_id = desk.run(2, deadline_s=60.0)
    desk.now_ms = desk.reader.run(run_id).deadline_at_ms
    closed(desk, run_id, Closing.DEADLINE)
    assert desk.ended(run_id)
    desk.now_ms += 5_000_000
    retried(desk, run_id)
    row = desk.reader.run(run_id)
    assert (row.deadline_at_ms, row.closing, row.ended_at_ms) == (desk.now_ms + 60_000, None, None)


def test_a_retry_in_a_run_that_still_runs_does_not_move_its_deadline(desk: Any) -> None:
    run_id = desk.run(2, deadline_s=60.0)
    before = desk.reader.run(run_id).deadline_at_ms
    desk.finish(desk.tasks(run_id)[0], Outcome.CANCELLED)
    desk.now_ms += 1000
    retried(desk, run_id)
    assert desk.reader.run(run_id).deadline_at_ms == before


def test_a_retried_run_keeps_the_order_of_its_stages(desk: Any) -> None:
    run_id = desk.run([1, 1])
    closed(desk, run_id)
    retried(desk, run_id)
    assert desk.states(run_id) == [S.QUEUED, S.WAITING]


def test_a_run_that_its_deadline_cut_stays_partial_while_anything_of_it_is_missing(desk: Any) -> None:
    run_id = desk.run(2, deadline_s=60.0)
    desk.now_ms += 60_000
    closed(desk, run_id, Closing.DEADLINE)
    one, _ = desk.tasks(run_id)
    retried(desk, run_id, one)
    desk.finish(one)
    assert desk.reader.run(run_id).deadline_cut


def test_a_retry_never_takes_back_a_cancel_that_is_under_way(desk: Any) -> None:
    run_id = desk.run(3)
    one, two, _ = desk.tasks(run_id)
    desk.finish(one, Outcome.CANCELLED)
    desk.claim(two)
    asked(desk, run_id)
    try:
        desk.do(lambda tx: tx.retry_some(run_id, one, BOTH))
    except Refused:
        pass
    assert desk.reader.run(run_id).closing is Closing.CANCEL


def test_a_retry_in_the_commit_that_ends_a_closing_run_opens_it_again(desk: Any) -> None:
    run_id = desk.run(1, deadline_s=60.0)
    (task_id,) = desk.tasks(run_id)
    held = desk.claim(task_id)
    desk.now_ms += 60_000
    asked(desk, run_id, Closing.DEADLINE)
    desk.now_ms += 100_000
    verdict = judge(Outcome.CANCELLED, Tries(), desk.new().stages[0].work.limits, 1)
    desk.group(desk.settling(held, Ending(Outcome.CANCELLED), verdict), lambda tx: tx.retry_some(run_id, None, BOTH))
    row = desk.reader.run(run_id)
    assert desk.states(run_id) == [S.QUEUED]
    assert row.closing is None
    assert row.deadline_at_ms > desk.now_ms


def test_a_run_that_ended_and_was_opened_again_in_one_commit_is_open(desk: Any) -> None:
    run_id = desk.run(2)
    one, two = desk.tasks(run_id)
    desk.finish(one, Outcome.CANCELLED)
    held = desk.claim(two)
    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    desk.group(
        desk.settling(held, Ending(Outcome.OK, value="1"), verdict),
        lambda tx: tx.ask_close(run_id, Closing.CANCEL),
        lambda tx: tx.retry_some(run_id, None, BOTH),
        lambda tx: tx.ask_close(run_id, Closing.CANCEL),
        lambda tx: tx.close_some(run_id, Closing.CANCEL),
    )
    assert desk.ended(run_id)
    assert desk.states(run_id) == [S.CANCELLED, S.SUCCEEDED]


def test_a_retry_in_steps_opens_no_stage_before_those_that_it_comes_after(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of submission: between two steps the loop would let it start."""
    monkeypatch.setattr(moves, "CHUNK", 2)
    run_id = desk.do(lambda tx: tx.create_run(desk.new(stages=3))).id
    stages = [2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0]
    desk.do(lambda tx: tx.add_tasks(run_id, 0, [values.NewTask(stage, "[]", None) for stage in stages]))
    desk.do(lambda tx: tx.seal(run_id))
    closed(desk, run_id)
    opened = 0
    while count := desk.do(lambda tx: tx.retry_some(run_id, None, [State.CANCELLED])):
        opened += count
        by_state = [(stage, desk.task(task).state) for stage, task in zip(stages, desk.tasks(run_id), strict=True)]
        left = [stage for stage, state in by_state if state is State.CANCELLED]
        begun = [stage for stage, state in by_state if state is not State.CANCELLED]
        assert max(begun) <= min(left, default=2)
    assert opened == len(stages)
