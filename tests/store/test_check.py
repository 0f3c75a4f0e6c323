"""What `check` calls wrong, what it calls left over, and what it must not call either."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.errors import BadInput, SchemaTooNew
from batt_supervisor.store import Store, schema
from batt_supervisor.store import check as checking
from batt_supervisor.upkeep import check_store

KEPT = Path(__file__).resolve().parent.parent / "data" / "schema-3"
"""A state directory with runs of every kind: t4's result is in a file, t5 has printed, t14 runs."""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A sound one, of today's schema."""
    shutil.copytree(KEPT, tmp_path / "state")
    Store(tmp_path / "state" / "queue.db").close()
    return tmp_path / "state"


def sql(text: str) -> Callable[[Path], None]:
    """Changes rows behind everybody's back."""

    def change(state_dir: Path) -> None:
        with closing(sqlite3.connect(state_dir / "queue.db")) as db:
            db.executescript(text)
            assert db.total_changes > 0, "it was to change something"

    return change


def removed(pattern: str) -> Callable[[Path], None]:
    def remove(state_dir: Path) -> None:
        found = list(state_dir.glob(pattern))
        assert found
        for path in found:
            path.unlink()

    return remove


def written(name: str, text: str = "") -> Callable[[Path], None]:
    def write(state_dir: Path) -> None:
        (state_dir / name).write_text(text)

    return write


def faults(state_dir: Path) -> list[tuple[str, str]]:
    return [(fault.part, fault.told) for fault in check_store(state_dir).faults]


def test_a_sound_store_is_told_with_its_figures(state_dir: Path) -> None:
    report = check_store(state_dir)
    assert report.sound and report.faults == [] and report.left_over.count == 0 and report.unread == ""
    assert report.schema == schema.migrations()[-1][0]
    assert report.runs == 9
    assert report.tasks == {"cancelled": 4, "failed": 2, "queued": 2, "running": 1, "succeeded": 7, "waiting": 1}
    assert report.database_bytes == (state_dir / "queue.db").stat().st_size
    assert report.results == checking.Files(1, 20_002)
    assert report.logs == checking.Files(2, 25)
    assert report.unnamed_logs == checking.Files()


WRONG: list[tuple[Callable[[Path], None], str, str]] = [
    (removed("results/4-1.json"), "results", "results/4-1.json, the result of t4, is missing"),
    (written("results/4-1.json"), "results", "results/4-1.json, the result of t4, is empty"),
    (sql("DELETE FROM results WHERE task_id = 1"), "results", "t1 has succeeded, and has no result"),
    (sql("UPDATE results SET value = NULL WHERE task_id = 1"), "results", "t1 has succeeded, and has no result"),
    (
        sql("UPDATE tallies SET count = count + 2 WHERE run_id = 1"),
        "tallies",
        "r1, stage 0: 3 tasks are succeeded ok, and 5 are tallied as that",
    ),
    (
        sql("DELETE FROM tallies WHERE run_id = 4"),
        "tallies",
        "r4, stage 0: 1 tasks are failed exception, and 0 are tallied as that",
    ),
    (sql("UPDATE runs SET ended_at_ms = NULL WHERE id = 1"), "runs", "r1 has not ended, and nothing of it is open"),
    (sql("UPDATE runs SET ended_at_ms = 1 WHERE id = 9"), "runs", "r9 has ended, and has open tasks"),
    (
        sql("UPDATE attempts SET ended_at_ms = NULL WHERE task_id = 1"),
        "tasks",
        "t1 is succeeded, at attempt 1; it has 1, 1 not ended",
    ),
    (
        sql("DELETE FROM attempts WHERE task_id = 14"),
        "tasks",
        "t14 is running, at attempt 1; it has 0, 0 not ended",
    ),
    (
        sql("UPDATE tasks SET settled_seq = NULL WHERE id = 6"),
        "tasks",
        "t6 is failed, at attempt 2; it has 2, 0 not ended",
    ),
    (
        sql("PRAGMA foreign_keys = OFF; DELETE FROM stages WHERE run_id = 3; INSERT INTO attempts (task_id, number, "
            "claimed_at_ms) VALUES (99, 1, 1)"),
        "rows",
        "attempts belongs to a row of tasks that is not there",
    ),
    (removed("logs/worker-8654-4.log"), "logs", "logs/worker-8654-4.log, which holds output of tasks, is missing"),
    (
        sql("UPDATE logs SET attempts = 7 WHERE name = 'worker-8654-4.log'"),
        "logs",
        "logs/worker-8654-4.log holds output of 1 attempts, and is kept for 7",
    ),
    (sql("DROP INDEX tasks_settled; DELETE FROM tallies WHERE run_id = 1"), "tallies", "r1, stage 0: 3 tasks are"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "part", "told"), WRONG, ids=[told.partition(",")[0] for *_, told in WRONG])
def test_a_fault_is_named(state_dir: Path, harm: Callable[[Path], None], part: str, told: str) -> None:
    harm(state_dir)
    found = faults(state_dir)
    assert [one for one in found if one[0] == part and told in one[1]], found


RIGHT: list[tuple[str, Callable[[Path], None]]] = [
    ("the result of an attempt whose end is not written yet", written("results/14-1.json", '"early"')),
    ("a result that is being written", written("results/14-1.json.tmp", '"ear')),
    ("a request on its way to a worker", written("results/request-3.json", "{}")),
    ("modules that a worker lists", written("results/modules-14-1.json", "{}")),
    ("logs of nurseries and of workers without output", written("logs/nursery-1-1.log", "hello")),
    (
        "a submission that is being taken back",
        sql(
            "PRAGMA foreign_keys = ON; UPDATE runs SET sealed_at_ms = NULL, ended_at_ms = NULL, closing = 'cancel' "
            "WHERE id = 1; DELETE FROM tasks WHERE id = 1"
        ),
    ),
    (
        "a run that is being removed",
        sql("PRAGMA foreign_keys = ON; UPDATE runs SET going = 1 WHERE id = 1; DELETE FROM tasks WHERE id = 1"),
    ),
]


@pytest.mark.parametrize(("what", "made"), RIGHT, ids=[what for what, _ in RIGHT])
def test_what_is_on_its_way_is_no_fault_and_not_left_over(
    state_dir: Path, what: str, made: Callable[[Path], None]
) -> None:
    made(state_dir)
    report = check_store(state_dir)
    assert report.faults == []
    assert report.left_over.count == 0


def test_a_log_that_holds_nothing_may_be_gone(state_dir: Path) -> None:
    """A worker's log is removed with it while it is empty, and attempts without output name it all the same."""
    with closing(sqlite3.connect(state_dir / "queue.db")) as db:
        named = {row[0] for row in db.execute("SELECT log FROM attempts WHERE log_to IS log_from")}
    assert named - {path.name for path in (state_dir / "logs").iterdir()}
    assert faults(state_dir) == []


def test_files_that_nobody_names_are_told_and_are_no_fault(state_dir: Path) -> None:
    """What an attempt leaves whose end was never written; the next start removes it."""
    written("results/77-1.json", "12345")(state_dir)
    written("results/4-2.json.tmp", "1")(state_dir)
    written("logs/worker-1-1.log", "123")(state_dir)
    report = check_store(state_dir)
    assert report.sound
    assert report.left_over_files == {"results/77-1.json": 5, "results/4-2.json.tmp": 1}
    assert report.left_over == checking.Files(2, 6)
    assert report.unnamed_logs == checking.Files(1, 3)


def test_many_faults_are_counted_and_some_are_shown(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "SHOWN_MAX", 3)
    sql("DELETE FROM results")(state_dir)
    report = check_store(state_dir)
    assert len(report.faults) == 3
    assert report.more == 4


def test_a_torn_page_is_told_and_its_rows_are_not_believed(state_dir: Path) -> None:
    with closing(sqlite3.connect(state_dir / "queue.db")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tasks'").fetchone()
    with (state_dir / "queue.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    report = check_store(state_dir)
    assert {fault.part for fault in report.faults} == {"database"}
    assert report.unread


@pytest.mark.parametrize(
    "content", [b"", b"a text\n" * 1000, b"SQLite format 3\0" + b"\xff" * 4096], ids=["empty", "text", "noise"]
)
def test_a_file_that_is_no_database_of_battds_is_told(state_dir: Path, content: bytes) -> None:
    (state_dir / "queue.db").write_bytes(content)
    for end in ("-wal", "-shm"):
        (state_dir / f"queue.db{end}").unlink(missing_ok=True)
    report = check_store(state_dir)
    assert [fault.part for fault in report.faults] == ["database"]
    assert report.unread


def test_a_schema_from_the_future_is_refused(state_dir: Path) -> None:
    sql("INSERT INTO migrations VALUES (99, 'later', 1)")(state_dir)
    with pytest.raises(SchemaTooNew, match="has schema 99"):
        check_store(state_dir)


def test_a_directory_without_a_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no queue\.db"):
        check_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_database_is_only_read(state_dir: Path) -> None:
    sql("UPDATE tallies SET count = 9 WHERE run_id = 1 AND outcome = 'ok'")(state_dir)
    before = (state_dir / "queue.db").read_bytes()
    assert not check_store(state_dir).sound
    assert (state_dir / "queue.db").read_bytes() == before
    assert (state_dir / "queue.db-wal").stat().st_size == 0


def test_what_is_only_in_the_write_ahead_log_is_seen(state_dir: Path, tmp_path: Path) -> None:
    """As after `kill -9`: nobody has merged it into the file."""
    copy = tmp_path / "copy"
    with closing(schema.connect(state_dir / "queue.db")) as db:
        db.execute("UPDATE tallies SET count = 9 WHERE run_id = 1 AND outcome = 'ok'")
        shutil.copytree(state_dir, copy)
    assert (copy / "queue.db-wal").stat().st_size > 0
    (copy / "queue.db-shm").unlink(missing_ok=True)
    assert [part for part, _ in faults(copy)] == ["tallies"]


def test_a_writer_is_not_kept_waiting_and_what_it_writes_meanwhile_is_not_seen(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(schema.connect(state_dir / "queue.db")) as writer:
        writer.execute("PRAGMA busy_timeout = 0")
        check_rows = checking._check_rows

        def meanwhile(*given: object) -> None:
            writer.execute("UPDATE tallies SET count = count + 1 WHERE run_id = 1 AND outcome = 'ok'")
            check_rows(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(checking, "_check_rows", meanwhile)
        assert faults(state_dir) == []
        monkeypatch.undo()
    assert [part for part, _ in faults(state_dir)] == ["tallies"]


def test_a_file_that_is_written_after_the_files_were_listed_is_not_missed(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = checking.held
    text = (state_dir / "results" / "4-1.json").read_text()
    (state_dir / "results" / "4-1.json").unlink()

    def later(path: Path) -> object:
        (state_dir / "results" / "4-1.json").write_text(text)
        return held(path)

    monkeypatch.setattr(checking, "held", later)
    assert faults(state_dir) == []


# The event log

TORN = (
    "nonsense", "[[1]]", "[5]", '{"a":1}', '[["created",1,1,[["queued"]]]]', '[["created",1,1,[["queued","x"]]]]',
)  # fmt: skip

WRONG_EVENTS: list[tuple[str, str]] = [
    (
        "UPDATE tasks SET state = 'queued' WHERE id = 3",
        "4, the last one of t3, which is queued, says that t3 is waiting",
    ),
    ("UPDATE tasks SET event_seq = 2 WHERE id = 2", "2, the last one of t2, which is queued, says that t1 is queued"),
    ("UPDATE tasks SET event_seq = 99 WHERE id = 1", "99, the last one of t1, is not there"),
    ("UPDATE tasks SET event_seq = 1 WHERE id = 1", "1, the last one of t1, which is succeeded, says that no task is "),
    ("UPDATE events SET last = last + 2 WHERE first = 2", "those from 2 to 7 are said to be there, and there are 4"),
    ("UPDATE events SET last = last + 2 WHERE first = 2", "those from 6 on begin before the ones up to 7 have ended"),
    ("DELETE FROM events WHERE first = 2", "4, the last one of t3, is not there"),
    ("UPDATE counters SET event_seq = event_seq - 1", "the last one is said to be "),
    *((f"UPDATE events SET body = '{body}' WHERE first = 2", "those from 2 to 5 cannot be read") for body in TORN),
]


@pytest.fixture
def logged(desk: Any, tmp_path: Path) -> Path:
    """A store with a log of events: 1 'created', 2-5 tasks, 6 'sealed', and the life of t1."""
    desk.run([2, 2])
    desk.settle(desk.claim(1))
    copy = tmp_path / "copy.db"
    with closing(schema.connect(copy)) as db:
        desk.db.backup(db)
    return copy


def events_of(database: Path) -> list[str]:
    report = checking.check(database, database.parent / "results", database.parent / "logs")
    return [fault.told for fault in report.faults if fault.part == "events"]


@pytest.mark.parametrize(("harm", "told"), WRONG_EVENTS, ids=[harm for harm, _ in WRONG_EVENTS])
def test_an_event_log_that_contradicts_its_tasks_is_told(logged: Path, harm: str, told: str) -> None:
    assert events_of(logged) == []
    with closing(sqlite3.connect(logged)) as db:
        db.executescript(harm)
        assert db.total_changes > 0
    assert [one for one in events_of(logged) if told in one], events_of(logged)


def test_what_retention_has_removed_of_the_log_is_no_fault(logged: Path) -> None:
    with closing(sqlite3.connect(logged)) as db:
        for first in (1, 2, 6, 7, 8):
            db.executescript(f"DELETE FROM events WHERE first = {first}")
            assert events_of(logged) == []
        assert not db.execute("SELECT count(*) FROM events").fetchone()[0]
