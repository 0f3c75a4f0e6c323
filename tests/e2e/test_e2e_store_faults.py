"""A store that cannot be written or read: nothing starts, what runs ends, its end is kept until it can be written.

The disks are really full, the files really damaged or locked. Each test sees the hold told while the cause lasts, and
everything ended once, with its result, when it has gone.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from broken_disk import Disk, Ext4, mounted
from outside import rows

from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import Refused, StoreDamaged, StoreUnavailable
from batt_supervisor.testing import Daemon, DaemonEnded, eventually


@pytest.fixture
def disk() -> Iterator[Callable[..., Disk]]:
    """Mounts a small file system; name it before the battds of the test, which then end before it is unmounted."""
    with ExitStack() as stack:
        yield lambda place, size="8m": stack.enter_context(mounted(place, size))


class Work:
    """A run of which two tasks run until they are let go, and the others wait."""

    def __init__(self, daemon: Daemon, folder: Path, others: int = 6) -> None:
        self.daemon = daemon
        self._go = folder / "go"
        told = [folder / f"told-{number}" for number in range(2)]
        args = [[str(path), str(self._go)] for path in told] + [[str(self._go), str(self._go)]] * others
        self.run = daemon.submit("zoo.calm:tell_and_wait", args)
        eventually("two run", lambda: all(path.exists() for path in told))
        self.last = daemon.task(self.run, others + 1)

    def let_go(self) -> None:
        self._go.touch()

    def is_done(self) -> None:
        """Everything ended well, and nothing was made twice."""
        info = self.daemon.wait(self.run)
        assert list(info.counts) == [State.SUCCEEDED]
        results = self.daemon.results(self.run)
        assert {task.value for task in results} == {"seen"}
        assert {task.attempt for task in results} == {1}


def trouble(daemon: Daemon, word: str) -> str:
    """What `battctl status` says of the store, once that has the word in it."""

    def told() -> str:
        said = daemon.client.service().store
        return said if word in said else ""

    return eventually(f"the store is told to be: {word}", told)


def at_rest(daemon: Daemon) -> None:
    eventually("no slot is at work", lambda: not any(slot.task for slot in daemon.client.service().slots))


def nothing_starts(daemon: Daemon, work: Work, word: str) -> None:
    """The two have ended, nothing has started in their place, and a waiting task says why."""
    at_rest(daemon)
    why = daemon.client.why(work.last)
    assert why.short == "store"
    assert why.reason.startswith("store: ")
    assert word in why.reason


def well(daemon: Daemon) -> None:
    eventually("the store is well again", lambda: daemon.client.service().store == "ok")


# A full disk


def test_a_full_disk_is_a_hold_and_the_ends_are_kept_until_there_is_room(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path, battctl: Any
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir)
    daemon.start()
    work = Work(daemon, tmp_path)
    small.fill()
    work.let_go()
    said = trouble(daemon, "disk full")
    assert said == f"disk full, 0 B free on {daemon.state_dir}"
    nothing_starts(daemon, work, "disk full")
    assert said in battctl(daemon, "status").stdout
    assert f"store: {said}" in battctl(daemon, "why", work.last).stdout
    with pytest.raises(StoreUnavailable, match="disk full"):
        daemon.submit("zoo.calm:nothing")
    small.free()
    work.is_done()
    well(daemon)
    assert daemon.log.count("store unavailable") == daemon.log.count("store available again") == 1
    daemon.stop()


def test_a_large_result_waits_for_room_and_is_no_timeout(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir)
    daemon.start()
    told, go = tmp_path / "told", tmp_path / "go"
    run = daemon.submit(
        "zoo.calm:big_when_told", args=(str(told), str(go), 300_000), timeout_s=1.0, stall_timeout_s=0.5
    )
    eventually("it runs", told.exists)
    small.fill()
    go.touch()
    eventually("its result waits", lambda: "writing" in {slot.phase for slot in daemon.client.service().slots})
    assert "waits for a disk" in daemon.client.why(daemon.task(run)).reason
    since_s = time.monotonic()
    eventually("its limits have passed", lambda: daemon.look(run) and time.monotonic() > since_s + 1.5)
    assert daemon.look(run).state is State.RUNNING
    small.free()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    result = daemon.look(run)
    assert (result.attempt, result.value) == (1, "x" * 300_000)
    daemon.stop()


def test_a_deadline_is_kept_and_told_when_there_is_room_for_neither_the_end_nor_the_stacks(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir)
    daemon.start()
    told = tmp_path / "told"
    run = daemon.submit("zoo.calm:tell_and_wait", args=(str(told), str(tmp_path / "never")), timeout_s=3.0)
    eventually("it runs", told.exists)
    small.fill()
    trouble(daemon, "disk full")
    at_rest(daemon)
    small.free()
    assert daemon.wait(run).counts == {State.FAILED: 1}
    result = daemon.look(run)
    assert (result.outcome, result.attempt) == ("timeout", 1)
    daemon.stop()


def test_a_battd_waits_for_a_disk_that_is_too_full_to_open_the_store(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir)
    daemon.start()
    work = Work(daemon, tmp_path)
    daemon.kill(signal.SIGKILL)
    small.fill()
    daemon.launch()
    eventually("it waits", lambda: "waits for the store" in daemon.log)
    assert "reason='disk full, 0 B free on" in daemon.log
    work.let_go()
    small.free()
    daemon.ready()
    assert daemon.wait(work.run).counts == {State.SUCCEEDED: 8}
    assert sorted(task.attempt for task in daemon.results(work.run)) == [1] * 6 + [2] * 2
    daemon.stop()


def test_ends_that_cannot_be_written_before_battd_must_leave_are_named_and_go_again_uncharged(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd('drain_timeout = "1h"\n')
    small = disk(daemon.state_dir)
    daemon.start()
    work = Work(daemon, tmp_path)
    small.fill()
    work.let_go()
    trouble(daemon, "disk full")
    nothing_starts(daemon, work, "disk full")
    daemon.kill(signal.SIGTERM)
    eventually("it drains", lambda: daemon.client.service().draining)
    assert daemon.alive(), "it waits for the disk as it would for a task"
    daemon.stop()
    assert "ends that could not be written" in daemon.log
    first, second = sorted(
        daemon_task for (daemon_task,) in rows(daemon, "SELECT id FROM tasks WHERE state = 'running'")
    )
    assert f"tasks=['t{first}', 't{second}']" in daemon.log
    small.free()
    daemon.start()
    assert daemon.wait(work.run).counts == {State.SUCCEEDED: 8}
    assert [attempt.outcome for attempt in daemon.attempts(f"t{first}")] == ["lost", "ok"]
    assert rows(daemon, "SELECT sum(charged), sum(uncharged) FROM tasks") == [(0, 2)]
    daemon.stop()


# A result's own file system


def test_a_result_waits_for_a_file_system_that_has_become_read_only(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir / "results")
    daemon.start()
    told, go = tmp_path / "told", tmp_path / "go"
    run = daemon.submit("zoo.calm:big_when_told", args=(str(told), str(go), 300_000))
    eventually("it runs", told.exists)
    small.remount("ro")
    go.touch()
    eventually("its result waits", lambda: "writing" in {slot.phase for slot in daemon.client.service().slots})
    small.remount("rw")
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    assert daemon.look(run).attempt == 1
    daemon.stop()


def test_a_state_directory_that_is_read_only_is_refused_by_name(
    disk: Callable[..., Disk], new_battd: Callable[..., Daemon]
) -> None:
    daemon = new_battd()
    small = disk(daemon.state_dir)
    daemon.start()
    run = daemon.submit("zoo.calm:nothing")
    daemon.wait(run)
    daemon.stop()
    small.remount("ro")
    with pytest.raises(DaemonEnded, match=f"{daemon.state_dir} cannot be used: Read-only file system") as ended:
        daemon.start()
    assert ended.value.code == 73
    small.remount("rw")
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    daemon.stop()


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Callable[[Path], Ext4]]:
    with ExitStack() as stack:

        def make(place: Path) -> Ext4:
            made = Ext4(place, tmp_path / "image")
            stack.callback(made.end)
            made.make()
            return made

        yield make


def test_a_file_system_on_which_the_kernel_has_found_an_error_takes_no_battd_and_no_task_along(
    ext4: Callable[[Path], Ext4], new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """It cannot be made writable under a battd that has its files open, so here battd has to be started anew."""
    daemon = new_battd('drain_timeout = "100ms"\n')
    broken = ext4(daemon.state_dir)
    daemon.start()
    done = daemon.submit("zoo.calm:echo", [1, 2, 3])
    daemon.wait(done)
    work = Work(daemon, tmp_path)
    broken.fail()
    work.let_go()
    assert trouble(daemon, "read-only") == f"read-only file system: {daemon.state_dir}"
    nothing_starts(daemon, work, "read-only")
    assert [task.value for task in daemon.results(done)] == [1, 2, 3]
    daemon.stop()
    broken.repair()
    daemon.start()
    assert daemon.wait(work.run).counts == {State.SUCCEEDED: 8}
    assert [task.value for task in daemon.results(done)] == [1, 2, 3]
    assert rows(daemon, "SELECT sum(charged) FROM tasks") == [(0,)]
    daemon.stop()


# An I/O error


def test_an_io_error_on_every_write_is_a_hold_until_it_goes(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    """A limit to the size of files makes the kernel refuse writes, with an error that SQLite takes for any other."""
    daemon = new_battd().start()
    work = Work(daemon, tmp_path)
    before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    work.let_go()
    trouble(daemon, "I/O error while writing")
    nothing_starts(daemon, work, "RLIMIT_FSIZE")
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, before)
    work.is_done()
    well(daemon)
    daemon.stop()


# Locked by somebody else

HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


class Locker:
    """Another process that has begun to write into the database, and does not end it."""

    def __init__(self, daemon: Daemon) -> None:
        words = [sys.executable, "-c", HOLD_LOCK, str(daemon.state_dir / "queue.db")]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"locked\n"
        self.pid = self._process.pid

    def let_go(self) -> None:
        """End it, and with it its transaction."""
        if self._process.returncode is None:
            self._process.communicate()


@pytest.fixture
def lock() -> Iterator[Callable[[Daemon], Locker]]:
    with ExitStack() as stack:

        def begin(daemon: Daemon) -> Locker:
            made = Locker(daemon)
            stack.callback(made.let_go)
            return made

        yield begin


def test_a_database_that_another_process_has_locked_is_a_hold_that_names_it(
    new_battd: Callable[..., Daemon], tmp_path: Path, lock: Callable[[Daemon], Locker]
) -> None:
    daemon = new_battd().start()
    work = Work(daemon, tmp_path)
    other = lock(daemon)
    work.let_go()
    trouble(daemon, f"locked by another process: pid {other.pid} (python")
    nothing_starts(daemon, work, str(other.pid))
    other.let_go()
    work.is_done()
    well(daemon)
    daemon.stop()


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal"])
def test_a_database_that_is_moved_away_is_a_hold_until_it_is_back(
    new_battd: Callable[..., Daemon], tmp_path: Path, name: str
) -> None:
    daemon = new_battd().start()
    work = Work(daemon, tmp_path)
    file = daemon.state_dir / name
    file.rename(tmp_path / "away")
    work.let_go()
    said = trouble(daemon, f"{file} is not there any more")
    nothing_starts(daemon, work, said)
    with pytest.raises(StoreUnavailable, match="is not there any more"):
        daemon.submit("zoo.calm:nothing")
    file.write_bytes(b"another")
    trouble(daemon, f"{file} is another file than the one that battd has opened")
    (tmp_path / "away").rename(file)
    work.is_done()
    well(daemon)
    daemon.stop()
    assert daemon.start().wait(work.run).counts == {State.SUCCEEDED: 8}
    daemon.stop()


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal"])
def test_a_battd_that_is_started_meanwhile_waits_for_it_and_removes_nothing(
    new_battd: Callable[..., Daemon], tmp_path: Path, name: str
) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.calm:big", [20_000] * 3)
    daemon.wait(run)
    kept = sorted(os.listdir(daemon.state_dir / "results"))
    assert len(kept) == 3
    daemon.kill(signal.SIGKILL)
    (daemon.state_dir / name).rename(tmp_path / "away")
    daemon.launch()
    eventually("it waits", lambda: "waits for the store" in daemon.log and f"{name} is not there" in daemon.log)
    assert sorted(os.listdir(daemon.state_dir / "results")) == kept
    (tmp_path / "away").rename(daemon.state_dir / name)
    daemon.ready()
    assert [len(task.value or "") for task in daemon.results(run)] == [20_000] * 3
    daemon.stop()


def test_a_log_that_was_away_at_the_first_request_is_well_again_when_it_is_back(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    run = daemon.submit("zoo.calm:nothing")
    daemon.wait(run)
    daemon.stop()
    daemon.launch()  # and nobody asks
    eventually("it serves", lambda: len(re.findall(r"\bready\b.*socket", daemon.log)) == 2)
    file = daemon.state_dir / "queue.db-wal"
    file.rename(tmp_path / "away")
    for _ in range(3):
        with suppress(StoreUnavailable):
            daemon.client.runs()
    (tmp_path / "away").rename(file)
    daemon.ready()
    well(daemon)
    assert daemon.wait(daemon.submit("zoo.calm:nothing")).counts == {State.SUCCEEDED: 1}
    assert daemon.log.count("store unavailable") <= 1
    daemon.stop()


def test_what_a_killed_battd_left_is_written_off_when_the_database_is_no_longer_locked(
    new_battd: Callable[..., Daemon], tmp_path: Path, lock: Callable[[Daemon], Locker]
) -> None:
    daemon = new_battd().start()
    work = Work(daemon, tmp_path)
    daemon.kill(signal.SIGKILL)
    other = lock(daemon)
    daemon.launch()
    eventually("it waits", lambda: f"locked by another process: pid {other.pid}" in daemon.log)
    work.let_go()
    other.let_go()
    daemon.ready()
    assert daemon.wait(work.run).counts == {State.SUCCEEDED: 8}
    assert sorted(task.attempt for task in daemon.results(work.run)) == [1] * 6 + [2] * 2
    daemon.stop()


# A damaged file


def damage(daemon: Daemon, table: str) -> Callable[[], None]:
    """Write over a table's first page; what puts it back."""
    path = daemon.state_dir / "queue.db"
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    at = (page - 1) * size
    with open(path, "r+b") as file:
        before = os.pread(file.fileno(), size, at)
        os.pwrite(file.fileno(), b"\xff" * size, at)

    def put_back() -> None:
        with open(path, "r+b") as file:
            os.pwrite(file.fileno(), before, at)

    return put_back


def in_the_file(daemon: Daemon) -> None:
    """Have all that was written in the database itself, and nothing in the log beside it."""
    db = sqlite3.connect(daemon.state_dir / "queue.db")
    assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    db.close()


def test_nothing_starts_on_a_damaged_database_until_it_was_looked_at(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd('drain_timeout = "100ms"\n').start()
    done = daemon.submit("zoo.calm:echo", [1, 2, 3])
    daemon.wait(done)
    work = Work(daemon, tmp_path)
    in_the_file(daemon)
    put_back = damage(daemon, "attempts")
    work.let_go()
    trouble(daemon, "is damaged")
    at_rest(daemon)
    assert "docs/operations.md" in daemon.client.service().holds[work.run]
    assert daemon.client.run(done).counts == {State.SUCCEEDED: 3}, "what can be read is still told"
    daemon.stop()
    daemon.start()  # it has left itself a note
    assert "is damaged" in daemon.client.service().store
    assert daemon.client.run(done).counts == {State.SUCCEEDED: 3}
    assert daemon.client.run(work.run).counts == {State.RUNNING: 2, State.QUEUED: 6}
    daemon.stop()
    put_back()
    daemon.start()
    assert "the database is sound" in daemon.log
    assert daemon.wait(work.run).counts == {State.SUCCEEDED: 8}
    assert daemon.client.service().store == "ok"
    daemon.stop()


def test_a_database_whose_queue_cannot_be_read_is_served_without_it(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd("reserve_threads = 10000000\n").start()
    daemon.submit("zoo.calm:nothing", [[]] * 5)
    daemon.stop()
    in_the_file(daemon)
    put_back = damage(daemon, "tasks")
    daemon.configure("")
    daemon.start()
    trouble(daemon, "is damaged")
    with pytest.raises(StoreDamaged, match=r"docs/operations\.md"):
        daemon.results("r1")
    with pytest.raises(Refused):
        daemon.submit("zoo.calm:nothing")
    daemon.kill(signal.SIGKILL)
    put_back()
    daemon.start()
    assert daemon.wait("r1").counts == {State.SUCCEEDED: 5}
    daemon.stop()


def test_a_file_that_is_no_database_is_told_at_the_start_and_left_alone(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd()
    daemon.state_dir.mkdir()
    (daemon.state_dir / "queue.db").write_bytes(b"no database, but something that somebody wants to keep\n" * 100)
    with pytest.raises(DaemonEnded, match=r"is damaged: file is not a database; see docs/operations\.md") as ended:
        daemon.start()
    assert ended.value.code == 8
    assert (daemon.state_dir / "queue.db").read_bytes().startswith(b"no database")
