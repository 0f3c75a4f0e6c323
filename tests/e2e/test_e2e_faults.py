"""Promise 11: battd never lingers half-dead. And the slots it works with may die at any moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, DaemonEnded, eventually

WATCHDOG = 'watchdog = "1s"\n'


def faulty(daemon: Daemon, fault: str) -> int:
    """Start it with a fault; its exit code."""
    daemon.env["BATT_FAULTS"] = fault
    daemon.launch()
    code = daemon.ended()
    del daemon.env["BATT_FAULTS"]
    return code


def with_work(daemon: Daemon, *, running: bool = False) -> str:
    """A battd that was killed over a run: tasks wait, and none, or some, were running."""
    daemon.configure("" if running else "reserve_threads = 10000000\n")
    daemon.start()
    run = daemon.submit("zoo.calm:sleep", [0.3] * 6)
    if running:
        daemon.wait_for(run, State.RUNNING)
    daemon.kill(signal.SIGKILL)
    daemon.configure(WATCHDOG)
    return run


@pytest.mark.parametrize("thread", ["writer", "api", "builder", "reaper", "loop"])
def test_a_thread_that_dies_ends_battd_and_the_next_one_completes_the_run(
    new_battd: Callable[..., Daemon], thread: str
) -> None:
    daemon = new_battd()
    run = with_work(daemon)
    assert faulty(daemon, f"{thread}=die") == 70
    assert "BATT_FAULTS" in daemon.log
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 6}
    assert daemon.orphans() == []
    daemon.stop()


@pytest.mark.parametrize("thread", ["writer", "api", "loop"])
def test_a_thread_that_hangs_ends_battd_and_the_next_one_completes_the_run(
    new_battd: Callable[..., Daemon], thread: str
) -> None:
    daemon = new_battd()
    run = with_work(daemon)
    assert faulty(daemon, f"{thread}=hang") == 70
    assert f"{thread!r} has not gone round" in daemon.log
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 6}
    assert daemon.orphans() == []
    daemon.stop()


@pytest.mark.parametrize("thread", ["writer", "api", "loop"])
def test_a_thread_that_hangs_while_attempts_are_recovered_ends_battd_too(
    new_battd: Callable[..., Daemon], thread: str
) -> None:
    daemon = new_battd()
    run = with_work(daemon, running=True)
    daemon.env["BATT_FAULTS"] = f"{thread}=hang"
    daemon.launch()
    eventually("battd ends itself", lambda: not daemon.alive(), within_s=10)
    assert daemon.ended() == 70
    del daemon.env["BATT_FAULTS"]
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 6}
    daemon.stop()


def test_a_stopped_battd_ends_itself_when_it_goes_on_or_serves_as_if_nothing_had_been(
    new_battd: Callable[..., Daemon],
) -> None:
    """SIGSTOP, a suspended machine: every clock has jumped for every thread."""
    daemon = new_battd(WATCHDOG).start()
    run = daemon.submit("zoo.calm:sleep", [0.2] * 10)
    daemon.kill(signal.SIGSTOP)
    stopped_s = time.monotonic()
    eventually("more than the watchdog's time has passed", lambda: time.monotonic() > stopped_s + 1.5)
    daemon.kill(signal.SIGCONT)
    try:
        info = daemon.wait(run)
    except DaemonEnded as ended:
        assert ended.code == 70
        daemon.start()
        info = daemon.wait(run)
    assert info.counts == {State.SUCCEEDED: 10}
    daemon.stop()


# Workers


def worker_of(daemon: Daemon, run: str) -> int:
    """The worker that is at a run's first task."""
    task = daemon.task(run)

    def seen() -> int | None:
        return next((slot.worker_pid for slot in daemon.client.service().slots if slot.task == task), None)

    pid = eventually(f"a slot is at {task}", seen)
    assert pid is not None
    return pid


def slots(daemon: Daemon, phase: str) -> list[int]:
    return [slot.worker_pid for slot in daemon.client.service().slots if slot.phase == phase and slot.worker_pid]


def test_idle_workers_that_are_killed_are_replaced(new_battd: Callable[..., Daemon]) -> None:
    daemon = new_battd().start()
    eventually("all are idle", lambda: len(slots(daemon, "idle")) == 3)
    before = slots(daemon, "idle")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    run = daemon.submit("zoo.calm:sleep", [0.01] * 30)
    info = daemon.wait(run)
    assert info.counts == {State.SUCCEEDED: 30}
    eventually("all are idle again", lambda: len(slots(daemon, "idle")) == 3)
    assert not set(slots(daemon, "idle")) & set(before)
    daemon.stop()


def test_a_busy_worker_that_is_killed_costs_its_own_task_one_attempt(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    told, go = tmp_path / "told", tmp_path / "go"
    run = daemon.submit("zoo.calm:tell_and_wait", args=(str(told), str(go)), max_attempts=2, retry_delay_s=0.01)
    others = daemon.submit("zoo.calm:sleep", [0.01] * 30)
    eventually("it runs", told.exists)
    pid = worker_of(daemon, run)
    os.kill(pid, signal.SIGKILL)
    go.touch()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    first, second = daemon.attempts(run)
    assert (first.outcome, first.signal, first.worker_pid) == ("crashed", "SIGKILL", pid)
    assert "sender unknown" in (first.reason or "")
    assert second.outcome == "ok"
    assert daemon.wait(others).counts == {State.SUCCEEDED: 30}
    daemon.stop()


def test_workers_killed_at_random_lose_no_task_and_never_run_one_twice_at_once(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Idle, busy, booting: whatever each of them was at, for as long as the run lasts."""
    daemon = new_battd().start()
    names = [f"n{number}" for number in range(80)]
    run = daemon.submit(
        "zoo.records:interval", [[str(tmp_path), name, 0.03] for name in names], max_attempts=50, retry_delay_s=0.01
    )
    killed = 0
    while daemon.client.run(run).ended_at_ms is None and killed < 40:
        for pid in daemon.workers().values():
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
        eventually(
            "a slot is idle or the run over", lambda: slots(daemon, "busy") or daemon.client.run(run).ended_at_ms
        )
    assert killed > 5
    assert daemon.wait(run).counts == {State.SUCCEEDED: 80}
    said = (tmp_path / "log").read_text()
    assert "overlap" not in said
    assert "Traceback" not in daemon.log
    daemon.stop()


def test_a_worker_that_is_stopped_by_somebody_is_ended_at_the_tasks_deadline(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd().start()
    told, go = tmp_path / "told", tmp_path / "go"
    run = daemon.submit("zoo.calm:tell_and_wait", args=(str(told), str(go)), timeout_s=1.5)
    eventually("it runs", told.exists)
    pid = worker_of(daemon, run)
    os.kill(pid, signal.SIGSTOP)
    daemon.wait(run)
    assert daemon.look(run).outcome == "timeout"
    daemon.stop()


def test_an_idle_worker_that_is_stopped_by_somebody_does_not_hold_up_a_run(new_battd: Callable[..., Daemon]) -> None:
    """It takes an attempt and never begins it: that is `boot_timeout`, uncharged, and another slot's turn."""
    daemon = new_battd('boot_timeout = "2s"\n').start()
    eventually("all are idle", lambda: len(slots(daemon, "idle")) == 3)
    for pid in slots(daemon, "idle"):
        os.kill(pid, signal.SIGSTOP)
    run = daemon.submit("zoo.calm:echo", list(range(10)))
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    daemon.stop()


def test_a_logs_folder_that_is_removed_is_an_ordinary_event(new_battd: Callable[..., Daemon]) -> None:
    """Somebody tidies up in the state directory of a battd that runs."""
    daemon = new_battd("max_tasks = 2\n").start()
    daemon.wait(daemon.submit("zoo.calm:nothing"))
    for entry in (daemon.state_dir / "logs").iterdir():
        entry.unlink()
    run = daemon.submit("zoo.prints:both", [[]] * 10)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 10}
    daemon.stop()
