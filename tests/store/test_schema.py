"""The schema: made once, brought up to date in whole steps, never touched when it is from the future."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batt_supervisor.core.model import Limits, Room, Tries, Work
from batt_supervisor.errors import SchemaTooNew, StoreUnavailable
from batt_supervisor.store import Store, schema


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(schema.connect(tmp_path / "queue.db")) as found:
        yield found


def tables(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


def test_a_fresh_file_gets_every_migration_with_its_record(db: sqlite3.Connection) -> None:
    schema.migrate(db)
    records = db.execute("SELECT number, name FROM migrations ORDER BY number").fetchall()
    assert records == [(number, name) for number, name, _ in schema.migrations()]
    assert all(row[0] > 1_600_000_000_000 for row in db.execute("SELECT applied_at_ms FROM migrations"))


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [number for number, _, _ in schema.migrations()] == list(range(1, len(schema.migrations()) + 1))


def test_migrating_twice_changes_nothing(db: sqlite3.Connection) -> None:
    schema.migrate(db)
    before = "\n".join(db.iterdump())
    schema.migrate(db)
    assert "\n".join(db.iterdump()) == before


def test_a_database_of_the_first_version_is_brought_up_to_date_with_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it never said is what it meant then: battd's own interpreter, no limits or needs, nothing suspect."""
    known = schema.migrations()
    with closing(schema.connect(tmp_path / "old.db")) as db, monkeypatch.context() as first:
        first.setattr(schema, "migrations", lambda: known[:1])
        schema.migrate(db)
        db.executescript(
            "INSERT INTO runs (name, cwd, env, task_count, created_at_ms, sealed_at_ms) "
            "VALUES ('r', '/', '{}', 1, 1, 1);"
            "INSERT INTO stages VALUES (1, 0, 's', 'zoo:work', NULL, 0, 9.0, NULL, 2, 1.0, '[]');"
            "INSERT INTO tasks (run_id, idx, stage, args, state, moved_at_ms, attempt, charged) "
            "VALUES (1, 0, 0, '[]', 'running', 1, 1, 1);"
            "INSERT INTO attempts (task_id, number, claimed_at_ms) VALUES (1, 1, 1);"
        )
    store = Store(tmp_path / "old.db")
    reader = store.reader()
    with closing(schema.connect(tmp_path / "new.db")) as fresh, closing(store), closing(reader):
        schema.migrate(fresh)
        with closing(schema.connect(store.path, readonly=True)) as old:
            assert tables(old) == tables(fresh)
        run = reader.run(1)
        assert run is not None
        assert reader.stages(run)[0].work == Work(Room("/"), Limits(9.0, max_attempts=2), function="zoo:work")
        assert reader.live()[0][0].tries == Tries(charged=1)
        assert reader.attempts(1)[0].peak_threads is None
        assert reader.kinds() == []


@pytest.mark.parametrize("number", [migration[0] for migration in schema.migrations()])
def test_a_database_of_any_version_is_brought_to_the_schema_of_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    known = schema.migrations()
    with closing(schema.connect(tmp_path / "old.db")) as old, closing(schema.connect(tmp_path / "new.db")) as fresh:
        with monkeypatch.context() as then:
            then.setattr(schema, "migrations", lambda: known[:number])
            schema.migrate(old)
        schema.migrate(old)
        schema.migrate(fresh)
        assert tables(old) == tables(fresh)


def test_queued_tasks_of_the_version_before_headroom_are_all_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema.migrations()
    with closing(schema.connect(tmp_path / "old.db")) as db, monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: known[:2])
        schema.migrate(db)
        db.executescript(
            "INSERT INTO runs (name, cwd, env, task_count, created_at_ms, sealed_at_ms) "
            "VALUES ('r', '/', '{}', 1, 1, 1);"
            "INSERT INTO stages (run_id, number, name, function, shell, timeout_s, max_attempts, retry_delay_s, after) "
            "VALUES (1, 0, 's', 'zoo:work', 0, 9.0, 2, 1.0, '[]');"
            "INSERT INTO tasks (run_id, idx, stage, args, state, moved_at_ms, starved, suspect) "
            "VALUES (1, 0, 0, '[]', 'queued', 1, 0, 0), (1, 1, 0, '[]', 'queued', 1, 2, 1);"
            "INSERT INTO tallies VALUES (1, 0, 'queued', '', 2);"
        )
    store = Store(tmp_path / "old.db")
    with closing(store), closing(store.reader()) as reader:
        assert [head.tries for head in reader.heads(1, 9)] == [Tries(), Tries(starved=2, suspect=True)]
        run = reader.run(1)
        assert run is not None
        (stage,) = reader.stages(run)
        assert (stage.work.need_memory_bytes, stage.work.need_threads, stage.work.name) == (None, None, "")


def test_every_table_is_strict(db: sqlite3.Connection) -> None:
    schema.migrate(db)
    for name, sql in tables(db).items():
        if sql.startswith("CREATE TABLE") and not name.startswith("sqlite_"):
            assert "STRICT" in sql.rpartition(")")[2], name


def test_the_database_is_in_wal_mode_and_syncs_each_commit(tmp_path: Path) -> None:
    with closing(schema.connect(tmp_path / "queue.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    with closing(schema.connect(tmp_path / "queue.db", synchronous="NORMAL")) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (1,)


def test_a_schema_from_the_future_is_refused_with_both_numbers_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    Store(path).close()
    newest = schema.migrations()[-1][0]
    with closing(schema.connect(path)) as db:
        db.execute("INSERT INTO migrations VALUES (?, 'later', 1)", (newest + 6,))
        before = "\n".join(db.iterdump())
    with pytest.raises(SchemaTooNew, match=re.escape(f"has schema {newest + 6}, this version knows {newest};")):
        Store(path)
    with closing(schema.connect(path)) as db:
        assert "\n".join(db.iterdump()) == before


@pytest.mark.parametrize(
    "content", [b"This is a text, and no database at all.\n" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_what_is_no_database_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="is damaged: file is not a database"):
        Store(path)
    assert path.read_bytes() == content


def test_a_directory_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "queue.db").mkdir()
    with pytest.raises(StoreUnavailable, match=r"queue\.db cannot be opened"):
        Store(tmp_path / "queue.db")


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch()
    Store(tmp_path / "queue.db").close()


def test_a_migration_that_fails_leaves_nothing_of_itself(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.migrate(db)
    before = tables(db)
    broken = (
        len(schema.migrations()) + 1,
        "broken",
        "CREATE TABLE half (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);",
    )
    found = [*schema.migrations(), broken]
    monkeypatch.setattr(schema, "migrations", lambda: found)
    with pytest.raises(StoreUnavailable, match="no such table: nowhere"):
        schema.migrate(db)
    assert not db.in_transaction
    assert tables(db) == before
    assert db.execute("SELECT max(number) FROM migrations").fetchone() == (broken[0] - 1,)


def test_what_comes_before_a_migration_that_fails_stays(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (1, "one", "CREATE TABLE one (a INTEGER) STRICT;"), (2, "two", "CREATE TABLE two (a INTEGER")
    monkeypatch.setattr(schema, "migrations", lambda: [whole, broken])
    with pytest.raises(StoreUnavailable):
        schema.migrate(db)
    assert db.execute("SELECT number FROM migrations").fetchall() == [(1,)]
    monkeypatch.setattr(schema, "migrations", lambda: [whole, (2, "two", "CREATE TABLE two (a INTEGER) STRICT;")])
    schema.migrate(db)
    assert {"one", "two"} <= set(tables(db))


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    with (
        closing(schema.connect(store.path, readonly=True)) as db,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        db.execute("DELETE FROM runs")
    store.close()


def test_a_reader_that_cannot_be_opened_is_told_as_such(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    try:
        store.path = tmp_path / "gone" / "queue.db"
        with pytest.raises(StoreUnavailable):
            store.reader()
    finally:
        store.close()
