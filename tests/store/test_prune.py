from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import Event, State
from batt_supervisor.core.model import Ending, Outcome, WorkerId
from batt_supervisor.core.retry import Verdict
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store import Store, pacing, prune, submit, values
from batt_supervisor.store.__main__ import main
from batt_supervisor.store.convert import convert
from batt_supervisor.store.schema import connect


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a few rows, as on a machine that is slow beyond measure."""
    monkeypatch.setattr(pacing, "STEP_S", -1.0)


def ended(desk: Any, tasks: int = 3, **given: Any) -> int:
    """A run whose tasks have succeeded."""
    run_id: int = desk.run(tasks)
    for task in desk.tasks(run_id):
        desk.finish(task, **given)
    return run_id


def cancelled(desk: Any, tasks: int = 1) -> int:
    """A run that was cancelled before anything of it had started."""
    run_id: int = desk.run(tasks)
    desk.do(lambda tx: tx.ask_close(run_id, Closing.CANCEL))
    while desk.do(lambda tx: tx.close_some(run_id, Closing.CANCEL)):
        continue
    return run_id


def remove(desk: Any, run_id: int) -> list[values.Removed]:
    """What each step of a run's removal has given."""
    steps = [desk.do(lambda tx: tx.remove_some(run_id))]
    while not steps[-1].done:
        desk.check()
        steps.append(desk.do(lambda tx: tx.remove_some(run_id)))
    return steps


def rows(desk: Any) -> dict[str, int]:
    tables = ("runs", "stages", "tasks", "attempts", "results", "tallies", "logs")
    return {table: desk.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_a_run_that_goes_is_seen_by_nobody_from_the_first_moment(desk: Any) -> None:
    stays, goes = ended(desk), ended(desk, 4)
    task = desk.tasks(goes)[0]
    assert desk.do(lambda tx: tx.remove_run(goes, "too old")) is True
    assert desk.reader.run(goes) is None
    assert desk.reader.task(task) is None
    assert [row.id for row in desk.reader.runs(10)] == [stays]
    assert [(row.state, row.count) for row in desk.reader.totals()] == [(State.SUCCEEDED, 3)]
    assert desk.reader.going() == [goes]
    assert desk.do(lambda tx: tx.remove_run(goes, "again")) is False
    with pytest.raises(Refused, match="it was removed"):
        desk.do(lambda tx: tx.retry_some(goes, None, [State.FAILED]))


def test_nothing_is_left_of_a_removed_run_and_all_of_the_others(desk: Any, small_steps: None) -> None:
    ended(desk, 5)
    before = rows(desk)
    goes = ended(desk, 30)
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    steps = remove(desk, goes)
    assert sum(step.tasks for step in steps) == 30
    assert max(step.tasks for step in steps) <= 4, "a step that lasts too long ends after its first rows"
    assert rows(desk) == before
    assert desk.reader.going() == []
    assert desk.reader.was_there(goes)
    assert not desk.reader.was_there(goes + 1)


def test_a_step_has_a_bound_in_rows_as_well(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "STEP_S", 3600.0)
    goes = cancelled(desk, prune.TASKS_MAX + 10)
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    assert [step.tasks for step in remove(desk, goes)] == [prune.TASKS_MAX, 10]


def test_what_has_not_ended_is_not_removed(desk: Any) -> None:
    run_id = desk.run(2)
    desk.finish(desk.tasks(run_id)[0])
    with pytest.raises(Refused, match="has not ended"):
        desk.do(lambda tx: tx.remove_run(run_id, "too old"))
    with pytest.raises(Refused, match="is not going"):
        desk.do(lambda tx: tx.remove_some(run_id))
    unsealed = desk.do(lambda tx: tx.create_run(desk.new())).id
    with pytest.raises(Refused, match="has not ended"):
        desk.do(lambda tx: tx.remove_run(unsealed, "too old"))


def test_a_retry_that_came_first_keeps_the_run(desk: Any) -> None:
    run_id = cancelled(desk)
    desk.do(lambda tx: tx.retry_some(run_id, None, [State.CANCELLED]))
    with pytest.raises(Refused, match="has not ended"):
        desk.do(lambda tx: tx.remove_run(run_id, "too old"))
    assert desk.reader.run(run_id) is not None


def test_the_key_of_a_run_that_goes_is_free_at_once(desk: Any) -> None:
    run_id = desk.run(key="nightly")
    desk.finish(desk.tasks(run_id)[0])
    desk.do(lambda tx: tx.remove_run(run_id, "too old"))
    again = desk.do(lambda tx: tx.create_run(desk.new(key="nightly")))
    assert (again.existing, again.id != run_id) == (False, True)


def test_the_log_says_that_it_was_removed_and_why(desk: Any) -> None:
    run_id = ended(desk)
    desk.do(lambda tx: tx.remove_run(run_id, "succeeded runs are kept for 7 days, it ended 8 days ago"))
    last = desk.reader.events(0, 1000).events[-1]
    assert (last.run_id, last.event, last.was, last.reason) == (
        run_id,
        "removed",
        "succeeded",
        "succeeded runs are kept for 7 days, it ended 8 days ago",
    )


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_removal_that_was_cut_off_is_gone_on_with(
    tmp_path: Path, make_desk: Any, small_steps: None, kept: int
) -> None:
    desk = make_desk(tmp_path / "queue.db")
    stays, goes = ended(desk, 3), ended(desk, 20)
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    for _ in range(kept):
        assert not desk.do(lambda tx: tx.remove_some(goes)).done
    desk.check()
    desk.close()
    later = make_desk(tmp_path / "queue.db")
    assert later.reader.going() == [goes]
    assert [row.id for row in later.reader.runs(10)] == [stays]
    remove(later, goes)
    later.check()
    assert later.reader.going() == []
    later.close()


@pytest.mark.parametrize("statements", range(24))
def test_a_death_between_any_two_statements_of_a_step_leaves_none_of_it(desk: Any, statements: int) -> None:
    goes = ended(desk, 6)
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    desk.dies_in = statements
    remove(desk, goes)
    assert desk.reader.going() == []


def test_a_submission_given_up_half_way_is_gone_on_with(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "DISCARD_ROWS", 10)
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.add_tasks(run_id, 0, desk.chunk(25)))
    assert desk.do(lambda tx: tx.discard(run_id)) is False
    assert desk.reader.going() == [run_id]
    remove(desk, run_id)
    assert (desk.reader.going(), rows(desk)["tasks"]) == ([], 0)


# Files


def settled(desk: Any, task: int, *, log: str = "", file: str | None = None) -> None:
    held = desk.claim(task)
    place = values.Place(WorkerId(7, 1, log), 0, 10 if log else 0)
    ending = Ending(Outcome.OK, value=None if file else "1", value_file=file)
    verdict = Verdict(Event.SUCCEED, desk.tries(task))
    assert desk.do(lambda tx: tx.settle([values.Settlement(held, ending, verdict, place)]))


def test_files_that_nobody_names_any_more_are_told(desk: Any) -> None:
    stays, goes = desk.run(2), desk.run(3)
    (a, b), (c, d, e) = desk.tasks(stays), desk.tasks(goes)
    settled(desk, a, log="shared.log", file="a.json")
    settled(desk, b)
    settled(desk, c, log="shared.log", file="c.json")
    settled(desk, d, log="own.log")
    settled(desk, e, log="own.log", file="e.json")
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    (step,) = remove(desk, goes)
    assert sorted(step.results) == ["c.json", "e.json"]
    assert step.logs == ("own.log",)
    assert desk.reader.logs_named(["own.log", "shared.log", "other.log"]) == {"shared.log"}
    desk.do(lambda tx: tx.remove_run(stays, "too old"))
    (step,) = remove(desk, stays)
    assert (step.results, step.logs) == (("a.json",), ("shared.log",))


def test_a_run_weighs_what_its_rows_and_files_take(desk: Any) -> None:
    run_id = desk.run(3)
    a, b, c = desk.tasks(run_id)
    settled(desk, a, log="own.log", file="a.json")
    desk.finish(b, value=f'"{"x" * 5000}"')
    desk.finish(c)
    whole = desk.reader.weigh(run_id, -1, 10)
    assert (whole.files, whole.in_logs_bytes, whole.last) == (("a.json",), 10, None)
    assert 5000 < whole.in_database_bytes < 10_000
    parts = [desk.reader.weigh(run_id, after, 1) for after in (-1, 0, 1, 2)]
    assert [part.last for part in parts] == [0, 1, 2, None]
    assert sum(part.in_database_bytes for part in parts) == whole.in_database_bytes


# Ended runs, in the order in which they ended


def test_ended_runs_come_page_by_page_in_the_order_of_their_ends(desk: Any) -> None:
    first, second, third, open_one = desk.run(), desk.run(), desk.run(), desk.run()
    for run_id in (second, third, first):
        desk.finish(desk.tasks(run_id)[0])
    whole = desk.reader.ended((-1, 0), 2**62, 10)
    assert [row.id for row in whole] == [second, third, first]
    assert open_one not in {row.id for row in whole}
    assert desk.reader.ended_count() == 3
    assert [row.counts for row in whole] == [{State.SUCCEEDED: 1}] * 3
    page = desk.reader.ended((-1, 0), 2**62, 2)
    assert page == whole[:2]
    assert desk.reader.ended((page[-1].ended_seq, page[-1].id), 2**62, 2) == whole[2:]
    assert [row.id for row in desk.reader.ended((-1, 0), whole[0].ended_seq, 10)] == [second]


def test_a_run_that_ends_again_after_a_retry_has_a_new_place(desk: Any) -> None:
    run_id, other = cancelled(desk), desk.run()
    before = desk.reader.ended((-1, 0), 2**62, 10)[0].ended_seq
    desk.finish(desk.tasks(other)[0])
    desk.do(lambda tx: tx.retry_some(run_id, None, [State.CANCELLED]))
    desk.finish(desk.tasks(run_id)[0])
    assert [row.id for row in desk.reader.ended((-1, 0), 2**62, 10)] == [other, run_id]
    assert desk.reader.ended((-1, 0), 2**62, 10)[1].ended_seq > before


# Events


def test_events_go_from_the_front_in_whole_rows(desk: Any, small_steps: None) -> None:
    run_id = ended(desk, 6)
    seqs = [event.seq for event in desk.reader.events(0, 1000).events]
    cut = seqs[len(seqs) // 2]
    gone = 0
    while some := desk.do(lambda tx: tx.forget_events(cut)):
        gone += some
    span = desk.reader.events_kept()
    assert (span.first, span.last) == (seqs[0] + gone, seqs[-1])
    assert span.first <= cut + 1
    assert desk.reader.run(run_id) is not None
    assert desk.do(lambda tx: tx.forget_events(cut)) == 0
    while desk.do(lambda tx: tx.forget_events(seqs[-1])):
        pass
    assert desk.reader.events(0, 1000).events == ()
    desk.do(lambda tx: tx.note("clock", "goes on"))
    assert [event.seq for event in desk.reader.events(0, 10).events] == [seqs[-1] + 1]


# Time that was seen to pass


def passing(desk: Any, passed_s: float | None, grain_s: float = 1.0, longest_s: float = 1e6) -> float:
    passed_ms = None if passed_s is None else round(passed_s * 1000)
    return desk.do(lambda tx: tx.pass_time(passed_ms, round(grain_s * 1000), round(longest_s * 1000))) / 1000  # type: ignore[no-any-return]


def test_a_clock_that_is_set_ages_nothing(desk: Any) -> None:
    passing(desk, None)
    ended(desk)
    passing(desk, 10)
    desk.now_ms += 365 * 86_400_000
    assert passing(desk, 5) == 15
    desk.now_ms -= 2 * 365 * 86_400_000
    assert passing(desk, 5) == 20


@pytest.mark.parametrize(("away_s", "believed_s"), [(60, 60), (86_400, 86_400), (365 * 86_400, 86_400), (-86_400, 0)])
def test_of_the_time_between_two_battds_no_more_than_a_day_is_believed(desk: Any, away_s: int, believed_s: int) -> None:
    assert passing(desk, None) == 0
    assert passing(desk, 100) == 100
    desk.now_ms += away_s * 1000
    assert passing(desk, None) == 100 + believed_s


def test_marks_are_dense_near_now_and_sparse_far_back(desk: Any) -> None:
    passing(desk, None)
    for _ in range(400):
        desk.do(lambda tx: tx.note("clock", "an event"))
        passing(desk, 60, grain_s=60.0, longest_s=5 * 3600.0)
    age = desk.reader.age()
    assert age.lived_ms == 400 * 60_000
    marks = [lived for lived, _ in age.marks]
    assert marks == sorted(marks)
    assert [seq for _, seq in age.marks] == sorted(seq for _, seq in age.marks)
    far = [lived for lived in marks if lived < age.lived_ms - 64 * 60_000]
    assert len(far) <= 6, "one an hour, five hours back"
    assert min(marks) <= age.lived_ms - 5 * 3_600_000, "what is older than the longest rule is known to be"


def test_without_events_no_marks_are_made(desk: Any) -> None:
    passing(desk, None)
    made = len(desk.reader.age().marks)
    for _ in range(5):
        passing(desk, 60)
    assert len(desk.reader.age().marks) == made
    assert desk.reader.age().lived_ms == 300_000


# The file


def shrink(desk: Any) -> int:
    steps = 1
    while not desk.do(lambda tx: tx.shrink()):
        steps += 1
    desk.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return steps


def test_the_file_gets_smaller(desk: Any) -> None:
    goes = ended(desk, 400, value=f'"{"x" * 60_000}"')
    desk.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    large = desk.path.stat().st_size
    desk.do(lambda tx: tx.remove_run(goes, "too old"))
    remove(desk, goes)
    assert desk.reader.space().free_bytes > large // 2
    steps = shrink(desk)
    slack = prune.SLACK_PAGES * 4096
    assert large > 24_000_000
    assert desk.path.stat().st_size < slack + 1_000_000
    assert steps >= (large - slack) // 4096 // prune.PAGES_MAX, "a step shortens it by a bounded number of pages"
    assert desk.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_file_of_an_older_version_is_converted_where_it_is_small(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA auto_vacuum = NONE")
    old.execute("PRAGMA journal_mode = WAL")
    old.execute("CREATE TABLE big (text TEXT)")
    old.execute("INSERT INTO big VALUES (?)", ("x" * 1_000_000,))
    assert not convert(old, path, most_bytes=500_000), "it is larger than that"
    assert old.execute("PRAGMA auto_vacuum").fetchone()[0] == 0
    old.execute("DROP TABLE big")
    old.close()
    store = Store(path)
    reader = store.reader()
    assert reader.space().shrinks
    reader.close()
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()


def test_a_large_one_is_converted_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "queue.db"
    with sqlite3.connect(path, isolation_level=None) as old:
        old.execute("PRAGMA auto_vacuum = NONE")
        old.execute("CREATE TABLE kept (text TEXT)")
        old.execute("INSERT INTO kept VALUES ('is kept')")
    old.close()
    assert main([str(path)]) == 0
    assert "from now on it is shortened bit by bit" in capsys.readouterr().out
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone()[0] == prune.INCREMENTAL
        assert db.execute("SELECT text FROM kept").fetchall() == [("is kept",)]
    db.close()
    assert main([]) == 2
    assert main([str(tmp_path / "none.db")]) == 2
    (tmp_path / "text").write_text("this is no database" * 100)
    assert main([str(tmp_path / "text")]) != 0
    assert "is as it was" in capsys.readouterr().err


def test_the_write_ahead_log_is_cut_back_when_it_begins_anew(tmp_path: Path) -> None:
    db = connect(tmp_path / "queue.db")
    db.execute("CREATE TABLE big (text TEXT)")
    wal = tmp_path / "queue.db-wal"
    reading = connect(tmp_path / "queue.db", readonly=True)
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM big").fetchone()
    for _ in range(30):
        db.execute("INSERT INTO big VALUES (?)", ("x" * 1_000_000,))
    assert wal.stat().st_size > 24_000_000, "a reader keeps it from beginning anew"
    reading.execute("COMMIT")
    reading.close()
    db.execute("PRAGMA wal_checkpoint").fetchall()
    db.execute("INSERT INTO big VALUES ('y')")
    assert wal.stat().st_size <= 8 * 2**20
    db.close()
