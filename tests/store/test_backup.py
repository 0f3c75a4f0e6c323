"""A backup is one moment of a store, whatever is written meanwhile; what is restored is that moment, or nothing."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.daemon.statedir import hold
from batt_supervisor.errors import BadInput, SchemaTooNew, StateDirHeld, StateDirUnusable, StoreUnavailable
from batt_supervisor.store import Store, archive, backup, schema
from batt_supervisor.upkeep import back_up, check_store, restore

KEPT = Path(__file__).resolve().parent.parent / "data" / "schema-3"
"""A state directory with runs of every kind: t4's result is in a file, t5 has printed, t14 runs."""


def nobody(what: str, done: int, of: int) -> None:
    """Wants to hear of no progress."""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    shutil.copytree(KEPT, tmp_path / "state")
    Store(tmp_path / "state" / "queue.db").close()
    return tmp_path / "state"


@pytest.fixture
def made(state_dir: Path, tmp_path: Path) -> Path:
    back_up(state_dir, tmp_path / "made.tar", force=False, told=nobody)
    return tmp_path / "made.tar"


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


# The copy of the database


def test_a_copy_is_one_moment_though_others_write_between_its_steps_and_never_wait(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    count, tally = "SELECT count(*) FROM tasks WHERE run_id = 9", "SELECT sum(count) FROM tallies WHERE run_id = 9"
    steps: list[tuple[int, int]] = []
    with closing(schema.connect(state_dir / "queue.db")) as writer:
        writer.execute("PRAGMA busy_timeout = 0")  # an error, if it had to wait

        def write(done: int, of: int) -> None:
            steps.append((done, of))
            writer.executescript(
                "BEGIN IMMEDIATE; INSERT INTO tasks (run_id, idx, stage, args, state, moved_at_ms) "
                f"VALUES (9, {100 + len(steps)}, 0, '[{'1,' * 4000}1]', 'queued', 1);"
                "UPDATE tallies SET count = count + 1 WHERE run_id = 9 AND stage = 0 AND state = 'queued'; COMMIT"
            )

        contents = backup.copy(state_dir / "queue.db", tmp_path / "copy.db", write)
        assert writer.execute(count).fetchone() == (4 + len(steps),)
    assert len(steps) > 15
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1)), "it never begins anew"
    assert {of for _, of in steps} == {len(steps)}
    assert rows(tmp_path / "copy.db", count) == rows(tmp_path / "copy.db", tally) == [(4,)]
    assert contents.tasks == {"cancelled": 4, "failed": 2, "queued": 2, "running": 1, "succeeded": 7, "waiting": 1}


def test_a_copy_is_one_file_of_the_same_rows(state_dir: Path, tmp_path: Path) -> None:
    contents = backup.copy(state_dir / "queue.db", tmp_path / "copies.db")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copies")] == ["copies.db"]
    assert contents.schema == schema.migrations()[-1][0]
    assert contents.results == ["4-1.json"]
    assert contents.logs == {"worker-8654-4.log": 18, "worker-8654-5.log": 7}
    for table in ("runs", "stages", "tasks", "results", "tallies", "kinds", "counters"):
        sql = f"SELECT * FROM {table}"
        assert rows(tmp_path / "copies.db", sql) == rows(state_dir / "queue.db", sql)


def test_a_copy_does_not_know_which_process_an_attempt_runs_in(state_dir: Path, tmp_path: Path) -> None:
    """A battd that serves the copy beside the first one would end that one's workers as left over by itself."""
    workers = "SELECT task_id, number, worker_pid, worker_started FROM attempts ORDER BY 1, 2"
    before = rows(state_dir / "queue.db", workers)
    backup.copy(state_dir / "queue.db", tmp_path / "copy.db")
    changed = set(before) ^ set(rows(tmp_path / "copy.db", workers))
    assert {row[:2] for row in changed} == {(14, 1)}
    assert (14, 1, None, None) in changed
    assert rows(state_dir / "queue.db", workers) == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_store_of_an_older_schema_is_copied_as_it_is(tmp_path: Path, number: int) -> None:
    shutil.copytree(KEPT.parent / f"schema-{number}", tmp_path / "state")
    back_up(tmp_path / "state", tmp_path / "old.tgz", force=False, told=nobody)
    assert restore(tmp_path / "old.tgz", tmp_path / "new", told=nobody).manifest.schema == number
    assert check_store(tmp_path / "new").schema == number


def test_a_damaged_database_is_not_backed_up(state_dir: Path, tmp_path: Path) -> None:
    """Least of all over a good backup."""
    target = tmp_path / "made.tar"
    target.write_bytes(b"an older one")
    tear(state_dir / "queue.db", "tasks")
    with pytest.raises(StoreUnavailable, match="damaged"):
        back_up(state_dir, target, force=True, told=nobody)
    assert target.read_bytes() == b"an older one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.tar", "state"]


def tear(database: Path, table: str) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


# The file


def test_a_backup_holds_what_the_rows_name_and_nothing_else(state_dir: Path, tmp_path: Path) -> None:
    (state_dir / "results" / "77-1.json").write_text("left over")
    (state_dir / "logs" / "nursery-1-1.log").write_text("its own")
    with (state_dir / "logs" / "worker-8654-4.log").open("a") as log:
        log.write("of an attempt that has not ended")
    manifest = back_up(state_dir, tmp_path / "made.tar.gz", force=False, told=nobody)
    with tarfile.open(tmp_path / "made.tar.gz", "r:gz") as tar:
        names = tar.getnames()
        said = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        log_text = (tar.extractfile("logs/worker-8654-4.log") or io.BytesIO()).read()
    assert names == [
        "manifest.json", "queue.db", "results/4-1.json", "logs/worker-8654-4.log", "logs/worker-8654-5.log",
    ]  # fmt: skip
    assert log_text == b"out text\nerr text\n"
    assert (said["format"], said["schema"], said["runs"], said["missing"]) == (1, manifest.schema, 9, [])
    assert (said["results"], said["results_bytes"], said["logs"], said["logs_bytes"]) == (1, 20_002, 2, 25)
    assert (tmp_path / "made.tar.gz").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_missing_is_told_in_the_backup_and_at_its_restoration(state_dir: Path, tmp_path: Path) -> None:
    (state_dir / "results" / "4-1.json").unlink()
    (state_dir / "logs" / "worker-8654-5.log").unlink()
    manifest = back_up(state_dir, tmp_path / "made.tar", force=False, told=nobody)
    assert manifest.missing == ["results/4-1.json", "logs/worker-8654-5.log"]
    restored = restore(tmp_path / "made.tar", tmp_path / "new", told=nobody)
    assert restored.manifest == manifest
    assert restored.faults == [
        "results/4-1.json, the result of t4, is missing",
        "logs/worker-8654-5.log, which holds output of tasks, is missing",
    ]


def test_no_file_is_removed_while_a_backup_is_made(state_dir: Path, tmp_path: Path) -> None:
    """battd takes the lock for itself before it removes any, and does not wait for it."""
    seen: list[str] = []

    def prune(what: str, done: int, of: int) -> None:
        with (state_dir / "files.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append(what)

    back_up(state_dir, tmp_path / "made.tar", force=False, told=prune)
    assert set(seen) == {"database", "files"}
    with (state_dir / "files.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["made", "made.zip", "made.tar.xz", ".tar", "made.tar/"])
def test_a_name_that_says_nothing_is_refused(state_dir: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match=r"\.tar, \.tar\.gz or \.tgz|is a directory"):
        back_up(state_dir, tmp_path / name, force=True, told=nobody)


def test_a_file_that_appears_meanwhile_is_not_replaced(state_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.tar"
    with pytest.raises(BadInput, match="exists"):
        back_up(state_dir, target, force=False, told=lambda what, done, of: target.touch())
    assert target.read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.tar", "state"]


# Back again


def test_what_is_restored_is_sound_and_the_same(made: Path, state_dir: Path, tmp_path: Path) -> None:
    restored = restore(made, tmp_path / "new", told=nobody)
    assert restored.faults == []
    report, before = check_store(tmp_path / "new"), check_store(state_dir)
    assert report.sound
    assert (report.schema, report.runs, report.tasks) == (before.schema, before.runs, before.tasks)
    assert (report.results, report.logs) == (before.results, before.logs)
    for name in ("results/4-1.json", "logs/worker-8654-4.log"):
        assert (tmp_path / "new" / name).read_bytes() == (state_dir / name).read_bytes()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    store = Store(tmp_path / "new" / "queue.db")
    store.close()


def test_tar_alone_unpacks_one_as_well(made: Path, tmp_path: Path) -> None:
    (tmp_path / "by-hand").mkdir()
    with tarfile.open(made) as tar:
        tar.extractall(tmp_path / "by-hand", filter="data")
    assert check_store(tmp_path / "by-hand").sound


def test_a_directory_with_something_in_it_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        restore(made, tmp_path / "new", told=nobody)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


def test_an_empty_file_system_of_its_own_counts_as_empty(made: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "lost+found").mkdir(parents=True)
    restore(made, tmp_path / "new", told=nobody)
    assert check_store(tmp_path / "new").sound


def test_no_battd_can_begin_to_serve_what_is_being_restored(made: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    def serve(what: str, done: int, of: int) -> None:
        with (tmp_path / "new" / "lock").open("a+") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append((tmp_path / "new" / "queue.db").exists())

    restore(made, tmp_path / "new", told=serve)
    assert seen and not any(seen), "the database comes last"


def test_what_a_battd_has_begun_to_serve_is_left_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(file: Any, operation: int) -> None:
        (tmp_path / "new" / "results").mkdir()  # as battd does
        raise BlockingIOError

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(fcntl, "flock", taken)
        with pytest.raises(StateDirHeld):
            restore(made, tmp_path / "new", told=nobody)
    assert (tmp_path / "new" / "results").is_dir()


KILLED_AT_A_RENAME = """
import os, sys
from pathlib import Path
from batt_supervisor.upkeep import restore

left, rename = int(sys.argv[3]), Path.rename

def counted(self, target):
    global left
    if not left:
        os.kill(os.getpid(), 9)
    left -= 1
    return rename(self, target)

Path.rename = counted
restore(Path(sys.argv[1]), Path(sys.argv[2]), told=lambda *told: None)
"""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_no_battd_serves_what_a_killed_restore_has_left(made: Path, tmp_path: Path, renames: int) -> None:
    new = tmp_path / "new"
    done = subprocess.run([sys.executable, "-c", KILLED_AT_A_RENAME, made, new, str(renames)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StateDirUnusable, match="was interrupted"):
        hold(new, new / "battd.sock")
    with pytest.raises(BadInput, match="not empty"):
        restore(made, new, told=nobody)
    shutil.rmtree(new)
    restore(made, new, told=nobody)
    hold(new, new / "battd.sock").close()
    assert check_store(new).sound


def bent(made: Path, change: Any) -> Path:
    """The same backup with its members changed: `change` gets and gives a list of (entry, content)."""
    with tarfile.open(made) as tar:
        members = [(entry, (tar.extractfile(entry) or io.BytesIO()).read()) for entry in tar]
    path = made.with_name("bent.tar")
    with tarfile.open(path, "w") as tar:
        for entry, content in change(members):
            entry.size = len(content) if entry.isfile() else 0
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made, b"x" if kind == tarfile.REGTYPE else b""


def manifested(**over: Any) -> Any:
    def change(members: list[Any]) -> list[Any]:
        said = json.loads(members[0][1]) | over
        return [(members[0][0], json.dumps(said).encode()), *members[1:]]

    return change


UNFIT: dict[str, tuple[Any, type[Exception], str]] = {
    "a file outside": (lambda m: [*m, entry("../evil")], BadInput, "holds '../evil'"),
    "an absolute name": (lambda m: [*m, entry("/tmp/evil")], BadInput, "holds '/tmp/evil'"),
    "a name in a folder's folder": (lambda m: [*m, entry("results/a/b")], BadInput, "holds 'results/a/b'"),
    "a folder's parent": (lambda m: [*m, entry("results/..")], BadInput, "holds 'results/..'"),
    "a link": (lambda m: [*m, entry("results/x", tarfile.SYMTYPE, "/etc/passwd")], BadInput, "holds 'results/x'"),
    "a hard link": (lambda m: [*m, entry("results/x", tarfile.LNKTYPE, "queue.db")], BadInput, "holds 'results/x'"),
    "a device": (lambda m: [*m, entry("results/x", tarfile.CHRTYPE)], BadInput, "holds 'results/x'"),
    "no manifest": (lambda m: m[1:], BadInput, "does not begin with manifest.json"),
    "no database": (lambda m: [m[0], *m[2:]], BadInput, "no database"),
    "one result less": (lambda m: [one for one in m if "results" not in one[0].name], BadInput, "holds 0 results"),
    "one log less": (lambda m: m[:-1], BadInput, "1 logs of 1 and 2"),
    "a torn database": (lambda m: [m[0], (m[1][0], m[1][1][:40_000]), *m[2:]], BadInput, "damaged database"),
    "a later schema": (manifested(schema=99), SchemaTooNew, "has schema 99"),
    "a later form": (manifested(format=2, more=1), SchemaTooNew, "a form that this one does not know"),
    "a manifest without sense": (manifested(less=1), BadInput, "manifest.json says nothing"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_no_whole_backup_is_refused_and_leaves_nothing(made: Path, tmp_path: Path, what: str) -> None:
    change, error, told = UNFIT[what]
    path = bent(made, change)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error) as raised:
        restore(path, tmp_path / "new", told=nobody)
    assert told in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("end", [".tar", ".tgz"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.5, 0.9])
def test_a_backup_that_was_cut_off_is_refused_and_leaves_nothing(
    state_dir: Path, tmp_path: Path, end: str, part: float
) -> None:
    path = tmp_path / f"made{end}"
    back_up(state_dir, path, force=False, told=nobody)
    # A tar ends in up to 10 kB of nothing, which may be missing without harm.
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(BadInput):
        restore(path, tmp_path / "new", told=nobody)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"made{end}", "state"]


def test_faults_of_the_store_are_restored_with_it_and_told(state_dir: Path, tmp_path: Path) -> None:
    """A backup is there to be had back, whatever was wrong already."""
    with closing(sqlite3.connect(state_dir / "queue.db")) as db:
        db.execute("UPDATE tallies SET count = 7 WHERE run_id = 1 AND outcome = 'ok'")
        db.commit()
    back_up(state_dir, tmp_path / "made.tar", force=False, told=nobody)
    restored = restore(tmp_path / "made.tar", tmp_path / "new", told=nobody)
    assert restored.faults == ["r1, stage 0: 3 tasks are succeeded ok, and 7 are tallied as that"]


def test_the_ends_of_names_that_are_told_are_those_that_are_written() -> None:
    assert {end: archive.mode_of(Path(f"a{end}")) for end in archive.ENDS} == archive.ENDS
