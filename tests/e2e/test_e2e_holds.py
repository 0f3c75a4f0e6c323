"""Headroom: what cannot start now is held, says why, and goes on when there is room again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

Battctl = Callable[..., Any]

LARGE_RESERVE = 'reserve_memory = "1000GiB"\n'
"""Scaled to an eighth of the machine."""

NO_RESERVE = 'reserve_memory = "0"\n'


class Occupied:
    """A battd one task of which has been promised more than half of what is free, until it is let go."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._go = folder / "go"
        room = daemon.client.service().headroom
        self.half = room.memory_free_bytes // 2
        self.reserve = room.memory_reserve_bytes
        self.run = daemon.submit("zoo.calm:wait_for_file", args=(str(self._go),), need_memory_bytes=self.half)
        daemon.wait_for(self.run, State.RUNNING)

    def let_go(self) -> None:
        self._go.touch()


@pytest.fixture
def occupied(new_battd: Callable[..., Daemon], tmp_path: Path) -> tuple[Daemon, Occupied]:
    daemon = new_battd(LARGE_RESERVE).start()
    return daemon, Occupied(daemon, tmp_path)


def held(daemon: Daemon, by: Occupied, items: Any, **given: Any) -> str:
    """A run whose tasks do not fit beside that one."""
    run = daemon.submit("zoo.calm:echo", items, need_memory_bytes=by.half, **given)
    eventually("it is held", lambda: "memory short" in (daemon.client.run(run).hold or ""))
    return run


def test_a_run_is_held_and_says_what_is_short_until_a_reload_gives_room(
    occupied: tuple[Daemon, Occupied], battctl: Battctl
) -> None:
    daemon, by = occupied
    run = daemon.submit("zoo.calm:echo", list(range(10)), need_memory_bytes=by.half - by.reserve // 2)
    eventually("it is held", lambda: "memory short" in (daemon.client.run(run).hold or ""))
    said = json.loads(battctl(daemon, "why", daemon.task(run), "--json").stdout)
    assert said["short"] == "memory"
    assert 0 < said["missing"] < by.reserve
    assert f"{by.reserve / 2**20:.0f} MiB in reserve" in said["reason"]
    assert said["headroom"]["reserve"] == by.reserve
    assert said["headroom"]["limit"] in said["reason"]
    told = battctl(daemon, "why", daemon.task(run)).stdout
    assert "queued" in told
    assert "memory short" in told
    assert "memory short" in battctl(daemon, "status").stdout
    assert battctl(daemon, "wait", run, "--timeout", "200ms").returncode == 5
    assert daemon.client.run(run).counts == {State.QUEUED: 10}
    daemon.configure(NO_RESERVE)
    daemon.kill(signal.SIGHUP)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    assert daemon.client.run(run).hold is None
    by.let_go()
    assert daemon.wait(by.run).counts == {State.SUCCEEDED: 1}
    daemon.stop()


def test_a_held_run_starts_when_what_was_promised_is_free_again(occupied: tuple[Daemon, Occupied]) -> None:
    daemon, by = occupied
    run = held(daemon, by, list(range(10)))
    by.let_go()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    daemon.stop()


def test_a_held_run_can_be_cancelled(occupied: tuple[Daemon, Occupied]) -> None:
    daemon, by = occupied
    run = held(daemon, by, range(5000))
    daemon.client.cancel(run)
    assert daemon.wait(run).counts == {State.CANCELLED: 5000}
    by.let_go()
    daemon.stop()


def test_a_deadline_holds_for_a_held_run(occupied: tuple[Daemon, Occupied]) -> None:
    daemon, by = occupied
    run = daemon.submit("zoo.calm:echo", range(100), deadline_s=0.5, need_memory_bytes=by.half)
    assert daemon.wait(run).state == "partial"
    assert daemon.client.run(run).counts == {State.CANCELLED: 100}
    by.let_go()
    daemon.stop()


def test_where_only_one_fits_they_run_one_at_a_time(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    """No two of them overlap: they would fail by each other's lock."""
    daemon = new_battd("slots = 3\n", slots=None).start()
    most = daemon.client.service().headroom.memory_free_bytes * 6 // 10
    items = [[str(tmp_path), "the same name for all", 0.05]] * 8
    run = daemon.submit("zoo.records:interval", items, need_memory_bytes=most)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 8}
    daemon.stop()


def test_battd_takes_no_more_memory_for_a_hundred_thousand_queued_tasks(occupied: tuple[Daemon, Occupied]) -> None:
    daemon, by = occupied
    held(daemon, by, range(10_000))
    before = daemon.process.memory_info().rss
    run = held(daemon, by, range(100_000))
    assert daemon.client.run(run).counts == {State.QUEUED: 100_000}
    assert daemon.process.memory_info().rss - before < 20 * 2**20
    daemon.client.cancel(run)
    daemon.wait(run)
    assert daemon.process.memory_info().rss - before < 20 * 2**20
    by.let_go()
    daemon.stop()


def test_a_large_submission_that_is_given_up_leaves_battd_serving(new_battd: Callable[..., Daemon]) -> None:
    """Its rows go all at once, and nobody may wait for that longer than the watchdog does."""
    daemon = new_battd('watchdog = "1s"\n').start()

    def cut() -> Any:
        yield from (TaskSpec(args=[number, "x" * 100]) for number in range(100_000))
        raise KeyboardInterrupt

    spec = RunSpec(name="given up", cwd="/", stages=(StageSpec(name="s", function="zoo.calm:echo"),))
    with pytest.raises(KeyboardInterrupt):
        daemon.client.submit(spec, cut())
    eventually("it is gone", lambda: daemon.client.runs() == [])
    daemon.stop()
