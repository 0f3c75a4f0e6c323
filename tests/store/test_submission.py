"""A submission: an unsealed run, chunks that may come twice, a seal. The key makes it safe to repeat."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Limits, Room, Work
from batt_supervisor.errors import Refused
from batt_supervisor.store import submit, values

S = State


def test_a_run_is_written_as_it_was_given(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new("card", key="k", stages=2, deadline_s=5.0))).id
    row = desk.reader.run(run_id)
    assert (row.name, row.cwd, row.env, row.task_count, row.sealed_at_ms, row.deadline_at_ms) == (
        "card",
        "/",
        {},
        0,
        None,
        None,
    )
    stages = desk.reader.stages(row)
    assert [(stage.number, stage.name, stage.after) for stage in stages] == [(0, "s0", ()), (1, "s1", (0,))]
    assert stages[0].work == desk.new().stages[0].work


def test_a_stage_is_read_with_every_limit_and_need_it_was_given(desk: Any) -> None:
    whole = Limits(9.0, 8.0, 7, 6.0, 5.0, 4.0, 3 << 30, 2, 1)
    room = Room("/srv", (("A", "1"),), "/opt/venv/bin/python")
    works = [
        Work(room, whole, function="zoo:work", allow_children=True, seed=2**62),
        Work(room, Limits(1.0), command=("ls", "{item}"), shell=True, seed=2**62),
        Work(room, whole, function="zoo:work", seed=2**62, need_memory_bytes=2**40, need_threads=9, name="score"),
    ]
    stages = tuple(values.NewStage(f"s{number}", work) for number, work in enumerate(works))
    run = values.NewRun("card", None, "/srv", {"A": "1"}, None, stages, python="/opt/venv/bin/python", seed=2**62)
    run_id = desk.do(lambda tx: tx.create_run(run)).id
    assert [stage.work for stage in desk.reader.stages(desk.reader.run(run_id))] == works


def test_the_same_key_finds_the_same_run(desk: Any) -> None:
    first = desk.do(lambda tx: tx.create_run(desk.new(key="k")))
    desk.do(lambda tx: tx.add_tasks(first.id, 0, desk.chunk(3)))
    again = desk.do(lambda tx: tx.create_run(desk.new(key="k")))
    assert again == values.Created(first.id, 3, sealed=False, existing=True)
    desk.do(lambda tx: tx.seal(first.id))
    assert desk.do(lambda tx: tx.create_run(desk.new(key="k"))) == values.Created(
        first.id, 3, sealed=True, existing=True
    )


def test_two_submissions_of_one_key_in_one_commit_make_one_run(desk: Any) -> None:
    one, two = desk.group(*[lambda tx: tx.create_run(desk.new(key="k"))] * 2)
    assert one.id == two.id
    assert (one.existing, two.existing) == (False, True)


def test_runs_without_a_key_are_different_runs(desk: Any) -> None:
    assert desk.run(0) != desk.run(0)


def test_the_key_of_a_discarded_run_may_be_used_again(desk: Any) -> None:
    first = desk.do(lambda tx: tx.create_run(desk.new(key="k")))
    desk.do(lambda tx: tx.discard(first.id))
    again = desk.do(lambda tx: tx.create_run(desk.new(key="k")))
    assert not again.existing
    assert again.id != first.id


@pytest.mark.parametrize(
    ("offset", "number", "count"),
    [(4, 3, 7), (0, 4, 4), (0, 2, 4), (2, 2, 4), (2, 5, 7), (0, 9, 9), (3, 1, 4), (4, 0, 4)],
)
def test_a_chunk_that_overlaps_adds_only_what_is_new(desk: Any, offset: int, number: int, count: int) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    whole = desk.chunk(20)
    desk.do(lambda tx: tx.add_tasks(run_id, 0, whole[:4]))
    before = desk.tasks(run_id)
    answer = desk.do(lambda tx: tx.add_tasks(run_id, offset, whole[offset : offset + number]))
    assert answer.tasks == count == len(desk.tasks(run_id))
    assert desk.tasks(run_id)[:4] == before
    rows = desk.db.execute("SELECT idx, args FROM tasks WHERE run_id = ? ORDER BY idx", (run_id,)).fetchall()
    assert rows == [(idx, json.dumps([idx])) for idx in range(count)]


def test_a_chunk_that_leaves_a_gap_is_refused_and_says_where_the_run_stands(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    with pytest.raises(Refused, match=f"tasks from 5 on leave a gap: run r{run_id} has 0 so far"):
        desk.do(lambda tx: tx.add_tasks(run_id, 5, desk.chunk(1)))


@pytest.mark.parametrize("stage", [2, -1, 10**30])
def test_a_task_of_a_stage_that_is_not_there_is_refused_with_its_whole_chunk(desk: Any, stage: int) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new(stages=2))).id
    with pytest.raises(Refused, match=f"names stage {stage}: run r{run_id} has stages 0 to 1"):
        desk.do(lambda tx: tx.add_tasks(run_id, 0, [*desk.chunk(3), *desk.chunk(1, stage)]))
    assert desk.tasks(run_id) == []


def test_a_sealed_run_takes_no_more_tasks(desk: Any) -> None:
    run_id = desk.run(1)
    with pytest.raises(Refused, match="takes no more"):
        desk.do(lambda tx: tx.add_tasks(run_id, 1, desk.chunk(1)))
    assert len(desk.tasks(run_id)) == 1


def test_sealing_twice_changes_nothing(desk: Any) -> None:
    run_id = desk.run(1, deadline_s=60.0)
    row = desk.reader.run(run_id)
    desk.now_ms += 5000
    assert desk.do(lambda tx: tx.seal(run_id)) == values.Created(run_id, 1, sealed=True, existing=True)
    assert desk.do(lambda tx: tx.seal(run_id, 1)) == values.Created(run_id, 1, sealed=True, existing=True)
    assert desk.reader.run(run_id) == row
    assert row.deadline_at_ms == row.sealed_at_ms + 60_000


@pytest.mark.parametrize("sealed", [False, True])
def test_a_seal_for_another_number_of_tasks_is_refused(desk: Any, sealed: bool) -> None:
    run_id = desk.run(5) if sealed else desk.do(lambda tx: tx.create_run(desk.new())).id
    if not sealed:
        desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(5)))
    with pytest.raises(Refused, match=f"run r{run_id} has 5 tasks, and 4 were submitted now"):
        desk.do(lambda tx: tx.seal(run_id, 4))
    assert (desk.reader.run(run_id).sealed_at_ms is not None) == sealed


def test_an_empty_run_has_ended_when_it_is_sealed(desk: Any) -> None:
    assert desk.ended(desk.run(0))


def test_tasks_of_later_stages_wait(desk: Any) -> None:
    assert desk.states(desk.run([2, 1])) == [S.QUEUED, S.QUEUED, S.WAITING]


def test_a_run_that_is_not_sealed_is_not_open(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(3)))
    assert desk.reader.open_runs() == []
    assert desk.reader.totals() == []
    desk.do(lambda tx: tx.seal(run_id))
    assert [row.id for row in desk.reader.open_runs()] == [run_id]


def test_a_submission_that_was_given_up_leaves_nothing(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new(stages=2))).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(3)))
    desk.do(lambda tx: tx.discard(run_id))
    for table in ("runs", "stages", "tasks", "tallies"):
        assert desk.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    with pytest.raises(Refused, match="is gone"):
        desk.do(lambda tx: tx.add_tasks(run_id, 3, desk.chunk(1)))


def test_a_sealed_run_cannot_be_discarded(desk: Any) -> None:
    run_id = desk.run(1)
    with pytest.raises(Refused, match="is sealed"):
        desk.do(lambda tx: tx.discard(run_id))


def test_only_old_submissions_that_were_not_sealed_expire(desk: Any) -> None:
    sealed = desk.run(1)
    old = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.now_ms += 10_000
    young = desk.do(lambda tx: tx.create_run(desk.new())).id
    assert desk.do(lambda tx: tx.expire_unsealed(5000)) is False  # removed one; there may be more
    assert desk.do(lambda tx: tx.expire_unsealed(5000)) is True
    assert [desk.reader.run(run_id) is not None for run_id in (sealed, old, young)] == [True, False, True]


def test_a_run_whose_tasks_were_cancelled_before_its_seal_has_ended_then(make_desk: Any, tmp_path: Any) -> None:
    desk = make_desk(tmp_path / "other.db")
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(1)))
    desk.do(lambda tx: tx.stop_task(desk.tasks(run_id)[0]))
    desk.do(lambda tx: tx.seal(run_id))
    ended = desk.ended(run_id)
    desk.close()
    assert ended


def test_sealing_a_run_that_was_given_up_meanwhile_is_refused(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.discard(run_id))
    with pytest.raises(Refused):
        desk.do(lambda tx: tx.seal(run_id))


def test_a_chunk_and_a_discard_in_one_commit_harm_nobody_else(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    other = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.group(
        lambda tx: tx.add_tasks(other, 0, desk.chunk(2)),
        lambda tx: tx.add_tasks(run_id, 0, desk.chunk(2)),
        lambda tx: tx.discard(run_id),
    )
    assert len(desk.tasks(other)) == 2


def test_a_large_submission_is_removed_in_parts_and_takes_nothing_meanwhile(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "DISCARD_ROWS", 4)
    run_id = desk.do(lambda tx: tx.create_run(desk.new(key="k"))).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, [values.NewTask(0, "[]")] * 6))
    assert desk.do(lambda tx: tx.discard(run_id)) is False
    with pytest.raises(Refused, match="given up"):
        desk.do(lambda tx: tx.add_tasks(run_id, 2, [values.NewTask(0, "[]")]))
    assert desk.do(lambda tx: tx.create_run(desk.new(key="k"))).existing is False
    assert desk.do(lambda tx: tx.discard(run_id)) is True
    assert desk.reader.run(run_id) is None
    assert desk.reader.tallies(run_id) == []


def test_a_submission_that_is_being_given_up_cannot_be_sealed(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would wait for ever for tasks that are gone."""
    monkeypatch.setattr(submit, "DISCARD_ROWS", 4)
    run_id = desk.do(lambda tx: tx.create_run(desk.new("n"))).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(10)))
    assert not desk.do(lambda tx: tx.discard(run_id))
    with pytest.raises(Refused, match="given up"):
        desk.do(lambda tx: tx.seal(run_id))
    unique = replace(desk.new("n"), unique_name=True)
    assert not desk.do(lambda tx: tx.create_run(unique)).existing, "its name is free"
    while not desk.do(lambda tx: tx.discard(run_id)):
        pass


def test_whoever_is_slower_with_the_same_submission_finds_it_sealed(desk: Any) -> None:
    run_id = desk.run(5)
    there = desk.do(lambda tx: tx.add_tasks(run_id, 2, desk.chunk(3, first=2)))
    assert (there.tasks, there.sealed, there.existing) == (5, True, True)
    with pytest.raises(Refused, match="with 5 tasks, and takes no more"):
        desk.do(lambda tx: tx.add_tasks(run_id, 2, desk.chunk(4, first=2)))


@pytest.mark.parametrize("sealed", [False, True])
def test_other_tasks_under_the_same_key_are_refused_and_named(desk: Any, sealed: bool) -> None:
    run_id = desk.run(5) if sealed else desk.do(lambda tx: tx.create_run(desk.new())).id
    if not sealed:
        desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(5)))
    other = [*desk.chunk(3), values.NewTask(0, '["another"]')]
    with pytest.raises(Refused, match=f"task 3 of run r{run_id} is there already, and is another"):
        desk.do(lambda tx: tx.add_tasks(run_id, 0, other))
    assert len(desk.tasks(run_id)) == 5
