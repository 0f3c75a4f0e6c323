"""Poison, starvation, signs of life, progress, children that may stay: what the service makes of an attempt's story."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "signs.py").write_text(
        "import subprocess, sys, time\n"
        "from worker.guard import heartbeat, progress\n"
        "def wait(seconds, beats):\n"
        "    until = time.monotonic() + seconds\n"
        "    while time.monotonic() < until:\n"
        "        time.sleep(0.05)\n"
        "        if beats:\n"
        "            heartbeat()\n"
        "    return 'done'\n"
        "def count(path):\n"
        "    import os\n"
        "    progress(3, 10)\n"
        "    while not os.path.exists(path):\n"
        "        time.sleep(0.02)\n"
        "def leave_a_child():\n"
        "    return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid\n"
    )
    return folder


def test_a_task_that_takes_its_worker_down_again_and_again_is_given_up(battd: Daemon) -> None:
    poison = battd.submit("zoo.dies:segfault", max_attempts=50, name="poison")
    calm = battd.submit("zoo.calm:sleep", [0.05] * 40, name="calm")
    assert battd.wait(poison).counts == {State.FAILED: 1}
    attempts = battd.attempts(poison)
    assert [one.outcome for one in attempts] == ["crashed"] * 4
    assert "poison" in (battd.look(poison).reason or "")
    assert battd.wait(calm).counts == {State.SUCCEEDED: 40}
    assert {one.attempt for one in battd.results(calm)} == {1}


def test_crashes_are_charged_like_any_other_failure(battd: Daemon) -> None:
    run = battd.submit("zoo.dies:segfault", max_attempts=2)
    assert battd.wait(run).counts == {State.FAILED: 1}
    assert len(battd.attempts(run)) == 2
    assert "poison" not in (battd.look(run).reason or "")


@pytest.mark.skipif((os.cpu_count() or 1) > 8, reason="so many cores cannot be overloaded within a test")
def test_what_an_overloaded_machine_gave_no_cpu_is_starved_twice_and_then_runs_alone(
    new_battd: Callable[..., Daemon],
) -> None:
    width = 5 * len(os.sched_getaffinity(0))
    daemon = new_battd(slots=width, config='retry_delay = "20ms"\n').start()
    run = daemon.submit("zoo.hangs:spin", [[]] * width, timeout_s=0.7)
    assert daemon.wait(run).counts == {State.FAILED: width}
    stories = [[one.outcome for one in daemon.attempts(result.id)] for result in daemon.results(run)]
    # Not every one of them was starved each time, but none was called so more than twice, and each ended as `timeout`.
    assert all(story[-1] == "timeout" and set(story[:-1]) <= {"starved"} and len(story) <= 3 for story in stories)
    assert any(len(story) == 3 for story in stories)
    told = [one.reason or "" for result in daemon.results(run) for one in daemon.attempts(result.id)]
    assert any("waited for a CPU" in reason for reason in told)
    daemon.stop()


def test_a_heartbeat_keeps_a_quiet_task_from_being_called_stalled(battd: Daemon, tasks: Path) -> None:
    alive = battd.submit("signs:wait", args=(2.0, True), cwd=tasks, stall_timeout_s=0.7)
    silent = battd.submit("zoo.calm:sleep", [30.0], stall_timeout_s=0.7)
    battd.wait(alive)
    battd.wait(silent)
    assert battd.look(alive).outcome == "ok"
    found = battd.look(silent)
    assert found.outcome == "stalled"
    assert "no CPU used and no heartbeat for 0.7 s" in (found.reason or "")
    assert "stacks of all threads" in battd.client.log(battd.task(silent)).text


def test_progress_is_shown_while_the_task_runs(
    battd: Daemon, tasks: Path, tmp_path: Path, battctl: Callable[..., object]
) -> None:
    end = tmp_path / "end"
    run = battd.submit("signs:count", args=(str(end),), cwd=tasks)
    found = eventually(
        "its progress is there", lambda: [slot.progress for slot in battd.client.service().slots if slot.progress]
    )
    assert found == [(3.0, 10.0)]
    said = battctl(battd, "status")
    assert "3/10" in said.stdout  # type: ignore[attr-defined]
    end.touch()
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    eventually("it is gone", lambda: not any(slot.progress for slot in battd.client.service().slots))


def test_children_end_with_their_task_unless_its_run_allows_them(battd: Daemon, tasks: Path) -> None:
    run = battd.submit("signs:leave_a_child", cwd=tasks)
    battd.wait(run)
    gone = battd.results(run)[0].value
    eventually("the child is gone", lambda: not psutil.pid_exists(gone))
    run = battd.submit("signs:leave_a_child", cwd=tasks, allow_children=True)
    battd.wait(run)
    child = psutil.Process(battd.results(run)[0].value)
    assert child.is_running()
    # It belongs to the worker, and ends with it at the latest.
    os.kill(child.ppid(), signal.SIGKILL)
    eventually("the child is gone", lambda: not child.is_running())


def test_a_cancelled_task_is_gone_with_all_that_it_started(battd: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    run = battd.submit(command=("/bin/sh", "-c", f"(setsid sleep 60 & echo $! > {mark}); sleep 60"))
    pid = eventually("it has started something", lambda: mark.exists() and int(mark.read_text() or 0))
    battd.client.cancel(run)
    battd.wait(run)
    eventually("that is gone", lambda: not psutil.pid_exists(pid))


def test_a_task_that_hangs_among_tiny_ones_does_not_hold_them_up(battd: Daemon) -> None:
    battd.wait(battd.submit("zoo.hangs:sometimes", [[False]] * 200, timeout_s=60))  # by now they travel in packs
    run = battd.submit("zoo.hangs:sometimes", [[number == 40] for number in range(200)], timeout_s=60)
    eventually("all others have ended", lambda: battd.client.run(run).counts.get(State.SUCCEEDED) == 199)
    assert battd.client.run(run).counts.get(State.RUNNING) == 1
    battd.client.cancel(run)
    battd.wait(run)


def test_of_a_flood_no_more_is_kept_than_its_limit(new_battd: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "flood.py").write_text(
        "def pour():\n    line = 'x' * 99_999\n    for _ in range(10_000):\n        print(line)\n"
    )
    daemon = new_battd().start()
    run = daemon.submit("flood:pour", cwd=tmp_path, output_limit_bytes=2_000_000, timeout_s=60)
    daemon.wait(run)
    assert daemon.look(run).outcome == "output_limit"
    sizes = [file.stat().st_size for file in (daemon.state_dir / "logs").iterdir()]
    assert sum(sizes) <= 2_000_100
    daemon.stop()
