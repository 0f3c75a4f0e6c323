"""State directories that older versions have left: this one serves each to its end. See tests/data/README.md."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.store import Store, schema
from batt_supervisor.testing import Daemon
from batt_supervisor.upkeep import check_store

TESTS = Path(__file__).resolve().parent.parent

KEPT = sorted((TESTS / "data").glob("schema-*"))


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, as the state directory that the harness has below `tmp_path`."""
    state_dir = tmp_path / "state"
    shutil.copytree(request.param, state_dir)
    return state_dir


def test_every_schema_but_the_newest_is_kept() -> None:
    """Before a migration is added, a database of the schema it changes is made (tests/data/README.md)."""
    numbers = [int(path.name.rpartition("-")[2]) for path in KEPT]
    newest = schema.migrations()[-1][0]
    assert set(range(1, newest)) <= set(numbers) <= set(range(1, newest + 1))


def test_a_kept_database_is_as_old_as_its_name_says(kept: Path, request: pytest.FixtureRequest) -> None:
    with closing(sqlite3.connect(kept / "queue.db")) as db:
        (number,) = db.execute("SELECT max(number) FROM migrations").fetchone()
    assert f"[schema-{number}]" in request.node.name


def test_every_row_of_a_kept_database_is_there_after_its_migration(kept: Path) -> None:
    with closing(sqlite3.connect(kept / "queue.db")) as db:
        runs = db.execute("SELECT id, name, task_count, ended_at_ms FROM runs ORDER BY id DESC").fetchall()
        tasks = db.execute(
            "SELECT t.id, t.run_id, t.args, t.state, t.attempt, t.outcome, t.reason, r.value, r.file "
            "FROM tasks t LEFT JOIN results r ON r.task_id = t.id ORDER BY t.id"
        ).fetchall()
        attempts = Counter(row[0] for row in db.execute("SELECT task_id FROM attempts"))
    assert len(runs) > 5, "it was made with something in it"
    store = Store(kept / "queue.db")
    with closing(store), closing(store.reader()) as reader:
        assert [(run.id, run.name, run.task_count, run.ended_at_ms) for run in reader.runs(1000)] == runs
        found = [
            (
                task.id,
                task.run_id,
                task.args,
                task.state,
                task.attempt,
                task.outcome,
                task.reason,
                task.value,
                task.file,
            )
            for run_id in sorted(run[0] for run in runs)
            for task in reader.tasks(run_id, state=None, by_settling=False, after=-1, limit=1000)
        ]
        assert found == tasks
        assert {task[0]: len(reader.attempts(task[0])) for task in tasks} == {
            task[0]: attempts[task[0]] for task in tasks
        }
        for run in reader.runs(1000):
            (first, *_) = reader.stages(run)
            assert first.work.function or first.work.command
            assert sum(row.count for row in reader.tallies(run.id)) == run.task_count
        (live,) = reader.live()
        assert live[0].state is State.RUNNING
        files = {path.name for path in (kept / "results").iterdir()}
        assert reader.files_needed([*files, "0-1.json"]) == files


def test_a_kept_database_is_sound_before_its_migration_and_after_it(kept: Path) -> None:
    before = check_store(kept)
    assert before.faults == [] and before.left_over.count == 0
    Store(kept / "queue.db").close()
    after = check_store(kept)
    assert after.faults == [] and after.left_over.count == 0
    assert (after.runs, after.tasks, after.results) == (before.runs, before.tasks, before.results)
    assert after.schema == schema.migrations()[-1][0]


def test_battd_serves_a_kept_database_and_finishes_what_is_open(kept: Path) -> None:
    with Daemon(kept.parent, python_path=[TESTS], slots=1) as battd:
        battd.start()
        middle = battd.wait("middle")
        assert middle.counts == {"succeeded": 4}
        lost, again = battd.attempts(middle.run)
        assert (lost.outcome, again.outcome) == ("lost", "ok")
        assert [one.value for one in battd.results("middle")] == [3.0, 0.01, 0.02, "last"]
        # What had ended is told as it was.
        assert [one.value for one in battd.results("echo")] == [1, "two", [3]]
        assert battd.look("r2").value == "x" * 20_000
        (fails,) = battd.results("fails")
        assert (fails.state, fails.attempt) == (State.FAILED, 2)
        assert fails.error is not None and "ValueError: kept" in fails.error.traceback
        assert battd.client.log(battd.task("r3")).text == "out text\nerr text\n"
        assert [one.outcome for one in battd.results("cut")] == ["ok", "cancelled", "cancelled"]
        assert battd.look("r5").outcome == "timeout"
        assert {one.state for one in battd.results("cancelled")} == {State.CANCELLED}
        battd.stop()
        assert battd.orphans() == []
    report = check_store(kept)
    assert report.faults == []
    assert set(report.tasks) == {"succeeded", "failed", "cancelled"}
    assert json.loads((kept / "results" / "4-1.json").read_text()) == "x" * 20_000
