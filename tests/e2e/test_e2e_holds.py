"""Headroom: what cannot start now is held, says why, and goes on when there is room again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually

Battctl = Callable[..., Any]

HELD = "reserve_threads = 10000000\n"


def test_a_run_is_held_and_says_what_is_short_until_a_reload_gives_room(
    new_battd: Callable[..., Daemon], battctl: Battctl
) -> None:
    daemon = new_battd(HELD).start()
    run = daemon.submit("zoo.calm:echo", list(range(10)))
    eventually("it is held", lambda: daemon.client.run(run).hold)
    said = json.loads(battctl(daemon, "why", daemon.task(run), "--json").stdout)
    assert said["short"] == "threads"
    assert said["missing"] > 9_000_000
    assert "10000000 in reserve" in said["reason"]
    assert "kernel." in said["reason"]
    told = battctl(daemon, "why", daemon.task(run)).stdout
    assert "queued" in told
    assert "threads short" in told
    assert "threads short" in battctl(daemon, "status").stdout
    assert battctl(daemon, "wait", run, "--timeout", "200ms").returncode == 5
    assert daemon.client.run(run).counts == {State.QUEUED: 10}
    daemon.configure("")
    daemon.kill(signal.SIGHUP)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    assert daemon.client.run(run).hold is None
    daemon.stop()


def test_a_held_run_can_be_cancelled(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(HELD).start()
    run = daemon.submit("zoo.calm:echo", list(range(5000)))
    eventually("it is held", lambda: daemon.client.run(run).hold)
    daemon.client.cancel(run)
    assert daemon.wait(run).counts == {State.CANCELLED: 5000}
    daemon.stop()


def test_a_deadline_holds_for_a_held_run(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(HELD).start()
    run = daemon.submit("zoo.calm:echo", list(range(100)), deadline_s=0.5)
    assert daemon.wait(run).state == "partial"
    daemon.stop()


def test_short_memory_lets_one_attempt_run_at_a_time(new_battd: Callable[..., Daemon], tmp_path: object) -> None:
    """The reserve is larger than the machine: only what runs alone may use it."""
    daemon = new_battd('reserve_memory = "1000GiB"\nslots = 3\n', slots=None).start()
    run = daemon.submit("zoo.records:interval", [[str(tmp_path), "the same name for all", 0.05]] * 8)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 8}
    daemon.stop()


def test_battd_takes_no_more_memory_for_a_hundred_thousand_queued_tasks(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd(HELD).start()
    first = daemon.submit("zoo.calm:echo", range(10_000))
    eventually("it is held", lambda: daemon.client.run(first).hold)
    before = daemon.process.memory_info().rss
    run = daemon.submit("zoo.calm:echo", range(100_000))
    eventually("it is held", lambda: daemon.client.run(run).hold)
    assert daemon.client.run(run).counts == {State.QUEUED: 100_000}
    assert daemon.process.memory_info().rss - before < 20 * 2**20
    daemon.client.cancel(run)
    daemon.wait(run)
    assert daemon.process.memory_info().rss - before < 20 * 2**20
    daemon.stop()


def test_a_large_submission_that_is_given_up_leaves_battd_serving(new_battd: Callable[..., Daemon]) -> None:
    """Its rows go all at once, and nobody may wait for that longer than the watchdog does."""
    daemon = new_battd(f'{HELD}watchdog = "1s"\n').start()

    def cut() -> Any:
        yield from (daemon_task(number) for number in range(100_000))
        raise KeyboardInterrupt

    from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

    def daemon_task(number: int) -> TaskSpec:
        return TaskSpec(args=[number, "x" * 100])

    spec = RunSpec(name="given up", cwd="/", stages=(StageSpec(name="s", function="zoo.calm:echo"),))
    try:
        daemon.client.submit(spec, cut())
    except KeyboardInterrupt:
        pass
    eventually("it is gone", lambda: daemon.client.runs() == [])
    daemon.stop()
