"""What readers see: whole pages in a settled order, and never half of a write."""

import sqlite3
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Outcome
from batt_supervisor.errors import StoreDamaged
from batt_supervisor.store import Store, read, values

S = State


def pages(desk: Any, run_id: int, limit: int, **given: Any) -> list[list[Any]]:
    found: list[list[Any]] = []
    after = -1
    while page := desk.reader.tasks(run_id, after=after, limit=limit, **given):
        found.append(page)
        after = page[-1].settled_seq if given["by_settling"] else page[-1].idx
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_in_order_of_submission_hold_every_task_once(desk: Any, limit: int) -> None:
    run_id = desk.run(7)
    found = pages(desk, run_id, limit, state=None, by_settling=False)
    assert [task.idx for page in found for task in page] == list(range(7))


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_in_order_of_settling_hold_settled_tasks_as_they_came(desk: Any, limit: int) -> None:
    run_id = desk.run(5)
    order = [3, 0, 4]
    for idx in order:
        desk.finish(desk.tasks(run_id)[idx])
    found = pages(desk, run_id, limit, state=None, by_settling=True)
    assert [task.idx for page in found for task in page] == order


def test_a_page_of_one_state_holds_only_that(desk: Any) -> None:
    run_id = desk.run(4)
    for idx, outcome in enumerate((Outcome.OK, Outcome.CANCELLED, Outcome.OK)):
        desk.finish(desk.tasks(run_id)[idx], outcome)
    for by_settling in (True, False):
        found = pages(desk, run_id, 1, state=S.SUCCEEDED, by_settling=by_settling)
        assert [page[0].idx for page in found] == [0, 2]


def test_a_task_that_settles_again_comes_again_behind_all_others(desk: Any) -> None:

    run_id = desk.run(2)
    one, two = desk.tasks(run_id)
    desk.finish(one, Outcome.CANCELLED)
    desk.finish(two)
    last = desk.task(two).settled_seq
    desk.do(lambda tx: tx.retry_some(run_id, one, [S.CANCELLED]))
    assert desk.reader.tasks(run_id, state=None, by_settling=True, after=last, limit=9) == []
    desk.finish(one)
    assert [task.id for task in desk.reader.tasks(run_id, state=None, by_settling=True, after=last, limit=9)] == [one]


def test_heads_come_in_order_of_submission(desk: Any) -> None:
    run_id = desk.run(5)
    tasks = desk.tasks(run_id)
    desk.claim(tasks[1])
    found = desk.reader.heads(run_id, 3)
    assert [head.task_id for head in found] == [tasks[0], tasks[2], tasks[3]]
    assert (found[0].run_id, found[0].since_ms, found[0].attempt) == (run_id, desk.now_ms, 0)


def test_heads_are_the_first_of_each_stage(desk: Any) -> None:
    """However many tasks of one stage wait, those of the others are seen."""
    run_id = sealed(desk, [5, 0, 2, 5])
    tasks = desk.tasks(run_id)
    desk.claim(tasks[0])
    found = desk.reader.heads(run_id, 3)
    assert [(head.index, head.stage) for head in found] == [
        (1, 0), (2, 0), (3, 0), (5, 2), (6, 2), (7, 3), (8, 3), (9, 3),
    ]  # fmt: skip
    assert [head.task_id for head in found] == [tasks[head.index] for head in found]
    assert desk.reader.heads(run_id + 1, 3) == []


def test_heads_are_those_behind_a_place_of_each_stage(desk: Any) -> None:
    run_id = sealed(desk, [4, 0, 2, 4])
    found = desk.reader.heads(run_id, 2, {0: 1, 3: 8, 7: 0})
    assert [(head.index, head.stage) for head in found] == [(2, 0), (3, 0), (4, 2), (5, 2), (9, 3)]
    assert desk.reader.heads(run_id, 2, {0: 3, 2: 5, 3: 9}) == []


def test_heads_come_in_order_of_submission_where_stages_alternate(desk: Any) -> None:
    run_id = sealed(desk, [2, 2], mixed=True)
    assert [(head.index, head.stage) for head in desk.reader.heads(run_id, 9)] == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_of_many_stages_fewer_heads_each_are_read(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "HEADS_MAX", 8)
    run_id = sealed(desk, [4, 4, 4])
    assert [head.stage for head in desk.reader.heads(run_id, 4)] == [0, 0, 1, 1, 2, 2]
    run_id = sealed(desk, [1] * 10)
    assert [head.stage for head in desk.reader.heads(run_id, 4)] == list(range(10))


def test_heads_are_found_in_the_index_and_not_by_looking_at_every_task(desk: Any) -> None:
    run_id = sealed(desk, [2, 2])
    asked: list[str] = []
    desk.reader._db.set_trace_callback(asked.append)
    desk.reader.heads(run_id, 64)
    desk.reader._db.set_trace_callback(None)
    steps = [row[3] for sql in asked for row in desk.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert "SEARCH q USING INDEX tasks_queued (run_id=? AND stage=? AND idx>?)" in steps
    assert "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)" in steps
    assert [step for step in steps if step.startswith("SCAN")] == []


def sealed(desk: Any, stages: list[int], *, mixed: bool = False) -> int:
    """A run whose stages wait for nothing and have so many tasks, one stage behind the other or taking turns."""
    made = tuple(values.NewStage(f"s{n}", desk.new().stages[0].work) for n in range(len(stages)))
    run_id: int = desk.do(lambda tx: tx.create_run(values.NewRun("r", None, "/", {}, None, made))).id
    tasks = [(place, stage) for stage, number in enumerate(stages) for place in range(number)]
    chunk = [values.NewTask(stage, "[]") for _, stage in (sorted(tasks) if mixed else tasks)]
    desk.do(lambda tx: tx.add_tasks(run_id, 0, chunk))
    desk.do(lambda tx: tx.seal(run_id))
    return run_id


def test_the_latest_run_of_a_name_is_meant(desk: Any) -> None:
    desk.run(0)
    latest = desk.run(0)
    assert desk.reader.run_named("run").id == latest
    assert desk.reader.run_named("Run") is None
    assert desk.reader.run_names(5) == ["run"]


def test_what_is_not_there_is_none(desk: Any) -> None:
    assert desk.reader.run(1) is None
    assert desk.reader.task(1) is None
    assert desk.reader.attempts(1) == []
    assert desk.reader.next_due_ms() is None


def test_a_reader_sees_the_state_before_or_after_a_write_and_never_between(desk: Any) -> None:
    """One transaction settles all tasks at once; a reader that looks all the time sees none or all of them."""
    run_id = desk.run(50)
    claims = [desk.claim(task_id) for task_id in desk.tasks(run_id)]
    stop, seen = Event(), set()

    def look() -> None:
        reader = desk.store.reader()
        while not stop.is_set():
            seen.add(frozenset((tally.state, tally.count) for tally in reader.tallies(run_id)))
        seen.add(frozenset((tally.state, tally.count) for tally in reader.tallies(run_id)))
        reader.close()

    looking = Thread(target=look)
    looking.start()
    from batt_supervisor.core.model import Ending, Tries
    from batt_supervisor.core.retry import judge

    verdict = judge(Outcome.OK, Tries(), desk.new().stages[0].work.limits, 1)
    desk.group(*[desk.settling(held, Ending(Outcome.OK, value="1"), verdict) for held in claims])
    stop.set()
    looking.join()
    assert seen <= {frozenset({(S.RUNNING, 50)}), frozenset({(S.SUCCEEDED, 50)})}
    assert frozenset({(S.SUCCEEDED, 50)}) in seen


def test_a_reader_is_not_stopped_by_an_open_write(desk: Any) -> None:
    run_id = desk.run(2)
    desk.db.execute("BEGIN IMMEDIATE")
    desk.db.execute("UPDATE tasks SET state = 'running'")
    assert [head.run_id for head in desk.reader.heads(run_id, 9)] == [run_id, run_id]
    desk.db.execute("ROLLBACK")


def test_a_damaged_database_is_told_as_unavailable(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    store.close()
    data = bytearray((tmp_path / "queue.db").read_bytes())
    db = sqlite3.connect(tmp_path / "queue.db")
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'runs'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    data[(page - 1) * size : page * size] = b"\xff" * size
    (tmp_path / "queue.db").write_bytes(data)
    store = Store(tmp_path / "queue.db")
    reader = store.reader()
    with pytest.raises(StoreDamaged, match="is damaged"):
        reader.run(1)
    reader.close()
    store.close()


def test_a_page_behind_every_number_is_empty(desk: Any) -> None:
    run_id = desk.run(1)
    assert desk.reader.tasks(run_id, state=None, by_settling=False, after=10**30, limit=5) == []
