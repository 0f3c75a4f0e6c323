"""A battd in the middle of its work is backed up and checked; what is restored goes on from there."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.upkeep import back_up, check_store, restore

Battctl = Callable[..., Any]

TASKS = 300

SIZE = 20_000
"""Characters of a result that goes into a file."""


def ended(battd: Daemon, run: str) -> int:
    return sum(count for state, count in battd.client.run(run).counts.items() if state not in OPEN)


def test_a_backup_of_a_working_battd_is_served_elsewhere_and_finished(
    new_battd: Callable[..., Daemon], battctl: Battctl, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = new_battd(slots=3).start()
    gated = first.submit("zoo.calm:tell_and_wait", [[str(tmp_path / f"told-{n}"), str(gate)] for n in (1, 2)])
    for n in (1, 2):
        eventually("both are running", (tmp_path / f"told-{n}").exists)
    printed = first.wait(first.submit("zoo.prints:both", name="printed")).run
    busy = first.submit("zoo.calm:big", [SIZE] * TASKS, name="busy")
    eventually("some have ended", lambda: ended(first, busy) >= 10)
    made = battctl(first, "backup", str(tmp_path / "made.tar"), "--state-dir", str(first.state_dir), "--json")
    assert (made.returncode, made.stderr) == (0, "")
    said = json.loads(made.stdout)
    assert said["tasks"]["running"] >= 2, "it was in the middle"
    assert said["tasks"]["succeeded"] >= 11

    second = new_battd(slots=3)
    back = battctl(second, "restore", str(tmp_path / "made.tar"), "--state-dir", str(second.state_dir))
    assert (back.returncode, back.stderr) == (0, "")
    with closing(sqlite3.connect(second.state_dir / "queue.db")) as db:
        had_ended = dict(db.execute("SELECT id, settled_seq FROM tasks WHERE state = 'succeeded'").fetchall())
        values = dict(db.execute("SELECT task_id, file FROM results WHERE file IS NOT NULL").fetchall())
    assert len(had_ended) == said["tasks"]["succeeded"]
    assert len(values) == said["results"]

    # Beside the first one, which still works: its workers are not taken for what the second has left.
    second.start()
    eventually("they are lost there, and run again", lambda: len(second.attempts(gated)) == 2)
    assert second.attempts(gated)[0].outcome == "lost"
    assert [(one.state, one.attempt) for one in first.results(gated)] == [(State.RUNNING, 1)] * 2
    gate.touch()
    for battd, attempt in ((first, 1), (second, 2)):
        assert [one.attempt for one in battd.results(battd.wait(gated).run)] == [attempt] * 2
        info = battd.wait(busy)
        assert info.counts == {"succeeded": TASKS}
        results = battd.results(busy)
        assert {one.value for one in results} == {"x" * SIZE}
        assert battd.client.log(battd.task(printed)).text == "out text\nerr text\n"
    with closing(sqlite3.connect(second.state_dir / "queue.db")) as db:
        again = dict(db.execute("SELECT id, settled_seq FROM tasks").fetchall())
    assert {task: again[task] for task in had_ended} == had_ended, "what had ended has not run again"

    # Whoever had followed the first one's events, and goes on with the second's, misses and mistakes none.
    known = first.client.events()
    assert second.client.events(after=known.next).items[0].seq > 10**9
    run = second.submit("zoo.calm:nothing")
    assert int(run[1:]) > int(first.submit("zoo.calm:nothing")[1:])
    second.wait(run)
    for battd in (first, second):
        battd.stop()
        assert battd.orphans() == []
        report = check_store(battd.state_dir)
        assert (report.faults, report.left_over_files) == ([], {})
        assert report.results.count == TASKS


def test_a_working_battd_is_always_found_sound_and_so_is_every_backup_of_it(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Nothing that is on its way is taken for damage."""
    battd = new_battd(slots=2).start()
    runs = [
        battd.submit("zoo.calm:big", [SIZE] * TASKS, name="files"),
        battd.submit("zoo.prints:both", list(range(40)), name="logs"),
        battd.submit("zoo.raises:value_error", list(range(40)), name="fails", max_attempts=2, retry_delay_s=0.02),
        battd.submit("zoo.dies:exit_with", [3] * 10, name="dies"),
    ]
    looks = 0
    while looks < 4 or not all(battd.client.run(run).ended_at_ms for run in runs):
        report = check_store(battd.state_dir)
        assert (report.faults, report.left_over_files) == ([], {})
        if looks % 4 == 0:
            made = tmp_path / f"made-{looks}.tar"
            assert back_up(battd.state_dir, made, force=False, told=lambda *progress: None).missing == []
            assert restore(made, tmp_path / f"new-{looks}", told=lambda *progress: None).faults == []
        looks += 1
    battd.stop()


def test_a_store_is_sound_after_its_battd_was_killed_and_is_backed_up_without_one(
    new_battd: Callable[..., Daemon], battctl: Battctl, tmp_path: Path
) -> None:
    battd = new_battd().start()
    run = battd.submit("zoo.calm:big", [SIZE] * TASKS)
    eventually("some have ended", lambda: ended(battd, run) >= 10)
    battd.kill(signal.SIGKILL)
    checked = battctl(battd, "check", "--store", "--state-dir", str(battd.state_dir), "--json")
    said = json.loads(checked.stdout)
    assert (checked.returncode, said["faults"]) == (0, [])
    assert said["wal_bytes"] > 0, "it was looked at with its write-ahead log"
    assert battctl(battd, "backup", str(tmp_path / "made.tgz"), "--state-dir", str(battd.state_dir)).returncode == 0
    other = new_battd()
    assert battctl(other, "restore", str(tmp_path / "made.tgz"), "--state-dir", str(other.state_dir)).returncode == 0
    other.start()
    assert other.wait(run).counts == {"succeeded": TASKS}
    other.stop()
