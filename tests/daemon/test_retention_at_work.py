"""Retention in the loop's place, by a clock of the test's own: real store, real files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batt_supervisor.clock import Now
from batt_supervisor.core.lifecycle import Event
from batt_supervisor.core.model import Claim, Ending, Limits, Outcome, Room, Tries, Work
from batt_supervisor.core.retention import Rules
from batt_supervisor.core.retry import Verdict
from batt_supervisor.daemon.leftovers import LOG_REST_S, SWEEP_S, Leftovers
from batt_supervisor.daemon.outbox import Inbox, Outbox
from batt_supervisor.daemon.retention import Retention
from batt_supervisor.store import Store, values
from batt_supervisor.testing import FakePool, ManualClock, eventually

DAY = 86_400.0


class Keeper:
    """A store with its writer, and retention over it; time passes when the test says so."""

    def __init__(self, folder: Path, rules: Rules) -> None:
        for name in ("logs", "results"):
            (folder / name).mkdir()
        self.clock = ManualClock()
        self.store = Store(folder / "queue.db", clock=self.clock)
        self._thread = Thread(target=self.store.writer.run)
        self._thread.start()
        self.reader = self.store.reader()
        self.inbox = Inbox()
        self.outbox = Outbox(self.store.writer, self.inbox)
        self.retention = Retention(self.reader, self.outbox, FakePool(), folder, rules, self.clock.read())

    def run(self, name: str, file: str | None = None) -> int:
        """A run of one task, which has succeeded."""
        write = self.store.writer.submit
        work = Work(Room("/"), Limits(timeout_s=60.0, max_attempts=1, retry_delay_s=1.0), function="m:f")
        new = values.NewRun(name, None, "/", {}, None, (values.NewStage("only", work),))
        run_id = write(lambda tx: tx.create_run(new)).result(30).id
        write(lambda tx: tx.add_tasks(run_id, 0, [values.NewTask(0, "[]")])).result(30)
        write(lambda tx: tx.seal(run_id)).result(30)
        task = self.reader.heads(run_id, 1)[0].task_id
        write(lambda tx: tx.claim([values.Wanted(task, 0, None)])).result(30)
        ending = Ending(Outcome.OK, value=None if file else "1", value_file=file)
        end = values.Settlement(Claim(task, 1), ending, Verdict(Event.SUCCEED, Tries()))
        write(lambda tx: tx.settle([end])).result(30)
        return int(run_id)

    def go(self, seconds: float) -> None:
        """Let time pass, and retention do all that it has to do by then."""
        now = self.clock.advance(seconds)

        def quiet() -> bool:
            self.inbox.read(now)
            self.retention.tick(now)
            self.outbox.flush()
            return not self.retention._busy and self.retention.wake_s > now.mono_s

        eventually("nothing is left to do now", quiet)

    def names(self) -> list[str]:
        return [row.name for row in self.reader.runs(100)][::-1]

    def close(self) -> None:
        self.store.writer.stop()
        self._thread.join(30)
        self.reader.close()
        self.store.close()
        self.inbox.close()


@pytest.fixture
def make_keeper(tmp_path: Path) -> Iterator[Any]:
    made: list[Keeper] = []

    def make(rules: Rules) -> Keeper:
        made.append(Keeper(tmp_path, rules))
        return made[-1]

    yield make
    for keeper in made:
        keeper.close()


def set_clock(keeper: Keeper, days: float) -> None:
    """Somebody sets the wall clock; no time passes by that."""
    now = keeper.clock.read()
    keeper.clock._now = Now(now.mono_s, now.wall_ms + round(days * DAY * 1000))


@pytest.mark.parametrize("days", [1, 365, -365])
def test_a_wall_clock_that_is_set_removes_nothing_and_time_that_passes_does(make_keeper: Any, days: int) -> None:
    keeper = make_keeper(Rules(succeeded_s=90 * DAY))
    keeper.go(0)
    keeper.run("first")
    keeper.go(300)
    set_clock(keeper, days)
    for _ in range(10):
        keeper.go(300)
    assert keeper.names() == ["first"]
    keeper.go(45 * DAY)
    keeper.run("second")
    keeper.go(300)
    keeper.go(44 * DAY)
    assert keeper.names() == ["first", "second"]
    keeper.go(2 * DAY)
    assert keeper.names() == ["second"]
    keeper.go(50 * DAY)
    assert keeper.names() == []


def test_count_and_size_leave_alone_what_has_just_ended(make_keeper: Any) -> None:
    keeper = make_keeper(Rules(runs=1, size_bytes=10, at_least_s=600.0))
    keeper.go(0)
    for name in ("a", "b", "c"):
        keeper.run(name)
        keeper.go(80)
    keeper.go(200)
    assert keeper.names() == ["a", "b", "c"]
    keeper.go(600)
    assert keeper.names() == [], "not even the last one fits into 10 bytes"


def test_of_those_that_are_old_enough_the_last_ones_are_kept(make_keeper: Any) -> None:
    keeper = make_keeper(Rules(runs=2, at_least_s=1.0))
    keeper.go(0)
    for name in ("a", "b", "c", "d"):
        keeper.run(name)
        keeper.go(1)
    keeper.go(10)
    assert keeper.names() == ["c", "d"]


def test_rules_that_are_changed_hold_from_then_on(make_keeper: Any) -> None:
    keeper = make_keeper(Rules())
    keeper.go(0)
    keeper.run("a")
    keeper.go(300)
    keeper.go(1000)
    assert keeper.names() == ["a"]
    keeper.retention.change(Rules(succeeded_s=100.0), keeper.clock.read())
    keeper.go(0)
    assert keeper.names() == []


def test_with_nothing_to_do_the_loop_may_sleep(make_keeper: Any) -> None:
    keeper = make_keeper(Rules(succeeded_s=90 * DAY, events_s=30 * DAY))
    keeper.go(0)
    keeper.run("a")
    keeper.go(300)
    asleep_s = keeper.retention.wake_s - keeper.clock.read().mono_s
    assert asleep_s >= 299.0
    assert not keeper.retention.working


def test_events_go_when_they_are_old_and_the_runs_stay(make_keeper: Any) -> None:
    keeper = make_keeper(Rules(events_s=10 * DAY))
    keeper.go(0)
    keeper.run("a")
    keeper.go(300)
    last = keeper.reader.events_kept().last
    keeper.go(9 * DAY)
    keeper.run("b")
    keeper.go(300)
    assert keeper.reader.events_kept().first == 1
    keeper.go(2 * DAY)
    assert keeper.reader.events_kept().first == last + 1
    assert keeper.names() == ["a", "b"]


# Files


class Files:
    """Leftovers of a state directory, with workers and rows as the test says."""

    def __init__(self, folder: Path) -> None:
        for name in ("logs", "results"):
            (folder / name).mkdir()
        self.folder = folder
        self.clock = ManualClock()
        self.living: set[str] = set()
        self.named: set[str] = set()
        self.left = Leftovers(folder, lambda: self.living, self.named.intersection, self.clock.read())

    def make(self, name: str, size: int = 10) -> Path:
        path = self.folder / name
        path.write_bytes(b"x" * size)
        return path

    def go(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(1000):
            self.left.tick(self.clock.read())
            if self.left.wake_s > self.clock.read().mono_s:
                return
        raise AssertionError("it never comes to rest")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_result_files_go_some_in_a_round_and_their_bytes_are_told(files: Files) -> None:
    made = [files.make(f"results/{number}.json", 100) for number in range(200)]
    assert files.left.add([path.name for path in made] + ["gone-already.json"], [], files.clock.read()) == 20_000
    assert files.left.results_left
    files.left.tick(files.clock.read())
    assert 0 < len(list((files.folder / "results").iterdir())) < 200
    files.go(0.1)
    assert not list((files.folder / "results").iterdir())
    assert not files.left.results_left


def test_while_a_backup_reads_nothing_is_unlinked(files: Files) -> None:
    path = files.make("results/a.json")
    with open(files.folder / "files.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        files.left.add(["a.json"], [], files.clock.read())
        files.go(10)
        files.go(10)
        assert path.exists()
    files.go(10)
    assert not path.exists()


def test_a_log_goes_when_it_has_been_nobodys_for_a_while(files: Files) -> None:
    path = files.make("logs/worker-7-1.log")
    files.left.add([], [path.name], files.clock.read())
    files.go(LOG_REST_S / 2)
    assert path.exists()
    files.go(LOG_REST_S)
    assert not path.exists()


def test_a_log_stays_while_its_worker_lives_and_for_what_is_written_later(files: Files) -> None:
    first, rolled, used = (files.make(f"logs/worker-7-{end}") for end in ("1.log", "1.log.2", "3.log"))
    files.living.add("worker-7-1.log")
    files.left.add([], [first.name, rolled.name, used.name], files.clock.read())
    files.named.add(used.name)  # an attempt has put its output there after all
    for _ in range(5):
        files.go(LOG_REST_S + 1)
    assert first.exists()
    assert rolled.exists()
    files.living.clear()
    files.go(LOG_REST_S + 1)
    files.go(LOG_REST_S + 1)
    assert (first.exists(), rolled.exists(), used.exists()) == (False, False, True)


def test_logs_without_a_row_go_when_they_are_a_day_old(files: Files) -> None:
    old, fresh, named = (files.make(f"logs/{name}.log") for name in ("worker-1-1", "worker-1-2", "worker-1-3"))
    files.named.add(named.name)
    wall_s = files.clock.read().wall_ms / 1000
    for path, age_s in ((old, SWEEP_S + 60), (fresh, 60), (named, 10 * SWEEP_S)):
        os.utime(path, (wall_s - age_s, wall_s - age_s))
    files.go(2)
    files.go(LOG_REST_S + 1)
    assert (old.exists(), fresh.exists(), named.exists()) == (False, True, True)
    files.go(SWEEP_S)
    files.go(LOG_REST_S + 1)
    assert (fresh.exists(), named.exists()) == (False, True)
